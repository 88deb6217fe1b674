package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// imageView is an image as the command line shows it.
type imageView struct {
	ID           string `json:"id"`
	Name         string `json:"name"`
	Kind         string `json:"kind"` // container or vm, as its instances are; kernel or ramdisk
	Architecture string `json:"architecture"`
	Source       string `json:"source"`
	Created      string `json:"created"`
}

func imageCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Make, bring in, list and remove images"}
	cmd.AddCommand(imageBakeCommand(g), imageBuildCommand(g), imageImportCommand(g), imagePullCommand(g), imageCreateCommand(g), imageExportCommand(g), imageInspectCommand(g), imageDuCommand(g), imageLsCommand(g), imageRmCommand(g))
	return cmd
}

func (a *api) images(ctx context.Context) ([]imageView, error) {
	out, err := a.ec2.DescribeImages(ctx, &ec2.DescribeImagesRequest{})
	if err != nil {
		return nil, err
	}
	var list []imageView
	for _, i := range out.Images {
		list = append(list, imageView{ID: deref(i.ImageId), Name: deref(i.Name), Kind: kindOf(i), Architecture: deref(i.Architecture),
			Source: deref(i.ImageLocation), Created: deref(i.CreationDate)})
	}
	sort.SliceStable(list, func(x, y int) bool { return list[x].Name < list[y].Name })
	return list, nil
}

// kindOf is what an image is for.
func kindOf(i ec2.Image) string {
	if t := deref(i.ImageType); t != "" && t != ec2.ImageTypeValuesMachine {
		return t
	}
	return isolationOf(i.Tags)
}

// findImage returns the image that a name, an id or the unique beginning of an id means.
func (a *api) findImage(ctx context.Context, word string) (imageView, error) {
	list, err := a.images(ctx)
	if err != nil {
		return imageView{}, err
	}
	var found []imageView
	for _, i := range list {
		if i.ID == word || i.Name == word {
			return i, nil
		}
		if len(word) > 4 && strings.HasPrefix(i.ID, word) || strings.HasPrefix(i.ID[strings.IndexByte(i.ID, '-')+1:], word) {
			found = append(found, i)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return imageView{}, fmt.Errorf("no image is called %q; `nacre image ls` shows all, `nacre image bake %s` makes one", word, bakeHint(word))
	}
	return imageView{}, fmt.Errorf("%q could be %d images; give more of the id", word, len(found))
}

// bakes are the recipes of images.
var bakes = []string{"debian-12", "debian-12-server", "debian-12-cloud", "busybox", "linux"}

func bakeHint(word string) string {
	if base := strings.TrimSuffix(strings.TrimSuffix(word, "-arm64"), "-amd64"); slices.Contains(bakes, base) {
		return word
	}
	return "debian-12"
}

func imageBakeCommand(g *globals) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "bake RECIPE",
		Short: "Make an image from packages of this machine's own sources",
		Long: `Make an image from packages of this machine's own sources. Recipes:

  debian-12         Debian 12 with apt, sudo and the user "admin"; about a minute. It makes debian-12, for containers,
                    debian-12-vm, for virtual machines of the same layers, and the kernel and RAM disk of these
  debian-12-server  the same with systemd, which virtual machines boot, and an SSH server of its own
  debian-12-cloud   a whole disk of it with its own kernel, boot loader (BIOS and UEFI) and cloud-init, which virtual
                    machines start as they would on EC2; some minutes
  linux             the kernel of virtual machines and its RAM disk alone; some seconds
  busybox           a tiny system of one program; a second

With -arm64 or -amd64 behind it, a recipe bakes for that architecture. Where that is not the server's own, the image is one of
virtual machines, and Debian's programs run under emulation meanwhile, which takes many minutes.`,
		Args: cobra.ExactArgs(1), ValidArgs: bakes,
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.importImage(cmd, importOf("bake:"+args[0], firstOf(name, args[0])))
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "`NAME` of the image (default the recipe's)")
	return cmd
}

func imagePullCommand(g *globals) *cobra.Command {
	var name, arch string
	cmd := &cobra.Command{
		Use: "pull REFERENCE", Short: "Bring in an image from a registry", Example: "  nacre image pull docker.io/library/nginx:1.27 --name nginx",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := importOf("docker://"+args[0], firstOf(name, shortName(args[0])))
			req.Architecture = given(firstOf(architectures[arch], arch))
			return g.importImage(cmd, req)
		},
	}
	archFlag(cmd, &arch)
	cmd.Flags().StringVar(&name, "name", "", "`NAME` of the image (default the last part of the reference)")
	return cmd
}

// archFlag has a command take an architecture.
func archFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "arch", "", "`ARCHITECTURE` of the variant to take, x86_64 or arm64 (default the server's); another than the server's is for virtual machines")
}

// architectures are the words that people have for what EC2 calls otherwise.
var architectures = map[string]string{"amd64": "x86_64", "aarch64": "arm64"}

// shortName is the last part of a reference without tag and digest: "nginx" of "docker.io/library/nginx:1.27".
func shortName(ref string) string {
	ref, _, _ = strings.Cut(ref, "@")
	ref = ref[strings.LastIndex(ref, "/")+1:]
	name, _, _ := strings.Cut(ref, ":")
	return name
}

func imageImportCommand(g *globals) *cobra.Command {
	var name, format, arch, bootMode, devices string
	cmd := &cobra.Command{
		Use: "import FILE", Short: "Bring in an OCI or docker archive, or a whole disk",
		Long: `Bring in an OCI or docker archive, as it is or compressed with gzip or zstd, or a whole disk: qcow2, raw with a partition table,
vmdk of one file, or vdi. The file's first bytes tell which it is.

Archives become images of containers; whole disks become images of virtual machines, which start by the disk's own boot loader and
ask the metadata service who they are, as cloud-init does. A disk with code in its first sector starts by BIOS, else one with an EFI
system partition by UEFI.`,
		Example: `  skopeo copy docker://alpine oci-archive:alpine.tar
  nacre image import alpine.tar
  nacre image import debian-12-generic-amd64.qcow2 --name debian
  nacre image import old.vmdk --boot-mode legacy-bios --devices emulated`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := g.connect()
			if err != nil {
				return err
			}
			source, err := a.upload(cmd, args[0])
			if err != nil {
				return err
			}
			base, _, _ := strings.Cut(filepath.Base(args[0]), ".")
			req := importOf(source, firstOf(name, base))
			req.DiskContainers[0].Format, req.Architecture, req.BootMode = given(format), given(firstOf(architectures[arch], arch)), given(bootMode)
			if devices != "" && devices != "virtio" {
				tags := &req.TagSpecifications[0].Tags
				*tags = append(*tags, ec2.Tag{Key: new(cloud.TagDevices), Value: &devices})
			}
			return g.importImage(cmd, req)
		},
	}
	f := cmd.Flags()
	f.StringVar(&name, "name", "", "`NAME` of the image (default the file's, up to its first dot)")
	f.StringVar(&format, "format", "", "refuse the file unless it is a whole disk of this `FORMAT`: qcow2, raw, vmdk, vdi")
	archFlag(cmd, &arch)
	f.StringVar(&bootMode, "boot-mode", "", "start the disk with `FIRMWARE`: legacy-bios, uefi (default what it can be started with)")
	f.StringVar(&devices, "devices", "", "`KIND` of devices that machines of the disk see: virtio, emulated (default virtio)")
	return cmd
}

// given is a flag's value, nil when there is none.
func given(flag string) *string {
	if flag == "" {
		return nil
	}
	return &flag
}

// upload sends a file to the endpoint under its digest and returns the import source that means it.
func (a *api) upload(cmd *cobra.Command, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a file", path)
	}
	show := newProgress(cmd.ErrOrStderr())
	defer show.end()
	sum := sha256.New()
	if _, err := io.Copy(sum, &count{r: f, tell: func(n int64) { show.set(n, info.Size(), "reading "+path) }}); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	digest := hex.EncodeToString(sum.Sum(nil))
	body := &count{r: f, tell: func(n int64) { show.set(n, info.Size(), "sending "+path) }}
	if err := a.raw.Put(cmd.Context(), uploadPath+"sha256:"+digest, uploadService, body, info.Size(), digest); err != nil {
		return "", err
	}
	return "upload:sha256:" + digest, nil
}

// importOf is the request that brings in an image from a source.
func importOf(source, name string) *ec2.ImportImageRequest {
	return &ec2.ImportImageRequest{
		DiskContainers:    []ec2.ImageDiskContainer{{Url: &source}},
		TagSpecifications: []ec2.TagSpecification{{ResourceType: new("import-image-task"), Tags: []ec2.Tag{{Key: new("Name"), Value: &name}}}},
	}
}

// importImage starts an import, follows it to its end, and prints the image.
func (g *globals) importImage(cmd *cobra.Command, req *ec2.ImportImageRequest) error {
	source, name := *req.DiskContainers[0].Url, *req.TagSpecifications[0].Tags[0].Value
	a, err := g.connect()
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	started, err := a.ec2.ImportImage(ctx, req)
	if err != nil {
		return err
	}
	show := newProgress(cmd.ErrOrStderr())
	defer show.end()
	for {
		out, err := a.ec2.DescribeImportImageTasks(ctx, &ec2.DescribeImportImageTasksRequest{ImportTaskIds: []string{deref(started.ImportTaskId)}})
		if err != nil {
			return a.giveUp(ctx, started.ImportTaskId, err)
		}
		if len(out.ImportImageTasks) != 1 {
			return fmt.Errorf("the import %s is not known any more", deref(started.ImportTaskId))
		}
		task := out.ImportImageTasks[0]
		switch deref(task.Status) {
		case "completed":
			show.end()
			if g.json() {
				return printJSON(cmd, map[string]string{"id": deref(task.ImageId), "name": name})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", deref(task.ImageId), name)
			return nil
		case "deleted":
			return fmt.Errorf("the import of %s failed: %s", source, deref(task.StatusMessage))
		}
		percent, _ := strconv.ParseInt(deref(task.Progress), 10, 64)
		show.set(percent, 100, firstOf(deref(task.StatusMessage), "importing "+name))
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return a.giveUp(ctx, started.ImportTaskId, ctx.Err())
		}
	}
}

// giveUp cancels an import that nobody waits for any more.
func (a *api) giveUp(ctx context.Context, task *string, why error) error {
	if !errors.Is(why, context.Canceled) {
		return why
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if _, err := a.ec2.CancelImportTask(ctx, &ec2.CancelImportTaskRequest{ImportTaskId: task}); err != nil {
		return fmt.Errorf("interrupted, and the import %s goes on: %w", deref(task), err)
	}
	return errors.New("interrupted; the import is cancelled")
}

func imageLsCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List images", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := g.connect()
			if err != nil {
				return err
			}
			list, err := a.images(cmd.Context())
			if err != nil {
				return err
			}
			if g.json() {
				if list == nil {
					list = []imageView{}
				}
				return printJSON(cmd, list)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tNAME\tKIND\tARCHITECTURE\tSOURCE\tCREATED")
			for _, i := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", i.ID, i.Name, i.Kind, i.Architecture, i.Source, i.Created)
			}
			return w.Flush()
		},
	}
}

func imageRmCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "rm IMAGE...", Short: "Remove images; instances that run from them go on", Args: cobra.MinimumNArgs(1), ValidArgsFunction: g.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := g.connect()
			if err != nil {
				return err
			}
			for _, word := range args {
				i, err := a.findImage(cmd.Context(), word)
				if err != nil {
					return err
				}
				if _, err := a.ec2.DeregisterImage(cmd.Context(), &ec2.DeregisterImageRequest{ImageId: &i.ID}); err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), i.ID)
			}
			return nil
		},
	}
}

// completeImages completes names of images.
func (g *globals) completeImages(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	a, err := g.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	list, err := a.images(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var words []string
	for _, i := range list {
		words = append(words, i.Name+"\t"+i.Kind+" "+i.ID)
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}
