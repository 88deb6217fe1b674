package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

// testCloud is a nacre of the benchmark's own.
type testCloud struct {
	dir, listen string
	cmd         *exec.Cmd
	log         words
	ec2         *ec2.Client
	image       string
	ssh         string             // the group that lets in SSH
	kind        types.InstanceType // what is launched; "" is t3.nano
	tools       bool               // the image of tools is there
}

// words is what a process says, which may be read while it goes on.
type words struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *words) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(b)
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

func startCloud() (*testCloud, error) {
	dir, err := os.MkdirTemp("", "nacre-bench-")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &testCloud{dir: dir, listen: l.Addr().String()}
	l.Close()
	if err := c.up(); err != nil {
		return nil, err
	}
	var key struct {
		AccessKey string `json:"access_key_id"`
		Secret    string `json:"secret_access_key"`
		Region    string `json:"region"`
	}
	out, err := c.nacre("env", "-o", "json")
	if err == nil {
		err = json.Unmarshal(out, &key)
	}
	if err != nil {
		return nil, errors.Join(err, c.remove())
	}
	endpoint := "http://" + c.listen
	c.ec2 = ec2.NewFromConfig(aws.Config{Region: key.Region, BaseEndpoint: &endpoint, RetryMaxAttempts: 1, HTTPClient: &http.Client{Transport: cloudtest.Whole{RoundTripper: http.DefaultTransport}},
		Credentials: credentials.NewStaticCredentialsProvider(key.AccessKey, key.Secret, "")})
	return c, nil
}

// up starts nacre, with more flags of its own, and waits until its API answers.
func (c *testCloud) up(flags ...string) error {
	c.cmd = exec.Command("bin/nacre", append([]string{"up", "--data-dir", c.dir, "--listen", c.listen, "--public-pool", "198.19.252.0/22",
		"--cpu-overcommit", "64", "--memory-overcommit", "16"}, flags...)...)
	c.cmd.Stdout, c.cmd.Stderr = &c.log, &c.log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := startForGood(c.cmd); err != nil {
		return fmt.Errorf("start nacre (run `make build` first): %w", err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", c.listen)
		if err == nil {
			conn.Close()
			// The port is taken first; of a first start the access data follows.
			if _, err = os.Stat(filepath.Join(c.dir, "access.json")); err == nil {
				return nil
			}
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("nacre's API does not answer:\n%s", c.log.String()), c.remove())
		}
	}
}

// startForGood starts a process on a thread that lives as long as this process: the other would end with it.
func startForGood(cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		started <- cmd.Start()
		select {}
	}()
	return <-started
}

// again ends nacre and starts it with other flags. Machines go on.
func (c *testCloud) again(flags ...string) error {
	if _, err := c.nacre("down"); err != nil {
		return err
	}
	c.cmd.Wait()
	return c.up(flags...)
}

func (c *testCloud) nacre(args ...string) ([]byte, error) {
	cmd := exec.Command("bin/nacre", args...)
	cmd.Env = append(os.Environ(), "NACRE_DATA_DIR="+c.dir, "AWS_ENDPOINT_URL=", "AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY=")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("nacre %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return out, nil
}

func (c *testCloud) remove() error {
	_, err := c.nacre("down", "--all")
	c.cmd.Wait()
	return errors.Join(err, os.RemoveAll(c.dir))
}

// bake makes the image that the launches run.
func (c *testCloud) bake() error {
	if c.image != "" {
		return nil
	}
	if _, err := c.nacre("image", "bake", "busybox"); err != nil {
		return err
	}
	out, err := c.ec2.DescribeImages(context.Background(), &ec2.DescribeImagesInput{Filters: []types.Filter{{Name: aws.String("name"), Values: []string{"busybox"}}}})
	if err != nil {
		return err
	}
	c.image = *out.Images[0].ImageId
	return nil
}

// launch runs n instances in one call and returns their ids and the time from the call until the API shows all
// of them running.
func (c *testCloud) launch(n int) ([]string, time.Duration, error) { return c.launchWith(n) }

// launchWith is launch with security groups instead of the default one.
func (c *testCloud) launchWith(n int, groups ...string) ([]string, time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	begin := time.Now()
	out, err := c.ec2.RunInstances(ctx, &ec2.RunInstancesInput{ImageId: &c.image, InstanceType: cmp.Or(c.kind, types.InstanceTypeT3Nano), SecurityGroupIds: groups,
		MinCount: aws.Int32(int32(n)), MaxCount: aws.Int32(int32(n))})
	if err != nil {
		return nil, 0, err
	}
	var ids []string
	for _, i := range out.Instances {
		ids = append(ids, *i.InstanceId)
	}
	for {
		d, err := c.ec2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: ids})
		if err != nil {
			return ids, 0, err
		}
		running := 0
		for _, r := range d.Reservations {
			for _, i := range r.Instances {
				switch i.State.Name {
				case types.InstanceStateNameRunning:
					running++
				case types.InstanceStateNamePending:
				default:
					return ids, 0, fmt.Errorf("%s is %s: %s", *i.InstanceId, i.State.Name, aws.ToString(i.StateReason.Message))
				}
			}
		}
		if running == n {
			return ids, time.Since(begin), nil
		}
		pause := 3 * time.Millisecond // the watcher shall not be the load
		if n > 1 {
			pause = 20 * time.Millisecond
		}
		time.Sleep(pause)
	}
}

func (c *testCloud) terminate(ids []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if _, err := c.ec2.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: ids}); err != nil {
		return err
	}
	return ec2.NewInstanceTerminatedWaiter(c.ec2, func(o *ec2.InstanceTerminatedWaiterOptions) {
		o.MinDelay, o.MaxDelay = 20*time.Millisecond, 200*time.Millisecond
	}).Wait(ctx, &ec2.DescribeInstancesInput{InstanceIds: ids}, 2*time.Minute)
}

// memoryOf sums the proportional memory of processes, in MiB.
func memoryOf(pids ...int) float64 {
	total := 0.0
	for _, pid := range pids {
		b, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "smaps_rollup"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			var kib float64
			if n, _ := fmt.Sscanf(line, "Pss: %f kB", &kib); n == 1 {
				total += kib / 1024
			}
		}
	}
	return total
}

// residentOf is a process's resident memory, in MiB.
func residentOf(pid int) float64 {
	b, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "status"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		var kib float64
		if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kib); n == 1 {
			return kib / 1024
		}
	}
	return 0
}
