"""One measurement: dnsperf against one server, what it cost, and whether every answer was as expected."""

import dataclasses
import multiprocessing
import os
import re
import resource
import subprocess
import time

from . import dns, registry
from .servers import TICKS, Failure, Floor, Registrar, on_path

CLIENTS = 8  # sockets, or connections: dnsperf spreads its queries over them
OUTSTANDING = 100  # queries in flight, over all clients: dnsperf's own default
PATIENCE = 5  # seconds until dnsperf counts a query as lost: its own default
LOST_MAX = 0.001  # share of lost queries above which a figure is not worth having
CHANGES = 10_000  # a second, in the row `churn`
TURN = 0.01  # seconds; what is due in one goes out in one batch


@dataclasses.dataclass(frozen=True)
class Row:
    """What is asked, and how; `instances` and `churn` are of rows that are about ours alone."""

    name: str
    kind: str
    edns: bool = True
    transport: str = "udp"
    instances: int | None = None
    churn: bool = False
    clients: int = CLIENTS

    @property
    def ours_alone(self):
        return self.churn or self.instances is not None

    @property
    def rcode(self):
        return "NXDOMAIN" if self.kind == "missing" else "NOERROR"


KINDS = ("a", "srv", "mix", "missing")
ROWS = [
    *(Row(kind, kind) for kind in KINDS),
    *(Row(f"{kind}-plain", kind, edns=False) for kind in KINDS),
    # Nobody has two queries in flight, so no two replies go together.
    Row("a-apart", "a", clients=OUTSTANDING),
    Row("tcp", "mix", transport="tcp"),
    Row("dot", "mix", transport="dot"),
    Row("churn", "mix", churn=True),
    Row("ten", "mix", instances=10),
    Row("thousand", "mix", instances=1_000),
    Row("300000", "mix", instances=300_000),
]


def question_file(directory, kind, services):
    """dnsperf's form of the questions: a name and a type, one a line."""
    path = directory / f"{kind}-{services}.txt"
    if not path.exists():
        with path.open("w") as file:
            file.writelines(f"{name} {rtype}\n" for name, rtype in registry.questions(kind, services))
    return path


def samples(row):
    """Questions of the row's kinds, whose answers are looked at before anything is measured."""
    types = {"a": ["A"], "srv": ["SRV"], "mix": ["A", "SRV"], "missing": ["A"]}[row.kind]
    name = f"no-such-name.{registry.APEX}" if row.kind == "missing" else f"{registry.service(0)}.{registry.APEX}"
    return [(name, rtype) for rtype in types]


def check(server, row):
    """Asks the samples; a wrong answer ends the run. What they hold, as `answer/authority/additional, octets`."""
    said = []
    for name, rtype in samples(row):
        reply = dns.Reply(dns.ask(server.where, name, rtype, row.edns, tcp=row.transport == "tcp"))
        where = f"{server.name} answers {name} {rtype}"
        if reply.rcode != (dns.NXDOMAIN if row.kind == "missing" else dns.NOERROR) or reply.cut:
            raise Failure(f"{where} with rcode {reply.rcode}, TC {int(reply.cut)}")
        if not reply.authoritative:
            raise Failure(f"{where} without AA")
        addresses = sorted(registry.address(0, at) for at in range(registry.EACH))
        if row.kind == "missing":
            right = not reply.answer and reply.counts[1] == 1
        elif rtype == "A":
            right = sorted(reply.answer) == addresses
        else:
            right = [port for port, _ in reply.answer] == [registry.PORT] * registry.EACH
        if not right:
            raise Failure(f"{where} with {reply.answer}, authority {reply.authority}")
        said.append(str(reply))
    return "; ".join(said)


def dnsperf(server, row, questions, core, seconds, rate=None):
    """Runs it and reads what it says; its own limit is what one core of a client can do."""
    words = ["taskset", "-c", str(core), *on_path("dnsperf", "dnsperf"), "-s", server.address, "-d", str(questions),
             "-p", str(server.tls_port if row.transport == "dot" else server.port), "-m", row.transport,
             "-l", str(seconds), "-T", "1", "-c", str(row.clients), "-q", str(OUTSTANDING), "-t", str(PATIENCE)]
    words += ["-e"] * row.edns + (["-Q", str(rate)] if rate else [])
    ran = subprocess.run(words, capture_output=True, text=True, timeout=seconds + 60)

    def figure(label):
        found = re.search(rf"{label}:?\s+([\d.]+)", ran.stdout)
        if not found:
            raise Failure(f"dnsperf against {server.name} did not say its '{label}':\n{ran.stdout}{ran.stderr}")
        return float(found[1])

    sent, completed = figure("Queries sent"), figure("Queries completed")
    codes = re.findall(r"([A-Z]\w+) \d+ \([\d.]+%\)", ran.stdout.partition("Response codes:")[2])
    if ran.returncode or codes != [row.rcode]:
        raise Failure(f"{server.name}, {row.name}: rcodes {codes}, only {row.rcode} was expected:\n{ran.stderr}")
    if sent - completed > LOST_MAX * sent:
        raise Failure(f"{server.name}, {row.name}: {sent - completed:.0f} of {sent:.0f} queries lost")
    octets = float(re.search(r"Average packet size:.*response (\d+)", ran.stdout)[1])
    return {"queries": completed, "lost": sent - completed, "qps": figure("Queries per second"), "octets": octets}


def churn(path, services, core, count, ended):
    """Registers instances anew, with another port each time, until told to end; `count` is what was acknowledged."""
    os.sched_setaffinity(0, {core})
    all_of_them = list(registry.instances(services * registry.EACH))
    lines = [[registry.registration(*instance, port) for instance in all_of_them] for port in (8081, registry.PORT)]
    each, at, due = int(CHANGES * TURN), 0, time.monotonic()
    with Registrar(path) as registrar:
        while not ended.is_set():
            batch = []
            for place in range(at, at + each):
                turn, instance = divmod(place, len(all_of_them))
                batch.append(lines[turn % 2][instance])
            registrar.say(batch)
            at += each
            count.value = at
            due += TURN
            time.sleep(max(0, due - time.monotonic()))


def measure(server, row, questions, core, seconds, rate=None):
    """The figures of one run; µs of the server's processor for each query that was completed."""
    if not row.churn:
        return measured(server, row, questions, core, seconds, rate)
    count, ended = multiprocessing.Value("q", 0), multiprocessing.Event()
    services = server.instances // registry.EACH
    changer = multiprocessing.Process(target=churn, args=(server.socket, services, core, count, ended), daemon=True)
    changer.start()
    try:
        until = time.monotonic() + 60
        while not count.value and changer.is_alive() and time.monotonic() < until:
            time.sleep(0.01)
        # What the changes cost without queries, so that the table can say both.
        cpu, changes = sum(server.cpu()), count.value
        time.sleep(seconds / 2)
        alone = 1e6 * (sum(server.cpu()) - cpu) / max(1, count.value - changes)
        changes, began = count.value, time.monotonic()
        figures = measured(server, row, questions, core, seconds, rate)
        rate_of_changes = (count.value - changes) / (time.monotonic() - began)
        if not changer.is_alive():
            raise Failure("the changes ended before the queries did; what they met is above")
        return figures | {"changes": rate_of_changes, "change_us": alone}
    finally:
        ended.set()
        changer.join(10)


def busy(cores):
    """Seconds that these cores were not idle, since the machine started (proc(5), /proc/stat)."""
    lines = {line.split()[0]: list(map(int, line.split()[1:9])) for line in open("/proc/stat") if line[:3] == "cpu"}
    return sum(sum(lines[f"cpu{core}"]) - sum(lines[f"cpu{core}"][3:5]) for core in cores) / TICKS


def measured(server, row, questions, core, seconds, rate):
    """What `measure` says, without changes; `others` is the part of the two cores that neither side had."""
    server.resume()
    cores, client = (server.core, core), resource.getrusage(resource.RUSAGE_CHILDREN)
    (user, system), everybody, began = server.cpu(), busy(cores), time.monotonic()
    figures = dnsperf(server, row, questions, core, seconds, rate)
    user, system = (after - before for after, before in zip(server.cpu(), (user, system)))
    everybody, took = busy(cores) - everybody, time.monotonic() - began
    client_after = resource.getrusage(resource.RUSAGE_CHILDREN)
    of_client = client_after.ru_utime + client_after.ru_stime - client.ru_utime - client.ru_stime
    queries = figures.pop("queries")
    return figures | {"user": 1e6 * user / queries, "system": 1e6 * system / queries,
                      "others": max(0, everybody - user - system - of_client) / took / len(cores)}


def ready(server, row, others):
    """Makes the server ready for a row; what its answers hold. The bare loop is given what `others` answers."""
    server.resume()
    if isinstance(server, Floor):
        others.resume()
        server.give([dns.ask(others.where, name, rtype, row.edns) for name, rtype in samples(row)])
        others.pause()
        return f"as {others.name}"
    return check(server, row)
