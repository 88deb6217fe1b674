package main

import (
	"context"
	"fmt"
	"sort"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
)

// snapshotView is a snapshot as the command line shows it.
type snapshotView struct {
	ID      string    `json:"id"`
	Name    string    `json:"name,omitempty"`
	Volume  string    `json:"volume"`
	SizeGiB int64     `json:"size_gib"`
	State   string    `json:"state"`
	Reason  string    `json:"reason,omitempty"`
	Created time.Time `json:"created"`
}

func (a *api) snapshots(ctx context.Context, ids ...string) ([]snapshotView, error) {
	var list []snapshotView
	in := &ec2.DescribeSnapshotsRequest{SnapshotIds: ids}
	for {
		out, err := a.ec2.DescribeSnapshots(ctx, in)
		if err != nil {
			return nil, err
		}
		for _, s := range out.Snapshots {
			list = append(list, snapshotView{ID: deref(s.SnapshotId), Name: tagValue(s.Tags, "Name"), Volume: deref(s.VolumeId), SizeGiB: deref(s.VolumeSize), State: deref(s.State),
				Reason: deref(s.StateMessage), Created: deref(s.StartTime)})
		}
		if deref(out.NextToken) == "" {
			sort.SliceStable(list, func(x, y int) bool { return list[x].Created.Before(list[y].Created) })
			return list, nil
		}
		in.NextToken = out.NextToken
	}
}

func (a *api) findSnapshot(ctx context.Context, word string) (snapshotView, error) {
	list, err := a.snapshots(ctx)
	if err != nil {
		return snapshotView{}, err
	}
	s, err := meant("snapshot", word, list, func(s snapshotView) string { return s.ID }, func(s snapshotView) string { return s.Name })
	if err != nil {
		return s, fmt.Errorf("%w; `nacre volume snapshots` shows all", err)
	}
	return s, nil
}

func (g *globals) completeSnapshots(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	a, err := g.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, err := a.snapshots(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var words []string
	for _, s := range list {
		words = append(words, s.ID+"\t"+s.Name)
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

func (g *globals) printSnapshots(cmd *cobra.Command, list []snapshotView) error {
	if g.json() {
		if list == nil {
			list = []snapshotView{}
		}
		return printJSON(cmd, list)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tNAME\tVOLUME\tSIZE\tSTATE\tCREATED")
	for _, s := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d GiB\t%s\t%s\n", s.ID, s.Name, s.Volume, s.SizeGiB, s.State, s.Created.Format(time.DateTime))
	}
	return w.Flush()
}

func volumeSnapshotCommand(g *globals) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: "snapshot VOLUME", Short: "Keep a volume's present content, also while it is in use",
		Long: `Keep a volume's present content, also while it is in use: what a power cut would leave on the disk. It takes no longer for a large volume than for a
small one, and only what is written later takes room. "nacre volume create --snapshot" makes volumes of it.`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: g.completeVolumes,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := g.connect()
			if err != nil {
				return err
			}
			v, err := a.findVolume(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			in := &ec2.CreateSnapshotRequest{VolumeId: &v.ID}
			if name != "" {
				in.TagSpecifications = []ec2.TagSpecification{{ResourceType: new("snapshot"), Tags: []ec2.Tag{{Key: new("Name"), Value: &name}}}}
			}
			made, err := a.ec2.CreateSnapshot(cmd.Context(), in)
			if err != nil {
				return err
			}
			for pause := 5 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
				list, err := a.snapshots(cmd.Context(), deref(made.SnapshotId))
				if err != nil {
					return err
				}
				switch list[0].State {
				case "completed":
					return g.printSnapshots(cmd, list)
				case "error":
					return fmt.Errorf("%s could not be made: %s", list[0].ID, list[0].Reason)
				}
				select {
				case <-time.After(pause):
				case <-cmd.Context().Done():
					return cmd.Context().Err()
				}
			}
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "`NAME`, kept as the tag Name")
	return cmd
}

func volumeSnapshotsCommand(g *globals) *cobra.Command {
	return &cobra.Command{Use: "snapshots", Short: "List snapshots", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions, RunE: func(cmd *cobra.Command, _ []string) error {
		a, err := g.connect()
		if err != nil {
			return err
		}
		list, err := a.snapshots(cmd.Context())
		if err != nil {
			return err
		}
		return g.printSnapshots(cmd, list)
	}}
}

func volumeRmSnapshotCommand(g *globals) *cobra.Command {
	return g.deleteCommand("rm-snapshot SNAPSHOT…", "Delete snapshots, in any order; volumes made of them stay", g.completeSnapshots, func(ctx context.Context, a *api, word string) (string, error) {
		s, err := a.findSnapshot(ctx, word)
		if err == nil {
			_, err = a.ec2.DeleteSnapshot(ctx, &ec2.DeleteSnapshotRequest{SnapshotId: &s.ID})
		}
		return s.ID, err
	})
}
