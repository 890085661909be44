"""What DNS-SD shows to a browser that asks a unicast server (RFC 6763): domains, types, instances, subtypes.

browse.py SERVER PORT DOMAIN [SUBTYPE]...   a subtype as in `_canary._sub._web._tcp`
One line for each thing found; then the HTTPS, SVCB and PTR records of further words that begin with HTTPS:, SVCB: and PTR:.
"""

import sys

import dns.message
import dns.name
import dns.query
import dns.rdatatype

server, port, domain = sys.argv[1], int(sys.argv[2]), dns.name.from_text(sys.argv[3])


def ask(name, qtype):
    """The records of a name; asked again over TCP where a datagram was too small."""
    query = dns.message.make_query(name, qtype, use_edns=0, payload=1232)
    reply, _ = dns.query.udp_with_fallback(query, server, port=port, timeout=20)
    found = [record for rrset in reply.answer if rrset.rdtype == qtype for record in rrset]
    return sorted(found, key=lambda record: record.to_text())


def show(instance):
    """What is needed to reach an instance, as a browser asks for it: SRV, TXT, then addresses."""
    label = instance.labels[0].decode()
    for srv in ask(instance, dns.rdatatype.SRV):
        texts = [text.decode() for txt in ask(instance, dns.rdatatype.TXT) for text in txt.strings]
        found = ask(srv.target, dns.rdatatype.A) + ask(srv.target, dns.rdatatype.AAAA)
        print("instance", repr(label), srv.target, srv.port, ",".join(sorted(map(str, found))), texts)


for browse in ("b", "db", "lb"):
    for found in ask(dns.name.from_text(browse + "._dns-sd._udp", domain), dns.rdatatype.PTR):
        print(browse, found.target)
for found in ask(dns.name.from_text("_services._dns-sd._udp", domain), dns.rdatatype.PTR):
    print("type", found.target)
    for instance in ask(found.target, dns.rdatatype.PTR):
        show(instance.target)
for word in sys.argv[4:]:
    kind, _, name = word.rpartition(":")
    qtype = dns.rdatatype.from_text(kind or "PTR")
    print("records", word)
    for found in ask(dns.name.from_text(name, domain), qtype):
        print(" ", found)
