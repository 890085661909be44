"""What a Python program sees of each service that is named: dnspython, and the libc's getaddrinfo.

Both on /etc/resolv.conf, port 53.
"""

import socket
import sys

import dns.exception
import dns.resolver


def show(word, ask):
    try:
        for found in ask():
            print(word, found)
    except (dns.exception.DNSException, socket.gaierror) as error:
        print("error", word, type(error).__name__, getattr(error, "errno", None) or "")


for service in sys.argv[1:]:
    name = service + ".service.local"
    print("service", service)
    show("srv", lambda: dns.resolver.resolve(f"_{service}._tcp.service.local", "SRV"))
    show("address", lambda: dns.resolver.resolve(name, "A"))
    show("address6", lambda: dns.resolver.resolve(name, "AAAA"))
    show("lookup", lambda: sorted({found[4][0] for found in socket.getaddrinfo(name, 80)}))
