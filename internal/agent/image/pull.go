package image

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"
)

// parallelFetches is how many layers of an image are fetched at a time.
const parallelFetches = 3

// Pull brings in an image from a registry by its reference, such as "docker.io/library/nginx:1.27", for an architecture, EC2's word for
// it; "" is this server's. Content that is here is not fetched again. Registries on this machine's loopback may speak plain HTTP; credentials are those of
// ~/.docker/config.json.
func (s *Store) Pull(ctx context.Context, ref, architecture string, p Progress) (Image, error) {
	architecture, err := ociArchitecture(architecture)
	if err != nil {
		return Image{}, err
	}
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return Image{}, fmt.Errorf("%q is not an image's reference: %w", ref, err)
	}
	client := registries()
	defer client.CloseIdleConnections()
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(
		docker.WithPlainHTTP(docker.MatchLocalhost), docker.WithClient(client), docker.WithAuthorizer(docker.NewDockerAuthorizer(docker.WithAuthClient(client), docker.WithAuthCreds(credentials))))})
	var img Image
	p = oneAtATime(p)
	err = s.leased(ctx, func(ctx context.Context) error {
		report(p, 0, 0, "asking for "+named.String())
		name, desc, err := resolver.Resolve(ctx, named.String())
		if err != nil {
			return fmt.Errorf("find %s: %w", named, err)
		}
		fetcher, err := resolver.Fetcher(ctx, name)
		if err != nil {
			return fmt.Errorf("fetch %s: %w", named, err)
		}
		if err := s.fetch(ctx, fetcher, desc, architecture, p); err != nil {
			return fmt.Errorf("fetch %s: %w", named, err)
		}
		img, err = s.add(ctx, desc, named.String(), architecture, func(done, total int64, what string) { report(p, total+done, 2*total, what) })
		return err
	})
	return img, err
}

// registries is the client that registries are asked with. One that doesn't answer fails the pull; how long a
// layer may take is the caller's to say.
func registries() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = time.Minute
	return &http.Client{Transport: t}
}

// fetch brings everything that the image for an architecture needs into the content store, which checks each digest.
func (s *Store) fetch(ctx context.Context, fetcher remotes.Fetcher, desc ocispec.Descriptor, architecture string, p Progress) error {
	cs := s.db.ContentStore()
	var done, total atomic.Int64
	guard := images.HandlerFunc(func(_ context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if err := sound(d.Digest); err != nil {
			return nil, err
		}
		if (images.IsManifestType(d.MediaType) || images.IsIndexType(d.MediaType) || images.IsConfigType(d.MediaType)) && d.Size > maxManifest {
			return nil, invalid("%s has %d bytes; a manifest has %d at most", d.Digest, d.Size, maxManifest)
		}
		if err := s.Room(total.Add(d.Size) - done.Load()); err != nil {
			return nil, fmt.Errorf("layer %s: %w", d.Digest, err)
		}
		report(p, done.Load(), 2*total.Load(), "fetching layers") // the other half is unpacking
		return nil, nil
	})
	count := images.HandlerFunc(func(_ context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		report(p, done.Add(d.Size), 2*total.Load(), "fetching layers")
		return nil, nil
	})
	all := images.HandlerFunc(func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		list, err := images.Children(ctx, cs, d)
		if err == nil && images.IsManifestType(d.MediaType) && len(list) > maxLayers+1 { // and the configuration
			return nil, invalid("the image has %d layers; 1 to %d are accepted", len(list)-1, maxLayers)
		}
		return list, err
	})
	wanted := platform(architecture)
	children := images.LimitManifests(images.FilterPlatforms(all, wanted), wanted, 1)
	return images.Dispatch(ctx, images.Handlers(guard, remotes.FetchHandler(cs, fetcher), count, children), semaphore.NewWeighted(parallelFetches), desc)
}

// credentials reads what docker login wrote for a registry.
func credentials(host string) (user, secret string, err error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return "", "", nil
	}
	b, err := os.ReadFile(filepath.Join(home, ".docker", "config.json"))
	if err != nil {
		return "", "", nil // nobody logged in
	}
	var config struct {
		Auths map[string]struct {
			Auth string `json:"auth"`
		} `json:"auths"`
	}
	if err := json.Unmarshal(b, &config); err != nil {
		return "", "", fmt.Errorf("read docker's credentials: %w", err)
	}
	if host == "registry-1.docker.io" {
		host = "https://index.docker.io/v1/"
	}
	raw, err := base64.StdEncoding.DecodeString(config.Auths[host].Auth)
	if err != nil {
		return "", "", fmt.Errorf("read docker's credentials for %s: %w", host, err)
	}
	user, secret, _ = strings.Cut(string(raw), ":")
	return user, secret, nil
}
