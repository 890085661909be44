// external-dns without Kubernetes: one round of what its controller does, with its own registry of TXT records, its own
// plan and its own RFC 2136 provider. What there should be comes in lines: NAME TYPE TTL TARGET...
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"sigs.k8s.io/external-dns/endpoint"
	"sigs.k8s.io/external-dns/pkg/apis/externaldns"
	"sigs.k8s.io/external-dns/plan"
	"sigs.k8s.io/external-dns/provider/rfc2136"
	"sigs.k8s.io/external-dns/registry/txt"
)

func main() {
	log.SetFlags(0)
	version := flag.Bool("version", false, "print the version of external-dns")
	cfg := externaldns.NewConfig()
	host := flag.String("host", "127.0.0.1", "the server")
	flag.IntVar(&cfg.RFC2136Port, "port", 53, "its port")
	zone := flag.String("zone", "", "the zone")
	flag.StringVar(&cfg.RFC2136TSIGKeyName, "key", "", "the key's name")
	flag.StringVar(&cfg.RFC2136TSIGSecret, "secret", "", "the key, in base64")
	flag.StringVar(&cfg.TXTOwnerID, "owner", "", "whose records are ours")
	flag.IntVar(&cfg.RFC2136BatchChangeSize, "batch", 50, "changes of one message")
	flag.Parse()
	if *version {
		fmt.Println("external-dns", built())
		return
	}
	cfg.RFC2136Host, cfg.RFC2136Zone = []string{*host}, []string{*zone}
	cfg.RFC2136TSIGSecretAlg, cfg.RFC2136AXFR = "hmac-sha256", true
	cfg.RFC2136LoadBalancingStrategy = "disabled"
	cfg.ManagedDNSRecordTypes = []string{endpoint.RecordTypeA, endpoint.RecordTypeAAAA, endpoint.RecordTypeCNAME}
	if err := round(cfg, *zone); err != nil {
		log.Fatal(err)
	}
}

func round(cfg *externaldns.Config, zone string) error {
	ctx := context.Background()
	filter := endpoint.NewDomainFilter([]string{zone})
	provider, err := rfc2136.New(ctx, cfg, filter)
	if err != nil {
		return err
	}
	registry, err := txt.New(cfg, provider)
	if err != nil {
		return err
	}
	current, err := registry.Records(ctx)
	if err != nil {
		return err
	}
	wanted, err := wanted()
	if err != nil {
		return err
	}
	if wanted, err = registry.AdjustEndpoints(wanted); err != nil {
		return err
	}
	made := (&plan.Plan{
		Policies:       []plan.Policy{&plan.SyncPolicy{}},
		Current:        current,
		Desired:        wanted,
		DomainFilter:   endpoint.MatchAllDomainFilters{filter, registry.GetDomainFilter()},
		ManagedRecords: cfg.ManagedDNSRecordTypes,
		OwnerID:        registry.OwnerID(),
	}).Calculate().Changes
	fmt.Printf("create %d update %d delete %d\n", len(made.Create), len(made.UpdateNew), len(made.Delete))
	if !made.HasChanges() {
		return nil
	}
	return registry.ApplyChanges(ctx, made)
}

func wanted() ([]*endpoint.Endpoint, error) {
	var wanted []*endpoint.Endpoint
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 4 {
			return nil, fmt.Errorf("not NAME TYPE TTL TARGET...: %q", lines.Text())
		}
		ttl, err := strconv.ParseInt(words[2], 10, 64)
		if err != nil {
			return nil, err
		}
		wanted = append(wanted, endpoint.NewEndpointWithTTL(words[0], words[1], endpoint.TTL(ttl), words[3:]...))
	}
	return wanted, lines.Err()
}

func built() string {
	info, _ := debug.ReadBuildInfo()
	for _, module := range info.Deps {
		if module.Path == "sigs.k8s.io/external-dns" {
			return module.Version
		}
	}
	return "unknown"
}
