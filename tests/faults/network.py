"""The network between the machines of a test: every packet passes here, and is lost, held up or carried as was said last.

    network.py SEED KEEPER...

makes a device `wire` for each machine, in the namespace of the process KEEPER, and says `ready`. The first machine is
host 1 of 192.0.2.0/24, and so on. Each line of stdin is the whole state of all links in JSON, as a list of [from, to,
share of packets lost, shortest and longest delay in milliseconds]; links that it does not name carry everything at once.
The answer to a line is how many packets were carried and lost until then. It ends with its stdin.
"""

import fcntl
import heapq
import json
import os
import random
import selectors
import stat
import struct
import subprocess
import sys
import tempfile
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
# Longer than any packet of a device with an MTU of 1500.
PACKET_OCTETS_MAX = 4096
# Packets held up at once; what comes then is lost, as in a router whose queue is full.
HELD_MAX = 20_000
# Packets taken from one machine before the next has its turn.
AT_ONCE_MAX = 64



def wire_maker():
    """The kernel's device that makes wires; where nobody made its file, one of our own."""
    if os.path.exists("/dev/net/tun"):
        return "/dev/net/tun"
    path = os.path.join(tempfile.mkdtemp(), "tun")
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(10, 200))
    return path


draws = random.Random(int(sys.argv[1]))
keepers = sys.argv[2:]
wires = {}
maker = wire_maker()
for host, keeper in enumerate(keepers, 1):
    wire = os.open(maker, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(wire, TUNSETIFF, struct.pack("16sH22x", b"wire%d" % host, IFF_TUN | IFF_NO_PI))
    subprocess.run(["ip", "link", "set", f"wire{host}", "netns", keeper], check=True)
    wires[host] = wire
print("ready", flush=True)

waiting = selectors.DefaultSelector()
waiting.register(0, selectors.EVENT_READ, None)
for host, wire in wires.items():
    waiting.register(wire, selectors.EVENT_READ, host)
troubles, held = {}, []
carried = lost = 0


def carry(to, packet):
    global carried, lost
    try:
        os.write(wires[to], packet)
        carried += 1
    except OSError:  # the machine's end is down, or takes no more
        lost += 1


def take(sender, packet):
    global lost
    to = packet[19] if packet[0] >> 4 == 4 else 0  # what is not IPv4 is a machine looking for IPv6 neighbours
    if to not in wires:
        return
    share, shortest, longest = troubles.get((sender, to), (0, 0, 0))
    if draws.random() < share or len(held) >= HELD_MAX:
        lost += 1
    elif longest > 0:
        due = time.monotonic() + draws.uniform(shortest, longest) / 1000
        heapq.heappush(held, (due, draws.random(), to, packet))
    else:
        carry(to, packet)


while True:
    wait = max(0, held[0][0] - time.monotonic()) if held else None
    for key, _ in waiting.select(wait):
        if key.data is None:
            line = sys.stdin.buffer.readline()
            if not line:
                sys.exit()
            troubles = {(link[0], link[1]): tuple(link[2:]) for link in json.loads(line)}
            print(carried, lost, flush=True)
            continue
        for _ in range(AT_ONCE_MAX):
            try:
                packet = os.read(key.fd, PACKET_OCTETS_MAX)
            except BlockingIOError:
                break
            take(key.data, packet)
    while held and held[0][0] <= time.monotonic():
        carry(*heapq.heappop(held)[2:])
