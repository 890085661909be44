"""The service of the tutorials: a Flask application that registers itself with python-consul.

consul_service.py HOST PORT, which is where the registry is; the service takes a free port.
"""

import sys

import consul
from flask import Flask
from werkzeug.serving import make_server

app = Flask(__name__)


@app.route("/")
def hello():
    return "hello from example-service"


server = make_server("127.0.0.1", 0, app)
registry = consul.Consul(host=sys.argv[1], port=int(sys.argv[2]))
assert registry.agent.service.register(
    "example-service", port=server.server_port, address="localhost", tags=["web"]
)
print("registered", server.server_port, flush=True)
server.serve_forever()
