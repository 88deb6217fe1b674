package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// launchVolumes reads the volumes that a launch makes, each as SIZE[:DEVICE][:PATH], and where the one with a PATH is to be mounted.
func launchVolumes(words []string) (list []ec2.BlockDeviceMapping, mount string, err error) {
	taken := []volumeView{}
	for _, word := range words {
		parts := strings.Split(word, ":")
		size, err := strconv.ParseInt(parts[0], 10, 32)
		if err != nil || size < 1 {
			return nil, "", fmt.Errorf("the volume %q does not begin with its size in GiB: it is SIZE[:DEVICE][:PATH], such as 10 or 10:/dev/sdg:/srv", word)
		}
		device, path := "", ""
		for _, part := range parts[1:] {
			to := &path
			if strings.HasPrefix(part, "/dev/") {
				to = &device
			}
			if *to != "" || !strings.HasPrefix(part, "/") {
				return nil, "", fmt.Errorf("the volume %q is not SIZE[:DEVICE][:PATH], such as 10 or 10:/dev/sdg:/srv: it has %q", word, part)
			}
			*to = part
		}
		if path != "" && len(words) > 1 {
			return nil, "", fmt.Errorf("the volume %q is to be mounted, which a launch can ask for when it makes one volume only; make the others with `nacre volume create --mount` and attach them", word)
		}
		if mount = path; device == "" {
			device = nextDevice(taken, "")
		}
		taken = append(taken, volumeView{Device: device})
		list = append(list, ec2.BlockDeviceMapping{DeviceName: &device, Ebs: &ec2.EbsBlockDevice{VolumeSize: &size, VolumeType: new("gp3")}})
	}
	return list, mount, nil
}

// encryptAll has all volumes of a launch encrypted, among them the root where it is a device.
func encryptAll(list []ec2.BlockDeviceMapping, vm bool) ([]ec2.BlockDeviceMapping, error) {
	isRoot := func(m ec2.BlockDeviceMapping) bool { return *m.DeviceName == cloud.RootDevice }
	if vm && !slices.ContainsFunc(list, isRoot) {
		list = append(list, ec2.BlockDeviceMapping{DeviceName: new(cloud.RootDevice), Ebs: &ec2.EbsBlockDevice{}})
	}
	some := false
	for _, m := range list {
		if vm || !isRoot(m) {
			m.Ebs.Encrypted, some = new(true), true
		}
	}
	if !some {
		return nil, errors.New("--encrypted has nothing to encrypt: a container's root is a layer on its server's disk; give it a --volume, or launch it with --vm")
	}
	return list, nil
}
