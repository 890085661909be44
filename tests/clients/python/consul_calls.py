"""What programs do with python-consul and py-consul, which have the same calls: consul_calls.py HOST PORT

One line for each thing that was seen; the first that is not as it should be ends it.
"""

import sys
import threading

import consul

registry = consul.Consul(host=sys.argv[1], port=int(sys.argv[2]))
service, check, health, catalog = (
    registry.agent.service,
    registry.agent.check,
    registry.health,
    registry.catalog,
)


def statuses(name):
    index, checks = health.checks(name)
    assert int(index) > 0
    return [(one["Status"], one["Output"]) for one in checks]


assert registry.agent.self()["Config"]["Datacenter"] == "dc1"
assert registry.status.leader() and registry.status.peers()
assert registry.agent.members()[0]["Status"] == 1
assert catalog.datacenters() == ["dc1"]

# A TTL check passes, warns and fails.
assert service.register(
    "pay", service_id="pay-1", address="127.0.0.31", port=7001, tags=["v2"], check=consul.Check.ttl("1h")
)
assert statuses("pay") == [("critical", "")]
assert health.service("pay", passing=True)[1] == []
assert check.ttl_pass("service:pay-1", "well")
assert statuses("pay") == [("passing", "well")]
assert check.ttl_warn("service:pay-1", "so so")
assert statuses("pay") == [("warning", "so so")]
assert check.ttl_fail("service:pay-1", "ill")
assert statuses("pay") == [("critical", "ill")]
print("ttl")

# A blocking query hears of the next pass, and then of nothing.
index, found = health.service("pay", passing=True)
assert found == []
passing = threading.Thread(target=check.ttl_pass, args=("service:pay-1",))
passing.start()
later, found = health.service("pay", passing=True, index=index, wait="60s")
passing.join()
assert int(later) > int(index), (index, later)
assert [(one["Service"]["Address"], one["Service"]["Port"]) for one in found] == [("127.0.0.31", 7001)]
again, found = health.service("pay", passing=True, index=later, wait="1s")
assert again == later and len(found) == 1
print("blocking")

index, services = catalog.services()
assert services["pay"] == ["v2"], services
index, rows = catalog.service("pay", tag="v2")
assert [row["ServiceID"] for row in rows] == ["pay-1"]
index, node = catalog.node(rows[0]["Node"])
assert "pay-1" in node["Services"]
assert "pay-1" in registry.agent.services() and "service:pay-1" in registry.agent.checks()
index, nodes = catalog.nodes()
assert rows[0]["Node"] in [node["Node"] for node in nodes]
print("catalog")

assert service.maintenance("pay-1", "true", "a new disk")
assert health.service("pay", passing=True)[1] == []
assert service.maintenance("pay-1", "false")
assert len(health.service("pay", passing=True)[1]) == 1
assert check.register("disk", check=consul.Check.ttl("1h"), service_id="pay-1")
assert len(statuses("pay")) == 2
assert check.deregister("disk")
print("maintenance")

# What is not there is False or an error, and no crash.
try:
    assert check.ttl_pass("service:nobody") is False
except consul.ConsulException:
    pass
assert catalog.register("far", "10.9.0.1", service={"Service": "pay", "ID": "pay-9", "Port": 9})
assert len(catalog.service("pay")[1]) == 2
assert catalog.deregister("far")
assert service.deregister("pay-1")
assert health.service("pay")[1] == []
print("done")
