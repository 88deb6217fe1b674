package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
)

func imageCreateCommand(g *globals) *cobra.Command {
	var description string
	var noReboot, noWait bool
	cmd := &cobra.Command{
		Use: "create INSTANCE NAME", Short: "Make an image of an instance",
		Long: `Make an image of an instance. What a container wrote becomes a layer over those of its image, which are shared; the root of a
virtual machine and the volumes of either become snapshots. Its instances are strangers to the first one: they have names, keys and
user data of their own.

A running instance is rebooted, and its disks are read while nothing runs. With --no-reboot they are read at one instant: a
container stands still meanwhile, a virtual machine goes on, and what was not yet on its disks is not in the image.`,
		Example: "  nacre image create web web-2026-11\n  nacre image create web web-now --no-reboot",
		Args:    cobra.ExactArgs(2), ValidArgsFunction: g.completeInstances,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := g.connect()
			if err != nil {
				return err
			}
			i, err := a.find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			out, err := a.ec2.CreateImage(cmd.Context(), &ec2.CreateImageRequest{InstanceId: &i.ID, Name: &args[1], Description: given(description), NoReboot: &noReboot})
			if err != nil {
				return err
			}
			if !noWait {
				if err := a.awaitImage(cmd, *out.ImageId); err != nil {
					return err
				}
			}
			if g.json() {
				return printJSON(cmd, map[string]string{"id": *out.ImageId, "name": args[1]})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", *out.ImageId, args[1])
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&description, "description", "", "`TEXT` that describes the image")
	f.BoolVar(&noReboot, "no-reboot", false, "read the disks of a running instance as they are at one instant")
	f.BoolVar(&noWait, "no-wait", false, "don't wait until the image is available")
	return cmd
}

// awaitImage waits until an image that is being made is there.
func (a *api) awaitImage(cmd *cobra.Command, id string) error {
	show := newProgress(cmd.ErrOrStderr())
	defer show.end()
	for {
		out, err := a.ec2.DescribeImages(cmd.Context(), &ec2.DescribeImagesRequest{ImageIds: []string{id}})
		if err != nil {
			return err
		}
		if len(out.Images) != 1 {
			return fmt.Errorf("the image %s is not known any more", id)
		}
		switch img := out.Images[0]; deref(img.State) {
		case ec2.ImageStateAvailable:
			return nil
		case ec2.ImageStateFailed:
			return fmt.Errorf("the image %s could not be made: %s", id, deref(deref(img.StateReason).Message))
		}
		show.set(0, 0, "making "+id)
		if err := pause(cmd.Context(), 100*time.Millisecond); err != nil {
			return fmt.Errorf("%w; the image %s goes on being made", err, id)
		}
	}
}

// pause waits, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
