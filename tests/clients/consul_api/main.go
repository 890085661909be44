// Speaks to a server by Consul's own client: consul_api STEP ADDRESS
//
//	register   as the tutorials do, without a check; then asks the catalog
//	ask        only asks the catalog
//	all        checks, blocking queries, the agent, maintenance, deregistration
//
// One line for each thing that was seen; the first that is not as it should be ends it.
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/consul/api"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func expect(holds bool, what string, seen ...any) {
	if !holds {
		fmt.Fprintln(os.Stderr, "not as expected:", what, seen)
		os.Exit(1)
	}
}

func catalog(client *api.Client) {
	found, meta, err := client.Catalog().Service("example", "", nil)
	must(err)
	expect(meta.LastIndex > 0 && meta.KnownLeader, "an index and a leader", *meta)
	for _, one := range found {
		fmt.Println("catalog", one.ServiceID, one.ServiceAddress, one.ServicePort, one.ServiceTags)
	}
}

func all(client *api.Client) {
	agent, health := client.Agent(), client.Health()
	itself, err := agent.Self()
	must(err)
	expect(itself["Config"]["Datacenter"] == "dc1", "a datacenter", itself["Config"])
	leader, err := client.Status().Leader()
	must(err)
	expect(leader != "", "a leader")

	must(agent.ServiceRegister(&api.AgentServiceRegistration{
		ID: "web-1", Name: "web", Address: "127.0.0.9", Port: 8089, Tags: []string{"primary"},
		Meta: map[string]string{"version": "1"}, Weights: &api.AgentWeights{Passing: 3, Warning: 1},
		Check: &api.AgentServiceCheck{CheckID: "web-ttl", TTL: "1h", DeregisterCriticalServiceAfter: "72h"},
	}))
	entries, meta, err := health.Service("web", "primary", true, nil)
	must(err)
	expect(len(entries) == 0, "nothing passing before the first report", entries)

	// It waits for this report.
	reported := make(chan error)
	go func() { reported <- agent.UpdateTTL("web-ttl", "well", api.HealthPassing) }()
	entries, later, err := health.Service("web", "primary", true,
		&api.QueryOptions{WaitIndex: meta.LastIndex, WaitTime: time.Minute})
	must(err)
	must(<-reported)
	expect(later.LastIndex > meta.LastIndex, "a later index", meta.LastIndex, later.LastIndex)
	expect(len(entries) == 1, "one passing", entries)
	one := entries[0]
	expect(one.Service.ID == "web-1" && one.Service.Port == 8089 && one.Service.Address == "127.0.0.9" &&
		one.Service.Meta["version"] == "1" && one.Service.Weights.Passing == 3, "what was registered", one.Service)
	expect(one.Checks.AggregatedStatus() == api.HealthPassing, "passing", one.Checks)
	fmt.Println("passing", one.Service.ID)

	// Nothing happens meanwhile: the same index comes back.
	_, again, err := health.Service("web", "primary", true,
		&api.QueryOptions{WaitIndex: later.LastIndex, WaitTime: 100 * time.Millisecond})
	must(err)
	expect(again.LastIndex == later.LastIndex, "the same index", later.LastIndex, again.LastIndex)

	status, info, err := agent.AgentHealthServiceByID("web-1")
	must(err)
	expect(status == api.HealthPassing && info.Service.Service == "web", "the agent's own view", status, info)
	must(agent.EnableServiceMaintenance("web-1", "a new disk"))
	status, info, err = agent.AgentHealthServiceByID("web-1")
	must(err)
	expect(status == api.HealthCritical && info.AggregatedStatus == api.HealthMaint, "maintenance", status, info)
	must(agent.DisableServiceMaintenance("web-1"))

	must(agent.FailTTL("web-ttl", "ill"))
	entries, _, err = health.Service("web", "", true, nil)
	must(err)
	expect(len(entries) == 0, "nothing passing", entries)
	checks, _, err := health.Checks("web", nil)
	must(err)
	expect(len(checks) == 1 && checks[0].Output == "ill" && checks[0].Status == api.HealthCritical, "the check", checks)

	filtered, err := agent.ServicesWithFilter(`Service == "web" and "primary" in Tags`)
	must(err)
	expect(len(filtered) == 1, "one by filter", filtered)
	services, _, err := client.Catalog().Services(nil)
	must(err)
	expect(len(services["web"]) == 1, "its tags", services)

	must(agent.ServiceDeregister("web-1"))
	expect(agent.ServiceDeregister("web-1") != nil, "an error for what is not there")
	entries, _, err = health.Service("web", "", false, nil)
	must(err)
	expect(len(entries) == 0, "nothing left", entries)
	fmt.Println("done")
}

func main() {
	client, err := api.NewClient(&api.Config{Address: os.Args[2]})
	must(err)
	switch os.Args[1] {
	case "register":
		must(client.Agent().ServiceRegister(&api.AgentServiceRegistration{
			ID: "example-1", Name: "example", Port: 8080, Address: "127.0.0.1", Tags: []string{"web"},
		}))
		catalog(client)
	case "ask":
		catalog(client)
	case "all":
		all(client)
	}
}
