// Command bench measures nacre beside its peers, in the same run on the same machine, and writes
// bench/results.json.
//
// It prints medians and ratios, never a verdict that stops a build: absolute times drift with the
// machine, ratios hold better. A peer that is not installed is left out, and the table says so. Arguments are the names of those
// measures that are to be taken; results.json has all of the last whole run.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// row is one figure. Its JSON form is what results.json holds.
type row struct {
	Name     string   `json:"name"`
	Unit     string   `json:"unit"`
	Ours     float64  `json:"ours"`
	Peer     *float64 `json:"peer"`
	PeerName string   `json:"peer_name"`
	Ratio    *float64 `json:"ratio"`
	Goal     string   `json:"goal"`
	Met      *bool    `json:"met"`
	Runs     int      `json:"runs"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	if os.Geteuid() != 0 {
		return errors.New("the benchmarks start real machines and need root")
	}
	c, err := startCloud()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.remove()) }()
	var rows []row
	for _, m := range []struct {
		name string
		run  func(*testCloud) ([]row, error)
	}{{"idle", idle}, {"launches", launches}, {"burst", burst}, {"describes", describes}, {"packets", packets}, {"groupChange", groupChange},
		{"networkStory", networkStory}, {"machines", machines}, {"wholeDebian", wholeDebian}, {"machineIO", machineIO},
		{"volumeIO", volumeIO}, {"snapshots", snapshots}, {"manyLayers", manyLayers}, {"registry", registryMeasure}} {
		if len(os.Args) > 1 && !slices.Contains(os.Args[1:], m.name) {
			continue
		}
		more, err := m.run(c)
		if err != nil {
			return err
		}
		for _, r := range more {
			fmt.Fprintf(os.Stderr, "%s: %.4g %s\n", r.Name, r.Ours, r.Unit)
		}
		rows = append(rows, more...)
	}
	print(rows)
	if len(os.Args) > 1 {
		return nil
	}
	return write(rows)
}

func print(rows []row) {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "WHAT\tOURS\tPEER\tRATIO\tGOAL\tMET\tRUNS")
	for _, r := range rows {
		peer, ratio, met := "-", "-", "-"
		if r.Peer != nil {
			peer = fmt.Sprintf("%.4g %s (%s)", *r.Peer, r.Unit, r.PeerName)
			ratio = fmt.Sprintf("%.2f", *r.Ratio)
		} else if r.PeerName != "" {
			peer = r.PeerName + " not installed"
		}
		if r.Met != nil {
			met = map[bool]string{true: "yes", false: "no"}[*r.Met]
		}
		fmt.Fprintf(w, "%s\t%.4g %s\t%s\t%s\t%s\t%s\t%d\n", r.Name, r.Ours, r.Unit, peer, ratio, r.Goal, met, r.Runs)
	}
	w.Flush()
}

func write(rows []row) error {
	b, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the results: %w", err)
	}
	path := filepath.Join("bench", "results.json")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// beside completes a row with a peer's figure; the goal is a ratio, 0 for none.
func (r row) beside(name string, figure float64, goal float64) row {
	r.PeerName = name
	if figure == 0 {
		return r
	}
	ratio := r.Ours / figure
	r.Peer, r.Ratio = &figure, &ratio
	if goal > 0 {
		met := ratio <= goal
		r.Met, r.Goal = &met, fmt.Sprintf("ratio at most %.3g", goal)
	}
	return r
}

// atLeast is beside for figures of which more is better.
func (r row) atLeast(name string, figure float64, goal float64) row {
	r = r.beside(name, figure, 0)
	met := *r.Ratio >= goal
	r.Met, r.Goal = &met, fmt.Sprintf("ratio at least %g", goal)
	return r
}

// atMost completes a row with an absolute goal.
func (r row) atMost(limit float64) row {
	met := r.Ours <= limit
	r.Met, r.Goal = &met, fmt.Sprintf("at most %g %s", limit, r.Unit)
	return r
}

func median(list []time.Duration) float64 { return quantile(list, 0.5) }

// quantile returns milliseconds.
func quantile(list []time.Duration, q float64) float64 {
	if len(list) == 0 {
		return 0
	}
	sorted := slices.Clone(list)
	slices.Sort(sorted)
	at := min(int(q*float64(len(sorted))), len(sorted)-1)
	return float64(sorted[at].Microseconds()) / 1000
}

func firstLine(b []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	return line
}
