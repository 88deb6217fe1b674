package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

const (
	forkRuns = 9
	clones   = 10
)

// bootedTypes are launched once each: the first machine of an image and type boots.
var bootedTypes = []types.InstanceType{types.InstanceTypeT3Nano, types.InstanceTypeT3Micro, types.InstanceTypeT3Small}

// machine is a virtual machine that was launched for a figure.
type machine struct {
	id              string
	running, banner time.Duration // from the call
}

// machines measures virtual machines: the first of its kind, which boots, and those that are forked from a template.
func machines(c *testCloud) (rows []row, err error) {
	if err := c.bake(); err != nil {
		return nil, err
	}
	if _, err := c.nacre("image", "bake", "linux"); err != nil {
		return nil, err
	}
	kernels, err := c.ec2.DescribeImages(context.Background(), &ec2.DescribeImagesInput{Filters: []types.Filter{{Name: aws.String("image-type"), Values: []string{"kernel"}}}})
	if err != nil || len(kernels.Images) == 0 {
		return nil, errors.Join(err, errors.New("there is no kernel"))
	}
	image, err := c.ec2.RegisterImage(context.Background(), &ec2.RegisterImageInput{Name: aws.String("bench-vm"), ImageLocation: &c.image, KernelId: kernels.Images[0].ImageId})
	if err != nil {
		return nil, err
	}
	group, err := c.sshGroup()
	if err != nil {
		return nil, err
	}
	var ids []string
	defer func() {
		if len(ids) > 0 {
			err = errors.Join(err, c.terminate(ids))
		}
	}()
	var booted, bootedBanner, forked, forkedBanner []time.Duration
	coldMemory := 0.0
	made := c.templatesMade()
	for n, kind := range bootedTypes {
		m, err := c.machine(*image.ImageId, group, kind)
		if err != nil {
			return nil, err
		}
		ids = append(ids, m.id)
		booted, bootedBanner = append(booted, m.running), append(bootedBanner, m.banner)
		if n == 0 {
			coldMemory = memoryOf(c.hypervisors(ids)...)
		}
		if err := c.awaitTemplates(made + n + 1); err != nil {
			return nil, err
		}
	}
	if err := c.terminate(ids); err != nil {
		return nil, err
	}
	ids = nil
	for range forkRuns {
		m, err := c.machine(*image.ImageId, group, types.InstanceTypeT3Nano)
		if err != nil {
			return nil, err
		}
		forked, forkedBanner = append(forked, m.running), append(forkedBanner, m.banner)
		if err := c.terminate([]string{m.id}); err != nil {
			return nil, err
		}
	}
	for range clones {
		m, err := c.machine(*image.ImageId, group, types.InstanceTypeT3Nano)
		if err != nil {
			return nil, err
		}
		ids = append(ids, m.id)
	}
	time.Sleep(2 * time.Second)
	return []row{
		row{Name: "virtual machine that boots: call to running", Unit: "ms", Ours: median(booted), Runs: len(booted)}.atMost(200),
		row{Name: "virtual machine that is forked: call to running", Unit: "ms", Ours: median(forked), Runs: forkRuns}.atMost(250),
		row{Name: "virtual machine that is forked: call to the SSH banner", Unit: "ms", Ours: median(forkedBanner), Runs: forkRuns}.beside("the same machine, booted", median(bootedBanner), 0),
		row{Name: "memory of ten idle forked virtual machines (PSS)", Unit: "MiB", Ours: memoryOf(c.hypervisors(ids)...), Runs: 1}.beside("ten times one that booted", clones*coldMemory, 0),
	}, nil
}

// sshGroup is a group of the default VPC that lets in SSH.
func (c *testCloud) sshGroup() (string, error) {
	if c.ssh != "" {
		return c.ssh, nil
	}
	out, err := c.ec2.CreateSecurityGroup(context.Background(), &ec2.CreateSecurityGroupInput{GroupName: aws.String("bench-ssh"), Description: aws.String("SSH")})
	if err != nil {
		return "", err
	}
	_, err = c.ec2.AuthorizeSecurityGroupIngress(context.Background(), &ec2.AuthorizeSecurityGroupIngressInput{GroupId: out.GroupId, IpProtocol: aws.String("tcp"),
		FromPort: aws.Int32(22), ToPort: aws.Int32(22), CidrIp: aws.String("0.0.0.0/0")})
	c.ssh = *out.GroupId
	return c.ssh, err
}

// machine launches a virtual machine and waits until it runs and greets on port 22.
func (c *testCloud) machine(image, group string, kind types.InstanceType) (m machine, err error) {
	was, wasType := c.image, c.kind
	c.image, c.kind = image, kind
	defer func() { c.image, c.kind = was, wasType }()
	begin := time.Now()
	ids, took, err := c.launchWith(1, group)
	if err != nil {
		return m, err
	}
	m = machine{id: ids[0], running: took}
	addresses, err := c.addresses(ids)
	if err != nil {
		return m, err
	}
	if err := awaitBanner(addresses[0]); err != nil {
		return m, err
	}
	m.banner = time.Since(begin)
	return m, nil
}

// addresses are where instances answer SSH.
func (c *testCloud) addresses(ids []string) (out []string, err error) {
	d, err := c.ec2.DescribeInstances(context.Background(), &ec2.DescribeInstancesInput{InstanceIds: ids})
	if err != nil {
		return nil, err
	}
	for _, r := range d.Reservations {
		for _, i := range r.Instances {
			out = append(out, net.JoinHostPort(*i.PublicIpAddress, "22"))
		}
	}
	return out, nil
}

// awaitBanner waits until an SSH server greets.
func awaitBanner(address string) error {
	var err error
	for deadline := time.Now().Add(15 * time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		var conn net.Conn
		if conn, err = net.DialTimeout("tcp", address, 50*time.Millisecond); err != nil {
			continue
		}
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		b := make([]byte, 4)
		_, err = conn.Read(b)
		conn.Close()
		if err == nil && string(b) == "SSH-" {
			return nil
		}
	}
	return fmt.Errorf("no SSH server greets on %s: %w", address, err)
}

// awaitTemplates waits until so many templates were made.
func (c *testCloud) awaitTemplates(n int) error {
	for deadline := time.Now().Add(10 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if c.templatesMade() >= n {
			return nil
		}
	}
	return errors.New("no template was made")
}

func (c *testCloud) templatesMade() int { return strings.Count(c.log.String(), "a template was made") }

// hypervisors are the process ids of machines': a machine that becomes a template has one too.
func (c *testCloud) hypervisors(ids []string) (pids []int) {
	for _, id := range ids {
		var pid int
		if b, err := os.ReadFile(filepath.Join(c.dir, "machines", id, "qemu/pid")); err == nil {
			if _, err := fmt.Sscan(string(b), &pid); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
