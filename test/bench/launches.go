package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const launchRuns = 15

// idle measures what nacre needs with no instances, after it has settled.
func idle(c *testCloud) ([]row, error) {
	time.Sleep(3 * time.Second)
	return []row{row{Name: "memory of nacre up, no instances", Unit: "MiB", Ours: residentOf(c.cmd.Process.Pid), Runs: 1}.atMost(150)}, nil
}

// launches measures one launch at a time on a warm image, and the peers in turn with it, so that
// the machine's drift hits all.
func launches(c *testCloud) ([]row, error) {
	if err := c.bake(); err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp("", "nacre-bench-peers-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	rootfs, err := busyboxRoot(work)
	if err != nil {
		return nil, err
	}
	floor := runcFloor{dir: work, rootfs: rootfs}
	if err := floor.prepare(); err != nil {
		return nil, err
	}
	podman, ctr := newPodman(work, rootfs), newCtr(work, rootfs)
	for _, p := range []peer{podman, ctr} {
		if err := p.prepare(); err != nil {
			return nil, errors.Join(err, podman.remove(), ctr.remove())
		}
	}
	var ours, bare, pod, con []time.Duration
	measure := func() error {
		for n := range launchRuns + 2 {
			ids, took, err := c.launch(1)
			if err != nil {
				return err
			}
			if err := c.terminate(ids); err != nil {
				return err
			}
			b, err := floor.once(n)
			if err != nil {
				return err
			}
			p, err := podman.once(n)
			if err != nil {
				return err
			}
			k, err := ctr.once(n)
			if err != nil {
				return err
			}
			if n >= 2 { // the first ones warm caches
				ours, bare = append(ours, took), append(bare, b)
				if p > 0 {
					pod = append(pod, p)
				}
				if k > 0 {
					con = append(con, k)
				}
			}
		}
		return nil
	}
	if err := errors.Join(measure(), podman.remove(), ctr.remove()); err != nil {
		return nil, err
	}
	one := row{Name: "RunInstances to running", Unit: "ms", Ours: median(ours), Runs: launchRuns}
	return []row{
		one.beside("podman run -d, bridge network", median(pod), 0.5),
		one.beside("ctr run -d, no network", median(con), 1),
		one.beside("runc run of the bundle, the bare floor", median(bare), 0),
		one.atMost(50),
	}, nil
}

// peer is another way to start a container.
type peer interface {
	prepare() error
	// once starts a container and returns how long that took; 0 when the peer is not installed.
	once(n int) (time.Duration, error)
	remove() error
}

func busyboxRoot(work string) (string, error) {
	root := filepath.Join(work, "rootfs")
	for _, d := range []string{"bin", "proc", "sys", "dev", "etc", "tmp", "root"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return "", err
		}
	}
	b, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return "", fmt.Errorf("the peers' image needs Debian's busybox-static: %w", err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin", "busybox"), b, 0o755); err != nil {
		return "", err
	}
	for _, name := range []string{"sh", "sleep", "true"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			return "", err
		}
	}
	return root, nil
}

func timed(name string, args ...string) (time.Duration, error) {
	begin := time.Now()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, firstLine(out))
	}
	return time.Since(begin), nil
}

// runcFloor is what the runtime alone needs: runc run of a bundle that ends at once.
type runcFloor struct{ dir, rootfs string }

func (r runcFloor) prepare() error {
	cmd := exec.Command("runc", "spec")
	cmd.Dir = r.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("runc spec: %w: %s", err, out)
	}
	path := filepath.Join(r.dir, "config.json")
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var spec map[string]any
	if err := json.Unmarshal(b, &spec); err != nil {
		return err
	}
	process := spec["process"].(map[string]any)
	process["args"], process["terminal"] = []string{"/bin/true"}, false
	delete(process, "rlimits") // this process may not raise them everywhere
	if b, err = json.Marshal(spec); err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}

func (r runcFloor) once(n int) (time.Duration, error) {
	return timed("runc", "run", "--bundle", r.dir, fmt.Sprintf("nacre-bench-floor-%d-%d", os.Getpid(), n))
}

type podmanPeer struct{ work, rootfs, image string }

func newPodman(work, rootfs string) *podmanPeer { return &podmanPeer{work: work, rootfs: rootfs} }

// base keeps podman's storage to the benchmark.
func (p *podmanPeer) base() []string {
	return []string{"--root", filepath.Join(p.work, "podman"), "--runroot", filepath.Join(p.work, "podman-run"), "--cgroup-manager", "cgroupfs"}
}

func (p *podmanPeer) prepare() error {
	if _, err := exec.LookPath("podman"); err != nil {
		return nil
	}
	tar := filepath.Join(p.work, "rootfs.tar")
	if out, err := exec.Command("tar", "-C", p.rootfs, "-cf", tar, ".").CombinedOutput(); err != nil {
		return fmt.Errorf("pack the peers' image: %w: %s", err, out)
	}
	p.image = "localhost/nacre-bench:latest"
	if out, err := exec.Command("podman", append(p.base(), "import", tar, p.image)...).CombinedOutput(); err != nil {
		return fmt.Errorf("podman import: %w: %s", err, out)
	}
	return nil
}

func (p *podmanPeer) once(n int) (time.Duration, error) {
	if p.image == "" {
		return 0, nil
	}
	name := fmt.Sprintf("nacre-bench-%d-%d", os.Getpid(), n)
	took, err := timed("podman", append(p.base(), "run", "-d", "--name", name, "--network", "bridge", "--runtime", "runc",
		"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", p.image, "/bin/sleep", "1000")...)
	if err != nil {
		return 0, err
	}
	_, err = timed("podman", append(p.base(), "rm", "-f", "-t", "0", name)...)
	return took, err
}

func (p *podmanPeer) remove() error {
	if p.image == "" {
		return nil
	}
	_, err := timed("podman", append(p.base(), "rmi", "-f", p.image)...)
	if link := exec.Command("ip", "link", "delete", "cni-podman0"); err == nil {
		link.Run() // podman leaves its bridge; a host that has its own podman makes it again
	}
	exec.Command("umount", filepath.Join(p.work, "podman", "overlay")).Run()
	return err
}

// ctrPeer is containerd with its own daemon, started for the benchmark.
type ctrPeer struct {
	work, rootfs, socket string
	daemon               *exec.Cmd
}

func newCtr(work, rootfs string) *ctrPeer { return &ctrPeer{work: work, rootfs: rootfs} }

func (c *ctrPeer) prepare() error {
	if _, err := exec.LookPath("containerd"); err != nil {
		return nil
	}
	c.socket = filepath.Join(c.work, "containerd.sock")
	config := filepath.Join(c.work, "containerd.toml")
	text := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\n  address = %q\n[ttrpc]\n  address = %q\n",
		filepath.Join(c.work, "containerd"), filepath.Join(c.work, "containerd-run"), c.socket, c.socket+".ttrpc")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	c.daemon = exec.Command("containerd", "--config", config, "--log-level", "error")
	if err := c.daemon.Start(); err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	for range 200 {
		if _, err := timed("ctr", "--address", c.socket, "version"); err == nil {
			return nil
		}
		time.Sleep(25 * time.Millisecond)
	}
	return errors.New("containerd does not answer")
}

func (c *ctrPeer) once(n int) (time.Duration, error) {
	if c.daemon == nil {
		return 0, nil
	}
	name := fmt.Sprintf("nacre-bench-%d-%d", os.Getpid(), n)
	took, err := timed("ctr", "--address", c.socket, "run", "-d", "--rootfs", c.rootfs, name, "/bin/sleep", "1000")
	if err != nil {
		return 0, err
	}
	if _, err := timed("ctr", "--address", c.socket, "task", "rm", "-f", name); err != nil {
		return 0, err
	}
	_, err = timed("ctr", "--address", c.socket, "container", "rm", name)
	return took, err
}

func (c *ctrPeer) remove() error {
	if c.daemon == nil {
		return nil
	}
	if err := c.daemon.Process.Signal(os.Interrupt); err != nil {
		return fmt.Errorf("stop containerd: %w", err)
	}
	c.daemon.Wait()
	return nil
}
