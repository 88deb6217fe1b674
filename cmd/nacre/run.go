package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	// commandTag carries the command that replaces the image's, a JSON list of strings.
	commandTag = "nacre:command"
	// isolationTag is on the images and instances of virtual machines.
	isolationTag = "aws:nacre:isolation"
	// defaultKey is the key pair that `nacre run` makes and uses when no other is named.
	defaultKey = "nacre"
	// sshGroup is the security group that `nacre run` makes and uses when no other is named.
	sshGroup = "nacre-ssh"
)

type runOptions struct {
	size, name, key, userData string
	groups, volumes, mounts   []string
	count, disk               int64
	wait, vm, encrypted       bool
}

func runCommand(g *globals) *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run IMAGE [-- COMMAND...]",
		Short: "Launch an instance",
		Long: `Launch an instance from an image, named by its name or id, and wait until it runs.

Without --key the key pair "nacre" is used, which is made the first time; "nacre ssh" then finds its private half.
Without --group the security group "nacre-ssh" is used, which lets in SSH. A COMMAND replaces the image's own.

With --volume a new volume comes and goes with the instance: of SIZE GiB, seen as DEVICE, and in containers mounted at PATH ("nacre volume --help" tells more).

With --mount a container has a directory of its server at PATH, which several may write at once: "nacre up --allow-host-path" says which there are. Its root is the
owner of the allowed directory there; other users have no id.

With --encrypted nothing of its volumes is on a disk as it is: of those that --volume asks for, and of the root of a virtual machine.

With --vm the instance is a virtual machine: of the image IMAGE-vm, which is made of the layers of IMAGE and the newest kernel
when it isn't there.`,
		Example: "  nacre run debian-12 --name web\n  nacre run debian-12 --type t3.large --count 3\n  nacre run debian-12 --vm\n  nacre run debian-12 --volume 20:/var/lib/data\n  nacre run nginx -- nginx -g 'daemon off;'",
		Args: func(cmd *cobra.Command, args []string) error {
			if n := cmd.ArgsLenAtDash(); len(args) == 0 || n == 0 || n < 0 && len(args) > 1 || n > 1 {
				return errors.New("name one IMAGE, and a command only after --; `nacre image ls` shows the images")
			}
			return nil
		},
		ValidArgsFunction: g.completeMachineImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := g.connect()
			if err != nil {
				return err
			}
			list, err := a.launch(cmd, o, args[0], args[1:])
			if err != nil {
				return err
			}
			return g.printInstances(cmd, list, nil)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.size, "type", "", "`TYPE` of the instance (default \""+defaultTypes["x86_64"]+"\", \""+defaultTypes["arm64"]+"\" for arm64)")
	f.BoolVar(&o.vm, "vm", false, "as a virtual machine, with a kernel of its own")
	f.StringVar(&o.name, "name", "", "`NAME`, kept as the tag Name")
	f.StringVar(&o.key, "key", "", "`KEY` pair that may log in (default \""+defaultKey+"\")")
	f.StringSliceVar(&o.groups, "group", nil, "security `GROUPS` by name or id (default \""+sshGroup+"\")")
	f.StringVar(&o.userData, "user-data", "", "`FILE` that the instance runs on its first boot")
	f.Int64Var(&o.disk, "disk", 0, "`GIB` of its root (default 8, or as its image needs)")
	f.StringSliceVar(&o.volumes, "volume", nil, "new `VOLUME` of it, as SIZE[:DEVICE][:PATH]; may be given several times")
	f.StringSliceVar(&o.mounts, "mount", nil, "`DIRECTORY` of the server that it is shown, as HOST:PATH[:ro], if the server's operator allows it; may be given several times")
	f.BoolVar(&o.encrypted, "encrypted", false, "encrypt its volumes, and its root if it is a virtual machine")
	f.Int64Var(&o.count, "count", 1, "how many to launch")
	f.BoolVar(&o.wait, "wait", true, "wait until it runs")
	g.completeTypes(cmd)
	return cmd
}

func (a *api) launch(cmd *cobra.Command, o runOptions, image string, command []string) ([]instanceView, error) {
	ctx := cmd.Context()
	img, err := a.launchImage(cmd, image, o.vm)
	if err != nil {
		return nil, err
	}
	o.size = firstOf(o.size, defaultTypes[img.Architecture], defaultTypes["x86_64"])
	in := &ec2.RunInstancesRequest{ImageId: &img.ID, InstanceType: &o.size, MinCount: &o.count, MaxCount: &o.count, ClientToken: new(rand.Text())}
	if img.Kind == "vm" { // so that it can be stopped with --hibernate
		in.HibernationOptions = &ec2.HibernationOptionsRequest{Configured: new(true)}
	}
	var tags []ec2.Tag
	if o.name != "" {
		tags = append(tags, ec2.Tag{Key: new("Name"), Value: &o.name})
	}
	if len(command) > 0 {
		b, err := json.Marshal(command)
		if err != nil {
			return nil, fmt.Errorf("encode the command: %w", err)
		}
		tags = append(tags, ec2.Tag{Key: new(commandTag), Value: new(string(b))})
	}
	if len(o.mounts) > 0 {
		tags = append(tags, ec2.Tag{Key: new(cloud.TagHostMounts), Value: new(strings.Join(o.mounts, ","))})
	}
	if len(tags) > 0 {
		in.TagSpecifications = []ec2.TagSpecification{{ResourceType: new("instance"), Tags: tags}}
	}
	if o.disk != 0 {
		in.BlockDeviceMappings = []ec2.BlockDeviceMapping{{DeviceName: new(cloud.RootDevice), Ebs: &ec2.EbsBlockDevice{VolumeSize: &o.disk}}}
	}
	mappings, mount, err := launchVolumes(o.volumes)
	if err != nil {
		return nil, err
	}
	in.BlockDeviceMappings = append(in.BlockDeviceMappings, mappings...)
	if o.encrypted {
		if in.BlockDeviceMappings, err = encryptAll(in.BlockDeviceMappings, img.Kind == "vm"); err != nil {
			return nil, err
		}
	}
	if mount != "" {
		in.TagSpecifications = append(in.TagSpecifications, ec2.TagSpecification{ResourceType: new("volume"), Tags: []ec2.Tag{{Key: new(mountTag), Value: &mount}}})
	}
	if o.userData != "" {
		b, err := os.ReadFile(o.userData)
		if err != nil {
			return nil, fmt.Errorf("read the user data: %w", err)
		}
		in.UserData = new(base64Text(b))
	}
	if in.KeyName = &o.key; o.key == "" {
		if err := a.ensureKey(cmd); err != nil {
			return nil, err
		}
		in.KeyName = new(defaultKey)
	}
	if in.SecurityGroupIds, err = a.groupIDs(cmd, o.groups); err != nil {
		return nil, err
	}
	out, err := a.ec2.RunInstances(ctx, in)
	if err != nil {
		return nil, err
	}
	var ids []string
	var list []instanceView
	for _, i := range out.Instances {
		ids = append(ids, deref(i.InstanceId))
		list = append(list, viewOf(i))
	}
	if !o.wait {
		return list, nil
	}
	return a.waitFor(cmd, ids, "running")
}

// ensureKey makes the default key pair: its private half stays in a file here.
func (a *api) ensureKey(cmd *cobra.Command) error {
	path := filepath.Join(a.keys, defaultKey+".pem")
	text, err := os.ReadFile(path)
	var public ssh.PublicKey
	switch {
	case errors.Is(err, fs.ErrNotExist):
		pub, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return fmt.Errorf("make the key pair %q: %w", defaultKey, err)
		}
		block, err := ssh.MarshalPrivateKey(private, "nacre")
		if err != nil {
			return fmt.Errorf("make the key pair %q: %w", defaultKey, err)
		}
		if err := os.MkdirAll(a.keys, 0o700); err != nil {
			return fmt.Errorf("make the directory for keys: %w", err)
		}
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			return fmt.Errorf("write the private key: %w", err)
		}
		if public, err = ssh.NewPublicKey(pub); err != nil {
			return fmt.Errorf("make the key pair %q: %w", defaultKey, err)
		}
	case err != nil:
		return fmt.Errorf("read the private key: %w", err)
	default:
		signer, err := ssh.ParsePrivateKey(text)
		if err != nil {
			return fmt.Errorf("read the private key %s: %w", path, err)
		}
		public = signer.PublicKey()
	}
	material := ssh.MarshalAuthorizedKey(public)
	_, err = a.ec2.ImportKeyPair(cmd.Context(), &ec2.ImportKeyPairRequest{KeyName: new(defaultKey), PublicKeyMaterial: material})
	if err == nil || awsapi.CodeOf(err) == "InvalidKeyPair.Duplicate" {
		return nil
	}
	return fmt.Errorf("import the key pair %q: %w", defaultKey, err)
}

// groupIDs finds the security groups that were named, or the one for SSH, which it makes when it isn't there.
func (a *api) groupIDs(cmd *cobra.Command, names []string) ([]string, error) {
	ctx := cmd.Context()
	make := len(names) == 0
	if make {
		names = []string{sshGroup}
	}
	var ids []string
	for _, name := range names {
		filter := "group-name"
		if len(name) > 3 && name[:3] == "sg-" {
			filter = "group-id"
		}
		out, err := a.ec2.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsRequest{Filters: []ec2.Filter{{Name: &filter, Values: []string{name}}}})
		if err != nil {
			return nil, err
		}
		switch {
		case len(out.SecurityGroups) == 1:
			ids = append(ids, deref(out.SecurityGroups[0].GroupId))
		case len(out.SecurityGroups) > 1:
			return nil, fmt.Errorf("%d security groups are called %q; give the id", len(out.SecurityGroups), name)
		case !make:
			return nil, fmt.Errorf("no security group is called %q", name)
		default:
			made, err := a.ec2.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupRequest{GroupName: new(sshGroup), Description: new("lets in SSH; made by nacre run")})
			if err != nil {
				return nil, err
			}
			_, err = a.ec2.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressRequest{GroupId: made.GroupId, IpPermissions: []ec2.IpPermission{{
				IpProtocol: new("tcp"), FromPort: new(int64(22)), ToPort: new(int64(22)), IpRanges: []ec2.IpRange{{CidrIp: new("0.0.0.0/0")}}}}})
			if err != nil {
				return nil, err
			}
			ids = append(ids, deref(made.GroupId))
		}
	}
	return ids, nil
}
