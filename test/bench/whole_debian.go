package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

const (
	debianForks = 7
	handBoots   = 3
	handStarts  = 9
)

// wholeDebian measures a whole Debian 12, with systemd and an SSH server of its own, that is forked from a template, beside QEMU started
// by hand on the same disk, kernel and size of machine; then, with templates off, cold launches beside QEMU's own start.
func wholeDebian(c *testCloud) (rows []row, err error) {
	if _, err := c.nacre("image", "bake", "debian-12-server"); err != nil {
		return nil, err
	}
	image, err := c.named("debian-12-server-vm")
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
	made := c.templatesMade()
	cold, err := c.machine(image, group, types.InstanceTypeT3Micro)
	if err != nil {
		return nil, err
	}
	ids = []string{cold.id}
	if err := c.awaitTemplates(made + 1); err != nil {
		return nil, err
	}
	hand, err := c.handOf(cold.id)
	if err != nil {
		return nil, err
	}
	defer hand.remove()
	if err := c.terminate(ids); err != nil {
		return nil, err
	}
	ids = nil
	var byHand, running, banner []time.Duration
	for n := range debianForks {
		if n < handBoots {
			took, err := hand.boot()
			if err != nil {
				return nil, err
			}
			byHand = append(byHand, took)
		}
		m, err := c.machine(image, group, types.InstanceTypeT3Micro)
		if err != nil {
			return nil, err
		}
		running, banner = append(running, m.running), append(banner, m.banner)
		if err := c.terminate([]string{m.id}); err != nil {
			return nil, err
		}
	}
	forked, err := c.idleMemory(image, group)
	if err != nil {
		return nil, err
	}
	if err := c.again("--template-memory", "0"); err != nil {
		return nil, err
	}
	booted, err := c.idleMemory(image, group)
	if err != nil {
		return nil, err
	}
	var call, start []time.Duration
	for range handStarts {
		m, err := c.machine(image, group, types.InstanceTypeT3Micro)
		if err != nil {
			return nil, err
		}
		if err := c.terminate([]string{m.id}); err != nil {
			return nil, err
		}
		took, err := hand.start()
		if err != nil {
			return nil, err
		}
		call, start = append(call, m.running), append(start, took)
	}
	if err := c.again(); err != nil {
		return nil, err
	}
	return []row{
		row{Name: "whole Debian 12 that is forked: call to running", Unit: "ms", Ours: median(running), Runs: debianForks}.atMost(250),
		row{Name: "whole Debian 12 that is forked: call to the SSH banner", Unit: "ms", Ours: median(banner), Runs: debianForks}.
			beside("QEMU by hand on the same disk, cold", median(byHand), 1.0/15),
		row{Name: "whole Debian 12, first launch, its disk and template made too: call to the SSH banner", Unit: "ms", Ours: float64(cold.banner.Milliseconds()), Runs: 1}.
			beside("QEMU by hand on the same disk, cold", median(byHand), 0),
		row{Name: "cold launch, nacre's own share: call to running without QEMU's own start", Unit: "ms", Ours: median(call) - median(start), Runs: handStarts}.atMost(200),
		row{Name: "cold launch: call to the guest's first instruction", Unit: "ms", Ours: median(call), Runs: handStarts}.beside("QEMU by hand, started and stopped there", median(start), 0),
		row{Name: "memory of ten idle clones of a whole Debian 12 (PSS)", Unit: "MiB", Ours: forked, Runs: 1}.beside("ten that booted", booted, 0),
	}, nil
}

// named finds an image.
func (c *testCloud) named(name string) (string, error) {
	out, err := c.ec2.DescribeImages(context.Background(), &ec2.DescribeImagesInput{Filters: []types.Filter{{Name: aws.String("name"), Values: []string{name}}}})
	if err != nil || len(out.Images) != 1 {
		return "", errors.Join(err, fmt.Errorf("there is no image %s", name))
	}
	return *out.Images[0].ImageId, nil
}

// idleMemory launches ten machines and returns the memory of their hypervisors once they are idle, in MiB.
func (c *testCloud) idleMemory(image, group string) (_ float64, err error) {
	was, kind := c.image, c.kind
	c.image, c.kind = image, types.InstanceTypeT3Micro
	defer func() { c.image, c.kind = was, kind }()
	ids, _, err := c.launchWith(clones, group)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.terminate(ids)) }()
	addresses, err := c.addresses(ids)
	if err != nil {
		return 0, err
	}
	for _, a := range addresses {
		if err := awaitBanner(a); err != nil {
			return 0, err
		}
	}
	time.Sleep(20 * time.Second)
	return memoryOf(c.hypervisors(ids)...), nil
}

// handOf prepares what a machine was started with for a start by hand.
func (c *testCloud) handOf(id string) (*hand, error) {
	var config struct {
		Mounts []struct{ Destination, Source string }
	}
	b, err := os.ReadFile(filepath.Join(c.dir, "machines", id, "qemu/config.json"))
	if err == nil {
		err = json.Unmarshal(b, &config)
	}
	if err != nil {
		return nil, err
	}
	base, err := c.rootBase(id)
	if err != nil {
		return nil, err
	}
	h := &hand{}
	for _, m := range config.Mounts {
		switch m.Destination {
		case "/boot/kernel":
			h.kernel = m.Source
		case "/boot/initrd":
			h.initrd = m.Source
		}
	}
	return h, h.prepare(base)
}

// rootBase is the image's disk that a machine's root is laid over.
func (c *testCloud) rootBase(id string) (string, error) {
	records, err := filepath.Glob(filepath.Join(c.dir, "*/volumes/*/record.json"))
	if err != nil {
		return "", err
	}
	for _, path := range records {
		var volume struct{ Holder, Base string }
		b, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(b, &volume)
		}
		if err != nil {
			return "", err
		}
		if volume.Holder == id && volume.Base == "raw" {
			return filepath.Join(filepath.Dir(path), "base"), nil
		}
	}
	return "", fmt.Errorf("no volume of %s lies over an image's disk", id)
}
