// Package flowlog writes what is counted of flows into files, line by line in EC2's default format.
//
// A line is what one interface saw of one flow, in one direction, with one verdict, within one interval. Lines are written
// at the interval's end, by the clock; what was counted in an interval that the agent did not see the end of is lost. A
// log never writes more than MaxLines in one interval: one line then says that others were left out. Files are kept for
// KeptFor.
//
// Source: AWS's "Flow log records" and "Flow log files" documentation.
package flowlog

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/network"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	// MaxLines bounds what one log writes in one interval.
	MaxLines = 10000
	// KeptFor is how long files stay.
	KeptFor = 7 * 24 * time.Hour
	// header is every file's first line.
	header = "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action log-status"
)

// Interface is where flows are seen.
type Interface struct {
	ID      cloud.InterfaceID
	Subnet  cloud.SubnetID
	Account cloud.AccountID
}

// VPC is what is known of one VPC when its flows are told.
type VPC struct {
	ID         cloud.VPCID
	Logs       []cloud.FlowLog
	Interfaces []Interface // of this node
	Flows      []network.Flow
}

// Collector adds flows up and writes them. It is used by one goroutine.
type Collector struct {
	dir    string
	region string
	logs   map[cloud.FlowLogID]*window
	seen   map[cloud.VPCID]map[network.FlowKey]network.Flow // the counts that were told last
}

// window is one interval of one log.
type window struct {
	log    cloud.FlowLog
	number int64 // the interval's, counted from the epoch
	flows  map[network.FlowKey]*sum
	nics   map[cloud.InterfaceID]cloud.AccountID
	left   bool // flows were left out
}

type sum struct {
	packets, bytes uint64
	start, end     time.Time
}

// New makes a collector that writes below dir.
func New(dir, region string) *Collector {
	return &Collector{dir: dir, region: region, logs: map[cloud.FlowLogID]*window{}, seen: map[cloud.VPCID]map[network.FlowKey]network.Flow{}}
}

// Tell adds the flows of all VPCs that have logs, and writes the intervals that are over. What can't be written is
// dropped, with an error.
func (c *Collector) Tell(now time.Time, vpcs []VPC) error {
	var problems []error
	live := map[cloud.FlowLogID]bool{}
	known := map[cloud.VPCID]bool{}
	for _, v := range vpcs {
		known[v.ID] = true
		for _, l := range v.Logs {
			live[l.ID] = true
			w, number := c.logs[l.ID], now.Unix()/int64(l.Interval)
			if w != nil && w.number != number {
				problems = append(problems, c.write(w))
				w = nil
			}
			if w == nil {
				w = &window{log: l, number: number, flows: map[network.FlowKey]*sum{}, nics: map[cloud.InterfaceID]cloud.AccountID{}}
				c.logs[l.ID] = w
			}
			for _, i := range v.Interfaces {
				if covers(l, i) {
					w.nics[i.ID] = i.Account
				}
			}
		}
		for _, f := range c.news(v) {
			for _, l := range v.Logs {
				c.logs[l.ID].add(f, now)
			}
		}
	}
	for id := range c.logs {
		if !live[id] {
			delete(c.logs, id)
		}
	}
	maps.DeleteFunc(c.seen, func(id cloud.VPCID, _ map[network.FlowKey]network.Flow) bool { return !known[id] })
	return errors.Join(problems...)
}

func covers(l cloud.FlowLog, i Interface) bool {
	return l.Interface == i.ID || l.Interface == "" && (l.Subnet == i.Subnet || l.Subnet == "")
}

// news is what was counted since a VPC's flows were told last.
func (c *Collector) news(v VPC) []network.Flow {
	last, next := c.seen[v.ID], map[network.FlowKey]network.Flow{}
	var out []network.Flow
	for _, f := range v.Flows {
		next[f.FlowKey] = f
		// Lower counts than before are new ones: the packet filter was made anew.
		if old, ok := last[f.FlowKey]; ok && old.Packets <= f.Packets && old.Bytes <= f.Bytes {
			f.Packets, f.Bytes = f.Packets-old.Packets, f.Bytes-old.Bytes
		}
		if f.Packets > 0 {
			out = append(out, f)
		}
	}
	c.seen[v.ID] = next
	return out
}

func (w *window) add(f network.Flow, now time.Time) {
	if _, ok := w.nics[f.Interface]; !ok || w.log.Traffic == cloud.FlowsAccepted && !f.Accepted || w.log.Traffic == cloud.FlowsRejected && f.Accepted {
		return
	}
	s := w.flows[f.FlowKey]
	if s == nil {
		if len(w.flows) == MaxLines {
			w.left = true
			return
		}
		s = &sum{start: now}
		w.flows[f.FlowKey] = s
	}
	s.packets, s.bytes, s.end = s.packets+f.Packets, s.bytes+f.Bytes, now
}

// lines are a window's records: each flow, then each interface that saw none.
func (w *window) lines() []string {
	var out []string
	silent := maps.Clone(w.nics)
	for _, k := range slices.SortedFunc(maps.Keys(w.flows), order) {
		s, action := w.flows[k], "REJECT"
		if k.Accepted {
			action = "ACCEPT"
		}
		delete(silent, k.Interface)
		out = append(out, fmt.Sprintf("2 %s %s %s %s %d %d %d %d %d %d %d %s OK", w.nics[k.Interface], k.Interface, k.Source, k.Destination, k.FromPort, k.TargetPort,
			k.Protocol, s.packets, s.bytes, s.start.Unix(), s.end.Unix(), action))
	}
	start, status := w.number*int64(w.log.Interval), "NODATA"
	if w.left {
		status = "SKIPDATA" // any of them may be of those that were left out
	}
	for _, id := range slices.Sorted(maps.Keys(silent)) {
		out = append(out, fmt.Sprintf("2 %s %s - - - - - - - %d %d - %s", silent[id], id, start, start+int64(w.log.Interval), status))
	}
	return out
}

func order(a, b network.FlowKey) int {
	return cmp.Or(cmp.Compare(a.Interface, b.Interface), a.Source.Compare(b.Source), a.Destination.Compare(b.Destination), cmp.Compare(a.Protocol, b.Protocol),
		cmp.Compare(a.FromPort, b.FromPort), cmp.Compare(a.TargetPort, b.TargetPort), cmp.Compare(boolInt(a.Accepted), boolInt(b.Accepted)))
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// write appends a window's lines to its file, which is named as EC2 names those in a bucket, one for five minutes.
func (c *Collector) write(w *window) (err error) {
	lines := w.lines()
	if len(lines) == 0 {
		return nil
	}
	at := time.Unix(w.number*int64(w.log.Interval), 0).UTC().Truncate(5 * time.Minute)
	dir := filepath.Join(c.dir, w.log.Prefix, "AWSLogs", string(w.log.Account), "vpcflowlogs", c.region, at.Format("2006/01/02"))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("flow log %s: %w", w.log.ID, err)
	}
	path := filepath.Join(dir, fmt.Sprintf("%s_vpcflowlogs_%s_%s_%s.log", w.log.Account, c.region, w.log.ID, at.Format("20060102T1504Z")))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("flow log %s: %w", w.log.ID, err)
	}
	defer func() {
		if e := f.Close(); e != nil && err == nil {
			err = fmt.Errorf("flow log %s: %w", w.log.ID, e)
		}
	}()
	b := bufio.NewWriter(f)
	if info, err := f.Stat(); err == nil && info.Size() == 0 {
		fmt.Fprintln(b, header)
	}
	for _, l := range lines {
		fmt.Fprintln(b, l)
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("flow log %s: %w", w.log.ID, err)
	}
	return nil
}

// Clean removes the files that have been kept long enough, and the directories that are empty then.
func (c *Collector) Clean(now time.Time) error {
	var dirs []string
	err := filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || path == c.dir {
			return err
		}
		if d.IsDir() {
			dirs = append(dirs, path)
			return nil
		}
		info, err := d.Info()
		if err == nil && now.Sub(info.ModTime()) > KeptFor {
			err = os.Remove(path)
		}
		return err
	})
	slices.Reverse(dirs)
	for _, dir := range dirs {
		_ = os.Remove(dir) // fails for those that hold something, which is right
	}
	if err != nil {
		return fmt.Errorf("remove old flow logs: %w", err)
	}
	return nil
}
