package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	pushRuns   = 7
	pushLayers = 4
	pushSize   = 32 << 20 // bytes of a layer
)

// registryMeasure pushes images of four layers of 32 MiB with skopeo to nacre and to distribution, each a new one, by turns, and pulls them again.
func registryMeasure(c *testCloud) (rows []row, err error) {
	work, err := os.MkdirTemp("", "nacre-bench-registry-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	ours, err := newOurRegistry(c)
	if err != nil {
		return nil, err
	}
	sides := []*side{{at: ours.at, password: ours.password}}
	if peer, err := startDistribution(work); err == nil {
		defer peer.stop()
		sides = append(sides, &side{at: peer.at})
	} else if !errors.Is(err, exec.ErrNotFound) {
		return nil, err
	}
	for n := range pushRuns {
		for _, s := range sides {
			if err := s.once(work, n); err != nil {
				return nil, err
			}
		}
	}
	name := "distribution"
	var peerPush, peerPull float64
	if len(sides) > 1 {
		peerPush, peerPull = median(sides[1].pushes), median(sides[1].pulls)
	}
	return []row{
		row{Name: "push 128 MiB in 4 layers with skopeo", Unit: "ms", Ours: median(sides[0].pushes), Runs: pushRuns}.beside(name, peerPush, 1.2),
		row{Name: "pull 128 MiB in 4 layers with skopeo", Unit: "ms", Ours: median(sides[0].pulls), Runs: pushRuns}.beside(name, peerPull, 1.2),
	}, nil
}

// side is a registry that is measured.
type side struct {
	at, password  string // host, port and repository
	pushes, pulls []time.Duration
}

// once pushes a new image and pulls it.
func (s *side) once(work string, n int) error {
	from, to := filepath.Join(work, "from"), filepath.Join(work, "to")
	defer os.RemoveAll(from)
	defer os.RemoveAll(to)
	if err := newLayout(from); err != nil {
		return err
	}
	reference := fmt.Sprintf("docker://%s:v%d", s.at, n)
	push, pull := []string{"copy", "-q", "--dest-tls-verify=false"}, []string{"copy", "-q", "--src-tls-verify=false"}
	if s.password != "" {
		push, pull = append(push, "--dest-creds", "AWS:"+s.password), append(pull, "--src-creds", "AWS:"+s.password)
	}
	took, err := timed("skopeo", append(push, "oci:"+from+":image", reference)...)
	if err != nil {
		return err
	}
	s.pushes = append(s.pushes, took)
	if took, err = timed("skopeo", append(pull, reference, "oci:"+to+":image")...); err != nil {
		return err
	}
	s.pulls = append(s.pulls, took)
	return nil
}

// newLayout writes an OCI layout of an image that nobody has.
func newLayout(dir string) error {
	put := func(mediaType string, b []byte) (ocispec.Descriptor, error) {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
		path := filepath.Join(dir, "blobs", "sha256", d.Digest.Encoded())
		return d, errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o644))
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	img := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers"}}
	b := make([]byte, pushSize)
	for range pushLayers {
		if _, err := rand.Read(b); err != nil {
			return err
		}
		d, err := put(ocispec.MediaTypeImageLayer, b)
		if err != nil {
			return err
		}
		m.Layers, img.RootFS.DiffIDs = append(m.Layers, d), append(img.RootFS.DiffIDs, d.Digest)
	}
	config, err := json.Marshal(img)
	if err != nil {
		return err
	}
	if m.Config, err = put(ocispec.MediaTypeImageConfig, config); err != nil {
		return err
	}
	manifest, err := json.Marshal(m)
	if err != nil {
		return err
	}
	d, err := put(ocispec.MediaTypeImageManifest, manifest)
	if err != nil {
		return err
	}
	d.Annotations = map[string]string{ocispec.AnnotationRefName: "image"}
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{d}})
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(dir, ocispec.ImageIndexFile), index, 0o644), os.WriteFile(filepath.Join(dir, ocispec.ImageLayoutFile), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644))
}

type ourRegistry struct{ at, password string }

// newOurRegistry makes a repository and gets a token.
func newOurRegistry(c *testCloud) (r ourRegistry, err error) {
	ctx, o := context.Background(), c.ec2.Options()
	client := ecr.New(ecr.Options{Region: o.Region, BaseEndpoint: o.BaseEndpoint, Credentials: o.Credentials, RetryMaxAttempts: 1})
	name := "bench"
	made, err := client.CreateRepository(ctx, &ecr.CreateRepositoryInput{RepositoryName: &name})
	if err != nil {
		return r, err
	}
	token, err := client.GetAuthorizationToken(ctx, &ecr.GetAuthorizationTokenInput{})
	if err != nil {
		return r, err
	}
	pair, err := base64.StdEncoding.DecodeString(*token.AuthorizationData[0].AuthorizationToken)
	if err != nil {
		return r, err
	}
	_, password, _ := strings.Cut(string(pair), ":")
	return ourRegistry{*made.Repository.RepositoryUri, password}, nil
}

// distribution is the reference registry, on the same file system.
type distribution struct {
	at  string
	cmd *exec.Cmd
}

func startDistribution(work string) (*distribution, error) {
	binary, err := exec.LookPath("docker-registry")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	host := l.Addr().String()
	l.Close()
	config := filepath.Join(work, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\n", filepath.Join(work, "registry"), host)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	d := &distribution{at: host + "/bench", cmd: exec.Command(binary, "serve", config)}
	var said bytes.Buffer
	d.cmd.Stderr = &said
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := startForGood(d.cmd); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", host)
		if err == nil {
			return d, conn.Close()
		}
		if time.Now().After(deadline) {
			d.stop()
			return nil, fmt.Errorf("distribution's registry does not answer: %s", said.String())
		}
	}
}

func (d *distribution) stop() {
	d.cmd.Process.Kill()
	d.cmd.Wait()
}
