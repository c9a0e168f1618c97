// A closed loop of puts against etcd: a fixed number of callers, each waiting for its answer before it puts again.
// One JSON line on standard output says how many operations a second were acknowledged while it measured.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"sort"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/clientv3"
)

type result struct {
	PerSecond float64 `json:"per_second"`
	P50Ms     float64 `json:"p50_ms"`
	P99Ms     float64 `json:"p99_ms"`
	Failed    int     `json:"failed"`
}

// caller puts until the end and keeps the latencies of what it both began and ended within the measured time.
func caller(client *clientv3.Client, first, step, keys int, value string, begin, end time.Time) ([]time.Duration, int) {
	var took []time.Duration
	failed := 0
	for number := first; ; number += step {
		started := time.Now()
		if started.After(end) {
			return took, failed
		}
		_, err := client.Put(context.Background(), fmt.Sprintf("/bench/k%08d", number%keys), value)
		ended := time.Now()
		switch {
		case err != nil:
			failed++
		case started.After(begin) && !ended.After(end):
			took = append(took, ended.Sub(started))
		}
	}
}

func main() {
	endpoints := flag.String("endpoints", "", "comma-separated client addresses")
	connections := flag.Int("connections", 1, "client connections that share the callers")
	outstanding := flag.Int("outstanding", 1, "callers")
	size := flag.Int("bytes", 184, "bytes of a value; a key has 16")
	keys := flag.Int("keys", 4096, "different keys")
	warm := flag.Duration("warm", time.Second, "time before measuring")
	measured := flag.Duration("measure", 4*time.Second, "time of measuring")
	flag.Parse()

	clients := make([]*clientv3.Client, *connections)
	for i := range clients {
		config := clientv3.Config{Endpoints: strings.Split(*endpoints, ","), DialTimeout: 10 * time.Second}
		client, err := clientv3.New(config)
		if err != nil {
			log.Fatal(err)
		}
		defer client.Close()
		clients[i] = client
	}
	value := strings.Repeat("v", *size)
	begin := time.Now().Add(*warm)
	end := begin.Add(*measured)
	all := make([][]time.Duration, *outstanding)
	failures := make([]int, *outstanding)
	var group sync.WaitGroup
	for i := 0; i < *outstanding; i++ {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			all[i], failures[i] = caller(clients[i%len(clients)], i, *outstanding, *keys, value, begin, end)
		}(i)
	}
	group.Wait()

	var took []time.Duration
	found := result{}
	for i := range all {
		took = append(took, all[i]...)
		found.Failed += failures[i]
	}
	if len(took) == 0 {
		log.Fatal("no put was acknowledged")
	}
	sort.Slice(took, func(a, b int) bool { return took[a] < took[b] })
	milliseconds := func(share float64) float64 {
		return float64(took[int(float64(len(took)-1)*share)]) / float64(time.Millisecond)
	}
	found.PerSecond = float64(len(took)) / measured.Seconds()
	found.P50Ms, found.P99Ms = milliseconds(0.50), milliseconds(0.99)
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		log.Fatal(err)
	}
}
