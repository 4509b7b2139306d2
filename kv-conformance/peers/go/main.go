// Command kv-peers makes calls with the official Go clients of etcd and Consul, for the comparison with them.
//
//	kv-peers etcd|consul HOST:PORT
//
// For each line `CALL CALLERS CALLS` on its input it lets so many callers make so many calls each, one after the other,
// and prints the nanoseconds that all of them took, how many calls failed, and why the first one did.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"
	"go.etcd.io/etcd/client/v3"
)

// The agent takes 200 connections from one address.
const connections = 190

// The timeout of this project's calls, unless the address says otherwise.
const timeout = 5 * time.Second

var value = strings.Repeat("v", 128)

type call func(ctx context.Context, key string) error

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: kv-peers etcd|consul HOST:PORT")
		os.Exit(2)
	}
	calls, err := connect(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var name string
		var callers, number int
		if _, err := fmt.Sscan(lines.Text(), &name, &callers, &number); err != nil || calls[name] == nil {
			fmt.Fprintln(os.Stderr, "no such call:", lines.Text())
			os.Exit(2)
		}
		took, failed, failure := run(calls[name], callers, number)
		fmt.Println(took.Nanoseconds(), failed, failure)
	}
}

func run(make call, callers, calls int) (time.Duration, int64, string) {
	var failed atomic.Int64
	var failure atomic.Value
	var done sync.WaitGroup
	began := time.Now()
	for caller := range callers {
		done.Add(1)
		go func() {
			defer done.Done()
			key := fmt.Sprintf("bench/%08d", caller)
			for range calls {
				ctx, cancel := context.WithTimeout(context.Background(), timeout)
				if err := make(ctx, key); err != nil {
					failed.Add(1)
					failure.CompareAndSwap(nil, strings.ReplaceAll(err.Error(), "\n", " "))
				}
				cancel()
			}
		}()
	}
	done.Wait()
	took := time.Since(began)
	text, _ := failure.Load().(string)
	return took, failed.Load(), text
}

// connect makes a client that has been used once, as the clients that it is compared with have been.
func connect(store, endpoint string) (map[string]call, error) {
	switch store {
	case "etcd":
		client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: timeout})
		if err != nil {
			return nil, err
		}
		_, err = client.Get(context.Background(), "bench/00000000")
		return map[string]call{
			"get": func(ctx context.Context, key string) error {
				found, err := client.Get(ctx, key)
				if err == nil && len(found.Kvs) == 0 {
					err = fmt.Errorf("no such key: %s", key)
				}
				return err
			},
			"set": func(ctx context.Context, key string) error {
				_, err := client.Put(ctx, key, value)
				return err
			},
		}, err
	case "consul":
		config := api.DefaultConfig()
		config.Address = endpoint
		config.Transport.MaxConnsPerHost = connections
		config.Transport.MaxIdleConnsPerHost = connections
		config.Transport.MaxIdleConns = connections
		client, err := api.NewClient(config)
		if err != nil {
			return nil, err
		}
		_, _, err = client.KV().Get("bench/00000000", nil)
		// Consul takes a write of the same value and flags for none.
		var flags atomic.Uint64
		return map[string]call{
			"get": func(ctx context.Context, key string) error {
				found, _, err := client.KV().Get(key, (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
				if err == nil && found == nil {
					err = fmt.Errorf("no such key: %s", key)
				}
				return err
			},
			"set": func(ctx context.Context, key string) error {
				pair := &api.KVPair{Key: key, Value: []byte(value), Flags: flags.Add(1)}
				_, err := client.KV().Put(pair, (&api.WriteOptions{}).WithContext(ctx))
				return err
			},
		}, err
	default:
		return nil, fmt.Errorf("no such store: %s", store)
	}
}
