package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
)

// Tags by which an instance's size is chosen, and the one that says how far a change is.
const (
	cpusTag       = "nacre:cpus"
	memoryTag     = "nacre:memory"
	liveResizeTag = "nacre:live-resize"
	resizeTag     = "aws:nacre:resize"

	resizePending = "pending"
	resizeFailed  = "failed: "
)

type resizeOptions struct {
	size, memory string
	cpus         int
	hasCPUs      bool
}

func resizeCommand(g *globals) *cobra.Command {
	var o resizeOptions
	cmd := &cobra.Command{
		Use:   "resize INSTANCE",
		Short: "Change an instance's type, CPUs or memory, also while it runs",
		Long: `Change an instance's type, or its CPUs and memory alone. A running instance gets them at once, and goes on; a stopped one at its next start.

CPUs and memory of one's own are kept as the tags nacre:cpus and nacre:memory; 0 takes the type's again. EC2 changes no running instance's type: that is
allowed here for instances with the tag nacre:live-resize=true, which --type sets. What the server can't do leaves the instance as it was, and fails here.`,
		Example: "  nacre resize web --type t3.large\n  nacre resize web --cpus 4 --memory 3GiB\n  nacre resize web --memory 0",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: g.completeInstances,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.hasCPUs = cmd.Flags().Changed("cpus")
			if o.size == "" && o.memory == "" && !o.hasCPUs {
				return errors.New("say what to change: --type, or --cpus and --memory")
			}
			a, err := g.connect()
			if err != nil {
				return err
			}
			i, err := a.find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := a.resize(cmd, i, o); err != nil {
				return err
			}
			now, err := a.resized(cmd, i.ID)
			if err != nil {
				return err
			}
			return g.printInstances(cmd, []instanceView{now}, nil)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.size, "type", "", "`TYPE` to be, with its CPUs and memory")
	f.IntVar(&o.cpus, "cpus", 0, "`NUMBER` of virtual CPUs, 0 for the type's")
	f.StringVar(&o.memory, "memory", "", "`SIZE` of the memory, such as 512MiB or 2GiB, 0 for the type's")
	cmd.MarkFlagsMutuallyExclusive("type", "cpus")
	cmd.MarkFlagsMutuallyExclusive("type", "memory")
	g.completeTypes(cmd)
	return cmd
}

// resize asks for a change of size.
func (a *api) resize(cmd *cobra.Command, i instanceView, o resizeOptions) error {
	ctx := cmd.Context()
	set, drop := []ec2.Tag{}, []ec2.Tag{}
	choose := func(key string, n int64) {
		if n == 0 {
			drop = append(drop, ec2.Tag{Key: &key})
			return
		}
		set = append(set, ec2.Tag{Key: &key, Value: new(strconv.FormatInt(n, 10))})
	}
	if o.size != "" {
		if i.State == "running" {
			set = append(set, ec2.Tag{Key: new(liveResizeTag), Value: new("true")})
		}
		choose(cpusTag, 0)
		choose(memoryTag, 0)
	}
	if o.hasCPUs {
		choose(cpusTag, int64(o.cpus))
	}
	if o.memory != "" {
		n, err := mebibytes("--memory", o.memory)
		if err != nil {
			return err
		}
		choose(memoryTag, n)
	}
	if len(set) > 0 {
		if _, err := a.ec2.CreateTags(ctx, &ec2.CreateTagsRequest{Resources: []string{i.ID}, Tags: set}); err != nil {
			return err
		}
	}
	if o.size != "" {
		if _, err := a.ec2.ModifyInstanceAttribute(ctx, &ec2.ModifyInstanceAttributeRequest{InstanceId: &i.ID, InstanceType: &ec2.AttributeValue{Value: &o.size}}); err != nil {
			return err
		}
	}
	if len(drop) > 0 {
		if _, err := a.ec2.DeleteTags(ctx, &ec2.DeleteTagsRequest{Resources: []string{i.ID}, Tags: drop}); err != nil {
			return err
		}
	}
	return nil
}

// resized waits until an instance has its size, and returns it as it is then.
func (a *api) resized(cmd *cobra.Command, id string) (instanceView, error) {
	show := newProgress(cmd.ErrOrStderr())
	defer show.end()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		out, err := a.ec2.DescribeInstances(cmd.Context(), &ec2.DescribeInstancesRequest{InstanceIds: []string{id}})
		if err != nil {
			return instanceView{}, err
		}
		if len(out.Reservations) != 1 || len(out.Reservations[0].Instances) != 1 {
			return instanceView{}, fmt.Errorf("the instance %s is not known any more", id)
		}
		i := out.Reservations[0].Instances[0]
		said := tagValue(i.Tags, resizeTag)
		if why, failed := strings.CutPrefix(said, resizeFailed); failed {
			return instanceView{}, fmt.Errorf("%s stays as it was: %s", id, why)
		}
		if said != resizePending {
			return viewOf(i), nil
		}
		show.set(0, 1, "waiting for the server")
		select {
		case <-time.After(pause):
		case <-cmd.Context().Done():
			return instanceView{}, cmd.Context().Err()
		}
	}
}

// mebibytes reads a flag's size of memory: a number of MiB, or one with a unit.
func mebibytes(flag, text string) (int64, error) {
	number, unit := strings.TrimRight(text, "GMTiB"), int64(1)
	switch text[len(number):] {
	case "", "M", "MiB":
	case "G", "GiB":
		unit = 1 << 10
	case "T", "TiB":
		unit = 1 << 20
	default:
		return 0, fmt.Errorf("%s %q: use a number of MiB, or a unit: 512MiB, 2GiB", flag, text)
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > 1<<40 {
		return 0, fmt.Errorf("%s %q: use a number of MiB, or a unit: 512MiB, 2GiB", flag, text)
	}
	return n * unit, nil
}
