"""UPDATE as dnspython sends it; the argument is the port."""

import sys

import dns.query
import dns.rcode
import dns.tsigkeyring
import dns.update

SERVER = "127.0.0.1"
SECRET = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
# The second one's name is below the zone's, so that it is compressed.
KEYS = dns.tsigkeyring.from_text({"dhcp": SECRET, "acme.service.local": SECRET})


def update(key="dhcp"):
    return dns.update.UpdateMessage("service.local", keyring=KEYS, keyname=key, keyalgorithm="hmac-sha256")


def say(what, message, over=dns.query.tcp):
    reply = over(message, SERVER, timeout=30, port=int(sys.argv[1]))
    print(what, dns.rcode.to_text(reply.rcode()), "signed" if reply.had_tsig else "unsigned")


set_all = update()
set_all.absent("py.service.local.")
set_all.add("py", 300, "A", "10.3.0.1")
set_all.add("_py-web._tcp", 60, "SRV", "0 1 8080 one.py-web")
set_all.add("one.py-web", 60, "AAAA", "2001:db8::1")
say("set", set_all, dns.query.udp)

again = update()
again.absent("py")
again.add("py", 300, "A", "10.3.0.2")
say("absent", again)

exact = update()
exact.present("py", "A", "10.3.0.1")
exact.replace("py", 300, "A", "10.3.0.3")
exact.delete("one.py-web")
exact.delete("_py-web._tcp", "SRV")
say("replace", exact)

challenge = update("acme.service.local")
challenge.add("_acme-challenge.py", 60, "TXT", "token")
say("compressed", challenge)

wrong = dns.update.UpdateMessage("service.local")
wrong.add("py", 300, "A", "10.3.0.4")
say("no key", wrong)
