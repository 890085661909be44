"""What stays behind: memory and descriptors over laps of many queries, registrations and connections."""

import os
import time

from . import dns, overload, registry
from .servers import Callsign, Failure, Registrar

LAPS = 11  # the first one warms up: caches fill, and the log of changes reaches its bound
# Of a lap: queries a second of each kind, for so many seconds.
RATES = {"that are plain": (180_000, 56), "with NSID": (30_000, 10)}
REGISTRATIONS, CONNECTIONS = 100_000, 10_000  # of a lap
BATCH = 500  # registrations in flight


class Stored(Callsign):
    """Ours as it is by default: with its store."""

    store = ("--data", "data")

    def descriptors(self):
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid, _ in self.processes())


def register(server, lap):
    """Registers every instance anew, with another port each time."""
    of_all = [*registry.instances(server.instances)]
    with Registrar(server.socket) as registrar:
        for first in range(0, REGISTRATIONS, BATCH):
            batch = [(number, of_all[number % len(of_all)]) for number in range(first, first + BATCH)]
            registrar.say([registry.registration(*instance, port=1 + (lap * REGISTRATIONS + number) % 65_535)
                           for number, instance in batch])


def lap(server, given, files, at):
    """(queries answered, KiB of memory, descriptors) once all of a lap is done."""
    answered = 0
    for kind, (rate, seconds) in RATES.items():
        for _, right, other in overload.flood(server, files[kind], given.client_core, rate, seconds):
            answered += right
            if other:
                raise Failure(f"{other} wrong answers in a second, to questions {kind}")
    register(server, at)
    for number in range(CONNECTIONS):
        name = registry.service(number % given.services)
        if not dns.Reply(dns.ask(server.where, f"{name}.{registry.APEX}", "A", tcp=True)).answer:
            raise Failure(f"no answer over TCP for {name}")
    time.sleep(1)  # what is closed has been seen to be closed
    return answered, server.resident_kib(), server.descriptors()


def drift(given, directory):
    """A table in Markdown, one row a lap, and what was more in the last one than in the first."""
    server = Stored(directory, given.server_core, given.services * registry.EACH)
    try:
        files = {kind: overload.messages(directory / kind.replace(" ", "-"), given.services, overload.KINDS[kind]) for kind in RATES}
        yield "| lap | queries | registrations | connections | KiB resident | descriptors |\n|---|---|---|---|---|---|"
        rows = []
        for at in range(LAPS):
            rows.append(lap(server, given, files, at))
            answered, memory, descriptors = rows[-1]
            yield f"| {at} | {answered:,} | {REGISTRATIONS:,} | {CONNECTIONS:,} | {memory:,} | {descriptors} |"
    finally:
        server.end()
    (_, first, before), (_, last, after) = rows[1], rows[-1]
    queries = sum(row[0] for row in rows[2:])
    yield (f"\nFrom lap 1 to lap {LAPS - 1}, {queries:,} queries, {REGISTRATIONS * (LAPS - 2):,} registrations and {CONNECTIONS * (LAPS - 2):,} "
           f"connections: {100 * (last - first) / first * 1e7 / queries:+.2f} % of memory for ten million queries, {after - before:+} descriptors.")
