package flowlog

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/network"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func flow(nic cloud.InterfaceID, accepted bool, port uint16, packets uint64) network.Flow {
	return network.Flow{FlowKey: network.FlowKey{Interface: nic, Accepted: accepted, Protocol: 6, Source: netip.MustParseAddr("10.0.0.4"), Destination: netip.MustParseAddr("10.0.0.5"),
		FromPort: 40000, TargetPort: port}, Packets: packets, Bytes: 100 * packets}
}

// files reads everything below a directory, by the paths of the files.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		all[rel] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestFlowsAreAddedUpOverAnIntervalAndWrittenOnce(t *testing.T) {
	dir := t.TempDir()
	c := New(dir, "us-east-1")
	log := cloud.FlowLog{ID: "fl-1", Account: "111122223333", VPC: "vpc-1", Traffic: cloud.FlowsAll, Interval: 60, Prefix: "web"}
	nics := []Interface{{"eni-1", "subnet-1", "111122223333"}, {"eni-2", "subnet-1", "111122223333"}}
	tell := func(after time.Duration, flows ...network.Flow) {
		t.Helper()
		if err := c.Tell(noon.Add(after), []VPC{{ID: "vpc-1", Logs: []cloud.FlowLog{log}, Interfaces: nics, Flows: flows}}); err != nil {
			t.Fatal(err)
		}
	}
	tell(0)
	tell(10*time.Second, flow("eni-1", true, 80, 3), flow("eni-1", false, 81, 1))
	tell(40*time.Second, flow("eni-1", true, 80, 10), flow("eni-1", false, 81, 1))
	tell(50*time.Second, flow("eni-1", true, 80, 2)) // the filter was made anew
	if got := files(t, dir); len(got) > 0 {
		t.Errorf("written before the interval's end: %v", got)
	}
	tell(61*time.Second, flow("eni-1", true, 80, 2))
	tell(125 * time.Second)
	got := files(t, dir)
	const path = "web/AWSLogs/111122223333/vpcflowlogs/us-east-1/2026/01/02/111122223333_vpcflowlogs_us-east-1_fl-1_20260102T1200Z.log"
	want := strings.Join([]string{header,
		"2 111122223333 eni-1 10.0.0.4 10.0.0.5 40000 80 6 12 1200 1767355210 1767355250 ACCEPT OK",
		"2 111122223333 eni-1 10.0.0.4 10.0.0.5 40000 81 6 1 100 1767355210 1767355210 REJECT OK",
		"2 111122223333 eni-2 - - - - - - - 1767355200 1767355260 - NODATA",
		"2 111122223333 eni-1 - - - - - - - 1767355260 1767355320 - NODATA",
		"2 111122223333 eni-2 - - - - - - - 1767355260 1767355320 - NODATA", ""}, "\n")
	if len(got) != 1 || got[path] != want {
		t.Errorf("written\n%v, want\n%s", got, want)
	}
}

func TestALogHasWhatItIsForAndNoMore(t *testing.T) {
	dir := t.TempDir()
	c := New(dir, "us-east-1")
	logs := []cloud.FlowLog{{ID: "fl-subnet", Subnet: "subnet-2", Traffic: cloud.FlowsAll, Interval: 60, Account: "1"},
		{ID: "fl-nic", Interface: "eni-1", Traffic: cloud.FlowsRejected, Interval: 60, Account: "1"}}
	v := VPC{ID: "vpc-1", Logs: logs, Interfaces: []Interface{{"eni-1", "subnet-1", "1"}, {"eni-2", "subnet-2", "1"}},
		Flows: []network.Flow{flow("eni-1", true, 80, 1), flow("eni-1", false, 81, 1), flow("eni-2", true, 82, 1)}}
	for _, after := range []time.Duration{0, time.Minute} {
		if err := c.Tell(noon.Add(after), []VPC{v}); err != nil {
			t.Fatal(err)
		}
	}
	for path, text := range files(t, dir) {
		lines := strings.Split(strings.TrimSpace(text), "\n")
		want := map[bool]string{true: " 82 6 1 100 ", false: " 81 6 1 100 "}[strings.Contains(path, "fl-subnet")]
		if len(lines) != 2 || !strings.Contains(lines[1], want) {
			t.Errorf("%s: %q", path, lines)
		}
	}
}

func TestALogThatIsFloodedSaysSo(t *testing.T) {
	dir := t.TempDir()
	c := New(dir, "us-east-1")
	v := VPC{ID: "vpc-1", Logs: []cloud.FlowLog{{ID: "fl-1", Traffic: cloud.FlowsAll, Interval: 600, Account: "1"}}, Interfaces: []Interface{{"eni-1", "s", "1"}, {"eni-2", "s", "1"}}}
	for n := range MaxLines + 10 {
		f := flow("eni-1", true, uint16(n), 1)
		f.FromPort = uint16(n >> 10)
		v.Flows = append(v.Flows, f)
	}
	for _, after := range []time.Duration{0, 10 * time.Minute} {
		if err := c.Tell(noon.Add(after), []VPC{v}); err != nil {
			t.Fatal(err)
		}
	}
	for path, text := range files(t, dir) {
		if n := strings.Count(text, "\n"); n != MaxLines+2 || !strings.Contains(text, "SKIPDATA") {
			t.Errorf("%s has %d lines: %s", path, n, text[len(text)-100:])
		}
	}
}

func TestOldFilesGo(t *testing.T) {
	dir := t.TempDir()
	c := New(filepath.Join(dir, "flow-logs"), "us-east-1")
	if err := c.Clean(noon); err != nil {
		t.Errorf("nothing to clean: %v", err)
	}
	for n, age := range []time.Duration{KeptFor + time.Hour, KeptFor - time.Hour} {
		path := filepath.Join(dir, "flow-logs", fmt.Sprint(n), "x.log")
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, noon.Add(-age), noon.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Clean(noon); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(dir, "flow-logs"))
	if err != nil || len(left) != 1 || left[0].Name() != "1" {
		t.Errorf("left: %v, %v", left, err)
	}
}
