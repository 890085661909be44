"""An instance of a service, registered for as long as its connection to callsign is open; over HTTP it says its name."""

import http.server
import json
import socket
import sys

PATH, SERVICE, NAME = sys.argv[1:]


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(NAME)))
        self.end_headers()
        self.wfile.write(NAME.encode())

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
form = {"service": SERVICE, "id": NAME, "address": "127.0.0.1", "port": server.server_port, "lease": "connection"}
connection = socket.socket(socket.AF_UNIX)
connection.connect(PATH)
connection.sendall(json.dumps({"register": form}).encode() + b"\n")
connection.makefile().readline()
server.serve_forever()
