"""As much of DNS as it takes to see that an answer is right (RFC 1035 section 4, RFC 6891)."""

import socket
import struct

TYPES = {"A": 1, "NS": 2, "SOA": 6, "SRV": 33}
NOERROR, NXDOMAIN = 0, 3
PATIENCE = 5  # seconds until a reply counts as missing


NSID = struct.pack("!HH", 3, 0)  # "who are you?", as an option of EDNS (RFC 5001)


def query(name, rtype, edns, ident=0x2A2A, options=b""):
    """A query as dnsperf sends it: RD set, and with EDNS a UDP payload size of 4,096."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    header = struct.pack("!HHHHHH", ident, 0x0100, 1, 0, 0, int(edns))
    opt = struct.pack("!BHHIH", 0, 41, 4096, 0, len(options)) + options if edns else b""
    return header + labels + b"\0" + struct.pack("!HH", TYPES[rtype], 1) + opt


def ask(where, name, rtype, edns=True, tcp=False):
    """The octets of the reply of the server at this (address, port)."""
    kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as line:
        line.settimeout(PATIENCE)
        line.connect(where)
        message = query(name, rtype, edns)
        if not tcp:
            line.send(message)
            return line.recv(65535)
        line.sendall(struct.pack("!H", len(message)) + message)
        with line.makefile("rb") as stream:
            return stream.read(struct.unpack("!H", stream.read(2))[0])


def name_at(octets, at):
    """The name that begins there, and where it ends."""
    labels, end = [], None
    for _ in range(128):  # a name has no more labels; a loop of pointers ends here
        length = octets[at]
        if length >= 0xC0:
            end = end or at + 2
            at = struct.unpack_from("!H", octets, at)[0] & 0x3FFF
        elif length == 0:
            return ".".join(labels).lower(), end or at + 1
        else:
            labels.append(octets[at + 1 : at + 1 + length].decode("ascii"))
            at += 1 + length
    raise ValueError("a name without an end")


class Reply:
    """A decoded reply: `answer` holds addresses as texts, and SRV as (port, target)."""

    def __init__(self, octets):
        _, flags, _, *counts = struct.unpack_from("!HHHHHH", octets)
        self.octets, self.counts = len(octets), counts
        self.rcode, self.authoritative, self.cut = flags & 15, bool(flags & 0x0400), bool(flags & 0x0200)
        at = name_at(octets, 12)[1] + 4
        sections = []
        for count in counts:
            section = []
            for _ in range(count):
                _, at = name_at(octets, at)
                rtype, _, _, length = struct.unpack_from("!HHIH", octets, at)
                at += 10
                if rtype == TYPES["A"]:
                    section.append(socket.inet_ntoa(octets[at : at + 4]))
                elif rtype == TYPES["SRV"]:
                    section.append((struct.unpack_from("!H", octets, at + 4)[0], name_at(octets, at + 6)[0]))
                at += length
            sections.append(section)
        self.answer, self.authority, self.additional = sections

    def __str__(self):
        return f"{'/'.join(map(str, self.counts))}, {self.octets}"
