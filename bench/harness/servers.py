"""The servers: where each is found or how it is made, how it is started with the same names, and what it costs.

Each runs alone: whoever is not measured is stopped (SIGSTOP), so nobody's timers cost another one's processor.
"""

import contextlib
import grp
import http.client
import json
import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

from . import dns, registry

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / "target/bench"
PEERS = ROOT / "target/peers"
UNPACKED = ROOT / "target/unpacked/root"
HICKORY = "0.26.3"  # the version of hickory's crates in Cargo.lock
DEADLINE = 120  # seconds until a server that was started must answer: 300,000 instances take some of them a minute
TICKS = os.sysconf("SC_CLK_TCK")  # what /proc counts processor time in
BATCH = 256  # registrations in flight, as many as the server takes from one connection at once


class Failure(Exception):
    """Ends the run; its text says what to do."""


def run(*words, **more):
    """Runs it, with what it says on stderr: stdout is for the table."""
    words = [str(word) for word in words]
    try:
        status = subprocess.run(words, cwd=ROOT, **{"stdout": sys.stderr, **more}).returncode
    except OSError as error:
        raise Failure(f"starting {words[0]}: {error.strerror}") from None
    if status:
        raise Failure(f"{' '.join(words)} ended with exit status {status}; what it said is above")


def on_path(program, package):
    """A program of a Debian package; servers are in a directory that only an administrator's PATH has."""
    found = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if not found:
        raise Failure(f"{program} is not here: install Debian's package {package} (./check does)")
    return [found]


def named():
    """BIND: the machine's own, or Debian's unpacked, with the libraries that were unpacked beside it."""
    if found := shutil.which("named", path=os.environ.get("PATH", "") + ":/usr/sbin"):
        return [found]
    if not (UNPACKED / "usr/sbin/named").exists():
        run("tests/unpacked/unpack")
    libraries = next((UNPACKED / "usr/lib").glob("*-linux-gnu"))
    return ["env", f"LD_LIBRARY_PATH={libraries}", str(UNPACKED / "usr/sbin/named")]


def go_program(name):
    program = PEERS / "bin" / name
    if not program.exists():
        run("tests/peers/build", name)
    return ["env", "GOMAXPROCS=1", str(program)]


def hickory_program():
    place = PEERS / f"hickory-dns-{HICKORY}"
    if not (place / "bin/hickory-dns").exists():
        run("cargo", "install", "--locked", "hickory-dns", "--version", HICKORY, "--features", "tls-ring",
            "--root", place)
    return [str(place / "bin/hickory-dns")]


def compiled(name):
    """A C source beside this folder, compiled again where it is newer."""
    source, program = ROOT / f"bench/{name}.c", PLACE / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        PLACE.mkdir(parents=True, exist_ok=True)
        run("cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, source)
    return str(program)


def certificate(directory):
    """A pair for DNS over TLS that nobody has to believe."""
    key, chain = directory / "key.pem", directory / "chain.pem"
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-days", "2", "-subj", "/CN=localhost", "-keyout", key, "-out", chain, stderr=subprocess.DEVNULL)
    return key, chain


def free_port():
    """A port that was free for UDP and TCP a moment ago."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp, \
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            try:
                udp.bind(tcp.getsockname())
            except OSError:
                continue
            return tcp.getsockname()[1]


class Server:
    """A started server: its ports, its processor time, its memory."""

    transports = ("udp", "tcp", "dot")
    address = "127.0.0.1"
    on_request = False  # one that --only has to name
    version_words = ("--version",)

    @classmethod
    def version(cls):
        """What it calls itself, such as `knot 3.2.6`."""
        ran = subprocess.run([*cls.program, *cls.version_words], text=True, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        found = re.search(r"\d+\.\d+[\w.-]*", ran.stdout)
        return f"{cls.name} {found[0]}" if found else cls.name

    def __init__(self, directory, core, instances):
        self.directory, self.core = directory / self.name, core
        self.instances, self.child = instances, None
        self.directory.mkdir()
        self.port, self.tls_port = free_port(), free_port()
        try:
            self.start()
            self.wait()
        except BaseException:
            self.end()
            raise

    def spawn(self, *words, stdout=None):
        """Starts it on its core, in a session of its own, by which its processes are found again."""
        # Ours refuses a variable that it does not know, and a developer's own settings are no part of a measurement.
        ours = {name: value for name, value in os.environ.items() if not name.startswith("CALLSIGN_")}
        with open(self.directory / "log", "ab") as log:
            words = ["taskset", "-c", str(self.core), *map(str, words)]
            self.child = subprocess.Popen(words, cwd=self.directory, env=ours, stdin=subprocess.DEVNULL,
                                          stdout=stdout or log, stderr=log, start_new_session=True)

    def wait(self):
        """Until the last of the names is answered."""
        last = registry.service((self.instances - 1) // registry.EACH)
        until = time.monotonic() + DEADLINE
        while True:
            try:
                if dns.Reply(dns.ask(self.where, f"{last}.{registry.APEX}", "A", tcp="tcp" in self.transports)).answer:
                    return
            except (OSError, ValueError, IndexError, struct.error):
                pass
            if self.child.poll() is not None or time.monotonic() > until:
                raise Failure(f"{self.name} does not answer; it said:\n{self.said()}")
            time.sleep(0.05)

    @property
    def where(self):
        return self.address, self.port

    def said(self):
        return (self.directory / "log").read_text(errors="replace")[-2000:]

    def processes(self):
        """The ids and the fields of /proc/PID/stat, from the state on, of every process of its session."""
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(") ")[2].split()
            except OSError:
                continue  # it ended
            if self.child and int(fields[3]) == self.child.pid:
                yield int(stat.parent.name), fields

    def cpu(self):
        """Seconds of processor time so far: (user, system), of all threads and processes."""
        user = system = 0
        for _, fields in self.processes():
            user, system = user + int(fields[11]), system + int(fields[12])
        return user / TICKS, system / TICKS

    def resident_kib(self):
        return sum(int(fields[21]) * os.sysconf("SC_PAGE_SIZE") // 1024 for _, fields in self.processes())

    def signal(self, number):
        for pid, _ in self.processes():
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(pid, number)

    def pause(self):
        self.signal(signal.SIGSTOP)

    def resume(self):
        self.signal(signal.SIGCONT)

    def end(self):
        if self.child:
            self.signal(signal.SIGKILL)
            self.child.wait()

    def write(self, name, text):
        path = self.directory / name
        path.write_text(text)
        return path

    def zone_file(self):
        """Made once for all servers; each has a directory of its own otherwise."""
        path = self.directory.parent / f"{self.instances}.zone"
        if not path.exists():
            with path.open("w") as file:
                file.writelines(registry.zone(self.instances))
        return path


class Callsign(Server):
    name = "callsign"
    chosen = None  # --server
    store = ("--store", "memory")

    @classmethod
    def prepare(cls):
        program = cls.chosen or ROOT / "target/release/callsign"
        if not cls.chosen:  # what is measured is what the sources say now
            run("cargo", "build", "--release", "--locked")
        if not program.exists():
            raise Failure(f"{program} is not there: --server names our program")
        cls.program = [str(program)]

    def start(self):
        self.serve()
        with Registrar(self.socket) as registrar:
            batch = []
            for instance in registry.instances(self.instances):
                batch.append(registry.registration(*instance))
                if len(batch) == BATCH:
                    registrar.say(batch)
                    batch = []
            registrar.say(batch)

    def serve(self, *words):
        """Starts it with these options besides, and waits for its `ready` line."""
        self.socket = self.directory / "s"
        self.spawn(*self.program, "serve", "--dns", f"127.0.0.1:{self.port}", "--dot", f"127.0.0.1:{self.tls_port}",
                   "--tls-self-signed", "--http", "none", *self.store, "--socket", self.socket,
                   "--ttl", registry.TTL, "--log", "warn", *words, stdout=subprocess.PIPE)
        while not (line := self.child.stdout.readline()).startswith(b"ready"):
            if not line:
                raise Failure(f"callsign did not start; it said:\n{self.said()}")


class Static(Callsign):
    """Ours with the zone file that Knot and NSD have, and with nothing registered."""

    name = "callsign-static"

    def start(self):
        zones = self.directory / "zones"
        zones.mkdir()
        (zones / f"{registry.APEX}.zone").symlink_to(self.zone_file())
        self.serve("--zones", zones, "--domain", "other.local")


class Registrar:
    """A connection to our registration socket."""

    def __init__(self, path):
        self.line = socket.socket(socket.AF_UNIX)
        self.line.settimeout(DEADLINE)
        self.line.connect(str(path))
        self.replies = self.line.makefile("rb")

    def say(self, lines, again=0):
        """Sends them at once; every one must be taken. What cannot be now is said again, so many times, a second apart."""
        for left in range(again, -1, -1):
            self.line.sendall(b"".join(lines))
            replies = [(line, self.replies.readline()) for line in lines]
            refused = [(line, reply) for line, reply in replies if not reply.startswith(b'{"registered"')]
            for _, reply in refused:
                if not left or b'"unavailable"' not in reply:
                    raise Failure(f"a registration was refused: {reply.decode(errors='replace')}")
            if not refused:
                return
            lines = [line for line, _ in refused]
            time.sleep(1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.line.close()


class Knot(Server):
    name, transports = "knot", ("udp", "tcp")  # Debian 12's has no DNS over TLS

    @classmethod
    def prepare(cls):
        cls.program = on_path("knotd", "knot")

    def start(self):
        self.spawn(*self.program, "-c", self.configuration(f"""
  listen: 127.0.0.1@{self.port}
  tcp-workers: 1"""))

    def configuration(self, listening):
        """A file with one worker and our zone; `listening` is the end of its `server` section, and may begin another."""
        return self.write("knot.conf", f"""
server:
  rundir: {self.directory}
  udp-workers: 1
  background-workers: 1{listening}
database:
  storage: {self.directory}
log:
  - target: stderr
    any: warning
zone:
  - domain: {registry.APEX}
    file: {self.zone_file()}
    zonefile-sync: -1
    journal-content: none
""")


class KnotXdp(Knot):
    """Knot past the kernel's UDP (AF_XDP), on a pair of virtual network cards. Takes root, and `ip` and `unshare`.

    The server is in a network namespace of its own; so is bench/run then (`own_network`), because the other end
    of the pair is no business of this machine's network.
    """

    name, transports, address, on_request = "knot-xdp", ("udp",), "192.0.2.1", True  # an address of RFC 5737
    CARD = "bench0"

    def start(self):
        config = self.configuration(f"""
xdp:
  listen: {self.CARD}@{self.port}""")
        self.spawn("unshare", "--net", "sh", "-c", f"""
            until ip link set {self.CARD} up; do sleep 0.05; done 2>/dev/null
            ip addr add {self.address}/24 dev {self.CARD}
            exec {shlex.join(self.program)} -c {shlex.quote(str(config))}""")
        place = Path(f"/proc/{self.child.pid}/ns/net")
        until = time.monotonic() + DEADLINE
        while place.readlink() == Path("/proc/self/ns/net").readlink():
            if self.child.poll() is not None or time.monotonic() > until:
                raise Failure(f"no network namespace for knot-xdp: it takes root; it said:\n{self.said()}")
            time.sleep(0.01)
        run("ip", "link", "add", self.CARD, "type", "veth", "peer", "name", self.CARD, "netns", self.child.pid)
        run("ip", "addr", "add", "192.0.2.2/24", "dev", self.CARD)
        run("ip", "link", "set", self.CARD, "up")


class Nsd(Server):
    name, version_words = "nsd", ("-v",)

    @classmethod
    def prepare(cls):
        cls.program = on_path("nsd", "nsd")

    def start(self):
        here = self.directory
        key, chain = certificate(here)
        self.spawn(*self.program, "-d", "-c", self.write("nsd.conf", f"""
server:
  ip-address: 127.0.0.1@{self.port}
  ip-address: 127.0.0.1@{self.tls_port}
  tls-port: {self.tls_port}
  tls-service-key: "{key}"
  tls-service-pem: "{chain}"
  username: ""
  chroot: ""
  pidfile: ""
  database: ""
  zonesdir: "{here}"
  zonelistfile: "{here}/zone.list"
  xfrdfile: "{here}/xfrd.state"
  xfrdir: "{here}"
  server-count: 1
  minimal-responses: yes
  rrl-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: "{registry.APEX}"
  zonefile: "{self.zone_file()}"
"""))


class Bind(Server):
    name, version_words = "bind", ("-V",)

    @classmethod
    def prepare(cls):
        cls.program = named()

    def start(self):
        key, chain = certificate(self.directory)
        self.spawn(*self.program, "-g", "-n", "1", "-U", "1", "-c", self.write("named.conf", f"""
tls pair {{ key-file "{key}"; cert-file "{chain}"; }};
options {{
    directory "{self.directory}";
    listen-on port {self.port} {{ 127.0.0.1; }};
    listen-on port {self.tls_port} tls pair {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    pid-file none;
    session-keyfile "{self.directory}/session.key";
    recursion no;
    minimal-responses no-auth;
    dnssec-validation no;
    notify no;
}};
controls {{ }};
zone "{registry.APEX}" {{ type primary; file "{self.zone_file()}"; }};
"""))


class CoreDns(Server):
    name, version_words = "coredns", ("-version",)

    @classmethod
    def prepare(cls):
        cls.program = go_program("coredns")

    def start(self):
        key, chain = certificate(self.directory)
        self.spawn(*self.program, "-conf", self.write("Corefile", f"""
{registry.APEX}:{self.port} {{
    bind 127.0.0.1
    file {self.zone_file()}
}}
tls://{registry.APEX}:{self.tls_port} {{
    bind 127.0.0.1
    tls {chain} {key}
    file {self.zone_file()}
}}
"""))


class Hickory(Server):
    name = "hickory"

    @classmethod
    def prepare(cls):
        cls.program = hickory_program()

    def start(self):
        key, chain = certificate(self.directory)
        self.spawn(*self.program, "-q", "--workers", "1", "-c", self.write("hickory.toml", f"""
listen_addrs_ipv4 = ["127.0.0.1"]
listen_addrs_ipv6 = []
listen_port = {self.port}
tls_listen_port = {self.tls_port}
directory = "{self.directory}"
user = "{pwd.getpwuid(os.getuid()).pw_name}"
group = "{grp.getgrgid(os.getgid()).gr_name}"

[tls_cert]
path = "{chain}"
private_key = "{key}"

[[zones]]
zone = "{registry.APEX}"
zone_type = "Primary"
file = "{self.zone_file()}"
"""))


class Consul(Server):
    """An agent in development mode, which keeps nothing on disk, with the catalogue's API.

    Not over TCP: it ends a connection after 128 queries, and dnsperf counts those in flight as lost.
    """

    name, transports = "consul", ("udp",)
    NODES = 100  # hosts that the instances are on

    @classmethod
    def prepare(cls):
        cls.program = go_program("consul")

    def start(self):
        port = free_port()
        self.spawn(*self.program, "agent", "-dev", "-node", "agent", "-log-level", "warn", "-config-file",
                   self.write("consul.json", json.dumps({
                       "domain": registry.APEX.removeprefix("service."),
                       "bind_addr": "127.0.0.1",
                       "dns_config": {"service_ttl": {"*": f"{registry.TTL}s"}},
                       "ports": {"dns": self.port, "http": port, "grpc": -1, "grpc_tls": -1,
                                 "server": free_port(), "serf_lan": free_port(), "serf_wan": free_port()},
                   })))
        api = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        until = time.monotonic() + DEADLINE
        while not self.put(api, "n0", "10.0.0.1"):  # no leader yet
            if self.child.poll() is not None or time.monotonic() > until:
                raise Failure(f"consul did not start; it said:\n{self.said()}")
            time.sleep(0.05)
        for at, (service, instance, address) in enumerate(registry.instances(self.instances)):
            node = at % self.NODES
            if not self.put(api, f"n{node}", f"10.0.0.{node + 1}", {
                    "ID": instance, "Service": service, "Address": address, "Port": registry.PORT}):
                raise Failure(f"consul refused {instance}; it said:\n{self.said()}")

    def put(self, api, node, address, service=None):
        body = {"Node": node, "Address": address, "SkipNodeUpdate": service is not None, "Service": service}
        try:
            api.request("PUT", "/v1/catalog/register", json.dumps(body))
            reply = api.getresponse()
            reply.read()
            return reply.status == 200
        except OSError:
            api.close()
            return False


class Floor(Server):
    """The bare loop (floor.c). It has no names: another server's answers are given to it."""

    name, transports = "floor", ("udp",)

    @classmethod
    def version(cls):
        return cls.name

    @classmethod
    def prepare(cls):
        cls.program = [compiled("floor")]

    def start(self):
        """It starts when it is given answers."""

    def wait(self):
        """Nothing to wait for yet."""

    def give(self, answers):
        """Starts it, anew, with these answers."""
        self.end()
        self.spawn(*self.program, self.port, *(answer.hex() for answer in answers))
        until = time.monotonic() + DEADLINE
        while True:
            try:
                return dns.ask(self.where, registry.APEX, "SOA")
            except OSError:
                if self.child.poll() is not None or time.monotonic() > until:
                    raise Failure(f"the bare loop does not answer; it said:\n{self.said()}") from None


KINDS = (Callsign, Knot, Nsd, Bind, CoreDns, Hickory, Consul, Floor, Static, KnotXdp)
ALL = {kind.name: kind for kind in KINDS}
