"""What every server is given, and what is asked of it: services of three instances, and four kinds of questions."""

import json
import random

APEX = "service.local"
TTL = 5  # seconds: our default
EACH = 3  # instances of a service
PORT = 8080
# One file of questions is gone through again and again. So many that random names do not stay in a cache of answers
# that were given, and few enough that dnsperf reads them from memory.
QUESTIONS = 200_000
SEED = 5  # the same questions in every run


def service(number):
    return f"web-{number}"


def address(number, at):
    """The address of instance `at` of a service: one of 10.1.0.0 and on."""
    place = 0x0A010000 + number * EACH + at
    return ".".join(str(place >> shift & 255) for shift in (24, 16, 8, 0))


def instances(count):
    """`count` instances, three a service; the last service has what is left."""
    for place in range(count):
        number, at = divmod(place, EACH)
        yield service(number), f"web-{number}-{at}", address(number, at)


def zone(count):
    """The same names as a zone file, and the same records."""
    yield f"$ORIGIN {APEX}.\n$TTL {TTL}\n"
    yield f"@ {TTL} IN SOA ns hostmaster 1 300 60 86400 {TTL}\n@ IN NS ns\nns IN A 127.0.0.1\n"
    for name, instance, where in instances(count):
        target = f"{instance}.{name}"
        yield f"{name} IN A {where}\n{name} IN SRV 0 1 {PORT} {target}\n{target} IN A {where}\n"


def registration(name, instance, where, port=PORT):
    """One line of the registration protocol (docs/registering.md)."""
    fields = {"service": name, "id": instance, "address": where, "port": port, "lease": "none"}
    return json.dumps({"register": fields}, separators=(",", ":")).encode() + b"\n"


def questions(kind, services):
    """(owner name, type) in a random order: `a`, `srv`, `mix` of both, or names that are `missing`."""
    draw = random.Random(SEED)
    for _ in range(QUESTIONS):
        if kind == "missing":
            label = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=8))
            yield f"{label}.{APEX}", "A"
        else:
            rtype = {"a": "A", "srv": "SRV"}.get(kind) or draw.choice(("A", "SRV"))
            yield f"{service(draw.randrange(services))}.{APEX}", rtype
