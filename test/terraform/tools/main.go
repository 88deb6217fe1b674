// Command tools builds OpenTofu and Terraform's AWS provider from the Go module proxy, which has them as everything else that Go
// builds. Of the provider it leaves out all services but EC2's: with them a build takes an hour, without some minutes.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// program is a main package of a module that is built for itself.
type program struct {
	name, module, version, sum, pkg string
	change                          func(dir string) error
}

var programs = []program{
	{"tofu", "github.com/opentofu/opentofu", "v1.12.6", "h1:0VT4P8pMmGcCUnQ9JDrJ+Qg2d35Vzm4FFd/9+H7oF98=", "./cmd/tofu", nil},
	// A fork that differs in what it exports. The original has no versions that Go knows.
	{"terraform-provider-aws", "github.com/upbound/terraform-provider-aws", "v0.0.0-20260305123303-f7691456b787", "h1:dJlp2eNgY/iVKTPINdguYlHbHc9CtXBZKmQmqYq0REs=", ".", onlyEC2},
}

func main() {
	out := flag.String("out", "", "directory for the programs")
	flag.Parse()
	if *out == "" {
		flag.Usage()
		os.Exit(2)
	}
	for _, p := range programs {
		if err := p.build(*out); err != nil {
			fmt.Fprintf(os.Stderr, "build %s: %v\n", p.name, err)
			os.Exit(1)
		}
	}
}

func (p program) build(out string) error {
	target, err := filepath.Abs(filepath.Join(out, p.version, p.name))
	if err != nil {
		return err
	}
	if _, err := os.Stat(target); err == nil {
		return link(target, filepath.Join(out, p.name))
	}
	fmt.Printf("building %s %s, which takes some minutes\n", p.name, p.version)
	dir, err := p.source()
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "nacre-terraform-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := copyTree(work, dir); err != nil {
		return err
	}
	if p.change != nil {
		if err := p.change(work); err != nil {
			return err
		}
	}
	cmd := exec.Command("go", "build", "-mod=mod", "-ldflags=-s -w", "-o", target, p.pkg)
	cmd.Dir, cmd.Stderr = work, os.Stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if err := cmd.Run(); err != nil {
		return err
	}
	return link(target, filepath.Join(out, p.name))
}

func link(target, name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(target, name)
}

// source fetches the module and holds it against its sum, which is written down here because the checksum database knows
// no forks.
func (p program) source() (dir string, err error) {
	cmd := exec.Command("go", "mod", "download", "-json", p.module+"@"+p.version)
	cmd.Env = append(os.Environ(), "GONOSUMDB="+p.module, "GOFLAGS=")
	cmd.Dir = os.TempDir()
	var out bytes.Buffer
	cmd.Stdout = &out
	runErr := cmd.Run()
	var told struct{ Dir, Sum, Error string }
	if err := json.Unmarshal(out.Bytes(), &told); err != nil {
		return "", errors.Join(runErr, err)
	}
	if told.Error != "" || runErr != nil {
		return "", fmt.Errorf("fetch %s: %w: %s", p.module, runErr, told.Error)
	}
	if told.Sum != p.sum {
		return "", fmt.Errorf("%s %s has the sum %s, not %s", p.module, p.version, told.Sum, p.sum)
	}
	return told.Dir, nil
}

// copyTree copies a module for changing; what is in Go's cache is read-only.
func copyTree(to, from string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if rel == "website" || rel == "docs" {
				return filepath.SkipDir
			}
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		if !d.Type().IsRegular() || strings.HasSuffix(rel, "_test.go") {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o644)
	})
}

var (
	kept          = map[string]bool{"ec2": true, "sts": true, "meta": true}
	serviceImport = regexp.MustCompile(`internal/service/(\w+)"`)
	serviceEntry  = regexp.MustCompile(`^\s+(\w+)\.ServicePackage\(ctx\),`)
	clientCall    = regexp.MustCompile(`\.(\w+Client)\(`)
	clientFunc    = regexp.MustCompile(`(?s)func \(c \*AWSClient\) (\w+)\(ctx context\.Context\) \*(\w+)\.Client \{\n.*?\n\}\n`)
	sdkImport     = regexp.MustCompile(`\n\s*(?:(\w+) )?"github\.com/aws/aws-sdk-go-v2/service/(\w+)"`)
)

// onlyEC2 takes the other services out of the provider's two generated lists.
func onlyEC2(dir string) error {
	err := edit(filepath.Join(dir, "internal/provider/sdkv2/service_packages_gen.go"), func(s string) string {
		var lines []string
		for _, line := range strings.Split(s, "\n") {
			m := serviceImport.FindStringSubmatch(line)
			if m == nil {
				m = serviceEntry.FindStringSubmatch(line)
			}
			if m == nil || kept[m[1]] {
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, "\n")
	})
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, part := range []string{"conns", "provider", "acctest", "service/ec2", "service/sts", "service/meta", "service/organizations"} {
		err := filepath.WalkDir(filepath.Join(dir, "internal", part), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "awsclient_gen.go") {
				return err
			}
			b, err := os.ReadFile(path)
			for _, m := range clientCall.FindAllSubmatch(b, -1) {
				used[string(m[1])] = true
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return edit(filepath.Join(dir, "internal/conns/awsclient_gen.go"), func(s string) string {
		packages := map[string]bool{}
		s = clientFunc.ReplaceAllStringFunc(s, func(body string) string {
			m := clientFunc.FindStringSubmatch(body)
			if !used[m[1]] {
				return ""
			}
			packages[m[2]] = true
			return body
		})
		return sdkImport.ReplaceAllStringFunc(s, func(line string) string {
			m := sdkImport.FindStringSubmatch(line)
			if name := m[1]; name != "" && packages[name] || name == "" && packages[m[2]] {
				return line
			}
			return ""
		})
	})
}

func edit(path string, change func(string) string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	after := change(string(b))
	if after == string(b) {
		return fmt.Errorf("%s is not what was expected: nothing to take out", path)
	}
	return os.WriteFile(path, []byte(after), 0o644)
}
