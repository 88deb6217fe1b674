package main

import (
	"fmt"
	"strings"
	"testing"
)

func TestAVolumeOfALaunchIsASizeADeviceAndAPath(t *testing.T) {
	for words, want := range map[string]string{
		"10":                  "/dev/sdf 10",
		"10 2:/dev/sdf 3":     "/dev/sdf 10, /dev/sdf 2, /dev/sdg 3", // refused by the API, which knows best
		"1:/dev/sdp":          "/dev/sdp 1",
		"1:/srv/data":         "/dev/sdf 1 at /srv/data",
		"1:/dev/xvdg:/srv":    "/dev/xvdg 1 at /srv",
		"0":                   "error",
		"":                    "error",
		"x:/srv":              "error",
		"1:srv":               "error",
		"1:/a:/b":             "error",
		"1:/dev/sdf:/dev/sdg": "error",
		"1:/srv 2":            "error",
	} {
		list, mount, err := launchVolumes(strings.Split(words, " "))
		got := []string{}
		for _, m := range list {
			got = append(got, fmt.Sprintf("%s %d", *m.DeviceName, *m.Ebs.VolumeSize))
		}
		said := strings.Join(got, ", ")
		if mount != "" {
			said += " at " + mount
		}
		if err != nil {
			said = "error"
		}
		if said != want {
			t.Errorf("%q is %q, want %q (%v)", words, said, want, err)
		}
	}
}
