package main

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
)

// mountTag has the agent mount a volume inside a container.
const mountTag = "nacre:mount"

// volumeView is a volume as the command line shows it.
type volumeView struct {
	ID        string    `json:"id"`
	Name      string    `json:"name,omitempty"`
	SizeGiB   int64     `json:"size_gib"`
	Type      string    `json:"type"`
	State     string    `json:"state"`
	Instance  string    `json:"instance,omitempty"`
	Device    string    `json:"device,omitempty"`
	Attach    string    `json:"attachment,omitempty"`
	Mount     string    `json:"mount,omitempty"`
	Snapshot  string    `json:"snapshot,omitempty"`
	Encrypted bool      `json:"encrypted,omitempty"`
	Created   time.Time `json:"created"`
}

func volumeCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{Use: "volume", Short: "Make, attach, grow, snapshot and remove volumes"}
	cmd.AddCommand(volumeCreateCommand(g), volumeLsCommand(g), volumeAttachCommand(g), volumeDetachCommand(g), volumeGrowCommand(g), volumeRmCommand(g), volumeSnapshotCommand(g),
		volumeSnapshotsCommand(g), volumeRmSnapshotCommand(g))
	return cmd
}

func viewOfVolume(v ec2.Volume) volumeView {
	out := volumeView{ID: deref(v.VolumeId), Name: tagValue(v.Tags, "Name"), SizeGiB: deref(v.Size), Type: deref(v.VolumeType), State: deref(v.State), Mount: tagValue(v.Tags, mountTag),
		Snapshot: deref(v.SnapshotId), Encrypted: deref(v.Encrypted), Created: deref(v.CreateTime)}
	for _, a := range v.Attachments {
		out.Instance, out.Device, out.Attach = deref(a.InstanceId), deref(a.Device), deref(a.State)
	}
	return out
}

func (a *api) volumes(ctx context.Context, ids ...string) ([]volumeView, error) {
	var list []volumeView
	in := &ec2.DescribeVolumesRequest{VolumeIds: ids}
	for {
		out, err := a.ec2.DescribeVolumes(ctx, in)
		if err != nil {
			return nil, err
		}
		for _, v := range out.Volumes {
			list = append(list, viewOfVolume(v))
		}
		if deref(out.NextToken) == "" {
			sort.SliceStable(list, func(x, y int) bool { return list[x].Created.Before(list[y].Created) })
			return list, nil
		}
		in.NextToken = out.NextToken
	}
}

// meant finds the one of several things that a name, an id or the unique beginning of an id means.
func meant[T any](kind, word string, list []T, id, name func(T) string) (found T, err error) {
	var could []T
	for _, v := range list {
		if id(v) == word {
			return v, nil
		}
		if name(v) == word || len(word) > 4 && strings.HasPrefix(id(v), word) || strings.HasPrefix(id(v)[strings.IndexByte(id(v), '-')+1:], word) {
			could = append(could, v)
		}
	}
	switch len(could) {
	case 1:
		return could[0], nil
	case 0:
		return found, fmt.Errorf("no %s is called %q", kind, word)
	}
	return found, fmt.Errorf("%q could be %d %ss; give more of the id", word, len(could), kind)
}

func (a *api) findVolume(ctx context.Context, word string) (volumeView, error) {
	list, err := a.volumes(ctx)
	if err != nil {
		return volumeView{}, err
	}
	v, err := meant("volume", word, list, func(v volumeView) string { return v.ID }, func(v volumeView) string { return v.Name })
	if err != nil {
		return v, fmt.Errorf("%w; `nacre volume ls` shows all", err)
	}
	return v, nil
}

// volumeIs waits until a volume is as it should be.
func (a *api) volumeIs(cmd *cobra.Command, id, what string, is func(volumeView) bool) (volumeView, error) {
	show := newProgress(cmd.ErrOrStderr())
	defer show.end()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		list, err := a.volumes(cmd.Context(), id)
		if err != nil {
			return volumeView{}, err
		}
		if is(list[0]) {
			return list[0], nil
		}
		if list[0].State == "error" {
			return list[0], a.volumeTrouble(cmd.Context(), id, "it could not be made")
		}
		show.set(0, 1, "waiting for "+what)
		select {
		case <-time.After(pause):
		case <-cmd.Context().Done():
			return volumeView{}, cmd.Context().Err()
		}
	}
}

// volumeTrouble is what the server says is wrong with a volume.
func (a *api) volumeTrouble(ctx context.Context, id, otherwise string) error {
	out, err := a.ec2.DescribeVolumeStatus(ctx, &ec2.DescribeVolumeStatusRequest{VolumeIds: []string{id}})
	if err == nil {
		for _, s := range out.VolumeStatuses {
			for _, e := range s.Events {
				otherwise = deref(e.Description)
			}
		}
	}
	return fmt.Errorf("%s: %s", id, otherwise)
}

func (g *globals) printVolumes(cmd *cobra.Command, list []volumeView) error {
	if g.json() {
		if list == nil {
			list = []volumeView{}
		}
		return printJSON(cmd, list)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tNAME\tSIZE\tTYPE\tSTATE\tINSTANCE\tDEVICE\tMOUNT")
	for _, v := range list {
		state := v.State
		if v.Attach != "" && v.Attach != "attached" {
			state = v.Attach
		}
		kind := v.Type
		if v.Encrypted {
			kind += ", encrypted"
		}
		fmt.Fprintf(w, "%s\t%s\t%d GiB\t%s\t%s\t%s\t%s\t%s\n", v.ID, v.Name, v.SizeGiB, kind, state, v.Instance, v.Device, v.Mount)
	}
	return w.Flush()
}

func (g *globals) completeVolumes(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	a, err := g.connect()
	if err != nil || len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	if len(args) == 1 {
		if cmd.Name() != "attach" {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return g.completeInstances(cmd, nil, "")
	}
	list, err := a.volumes(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var words []string
	for _, v := range list {
		words = append(words, v.ID+"\t"+v.Name)
		if v.Name != "" {
			words = append(words, v.Name)
		}
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

func volumeCreateCommand(g *globals) *cobra.Command {
	var size, iops, throughput int64
	var kind, name, mount, snapshot, zone string
	var encrypted bool
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a volume, empty or of a snapshot",
		Long: `Make a volume, empty or of a snapshot. It is a block device that outlives the instances it is attached to.

With --encrypted nothing that is written to it is on a disk as it is, nor in its snapshots; its key is sealed by the cloud's master key, and destroyed with it.

With --mount, whatever container it is attached to has its file system mounted there; an empty volume gets one (ext4) first.`,
		Example: "  nacre volume create --size 10 --name data\n  nacre volume create --size 10 --mount /var/lib/postgresql\n  nacre volume create --snapshot snap-0123",
		Args:    cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := g.connect()
			if err != nil {
				return err
			}
			if size == 0 && snapshot == "" {
				return errors.New("say how large it is to be, --size GIB, or of what, --snapshot SNAPSHOT")
			}
			in := &ec2.CreateVolumeRequest{VolumeType: &kind}
			if encrypted {
				in.Encrypted = &encrypted
			}
			for _, x := range []struct {
				from int64
				to   **int64
			}{{size, &in.Size}, {iops, &in.Iops}, {throughput, &in.Throughput}} {
				if x.from != 0 {
					*x.to = &x.from
				}
			}
			if snapshot != "" {
				s, err := a.findSnapshot(cmd.Context(), snapshot)
				if err != nil {
					return err
				}
				in.SnapshotId = &s.ID
			}
			if in.AvailabilityZone = &zone; zone == "" {
				zones, err := a.ec2.DescribeAvailabilityZones(cmd.Context(), &ec2.DescribeAvailabilityZonesRequest{})
				if err != nil {
					return err
				}
				if len(zones.AvailabilityZones) == 0 {
					return errors.New("the cloud has no zone")
				}
				in.AvailabilityZone = zones.AvailabilityZones[0].ZoneName
			}
			var tags []ec2.Tag
			for key, value := range map[string]string{"Name": name, mountTag: mount} {
				if value != "" {
					tags = append(tags, ec2.Tag{Key: &key, Value: &value})
				}
			}
			if len(tags) > 0 {
				in.TagSpecifications = []ec2.TagSpecification{{ResourceType: new("volume"), Tags: tags}}
			}
			made, err := a.ec2.CreateVolume(cmd.Context(), in)
			if err != nil {
				return err
			}
			v, err := a.volumeIs(cmd, deref(made.VolumeId), "the server", func(v volumeView) bool { return v.State == "available" })
			if err != nil {
				return err
			}
			return g.printVolumes(cmd, []volumeView{v})
		},
	}
	f := cmd.Flags()
	f.Int64Var(&size, "size", 0, "`GIB` that it has")
	f.StringVar(&kind, "type", "gp3", "`TYPE`: gp3, gp2, io1, io2, st1, sc1 or standard")
	f.Int64Var(&iops, "iops", 0, "`NUMBER` of operations a second (gp3, io1, io2)")
	f.Int64Var(&throughput, "throughput", 0, "`MIBS` a second (gp3)")
	f.BoolVar(&encrypted, "encrypted", false, "encrypt it")
	f.StringVar(&name, "name", "", "`NAME`, kept as the tag Name")
	f.StringVar(&mount, "mount", "", "`PATH` where containers have it mounted, kept as the tag "+mountTag)
	f.StringVar(&snapshot, "snapshot", "", "`SNAPSHOT` whose content it begins with")
	f.StringVar(&zone, "zone", "", "`ZONE` (default the first)")
	_ = cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions([]string{"gp3", "gp2", "io1", "io2", "st1", "sc1", "standard"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("snapshot", g.completeSnapshots)
	return cmd
}

func volumeLsCommand(g *globals) *cobra.Command {
	return &cobra.Command{Use: "ls", Short: "List volumes", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions, RunE: func(cmd *cobra.Command, _ []string) error {
		a, err := g.connect()
		if err != nil {
			return err
		}
		list, err := a.volumes(cmd.Context())
		if err != nil {
			return err
		}
		return g.printVolumes(cmd, list)
	}}
}

// nextDevice is the first name after /dev/sde that no volume of an instance has: those before it are for what images bring.
func nextDevice(list []volumeView, instance string) string {
	taken := map[string]bool{}
	for _, v := range list {
		if v.Instance == instance {
			taken[v.Device] = true
		}
	}
	for letter := 'f'; letter <= 'z'; letter++ {
		if name := "/dev/sd" + string(letter); !taken[name] {
			return name
		}
	}
	return "/dev/sdf"
}

func volumeAttachCommand(g *globals) *cobra.Command {
	var device string
	cmd := &cobra.Command{
		Use:   "attach VOLUME INSTANCE",
		Short: "Attach a volume to an instance, also while it runs",
		Long: `Attach a volume to an instance, also while it runs. A container sees /dev/sdf as /dev/xvdf; a virtual machine as the next virtio disk, which is also
/dev/disk/by-id/virtio-vol… after the volume's id.`,
		Example: "  nacre volume attach data web\n  nacre volume attach data web --device /dev/sdg",
		Args:    cobra.ExactArgs(2), ValidArgsFunction: g.completeVolumes,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := g.connect()
			if err != nil {
				return err
			}
			v, err := a.findVolume(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			i, err := a.find(cmd.Context(), args[1])
			if err != nil {
				return err
			}
			if device == "" {
				list, err := a.volumes(cmd.Context())
				if err != nil {
					return err
				}
				device = nextDevice(list, i.ID)
			}
			if _, err := a.ec2.AttachVolume(cmd.Context(), &ec2.AttachVolumeRequest{VolumeId: &v.ID, InstanceId: &i.ID, Device: &device}); err != nil {
				return err
			}
			now, err := a.volumeIs(cmd, v.ID, "the server", func(v volumeView) bool { return v.Attach != "attaching" })
			if err == nil && now.Instance == "" {
				err = a.volumeTrouble(cmd.Context(), v.ID, "it was not attached")
			}
			if err != nil {
				return err
			}
			return g.printVolumes(cmd, []volumeView{now})
		},
	}
	cmd.Flags().StringVar(&device, "device", "", "`NAME` such as /dev/sdf (default the next free one)")
	return cmd
}

func volumeDetachCommand(g *globals) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "detach VOLUME",
		Short: "Take a volume from its instance, also while that runs",
		Long: `Take a volume from its instance, also while that runs. Unmount it inside first: a file system that is in use, or a virtual machine that doesn't let go, keeps the
volume busy until it does. --force takes it all the same; what was not written yet is lost.`,
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
			if _, err := a.ec2.DetachVolume(cmd.Context(), &ec2.DetachVolumeRequest{VolumeId: &v.ID, Force: &force}); err != nil {
				return err
			}
			now, err := a.volumeIs(cmd, v.ID, "the server", func(v volumeView) bool { return v.Instance == "" || v.Attach == "busy" })
			if err == nil && now.Attach == "busy" {
				err = a.volumeTrouble(cmd.Context(), v.ID, "it is in use")
			}
			if err != nil {
				return err
			}
			return g.printVolumes(cmd, []volumeView{now})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "don't wait for the instance to let go")
	return cmd
}

func volumeGrowCommand(g *globals) *cobra.Command {
	var size int64
	cmd := &cobra.Command{
		Use: "grow VOLUME", Short: "Make a volume larger, also while it is in use", Example: "  nacre volume grow data --size 20",
		Long: "Make a volume larger, also while it is in use. The device is larger at once; a file system that nacre mounts fills it when it is attached again or the instance starts.",
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
			if _, err := a.ec2.ModifyVolume(cmd.Context(), &ec2.ModifyVolumeRequest{VolumeId: &v.ID, Size: &size}); err != nil {
				return err
			}
			for pause := 5 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
				out, err := a.ec2.DescribeVolumesModifications(cmd.Context(), &ec2.DescribeVolumesModificationsRequest{VolumeIds: []string{v.ID}})
				if err != nil {
					return err
				}
				state := ""
				for _, m := range out.VolumesModifications {
					if state = deref(m.ModificationState); state == "failed" {
						return fmt.Errorf("%s stays as it was: %s", v.ID, deref(m.StatusMessage))
					}
				}
				if state == "completed" {
					break
				}
				select {
				case <-time.After(pause):
				case <-cmd.Context().Done():
					return cmd.Context().Err()
				}
			}
			list, err := a.volumes(cmd.Context(), v.ID)
			if err != nil {
				return err
			}
			return g.printVolumes(cmd, list)
		},
	}
	cmd.Flags().Int64Var(&size, "size", 0, "`GIB` that it is to have")
	_ = cmd.MarkFlagRequired("size")
	return cmd
}

func volumeRmCommand(g *globals) *cobra.Command {
	return g.deleteCommand("rm VOLUME…", "Delete volumes; their snapshots stay", g.completeVolumes, func(ctx context.Context, a *api, word string) (string, error) {
		v, err := a.findVolume(ctx, word)
		if err == nil {
			_, err = a.ec2.DeleteVolume(ctx, &ec2.DeleteVolumeRequest{VolumeId: &v.ID})
		}
		return v.ID, err
	})
}

// deleteCommand is a command that deletes things one after the other, each found by the word for it, and says which it has.
func (g *globals) deleteCommand(use, short string, complete cobra.CompletionFunc, deleted func(ctx context.Context, a *api, word string) (string, error)) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.MinimumNArgs(1), ValidArgsFunction: complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := g.connect()
			if err != nil {
				return err
			}
			for _, word := range args {
				id, err := deleted(cmd.Context(), a, word)
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), id)
			}
			return nil
		}}
}
