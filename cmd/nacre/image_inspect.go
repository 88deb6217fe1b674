package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nacre-cloud/nacre/internal/awsapi/nacre"
)

func imageInspectCommand(g *globals) *cobra.Command {
	var layers bool
	cmd := &cobra.Command{
		Use: "inspect IMAGE", Short: "Show the layers of an image: what each adds, and who shares it",
		Long: `Show the layers of an image, the topmost first: its size on the server, how many files it adds and hides, and which images and instances
stand on it. With --layers the largest files of each are named too. What an instance has written over its image's layers is shown by "nacre inspect".`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: g.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := g.connect()
			if err != nil {
				return err
			}
			img, err := a.findImage(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			out, err := a.own.InspectImage(cmd.Context(), &nacre.InspectImageRequest{ImageId: &img.ID})
			if err != nil {
				return err
			}
			if g.json() {
				return printJSON(cmd, out)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s  %s  %s\n", img.ID, img.Name, deref(out.Digest))
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "CONTENT\tSIZE\tFILES\tDIRECTORIES\tOTHERS\tDELETED\tIMAGES\tINSTANCES")
			for n := len(out.Layers) - 1; n >= 0; n-- {
				l := out.Layers[n]
				digest := strings.TrimPrefix(deref(l.Digest), "sha256:")
				fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%s\t%s\n", digest[:min(12, len(digest))], size(deref(l.Size)), deref(l.Files), deref(l.Directories), deref(l.Others), deref(l.Deleted),
					dash(strings.Join(l.Images, " ")), dash(strings.Join(l.Instances, " ")))
				if layers {
					for _, f := range l.Largest {
						fmt.Fprintf(w, "\t%s\t\t\t\t\t%s\t\n", size(deref(f.Size)), deref(f.Path))
					}
				}
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&layers, "layers", false, "name the largest files of each layer")
	return cmd
}

func imageDuCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "du", Short: "Show where the bytes of images are, and of what is made of them",
		Long: `Show where the server's bytes of images are, and of what is made of them. No byte counts twice: the parts add up to the total. Of each
image it is shown what no other image needs, and what it shares with others. It is the operator's account's alone.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := g.connect()
			if err != nil {
				return err
			}
			out, err := a.own.DescribeImageUse(cmd.Context(), &nacre.DescribeImageUseRequest{})
			if err != nil {
				return err
			}
			if g.json() {
				return printJSON(cmd, out)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			for _, part := range []struct {
				name  string
				bytes *int64
				what  string
			}{
				{"content", out.Content, "manifests, layers as they came, whole disks, kernels"}, {"layers", out.Layers, "unpacked"}, {"written", out.Written, "by containers, over these"},
				{"disks", out.Disks, "made of layers, for virtual machines"}, {"frozen", out.Frozen, "disks of templates"}, {"volumes", out.Volumes, "with snapshots, roots among them"},
				{"total", out.Total, ""},
			} {
				fmt.Fprintf(w, "%s\t%s\t%s\n", part.name, size(deref(part.bytes)), part.what)
			}
			fmt.Fprintln(w, "\nIMAGE\tOWN\tSHARED")
			for _, img := range out.Images {
				fmt.Fprintf(w, "%s\t%s\t%s\n", deref(img.Image), size(deref(img.Own)), size(deref(img.Shared)))
			}
			return w.Flush()
		},
	}
}
