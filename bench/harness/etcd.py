"""An etcd of one member, callsign's nodes on it, and CoreDNS with its etcd plugin beside them."""

import base64
import http.client
import json
import os
import re
import subprocess
import time

from . import registry
from .servers import DEADLINE, Callsign, CoreDns, Failure, Server, free_port, on_path

SKYDNS = "/skydns/local/service"  # where the plugin looks for names of service.local
INSTANCES_MAX = 1_100_000  # more than any part of bench/cluster registers
NAMES = 100  # puts in one transaction, of at most 128 operations (etcd's --max-txn-ops)


def encoded(text):
    return base64.b64encode(text.encode()).decode()


class Etcd(Server):
    """Debian's, or what tests/peers/build made where CALLSIGN_PEERS names that folder. It keeps its data on the disk."""

    name, transports = "etcd", ()

    @classmethod
    def prepare(cls):
        own = os.environ.get("CALLSIGN_PEERS")
        cls.program = [f"{own}/etcd"] if own else on_path("etcd", "etcd-server")

    def start(self):
        self.peer_port = free_port()
        here, others = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.peer_port}"
        self.spawn(*self.program, "--name", "one", "--data-dir", self.directory / "data", "--quota-backend-bytes", 8 << 30,
                   "--listen-client-urls", here, "--advertise-client-urls", here, "--listen-peer-urls", others,
                   "--initial-advertise-peer-urls", others, "--initial-cluster", f"one={others}",
                   "--auto-compaction-mode", "periodic", "--auto-compaction-retention", "1m")

    def wait(self):
        """Until it takes a write."""
        until = time.monotonic() + DEADLINE
        while True:
            try:
                return Gateway(self).put("/ready", "")
            except (OSError, http.client.HTTPException, Failure):
                if self.child.poll() is not None or time.monotonic() > until:
                    raise Failure(f"etcd did not start; it said:\n{self.said()}") from None
                time.sleep(0.05)

    @property
    def store(self):
        return f"etcd://127.0.0.1:{self.port}"

    def counted(self, family, **labels):
        """The sum of a family of its metrics, of those lines that have these labels."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        line.request("GET", "/metrics")
        text = line.getresponse().read().decode()
        found = re.findall(rf"^{family}(?:\{{(.*?)\}})? ([\d.e+]+)$", text, re.MULTILINE)
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(float(value) for said, value in found if all(words in said for words in wanted))

    def reads(self):
        return self.counted("grpc_server_handled_total", grpc_method="Range")

    def revision(self):
        return int(Gateway(self).ask("range", {"key": encoded("/ready")})["header"]["revision"])


class Gateway:
    """etcd's API in JSON, over one connection."""

    def __init__(self, etcd):
        self.line = http.client.HTTPConnection("127.0.0.1", etcd.port, timeout=DEADLINE)

    def ask(self, what, body):
        self.line.request("POST", f"/v3/kv/{what}", json.dumps(body))
        reply = self.line.getresponse()
        text = reply.read()
        if reply.status != 200:
            raise Failure(f"etcd refused {what}: {text[:200]!r}")
        return json.loads(text)

    def put(self, key, value):
        self.ask("put", {"key": encoded(key), "value": encoded(value)})

    def put_all(self, pairs):
        pairs = list(pairs)
        for at in range(0, len(pairs), NAMES):
            puts = [{"requestPut": {"key": encoded(key), "value": encoded(value)}} for key, value in pairs[at : at + NAMES]]
            self.ask("txn", {"success": puts})


def skydns(name, instance, address):
    """A key and a value as the plugin reads them (SkyDNS's form)."""
    return f"{SKYDNS}/{name}/{instance}", json.dumps({"host": address, "port": registry.PORT, "ttl": registry.TTL})


class Node(Callsign):
    """One of ours on etcd; `instances` are already there, or are registered by others."""

    transports = ("udp", "tcp")

    def __init__(self, directory, core, etcd, node):
        self.etcd, self.name = etcd, f"node-{node}"
        super().__init__(directory, core, 0)

    def start(self):
        self.socket = self.directory / "s"
        self.spawn(*self.program, "serve", "--dns", f"127.0.0.1:{self.port}", "--http", "none", "--store", self.etcd.store,
                   "--node", self.name, "--socket", self.socket, "--ttl", registry.TTL, "--log", "warn",
                   "--instances-max", INSTANCES_MAX, stdout=subprocess.PIPE)
        while not (line := self.child.stdout.readline()).startswith(b"ready"):
            if not line:
                raise Failure(f"{self.name} did not start; it said:\n{self.said()}")

    def wait(self):
        """`ready` is what it says once it has read all."""


class CoreDnsEtcd(CoreDns):
    """CoreDNS, which asks etcd for each answer."""

    name, transports = "coredns-etcd", ("udp",)

    def __init__(self, directory, core, etcd, instances):
        self.etcd = etcd
        super().__init__(directory, core, instances)

    def start(self):
        Gateway(self.etcd).put_all(skydns(*instance) for instance in registry.instances(self.instances))
        self.spawn(*self.program, "-conf", self.write("Corefile", f"""
{registry.APEX}:{self.port} {{
    bind 127.0.0.1
    etcd {{
        path /skydns
        endpoint http://127.0.0.1:{self.etcd.port}
    }}
}}
"""))
