#!/usr/bin/env python3
"""Two hours of everything at once, each a little: what grows, and what fails?

    tests/long/soak.sh [--wait | --status]     two hours, and the line in bench/long.md
    tests/long/soak.py --minutes 2 --life 1    by hand

A server is asked over UDP, TCP, TLS, HTTPS and QUIC for names of every kind; processes register, are checked, leave, are forgotten
and come back; others watch; zones are transferred, metrics are read. It is restarted every --life minutes, in turn with
SIGTERM and SIGKILL, on the same data. Every ten seconds its memory, descriptors and threads are looked at.

It fails where a reply is wrong, or missing while the server was up; where memory or descriptors at the end of a life are more than
in its first half; where the server's log has a line that is not expected. Run by the Python that has dnspython
(target/python/dnsviz, which tests/clients/python/install makes).
"""

import argparse
import asyncio
import collections
import json
import os
import random
import re
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True
TOP = Path(__file__).resolve().parent.parent.parent
PYTHON = TOP / "target/python/dnsviz/bin/python"
if Path(sys.prefix) != PYTHON.parent.parent:
    if not PYTHON.exists():
        sys.exit(f"soak: {PYTHON} is not there: tests/clients/python/install makes it")
    os.execv(PYTHON, [str(PYTHON), *sys.argv])

import dns.edns  # noqa: E402
import dns.flags  # noqa: E402
import dns.message  # noqa: E402
import dns.rcode  # noqa: E402
import dns.rdatatype  # noqa: E402

APEX = "service.local."
SERVICES, EACH = 50, 20  # that stay: they are there all the time
LOOK_EVERY = 10.0
# Below the ports that the kernel hands out: what it gave to a client must not be in the way of a restart.
PORTS = range(20000, 30000)
# A reply is late after this, and a server that was told to stop is back within it.
LATE, BACK = 5.0, 20.0
# What may be more at a life's end than in its first half: what a machine's allocator keeps, and connections of the moment.
MEMORY_RATIO, MEMORY_MIB, DESCRIPTORS = 1.10, 8, 40
TYPES = {
    "web": ["A", "AAAA", "SRV", "ANY", "TXT", "SVCB", "HTTPS", "CAA"],
    "_tcp": ["SRV"],
    "apex": ["SOA", "NS", "DNSKEY", "A", "ANY"],
    "browse": ["PTR"],
    "missing": ["A", "SRV", "AAAA"],
}
# What the server may say in its log while it is treated so.
EXPECTED = re.compile(r"self-signed|stopped or starved|no key|transfer|gave up|slow|store was not closed|last time|lease.*longer", re.I)


class Soak:
    def __init__(self, given, directory):
        self.given, self.directory = given, directory
        self.random = random.Random(given.seed)
        self.counts, self.errors = collections.Counter(), collections.Counter()
        self.examples, self.looks, self.lives = {}, [], 0
        self.ready, self.over = asyncio.Event(), False
        self.numbers = iter(range(1, 1 << 60))
        self.ports = {name: self.free_port() for name in ("dns", "dot", "doh", "doq", "http")}
        self.tls = ssl._create_unverified_context()
        self.sick = False

    def free_port(self):
        for _ in range(200):
            port = self.random.choice(PORTS)
            try:
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    with socket.socket(socket.AF_INET, kind) as trial:
                        trial.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
        sys.exit("soak: no port is free")

    # -- the server --

    async def start(self):
        at = {name: f"127.0.0.1:{port}" for name, port in self.ports.items()}
        words = [self.given.server, "serve", "--data", f"{self.directory}/data", "--socket", f"{self.directory}/socket",
                 "--dns", at["dns"], "--http", at["http"], "--dot", at["dot"], "--doh", at["doh"], "--doq", at["doq"],
                 "--tls-self-signed", "--log", "warn"]
        log = open(f"{self.directory}/log", "ab")
        self.server = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE, stderr=log, cwd=self.directory)
        while line := await asyncio.wait_for(self.server.stdout.readline(), BACK):
            if line.startswith(b"ready"):
                self.lives += 1
                self.up_since = time.monotonic()
                self.ready.set()
                return
        sys.exit(f"soak: the server did not start: {Path(self.directory, 'log').read_text()[-2000:]}")

    async def stop(self, how):
        self.ready.clear()
        self.server.send_signal(how)
        await asyncio.wait_for(self.server.wait(), BACK)

    # -- what went wrong --

    def wrong(self, kind, example=""):
        """Counts what failed; while the server is down, or was when it was asked, only wrong words are wrong."""
        self.errors[kind] += 1
        self.examples.setdefault(kind, f"{time.strftime('%T')} {example}"[:300])

    def was_up(self, since):
        return self.ready.is_set() and self.up_since < since

    # -- DNS --

    def question(self):
        kind = self.random.choice(list(TYPES))
        rtype = self.random.choice(TYPES[kind])
        service = f"s{self.random.randrange(SERVICES)}"
        name = {
            "web": f"{service}.{APEX}",
            "_tcp": f"_{service}._tcp.{APEX}",
            "apex": APEX,
            "browse": self.random.choice([f"_services._dns-sd._udp.{APEX}", f"_{service}._tcp.{APEX}"]),
            "missing": f"x{self.random.randrange(10**9)}.{APEX}",
        }[kind]
        if self.random.random() < 0.2:
            kind, name, rtype = "churn", f"churn{self.random.randrange(5)}.{APEX}", self.random.choice(["A", "SRV", "TXT"])
        edns = self.random.choice([None, 512, 1232, 4096])
        query = dns.message.make_query(name, rtype, use_edns=0 if edns else None, payload=edns, want_dnssec=edns is not None and self.random.random() < 0.3)
        return kind, rtype, query

    def judge(self, over, kind, rtype, query, wire, asked):
        self.counts[over] += 1
        if wire is None:
            if self.was_up(asked):
                self.wrong(f"{over}: no reply", query.question[0])
            else:
                self.counts["while it was down"] += 1
            return
        try:
            reply = dns.message.from_wire(wire)
        except Exception as error:
            return self.wrong(f"{over}: {type(error).__name__}", query.question[0])
        rcode = dns.rcode.to_text(reply.rcode())
        if rcode == "SERVFAIL" and not self.was_up(asked):
            self.counts["while it was down"] += 1
            return
        cut = bool(reply.flags & dns.flags.TC)
        right = {
            # Denied in the compact form where signatures are wanted (RFC 9824).
            "missing": rcode == ("NOERROR" if query.ednsflags & dns.flags.DO else "NXDOMAIN") and not reply.answer,
            "churn": rcode in ("NOERROR", "NXDOMAIN"),
            "apex": rcode == "NOERROR" and (rtype not in ("SOA", "NS") or bool(reply.answer)),
        }.get(kind, rcode == "NOERROR" and (rtype not in ("A", "SRV", "PTR", "ANY") or bool(reply.answer) or cut))
        if reply.id != query.id or not right or len(wire) > 65535:
            self.wrong(f"{over}: {rcode}, {len(reply.answer)} sets{', TC' if cut else ''} for {kind} {rtype}", query.question[0])

    async def datagrams(self):
        loop = asyncio.get_running_loop()
        while not self.over:
            await self.rest(self.given.every)
            kind, rtype, query = self.question()
            asked, wire = time.monotonic(), None
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.setblocking(False)
                try:
                    one.connect(("127.0.0.1", self.ports["dns"]))
                    await loop.sock_sendall(one, query.to_wire())
                    wire = await asyncio.wait_for(loop.sock_recv(one, 65535), LATE)
                except (OSError, asyncio.TimeoutError):
                    pass
            self.judge("udp", kind, rtype, query, wire, asked)

    async def streams(self, over, port, tls):
        """Connections of one to many questions, one after another or all at once."""
        while not self.over:
            await self.ready.wait()
            writer, asked, batch = None, time.monotonic(), []
            try:
                reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", self.ports[port], ssl=tls), LATE)
                for _ in range(self.random.randrange(1, 8)):
                    await self.rest(self.given.every)
                    asked = time.monotonic()
                    batch = [self.question() for _ in range(self.random.choice([1, 1, 1, 5]))]
                    for number, (_, _, query) in enumerate(batch):
                        query.id = number  # replies may come in any order
                        wire = query.to_wire()
                        writer.write(len(wire).to_bytes(2, "big") + wire)
                    await writer.drain()
                    waiting = {query.id: (kind, rtype, query) for kind, rtype, query in batch}
                    while waiting:
                        length = int.from_bytes(await asyncio.wait_for(reader.readexactly(2), LATE), "big")
                        wire = await asyncio.wait_for(reader.readexactly(length), LATE)
                        self.judge(over, *waiting.pop(int.from_bytes(wire[:2], "big")), wire, asked)
            except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, KeyError) as error:
                if self.was_up(asked):
                    self.wrong(f"{over}: {type(error).__name__}", error)
                else:
                    self.counts["while it was down"] += 1
            if writer:
                writer.close()

    async def https(self):
        while not self.over:
            await self.ready.wait()
            await self.rest(4 * self.given.every)
            kind, rtype, query = self.question()
            query.id, asked = 0, time.monotonic()
            wire = query.to_wire()
            status, body = await self.http("POST", "/dns-query", wire, "application/dns-message", port="doh", tls=self.tls)
            if status not in (None, 200):
                self.wrong(f"https: status {status}", body[:100])
            else:
                self.judge("https", kind, rtype, query, body if status else None, asked)

    async def programs(self):
        """What is spoken by kdig: QUIC, and whole zones."""
        at = ["@127.0.0.1", "+retry=0", f"+time={LATE:.0f}"]
        forms = {
            "quic": [*at, "-p", str(self.ports["doq"]), "+quic", f"s1.{APEX}", "A"],
            "axfr": [*at, "-p", str(self.ports["dns"]), APEX, "AXFR"],
            "ixfr": [*at, "-p", str(self.ports["dns"]), APEX, "IXFR=1"],
        }
        while not self.over:
            for over, words in forms.items():
                await self.ready.wait()
                await self.rest(3)
                asked = time.monotonic()
                run = await asyncio.create_subprocess_exec("kdig", *words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                output = (await run.communicate())[0].decode(errors="replace")
                self.counts[over] += 1
                whole = output.count("SRV") > SERVICES * EACH if over != "quic" else "NOERROR" in output and "ANSWER: 1" in output.replace("ANSWER: 20", "ANSWER: 1")
                if not whole and self.was_up(asked):
                    self.wrong(f"{over}: not whole", output[-200:])

    # -- HTTP --

    async def http(self, method, path, body=b"", kind="application/json", port="http", tls=None, late=LATE):
        """Status and body of one request on a connection of its own; None where there was no reply."""
        writer = None
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", self.ports[port], ssl=tls), LATE)
            writer.write(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.ports[port]}\r\nConnection: close\r\nContent-Type: {kind}\r\n"
                         f"Accept: */*\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            reply = await asyncio.wait_for(reader.read(), late)
            head, _, rest = reply.partition(b"\r\n\r\n")
            if b"transfer-encoding: chunked" in head.lower():
                rest = unchunked(rest)
            self.index = re.search(rb"x-consul-index: (\d+)", head, re.I)
            return int(head.split()[1]), rest
        except (OSError, asyncio.TimeoutError, IndexError):
            return None, b""
        finally:
            if writer:
                writer.close()

    async def said(self, what, status, asked, right=(200,)):
        self.counts[what] += 1
        if status not in right and self.was_up(asked):
            self.wrong(f"{what}: status {status}")

    async def readers(self):
        paths = ["/metrics", "/healthz", "/readyz", "/v1/catalog/services", "/v1/agent/services",
                 "/v1/health/service/s1", "/v1/traffic", "/ui/", "/v1/health/service/s2?passing", "/v1/nothing"]
        while not self.over:
            await self.ready.wait()
            await self.rest(1)
            asked, path = time.monotonic(), self.random.choice(paths)
            status, _ = await self.http("GET", path)
            await self.said(f"http {path}", status, asked, (404,) if path == "/v1/nothing" else (200,))

    async def waiters(self):
        """Long polls that wake by churn, and watches that are read for a while."""
        while not self.over:
            await self.ready.wait()
            asked = time.monotonic()
            if self.random.random() < 0.5:
                status, _ = await self.http("GET", "/v1/health/service/churn1")
                index = self.index.group(1).decode() if status and self.index else "1"
                status, _ = await self.http("GET", f"/v1/health/service/churn1?index={index}&wait=5s", late=15)
                await self.said("long poll", status, asked)
            else:
                await self.watch(f"/v1/watch/churn{self.random.randrange(5)}", asked)

    async def watch(self, path, asked):
        writer = None
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.ports["http"])
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.ports['http']}\r\n\r\n".encode())
            end = time.monotonic() + self.random.uniform(1, 30)
            while time.monotonic() < end and not self.over:
                try:
                    line = await asyncio.wait_for(reader.readline(), 2)
                except asyncio.TimeoutError:
                    continue
                if not line:
                    if self.was_up(asked):
                        self.wrong("watch: closed")
                    break
            self.counts["watch"] += 1
        except OSError as error:
            if self.was_up(asked):
                self.wrong(f"watch: {error}")
        finally:
            if writer:
                writer.close()

    # -- processes that come and go --

    async def process(self):
        """One after another: bound to its connection, with a lease, or through HTTP with a check that it answers itself."""
        while not self.over:
            await self.ready.wait()
            await self.rest(2)
            number, asked = next(self.numbers), time.monotonic()
            service = f"churn{self.random.randrange(5)}"
            how = self.random.choice(["connection", "connection", "lease", "http"])
            try:
                if how == "http":
                    await self.consul(service, number)
                else:
                    await self.registered(service, number, how)
            except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
                if self.was_up(asked):
                    self.wrong(f"{how}: {type(error).__name__}", error)

    async def registered(self, service, number, how):
        reader, writer = await asyncio.open_unix_connection(f"{self.directory}/socket", limit=1 << 20)
        key, since = {"service": service, "id": f"p-{number}"}, time.monotonic()

        async def ask(request, right):
            asked = time.monotonic()
            writer.write(json.dumps(request).encode() + b"\n")
            reply = await asyncio.wait_for(reader.readline(), LATE)
            self.counts[right] += 1
            if not reply:
                raise asyncio.IncompleteReadError(b"", 1)
            reply = json.loads(reply)
            if right not in reply and self.was_up(asked):
                self.wrong(f"{right}: {reply.get('error', reply)}"[:120])
            return reply

        try:
            form = {**key, "address": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", "port": 80,
                    "lease": "connection" if how == "connection" else "3s", "tags": [f"v{number % 7}"]}
            if number % 5 == 0:
                form["checks"] = [{"id": "c", "tcp": f"127.0.0.1:{self.check_port}", "interval": "1s"}]
            lease = (await ask({"register": form}, "registered"))
            lease = lease.get("registered", {}) if isinstance(lease.get("registered"), dict) else lease
            for _ in range(self.random.randrange(5)):
                await self.rest(1)
                if how == "lease" and "lease_id" in lease:
                    await ask({"heartbeat": {**key, "lease_id": lease["lease_id"]}}, "renewed")
            if self.random.random() < 0.6 and self.was_up(since):
                await ask({"deregister": key}, "deregistered")
        finally:
            writer.close()

    async def consul(self, service, number):
        asked = time.monotonic()
        form = {"ID": f"p-{number}", "Name": service, "Address": "10.9.9.9", "Port": 80,
                "Check": {"TTL": "10s", "DeregisterCriticalServiceAfter": "1m"}}
        status, _ = await self.http("PUT", "/v1/agent/service/register", json.dumps(form).encode())
        await self.said("consul", status, asked)
        for verdict in ("pass", "warn", "pass"):
            await self.rest(1)
            asked = time.monotonic()
            status, _ = await self.http("PUT", f"/v1/agent/check/{verdict}/service:p-{number}")
            await self.said("consul", status, asked)
        asked = time.monotonic()
        status, _ = await self.http("PUT", f"/v1/agent/service/deregister/p-{number}")
        await self.said("consul", status, asked)

    async def fill(self):
        """What stays; checks of some of it go wrong and right again."""
        reader, writer = await asyncio.open_unix_connection(f"{self.directory}/socket")
        for number in range(SERVICES * EACH):
            form = {"service": f"s{number // EACH}", "id": f"i-{number}", "address": f"10.0.{number // EACH}.{number % EACH + 1}", "port": 80,
                    "lease": "none", "protocol": "http"}
            if number % EACH == 0:
                form["checks"] = [{"id": "c", "http": f"http://127.0.0.1:{self.check_port}/", "interval": "2s"}]
            writer.write(json.dumps({"register": form}).encode() + b"\n")
            reply = await reader.readline()
            if b"registered" not in reply:
                sys.exit(f"soak: {reply}")
        writer.close()

    async def checked(self, reader, writer):
        try:
            line = await asyncio.wait_for(reader.readline(), 2)
            if line:
                code = "503 Sick" if self.sick else "200 OK"
                writer.write(f"HTTP/1.1 {code}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
                await writer.drain()
        except (OSError, asyncio.TimeoutError):
            pass
        writer.close()

    async def moods(self):
        while not self.over:
            await self.rest(20)
            self.sick = not self.sick

    # -- what is looked at --

    async def look(self):
        while not self.over:
            await asyncio.sleep(LOOK_EVERY)
            if not self.ready.is_set():
                continue
            try:
                status = Path(f"/proc/{self.server.pid}/status").read_text()
                descriptors = len(os.listdir(f"/proc/{self.server.pid}/fd"))
                ticks = sum(map(int, Path(f"/proc/{self.server.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
            except OSError:
                continue
            field = lambda name: int(re.search(rf"^{name}:\s+(\d+)", status, re.M).group(1))  # noqa: E731
            disk = sum(file.stat().st_size for file in Path(self.directory, "data").rglob("*") if file.is_file())
            self.looks.append((self.lives, time.monotonic() - self.up_since, field("VmRSS") / 1024, descriptors, field("Threads"), ticks, disk))
            life, up, memory, descriptors, threads, ticks, disk = self.looks[-1]
            print(f"life={life} up_s={up:.0f} rss_mib={memory:.1f} descriptors={descriptors} threads={threads} cpu_s={ticks / 100:.1f} "
                  f"disk_mib={disk / 2**20:.1f} asked={sum(self.counts.values())} wrong={sum(self.errors.values())}", flush=True)

    def verdict(self):
        """What is to be said of each life, and whether all was well."""
        well = not self.errors
        for kind, count in self.errors.most_common():
            print(f"wrong: {count} × {kind}: {self.examples[kind]}")
        for line in Path(self.directory, "log").read_text().splitlines():
            if not EXPECTED.search(line):
                print(f"log: {line}")
                well = False
        growth = []
        for life in range(1, self.lives + 1):
            looks = [look for look in self.looks if look[0] == life]
            if len(looks) < 8:
                continue
            early, late = looks[len(looks) // 4:len(looks) // 2], looks[-(len(looks) // 4):]
            middle = lambda part, at: statistics.median(look[at] for look in part)  # noqa: E731
            (m0, m1), (d0, d1) = ((middle(early, at), middle(late, at)) for at in (2, 3))
            flat = m1 <= m0 * MEMORY_RATIO + MEMORY_MIB and d1 <= d0 + DESCRIPTORS
            print(f"life {life}: {m0:.1f} MiB early, {m1:.1f} late; {d0:.0f} descriptors early, {d1:.0f} late{'' if flat else ': GROWS'}")
            growth.append((m0, m1, d0, d1))
            well = well and flat
        return well, growth

    async def rest(self, seconds):
        await asyncio.sleep(seconds * self.random.uniform(0.2, 1.8))

    async def run(self):
        listener = await asyncio.start_server(self.checked, "127.0.0.1", 0)
        self.check_port = listener.sockets[0].getsockname()[1]
        Path(self.directory, "data").mkdir()
        subprocess.run([self.given.server, "dnssec", "init", "--keys", f"{self.directory}/data/dnssec", APEX.rstrip(".")], check=True, stdout=subprocess.DEVNULL)
        await self.start()
        await self.fill()
        tasks = [self.datagrams() for _ in range(10)] + [self.https() for _ in range(3)] + [self.readers(), self.moods(), self.programs(), self.look()]
        tasks += [self.streams("tcp", "dns", None) for _ in range(4)] + [self.streams("tls", "dot", self.tls) for _ in range(4)]
        tasks += [self.process() for _ in range(40)] + [self.waiters() for _ in range(20)]
        running = [asyncio.create_task(task) for task in tasks]
        end, how = time.monotonic() + 60 * self.given.minutes, [signal.SIGTERM, signal.SIGKILL]
        while (left := end - time.monotonic()) > 0:
            await asyncio.wait(running, timeout=min(left, 60 * self.given.life), return_when=asyncio.FIRST_EXCEPTION)
            for task in running:
                if task.done() and task.exception():
                    raise task.exception()
            if end - time.monotonic() > 60:
                await self.stop(how[self.lives % 2])
                await self.start()
        self.over = True
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=LATE)
        await self.stop(signal.SIGTERM)


def unchunked(octets):
    whole = b""
    while octets:
        size, _, octets = octets.partition(b"\r\n")
        count = int(size, 16)
        whole, octets = whole + octets[:count], octets[count + 2:]
    return whole


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120, help="[default: 120]")
    parser.add_argument("--life", type=float, default=20, metavar="MINUTES", help="from one start of the server to the next [default: 20]")
    parser.add_argument("--every", type=float, default=0.1, metavar="SECONDS", help="between two questions of one client [default: 0.1]")
    parser.add_argument("--seed", type=int, default=700000)
    parser.add_argument("--server", default=str(TOP / "target/release/callsign"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        soak = Soak(given, directory)
        try:
            asyncio.run(soak.run())
        finally:
            if soak.ready.is_set():
                soak.server.kill()
        well, growth = soak.verdict()
    counts = ", ".join(f"{count} {what}" for what, count in sorted(soak.counts.items()))
    print(f"did: {counts}")
    worst = max((m1 - m0 for m0, m1, _, _ in growth), default=0)
    print(f"soak: minutes={given.minutes:.0f} lives={soak.lives} did={sum(soak.counts.values())} wrong={sum(soak.errors.values())} "
          f"memory_mib={max((m1 for _, m1, _, _ in growth), default=0):.0f} more_mib={worst:.1f} descriptors={max((d1 for *_, d1 in growth), default=0):.0f}")
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
