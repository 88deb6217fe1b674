package main

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// instanceView is an instance as the command line shows it.
type instanceView struct {
	ID        string    `json:"id"`
	Name      string    `json:"name,omitempty"`
	Type      string    `json:"type"`
	State     string    `json:"state"`
	Image     string    `json:"image"`
	Isolation string    `json:"isolation"`
	KeyName   string    `json:"key_name,omitempty"`
	PrivateIP string    `json:"private_ip,omitempty"`
	PublicIP  string    `json:"public_ip,omitempty"`
	Launched  time.Time `json:"launched"`
	Reason    string    `json:"reason,omitempty"`
	Mounts    string    `json:"host_mounts,omitempty"`
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func tagValue(tags []ec2.Tag, key string) string {
	for _, t := range tags {
		if deref(t.Key) == key {
			return deref(t.Value)
		}
	}
	return ""
}

// isolationOf is what stands between instances and their neighbours: "container" or "vm".
func isolationOf(tags []ec2.Tag) string { return firstOf(tagValue(tags, isolationTag), "container") }

func viewOf(i ec2.Instance) instanceView {
	v := instanceView{ID: deref(i.InstanceId), Name: tagValue(i.Tags, "Name"), Type: deref(i.InstanceType), Image: deref(i.ImageId), Isolation: isolationOf(i.Tags),
		Mounts: tagValue(i.Tags, cloud.TagHostMounts), KeyName: deref(i.KeyName), PrivateIP: deref(i.PrivateIpAddress), PublicIP: deref(i.PublicIpAddress), Launched: deref(i.LaunchTime)}
	if i.State != nil {
		v.State = deref(i.State.Name)
	}
	if i.StateReason != nil && v.State != "running" && v.State != "pending" {
		v.Reason = deref(i.StateReason.Message)
	}
	return v
}

// instances lists all instances, newest last.
func (a *api) instances(ctx context.Context, filters ...ec2.Filter) ([]instanceView, error) {
	var list []instanceView
	in := &ec2.DescribeInstancesRequest{Filters: filters}
	for {
		out, err := a.ec2.DescribeInstances(ctx, in)
		if err != nil {
			return nil, err
		}
		for _, r := range out.Reservations {
			for _, i := range r.Instances {
				list = append(list, viewOf(i))
			}
		}
		if deref(out.NextToken) == "" {
			sort.SliceStable(list, func(x, y int) bool { return list[x].Launched.Before(list[y].Launched) })
			return list, nil
		}
		in.NextToken = out.NextToken
	}
}

// find returns the instance that a name, an id or the unique beginning of an id means. A terminated one is
// found by its id only.
func (a *api) find(ctx context.Context, word string) (instanceView, error) {
	list, err := a.instances(ctx)
	if err != nil {
		return instanceView{}, err
	}
	var named, prefixed []instanceView
	for _, i := range list {
		switch {
		case i.ID == word:
			return i, nil
		case i.State == "terminated":
		case i.Name == word:
			named = append(named, i)
		case len(word) > 2 && strings.HasPrefix(i.ID, word), strings.HasPrefix(i.ID, "i-"+word):
			prefixed = append(prefixed, i)
		}
	}
	found := named
	if len(found) == 0 {
		found = prefixed
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return instanceView{}, fmt.Errorf("no instance is called %q; `nacre ls` shows all", word)
	}
	var ids []string
	for _, i := range found {
		ids = append(ids, i.ID)
	}
	return instanceView{}, fmt.Errorf("%q could be %s; give more of the id", word, strings.Join(ids, " or "))
}

// findAll is find for several words; each instance comes once.
func (a *api) findAll(ctx context.Context, words []string) ([]string, error) {
	var ids []string
	seen := map[string]bool{}
	for _, word := range words {
		i, err := a.find(ctx, word)
		if err != nil {
			return nil, err
		}
		if !seen[i.ID] {
			seen[i.ID] = true
			ids = append(ids, i.ID)
		}
	}
	return ids, nil
}

// waitFor waits until all instances are in a state, showing progress, and returns them as they are then.
func (a *api) waitFor(cmd *cobra.Command, ids []string, state string) ([]instanceView, error) {
	show := newProgress(cmd.ErrOrStderr())
	defer show.end()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		out, err := a.ec2.DescribeInstances(cmd.Context(), &ec2.DescribeInstancesRequest{InstanceIds: ids})
		if err != nil {
			return nil, err
		}
		var list []instanceView
		there := 0
		for _, r := range out.Reservations {
			for _, i := range r.Instances {
				v := viewOf(i)
				list = append(list, v)
				switch {
				case v.State == state:
					there++
				case v.State == "terminated", state == "running" && (v.State == "stopped" || v.State == "stopping" || v.State == "shutting-down"):
					return nil, fmt.Errorf("%s is %s: %s", v.ID, v.State, v.Reason)
				}
			}
		}
		if there == len(ids) {
			return list, nil
		}
		show.set(int64(there), int64(len(ids)), "waiting for "+state)
		select {
		case <-time.After(pause):
		case <-cmd.Context().Done():
			return nil, cmd.Context().Err()
		}
	}
}

func (g *globals) printInstances(cmd *cobra.Command, list []instanceView, images map[string]string) error {
	if g.json() {
		if list == nil {
			list = []instanceView{}
		}
		return printJSON(cmd, list)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tNAME\tTYPE\tISOLATION\tSTATE\tPRIVATE\tPUBLIC\tIMAGE\tLAUNCHED")
	for _, i := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", i.ID, dash(i.Name), i.Type, i.Isolation, i.State, dash(i.PrivateIP), dash(i.PublicIP),
			firstOf(images[i.Image], i.Image), ago(i.Launched))
	}
	return w.Flush()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func ago(t time.Time) string {
	switch d := time.Since(t); {
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd ago", int(d.Hours()/24))
	}
}

func lsCommand(g *globals) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "ls", Short: "List instances", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := g.connect()
			if err != nil {
				return err
			}
			list, err := a.instances(cmd.Context())
			if err != nil {
				return err
			}
			names := map[string]string{}
			if !g.json() {
				images, err := a.images(cmd.Context())
				if err != nil {
					return err
				}
				for _, i := range images {
					names[i.ID] = i.Name
				}
			}
			var shown []instanceView
			for _, i := range list {
				if all || i.State != "terminated" {
					shown = append(shown, i)
				}
			}
			return g.printInstances(cmd, shown, names)
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also those that were terminated within the last hour")
	return cmd
}

// completeInstances completes names and ids of instances.
func (g *globals) completeInstances(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	a, err := g.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	list, err := a.instances(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var words []string
	for _, i := range list {
		if i.State == "terminated" {
			continue
		}
		words = append(words, i.ID+"\t"+i.State)
		if i.Name != "" {
			words = append(words, i.Name+"\t"+i.ID)
		}
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}
