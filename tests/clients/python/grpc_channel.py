"""A gRPC channel to a name of the registry, and the servers behind it, moved by lines on stdin.

`start ADDRESS` and `stop ADDRESS` do that with a server there, on the port that is named first on the command line;
`ask` makes calls over the channel, and prints who answered, and how many calls failed. The second word of the
command line is the channel's target.
"""

import sys
from concurrent import futures

import grpc

PORT, TARGET = sys.argv[1:3]
CALLS = 40


def same(octets):
    return octets


def server(address):
    def who(request, context):
        return address.encode()

    started = grpc.server(futures.ThreadPoolExecutor(2))
    method = grpc.unary_unary_rpc_method_handler(who, same, same)
    started.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", {"Who": method}),))
    if not started.add_insecure_port(f"{address}:{PORT}"):
        raise SystemExit(f"no port at {address}")
    started.start()
    return started


options = [
    ("grpc.lb_policy_name", "round_robin"),
    # It asks again when a connection is lost, and not more often than this; its own value is 30 s.
    ("grpc.dns_min_time_between_resolutions_ms", 100),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]
call = grpc.insecure_channel(TARGET, options=options).unary_unary("/t.T/Who", same, same)
servers = {}
for line in sys.stdin:
    verb, *rest = line.split()
    if verb == "start":
        servers[rest[0]] = server(rest[0])
        print("started", rest[0], flush=True)
    elif verb == "stop":
        servers.pop(rest[0]).stop(CALLS).wait()  # it says that it goes, as a service does
        print("stopped", rest[0], flush=True)
    else:
        answered, failed = set(), 0
        for _ in range(CALLS):
            try:
                answered.add(call(b"", timeout=20, wait_for_ready=True).decode())
            except grpc.RpcError:
                failed += 1
        print("answered", *sorted(answered), "failed", failed, flush=True)
