// A gRPC channel to a name of the registry, and the servers behind it, moved by lines on stdin: what
// tests/clients/python/grpc_channel.py is, for Go. It has no
// message types: octets go as they are. It asks again when a connection is lost, but never within 30 s.
package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"sort"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

const calls = 40

// octets is a codec for messages that are octets.
type octets struct{}

func (octets) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (octets) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}
func (octets) Name() string { return "octets" }

func server(address, port string) *grpc.Server {
	who := func(_ any, stream grpc.ServerStream) error {
		var asked []byte
		if err := stream.RecvMsg(&asked); err != nil {
			return err
		}
		answer := []byte(address)
		return stream.SendMsg(&answer)
	}
	started := grpc.NewServer(grpc.ForceServerCodec(octets{}), grpc.UnknownServiceHandler(who))
	listener, err := net.Listen("tcp", net.JoinHostPort(address, port))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	go started.Serve(listener)
	return started
}

// dial makes the channel. It asks as soon as it is made, and then not for 30 s: what is registered a moment later
// is known that much later, or never, where no connection is lost.
func dial(target string) *grpc.ClientConn {
	channel, err := grpc.Dial(target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(octets{}), grpc.WaitForReady(true)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1, MaxDelay: 500 * time.Millisecond}, MinConnectTimeout: time.Second}))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	return channel
}

func main() {
	port, target := os.Args[1], os.Args[2]
	var channel *grpc.ClientConn // from the first question on
	servers := map[string]*grpc.Server{}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		switch words[0] {
		case "start":
			servers[words[1]] = server(words[1], port)
			fmt.Println("started", words[1])
		case "stop":
			servers[words[1]].GracefulStop()
			fmt.Println("stopped", words[1])
		default:
			if channel == nil {
				channel = dial(target)
			}
			answered, failed := map[string]bool{}, 0
			for call := 0; call < calls; call++ {
				within, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				asked, answer := []byte{}, []byte{}
				if channel.Invoke(within, "/t.T/Who", &asked, &answer) != nil {
					failed++
				} else {
					answered[string(answer)] = true
				}
				cancel()
			}
			names := []string{}
			for name := range answered {
				names = append(names, name)
			}
			sort.Strings(names)
			fmt.Println("answered", strings.Join(names, " "), "failed", failed)
		}
	}
}
