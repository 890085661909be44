// What a Go program sees of each service that is named: net's own resolver on /etc/resolv.conf, port 53.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
)

func failed(word string, err error) {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		fmt.Printf("error %s notfound=%t %s\n", word, dns.IsNotFound, dns.Err)
	} else {
		fmt.Println("error", word, err)
	}
}

func main() {
	resolver := &net.Resolver{PreferGo: true}
	for _, service := range os.Args[1:] {
		fmt.Println("service", service)
		_, records, err := resolver.LookupSRV(context.Background(), service, "tcp", "service.local")
		if err != nil {
			failed("srv", err)
		}
		for _, record := range records {
			fmt.Println("srv", record.Priority, record.Weight, record.Port, record.Target)
		}
		addresses, err := resolver.LookupHost(context.Background(), service+".service.local")
		if err != nil {
			failed("address", err)
		}
		for _, address := range addresses {
			fmt.Println("address", address)
		}
	}
}
