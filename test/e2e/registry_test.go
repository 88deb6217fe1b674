package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nacre-cloud/nacre/internal/agent/image/imagetest"
	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

// shell runs a program with a cloud's access key and returns what it printed.
func shell(t *testing.T, c *cloudtest.Cloud, stdin string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+c.Key.AccessKey, "AWS_SECRET_ACCESS_KEY="+c.Key.Secret, "AWS_DEFAULT_REGION="+c.Key.Region,
		"AWS_PAGER=", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")
	cmd.Stdin = strings.NewReader(stdin)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, said.String())
	}
	return string(out)
}

func sizeOf(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestImagesArePushedByAWSsTokenPulledAndLaunched(t *testing.T) {
	t.Parallel()
	c := cloudtest.New(t)
	c.Up()
	host := strings.TrimPrefix(c.Endpoint, "http://")
	aws := func(args ...string) string {
		return shell(t, c, "", "/usr/bin/aws", append([]string{"--endpoint-url", c.Endpoint}, args...)...)
	}
	for _, name := range []string{"team/app", "mirror"} {
		if uri := aws("ecr", "create-repository", "--repository-name", name, "--query", "repository.repositoryUri", "--output", "text"); strings.TrimSpace(uri) != host+"/"+name {
			t.Errorf("the repository is at %q", uri)
		}
	}
	password := strings.TrimSpace(aws("ecr", "get-login-password"))
	auth := filepath.Join(t.TempDir(), "auth.json")
	shell(t, c, password, "skopeo", "login", "--authfile", auth, "--tls-verify=false", "-u", "AWS", "--password-stdin", host)
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "app.tar")
	layers := [][]byte{imagetest.Tar(t, imagetest.Entry{Header: tar.Header{Name: "bin/busybox", Mode: 0o755}, Body: string(busybox)}), imagetest.Tar(t, imagetest.File("one", "1")), imagetest.Tar(t, imagetest.File("two", "2"))}
	if err := os.WriteFile(archive, imagetest.Archive(t, ocispec.ImageConfig{Cmd: []string{"/bin/busybox", "sleep", "1000000"}}, layers), 0o600); err != nil {
		t.Fatal(err)
	}
	shell(t, c, "", "skopeo", "copy", "--authfile", auth, "--dest-tls-verify=false", "oci-archive:"+archive, "docker://"+host+"/team/app:v1")

	// podman takes it, and pushes it to another repository.
	storage, err := os.MkdirTemp("", "nacre-podman-") // podman wants a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(storage); err != nil {
			t.Error(err)
		}
	})
	podman := func(args ...string) string {
		return shell(t, c, "", "podman", append([]string{"--root", filepath.Join(storage, "root"), "--runroot", filepath.Join(storage, "run"), "--storage-driver", "vfs"}, args...)...)
	}
	podman("pull", "-q", "--authfile", auth, "--tls-verify=false", host+"/team/app:v1")
	podman("push", "-q", "--authfile", auth, "--tls-verify=false", host+"/team/app:v1", host+"/mirror:v1")
	podman("rmi", "-fa")
	before := shell(t, c, "", "skopeo", "inspect", "--authfile", auth, "--tls-verify=false", "--format", "{{.Digest}} {{len .Layers}}", "docker://"+host+"/team/app:v1")
	if _, layers, _ := strings.Cut(strings.TrimSpace(before), " "); layers != "3" {
		t.Errorf("skopeo sees %q", before)
	}

	// An AMI of it copies no blob.
	content := filepath.Join(c.Dir, "images", "content", "blobs")
	size := sizeOf(t, content)
	c.Nacre("image", "pull", host+"/team/app:v1", "--name", "busybox")
	if after := sizeOf(t, content); after != size {
		t.Errorf("the blobs had %d bytes and have %d with the AMI", size, after)
	}
	if out, err := c.Try("image", "pull", host+"/team/app:none", "--name", "none"); err == nil || !strings.Contains(out, "not found") {
		t.Errorf("an image that isn't there: %v %s", err, out)
	}
	id := *c.Launch().InstanceId

	// A push that kill -9 cuts off goes on where it was.
	blob := make([]byte, 4<<20)
	rand.Read(blob)
	send := func(method, url string, body io.Reader, size int64, header ...string) (*http.Response, error) {
		r, err := http.NewRequestWithContext(t.Context(), method, url, body)
		if err != nil {
			t.Fatal(err)
		}
		r.ContentLength = size
		r.SetBasicAuth("AWS", password)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		res, err := http.DefaultClient.Do(r)
		if err == nil {
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
		return res, err
	}
	want := func(status int) func(*http.Response, error) *http.Response {
		return func(res *http.Response, err error) *http.Response {
			t.Helper()
			if err != nil || res.StatusCode != status {
				t.Fatalf("%v %v, want status %d", res, err, status)
			}
			return res
		}
	}
	at := c.Endpoint + want(202)(send("POST", c.Endpoint+"/v2/team/app/blobs/uploads/", nil, 0)).Header.Get("Location")
	want(202)(send("PATCH", at, bytes.NewReader(blob[:1<<20]), 1<<20))
	reader, writer := io.Pipe()
	cut := make(chan error, 1)
	go func() {
		_, err := send("PATCH", at, reader, int64(len(blob)-1<<20))
		cut <- err
	}()
	writer.Write(blob[1<<20 : 2<<20]) // taken by the client, and on its way
	c.Kill()
	writer.Close()
	if err := <-cut; err == nil {
		t.Error("a push outlived the registry")
	}
	c.Up()
	if res := want(404)(send("HEAD", c.Endpoint+"/v2/team/app/blobs/"+digest.FromBytes(blob).String(), nil, 0)); res == nil {
		t.Error("half a blob is visible")
	}
	_, last, _ := strings.Cut(want(204)(send("GET", at, nil, 0)).Header.Get("Range"), "-")
	end, err := strconv.Atoi(last)
	if err != nil || end+1 < 1<<20 {
		t.Fatalf("the upload is at %q", last)
	}
	rest := blob[end+1:]
	want(201)(send("PUT", at+"?digest="+digest.FromBytes(blob).String(), bytes.NewReader(rest), int64(len(rest)), "Content-Range", fmt.Sprintf("%d-%d", end+1, len(blob)-1)))
	want(200)(send("HEAD", c.Endpoint+"/v2/team/app/blobs/"+digest.FromBytes(blob).String(), nil, 0))

	// Repositories go, and the AMI and its instance stay.
	for _, name := range []string{"team/app", "mirror"} {
		aws("ecr", "delete-repository", "--repository-name", name, "--force")
	}
	c.WaitFor(2*time.Minute, "the pushed blob to be collected", func() error {
		_, err := os.Stat(filepath.Join(content, "sha256", digest.FromBytes(blob).Encoded()))
		if err == nil {
			return fmt.Errorf("it is there")
		}
		return nil
	})
	c.WaitState(id, "running")
	c.Terminate(id)
	c.WaitState(id, "terminated")
	if again := *c.Launch().InstanceId; again == id {
		t.Error("the same instance again")
	}
}
