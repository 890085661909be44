"""Validates every RRset of a signed zone with dnspython: validate.py PORT ZONE DNSKEY-LINE

The names and types are those of the zone's transfer, which is unsigned; each is asked with DO. At every name a type that is
not there is asked as well, and its denial validated. Prints how many sets and denials were good."""

import sys

import dns.dnssec
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.zone

AT = "127.0.0.1"
ABSENT = dns.rdatatype.from_text("TYPE65281")


def main():
    port, zone, line = int(sys.argv[1]), dns.name.from_text(sys.argv[2]), sys.argv[3].split()
    anchor = dns.rrset.from_text(zone, 300, "IN", "DNSKEY", " ".join(line[4:]))
    keys = {zone: anchor}

    def ask(name, rtype):
        query = dns.message.make_query(name, rtype, want_dnssec=True)
        return dns.query.tcp(query, AT, port=port, timeout=10)

    def validated(section):
        """The owners and types of a section, each with a good signature."""
        good = set()
        for rrset in section:
            if rrset.rdtype == dns.rdatatype.RRSIG:
                continue
            signatures = [s for s in section if s.rdtype == dns.rdatatype.RRSIG
                          and s.covers == rrset.rdtype and s.name == rrset.name]
            assert len(signatures) == 1, f"{rrset} has {len(signatures)} sets of signatures"
            dns.dnssec.validate(rrset, signatures[0], keys)
            good.add((rrset.name, rrset.rdtype))
        return good

    whole = dns.zone.from_xfr(dns.query.xfr(AT, zone, port=port, relativize=False), relativize=False)
    cuts = {name for name, node in whole.nodes.items()
            if name != zone and node.get_rdataset(dns.rdataclass.IN, dns.rdatatype.NS)}
    sets = denials = 0
    for name, node in sorted(whole.nodes.items()):
        name = name.derelativize(zone)
        if any(name.is_subdomain(cut) for cut in cuts):
            continue  # another zone's
        for rdataset in node:
            good = validated(ask(name, rdataset.rdtype).answer)
            assert (name, rdataset.rdtype) in good, f"{name} {rdataset.rdtype} is not answered"
            sets += 1
        if node.get_rdataset(dns.rdataclass.IN, dns.rdatatype.CNAME):
            continue
        reply = ask(name, ABSENT)
        assert not reply.answer, f"{name} has a type that nobody gave it"
        good = validated(reply.authority)
        assert good == {(zone, dns.rdatatype.SOA), (name, dns.rdatatype.NSEC)}, good
        (nsec,) = next(s for s in reply.authority if s.rdtype == dns.rdatatype.NSEC)
        types = {w * 256 + o * 8 + b for w, bits in nsec.windows for o, byte in enumerate(bits)
                 for b in range(8) if byte & 0x80 >> b}
        missing = {int(r.rdtype) for r in node} - types
        assert not missing, f"{name}: {missing} are there, and NSEC denies them"
        denials += 1
    print(sets, "sets", denials, "denials")


main()
