"""Ours at twice the load that it can carry: what is still answered, what it holds, how long a registration waits."""

import math
import multiprocessing
import os
import struct
import subprocess
import time

from . import dns, measure, registry
from .servers import Callsign, Failure, Registrar, compiled

STEP = 25_000  # queries a second; the load that is carried is looked for in such steps
STEP_SECONDS = 2
CARRIED = 0.99  # share of the offered queries that is answered where a load is carried
EVERY = 0.02  # seconds from one registration to the next
MESSAGES = 50_000  # different questions of the flood
# What is offered: questions that the fast loop answers, and such as take the general path.
KINDS = {"that are plain": b"", "with NSID": dns.NSID}


def flood(server, questions, core, rate, seconds):
    """Lines of (sent, right, other), one a second."""
    words = ["taskset", "-c", str(core), compiled("flood"), str(server.port), str(rate), str(seconds), str(questions)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as ran:
        for line in ran.stdout:
            yield tuple(map(int, line.split()))
    if ran.returncode:
        raise Failure("the flood ended early; what it said is above")


def messages(path, services, options):
    """The mix as messages with these options of EDNS, each after its length; sorted by that, for four of one length are sent
    at once."""
    questions = zip(range(MESSAGES), registry.questions("mix", services))
    made = (dns.query(name, rtype, edns=True, ident=number & 0xFFFF, options=options) for number, (name, rtype) in questions)
    with path.open("wb") as file:
        for message in sorted(made, key=len):
            file.write(struct.pack("!H", len(message)) + message)
    return path


def register(path, core, ended, latencies):
    """Registers one new instance after another and says how long each took, in seconds."""
    os.sched_setaffinity(0, {core})
    try:
        os.nice(-10)  # it is the server's time that counts, not a place behind the flood
    except PermissionError:
        pass
    took = []
    with Registrar(path) as registrar:
        while not ended.is_set():
            began = time.monotonic()
            registrar.say([registry.registration("late", f"late-{len(took)}", "10.9.9.9")])
            took.append(time.monotonic() - began)
            time.sleep(max(0, EVERY - took[-1]))
    latencies.send(took)


def peak(server, questions, core):
    """The most that was answered in a second, and why the search ended there."""
    best, rate = 0, STEP
    while True:
        seconds = list(flood(server, questions, core, rate, STEP_SECONDS))
        sent, right, other = (sum(column) / len(seconds) for column in zip(*seconds))
        if other:
            raise Failure(f"{other} wrong answers at {rate} queries a second")
        best = max(best, right)
        if right < CARRIED * sent:
            return best, f"at {sent:,.0f} some are lost"
        if sent < CARRIED * rate:
            return best, f"the client's core offers no more than {sent:,.0f}"
        rate += STEP


def overload(given, directory):
    """Lines of Markdown, one table for each kind of question."""
    said = []
    for kind, options in KINDS.items():
        place = directory / kind.replace(" ", "-")
        place.mkdir()
        said.append(f"**Questions {kind}**\n\n{overload_with(given, place, options)}\n")
    return "\n".join(said)


def overload_with(given, directory, options):
    seconds = math.ceil(given.seconds)
    server = Callsign(directory, given.server_core, given.services * registry.EACH)
    try:
        questions = messages(directory / "flood", given.services, options)
        best, why = peak(server, questions, given.client_core)
        rate = round(2 * best)
        before = most = server.resident_kib()
        ended, (receives, sends) = multiprocessing.Event(), multiprocessing.Pipe(duplex=False)
        registrar = multiprocessing.Process(
            target=register, args=(server.socket, given.client_core, ended, sends), daemon=True)
        registrar.start()
        lines = []
        for line in flood(server, questions, given.client_core, rate, seconds):
            lines.append(line)
            most = max(most, server.resident_kib())
        after = server.resident_kib()
        ended.set()
        if not receives.poll(30):
            raise Failure("registrations ended early or hang")
        took = sorted(receives.recv())
        registrar.join()
    finally:
        server.end()
    sent, right, other = (sum(column) / len(lines) for column in zip(*lines))
    return "\n".join([
        f"Peak {best:,.0f} answers a second ({why}); {rate:,} a second offered for {len(lines)} s.\n",
        "| what | figure | goal |",
        "|---|---|---|",
        f"| sent, a second | {sent:,.0f}, {sent / best:.2f} × the peak | 2 × |",
        f"| answered, a second | {right:,.0f}, {100 * right / best:.1f} % of the peak; "
        f"least in a second {min(line[1] for line in lines):,} | 90 % |",
        f"| other rcodes | {other * len(lines):.0f} | 0 |",
        f"| resident memory | {before:,} KiB before, {most:,} at most, {after:,} after | flat |",
        f"| registrations | {len(took):,}: p50 {1e3 * took[len(took) // 2]:.1f} ms, "
        f"p99 {1e3 * took[len(took) * 99 // 100]:.1f} ms, longest {1e3 * took[-1]:.1f} ms | p99 100 ms |",
    ])
