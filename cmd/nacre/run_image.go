package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// vmSuffix is what the names of virtual machines' images have after those of the containers' of the same layers.
const vmSuffix = "-vm"

// defaultTypes are launched when no type is named, by the image's architecture.
var defaultTypes = map[string]string{"x86_64": "t3.micro", "arm64": "t4g.micro"}

// launchImage finds the image to launch. For a virtual machine it is the one that is meant, the one of that name with "-vm", or
// one that is made here of the first one's layers.
func (a *api) launchImage(cmd *cobra.Command, word string, vm bool) (imageView, error) {
	img, err := a.findImage(cmd.Context(), word)
	if err != nil && vm {
		if img, there := a.machineNamed(cmd, word+vmSuffix); there {
			return img, nil
		}
	}
	if err != nil || !vm || img.Kind != "container" {
		return img, err
	}
	if made, there := a.machineNamed(cmd, img.Name+vmSuffix); there {
		return made, nil
	}
	return a.registerVM(cmd, img)
}

// machineNamed finds virtual machines' image by its whole name.
func (a *api) machineNamed(cmd *cobra.Command, name string) (imageView, bool) {
	img, err := a.findImage(cmd.Context(), name)
	return img, err == nil && img.Name == name && img.Kind == "vm"
}

// registerVM makes virtual machines' image of a containers' one and the newest kernel.
func (a *api) registerVM(cmd *cobra.Command, img imageView) (imageView, error) {
	list, err := a.images(cmd.Context())
	if err != nil {
		return imageView{}, err
	}
	var kernel imageView
	for _, k := range list {
		if k.Kind == ec2.ImageTypeValuesKernel && k.Architecture == img.Architecture && k.Created > kernel.Created {
			kernel = k
		}
	}
	if kernel.ID == "" {
		return imageView{}, fmt.Errorf("there is no image %s%s, and no kernel for %s to make it with; `nacre image bake linux-%s` brings one", img.Name, vmSuffix, img.Architecture, cloud.DebianArchitecture(img.Architecture))
	}
	name := img.Name + vmSuffix
	out, err := a.ec2.RegisterImage(cmd.Context(), &ec2.RegisterImageRequest{Name: &name, ImageLocation: &img.ID, KernelId: &kernel.ID})
	if awsapi.CodeOf(err) == "InvalidAMIName.Duplicate" {
		if made, there := a.machineNamed(cmd, name); there { // meanwhile
			return made, nil
		}
	}
	if err != nil {
		return imageView{}, fmt.Errorf("make the image %s: %w", name, err)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "made the image %s (%s) of %s and the kernel %s\n", name, deref(out.ImageId), img.Name, kernel.Name)
	return imageView{ID: deref(out.ImageId), Name: name, Kind: "vm", Architecture: img.Architecture}, nil
}

// completeMachineImages completes names of images that can be launched.
func (g *globals) completeMachineImages(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
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
		if i.Kind == "container" || i.Kind == "vm" {
			words = append(words, i.Name+"\t"+i.Kind+" "+i.ID)
		}
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

// completeTypes completes the values of a command's flag --type.
func (g *globals) completeTypes(cmd *cobra.Command) {
	err := cmd.RegisterFlagCompletionFunc("type", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		a, err := g.connect()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		out, err := a.ec2.DescribeInstanceTypes(cmd.Context(), &ec2.DescribeInstanceTypesRequest{})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var words []string
		for _, t := range out.InstanceTypes {
			words = append(words, fmt.Sprintf("%s\t%d vCPUs, %d MiB, %s", deref(t.InstanceType), deref(t.VCpuInfo.DefaultVCpus), deref(t.MemoryInfo.SizeInMiB), t.ProcessorInfo.SupportedArchitectures[0]))
		}
		return words, cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil { // only for a flag that there isn't
		panic(err)
	}
}
