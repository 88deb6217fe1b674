package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	genec2 "github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/control"
	"github.com/nacre-cloud/nacre/internal/service/ec2"
	"github.com/nacre-cloud/nacre/internal/store"
)

const (
	described     = 1000
	clients       = 16
	describeRuns  = 50
	describeLimit = 5 * time.Second
)

// describes measures DescribeInstances over a store that holds a thousand instances without machines: one caller at a
// time for the latency, sixteen for the throughput. Requests are signed and answers read whole.
func describes(*testCloud) (rows []row, err error) {
	dir, err := os.MkdirTemp("", "nacre-bench-store-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	log := slog.New(slog.DiscardHandler)
	s, err := store.OpenEtcd(context.Background(), store.EtcdConfig{DataDir: dir, Logger: log})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	ids, client, stop, err := filledAPI(s, log)
	if err != nil {
		return nil, err
	}
	defer stop()
	list := func(in *genec2.DescribeInstancesRequest, want int) func() error {
		return func() error {
			out, err := raw(client, in)
			if err == nil && out < want {
				err = fmt.Errorf("the answer has %d bytes only", out)
			}
			return err
		}
	}
	full := list(&genec2.DescribeInstancesRequest{}, described*500)
	one := list(&genec2.DescribeInstancesRequest{InstanceIds: []string{string(ids[7])}}, 500)
	fullTimes, err := repeat(full, describeRuns)
	if err != nil {
		return nil, err
	}
	oneTimes, err := repeat(one, 20*describeRuns)
	if err != nil {
		return nil, err
	}
	fullRate, fullTail, err := crowd(full)
	if err != nil {
		return nil, err
	}
	oneRate, oneTail, err := crowd(one)
	if err != nil {
		return nil, err
	}
	return []row{
		row{Name: "DescribeInstances, all of 1,000", Unit: "ms", Ours: median(fullTimes), Runs: describeRuns}.atMost(20),
		row{Name: "DescribeInstances, by id", Unit: "ms", Ours: median(oneTimes), Runs: 20 * describeRuns}.atMost(1),
		{Name: "DescribeInstances, all, 16 clients", Unit: "1/s", Ours: fullRate, Runs: 1},
		{Name: "DescribeInstances, all, 16 clients, p99", Unit: "ms", Ours: fullTail, Runs: 1},
		{Name: "DescribeInstances, by id, 16 clients", Unit: "1/s", Ours: oneRate, Runs: 1},
		{Name: "DescribeInstances, by id, 16 clients, p99", Unit: "ms", Ours: oneTail, Runs: 1},
	}, nil
}

// raw makes a signed call and reads the answer without decoding it: the client's own work is not the server's.
func raw(c *awsapi.Client, in *genec2.DescribeInstancesRequest) (int, error) {
	n, err := awsapi.Measure(context.Background(), c, genec2.ActionDescribeInstances, in)
	return int(n), err
}

// filledAPI serves EC2 over a store with a thousand running instances.
func filledAPI(s *store.Store, log *slog.Logger) ([]cloud.InstanceID, *awsapi.Client, func(), error) {
	now := time.Now().UTC()
	region, key, err := control.Bootstrap(context.Background(), s, control.FirstStart{Region: "us-east-1", PublicPool: netip.MustParsePrefix("198.19.0.0/16"), Rand: rand.Reader, Now: now})
	if err != nil {
		return nil, nil, nil, err
	}
	var ids []cloud.InstanceID
	for n := range described {
		id, nic := cloud.NewID[cloud.InstanceID](rand.Reader), cloud.NewID[cloud.InterfaceID](rand.Reader)
		ids = append(ids, id)
		err := s.Update(context.Background(), func(tx *store.Tx) error {
			subnet := store.List(tx.View(), store.Subnets)[0]
			group := store.List(tx.View(), store.SecurityGroups)[0]
			store.Put(tx, store.Interfaces, &cloud.Interface{ID: nic, Account: region.Root, VPC: subnet.VPC, Subnet: subnet.ID, Zone: subnet.Zone, MAC: "0a:00:00:00:00:01",
				PrivateIP: netip.AddrFrom4([4]byte{172, 31, byte(n >> 8), byte(n)}), Publics: []cloud.PublicAddress{{Private: netip.AddrFrom4([4]byte{172, 31, byte(n >> 8), byte(n)}), Public: netip.AddrFrom4([4]byte{198, 19, byte(n >> 8), byte(n)})}},
				Groups: []cloud.SecurityGroupID{group.ID}, SourceDestCheck: true, Instance: id, DeleteOnTermination: true, Created: now, AttachTime: now})
			store.Put(tx, store.Instances, &cloud.Instance{ID: id, Account: region.Root, Reservation: cloud.NewID[cloud.ReservationID](rand.Reader), Created: now, LaunchTime: now,
				Image: "ami-0123456789abcdef0", Isolation: cloud.IsolationContainer, Architecture: "x86_64", Type: "t3.micro", Zone: subnet.Zone, VPC: subnet.VPC, Subnet: subnet.ID,
				Interfaces: []cloud.InterfaceID{nic}, Tags: cloud.Tags{"Name": fmt.Sprint("web-", n), "env": "bench"}, Desired: cloud.DesiredRunning, Boot: 1,
				State: cloud.StateRunning, Metadata: cloud.DefaultMetadataOptions()})
			return nil
		})
		if err != nil {
			return nil, nil, nil, err
		}
	}
	registry := awsapi.NewRegistry(genec2.Service)
	ec2.New(ec2.Config{Store: s, Rand: rand.Reader, Now: time.Now, Logger: log}).Register(registry)
	auth := &awsapi.Authenticator{Region: region.Name, Now: time.Now, Keys: func(context.Context, cloud.AccessKeyID) (string, awsapi.Identity, error) {
		return key.Secret, awsapi.Identity{Account: key.Account, AccessKey: key.ID}, nil
	}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, nil, err
	}
	server := awsapi.NewHTTPServer(&awsapi.Server{Registry: registry, Auth: auth, Logger: log})
	go server.Serve(l)
	transport := &http.Transport{MaxIdleConnsPerHost: clients}
	client := &awsapi.Client{Endpoint: "http://" + l.Addr().String(), Region: region.Name, AccessKey: string(key.ID), Secret: key.Secret, HTTP: &http.Client{Transport: transport}}
	return ids, client, func() { server.Close(); transport.CloseIdleConnections() }, nil
}

func repeat(call func() error, runs int) ([]time.Duration, error) {
	var list []time.Duration
	for n := range runs + 5 {
		begin := time.Now()
		if err := call(); err != nil {
			return nil, err
		}
		if n >= 5 { // the first ones warm caches
			list = append(list, time.Since(begin))
		}
	}
	return list, nil
}

// crowd calls from sixteen clients at once and returns calls a second and the 99th percentile in milliseconds.
func crowd(call func() error) (rate, tail float64, err error) {
	var mu sync.Mutex
	var all []time.Duration
	var failed error
	var wg sync.WaitGroup
	begin := time.Now()
	for range clients {
		wg.Go(func() {
			for time.Since(begin) < describeLimit {
				start := time.Now()
				err := call()
				mu.Lock()
				all, failed = append(all, time.Since(start)), errors.Join(failed, err)
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return float64(len(all)) / time.Since(begin).Seconds(), quantile(all, 0.99), failed
}
