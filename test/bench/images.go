package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// toolImage imports an image of busybox and the tools, with the libraries that they need on this host, once.
func (c *testCloud) toolImage() error {
	if c.tools {
		return nil
	}
	kernels, err := c.ec2.DescribeImages(context.Background(), &ec2.DescribeImagesInput{Filters: []types.Filter{{Name: aws.String("image-type"), Values: []string{"kernel"}}}})
	if err == nil && len(kernels.Images) == 0 {
		_, err = c.nacre("image", "bake", "linux")
	}
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "nacre-bench-tools-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	root, err := busyboxRoot(work)
	if err != nil {
		return err
	}
	for name, text := range map[string]string{"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\n"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, tool := range ioTools {
		if err := copyProgram(root, tool); err != nil {
			return err
		}
	}
	if err := c.layered(work, "tools", root); err != nil {
		return err
	}
	c.tools = true
	return nil
}

// layered imports an image of the trees, the lowest first.
func (c *testCloud) layered(work, name string, trees ...string) error {
	var files, sums []string
	for n, tree := range trees {
		layer := fmt.Sprintf("layer%d.tar", n)
		if out, err := exec.Command("tar", "-C", tree, "--owner=0", "--group=0", "-cf", filepath.Join(work, layer), ".").CombinedOutput(); err != nil {
			return fmt.Errorf("tar: %w\n%s", err, out)
		}
		sum, err := exec.Command("sha256sum", filepath.Join(work, layer)).Output()
		if err != nil {
			return err
		}
		files, sums = append(files, layer), append(sums, "sha256:"+strings.Fields(string(sum))[0])
	}
	config, err := json.Marshal(map[string]any{"architecture": runtime.GOARCH, "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": sums},
		"config": map[string]any{"Env": []string{"PATH=/usr/bin:/bin"}, "Labels": map[string]string{"cloud.nacre.system": "true"}}})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{name + ":latest"}, "Layers": files}})
	if err != nil {
		return err
	}
	for name, text := range map[string][]byte{"config.json": config, "manifest.json": manifest} {
		if err := os.WriteFile(filepath.Join(work, name), text, 0o644); err != nil {
			return err
		}
	}
	archive := filepath.Join(work, name+".tar")
	if out, err := exec.Command("tar", append([]string{"-C", work, "-cf", archive, "manifest.json", "config.json"}, files...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("tar: %w\n%s", err, out)
	}
	_, err = c.nacre("image", "import", archive, "--name", name)
	return err
}

// manyLayers measures launches from an image of 2 GB in 20 layers beside those from one of a single small layer.
func manyLayers(c *testCloud) (rows []row, err error) {
	if err := c.bake(); err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp("", "nacre-bench-layers-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	root, err := busyboxRoot(work)
	if err != nil {
		return nil, err
	}
	trees := []string{root}
	for n := 1; n < 20; n++ {
		tree := filepath.Join(work, fmt.Sprint(n))
		if err := os.MkdirAll(filepath.Join(tree, "srv"), 0o755); err != nil {
			return nil, err
		}
		f, err := os.Create(filepath.Join(tree, "srv", fmt.Sprint(n)))
		if err != nil {
			return nil, err
		}
		if _, err := io.CopyN(f, rand.Reader, 105<<20); err != nil {
			return nil, err
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
		trees = append(trees, tree)
	}
	if err := c.layered(work, "layered", trees...); err != nil {
		return nil, err
	}
	os.RemoveAll(work) // before the measure: what is deleted later is written back meanwhile
	found, err := c.ec2.DescribeImages(context.Background(), &ec2.DescribeImagesInput{Filters: []types.Filter{{Name: aws.String("name"), Values: []string{"layered"}}}})
	if err != nil {
		return nil, err
	}
	small, large := c.image, *found.Images[0].ImageId
	defer func() { c.image = small }()
	took := map[string][]time.Duration{}
	for n := range launchRuns + 2 {
		for _, c.image = range []string{small, large} {
			ids, t, err := c.launch(1)
			if err == nil {
				err = c.terminate(ids)
			}
			if err != nil {
				return nil, err
			}
			if n >= 2 {
				took[c.image] = append(took[c.image], t)
			}
		}
	}
	return []row{row{Name: "RunInstances to running, image of 2 GB in 20 layers", Unit: "ms", Ours: median(took[large]), Runs: launchRuns}.
		beside("image of one small layer", median(took[small]), 1.2)}, nil
}

var libraries = regexp.MustCompile(`(/\S+) \(0x`)

// copyProgram copies a program of this host and its libraries into a root.
func copyProgram(root, name string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("%w; `make deps-bench` installs it", err)
	}
	out, err := exec.Command("ldd", path).Output()
	if err != nil {
		return fmt.Errorf("ldd %s: %w", path, err)
	}
	files := []string{path}
	for _, m := range libraries.FindAllSubmatch(out, -1) {
		files = append(files, string(m[1]))
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		to := filepath.Join(root, f)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, b, 0o755); err != nil {
			return err
		}
	}
	return nil
}
