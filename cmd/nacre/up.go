package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/accel"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// upOptions are the flags of `nacre up`.
type upOptions struct {
	dir          dataDir
	listen       string
	metrics      string // where Prometheus reads, "" for nowhere
	region       string
	pool         string
	detach       bool
	cpuFactor    float64
	memoryFactor float64
	templateMiB  int64
	accelerator  string // a demand of package accel
	hostPaths    []string
	reserve      string // of memory; "" for a tenth
}

// acceleratorEnv is the environment's word for --accelerator.
const acceleratorEnv = "NACRE_ACCELERATOR"

// readyLimit is how long --detach waits for the API.
const readyLimit = 30 * time.Second

func upCommand(g *globals) *cobra.Command {
	o := upOptions{}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the cloud on this machine",
		Long: `Start the control plane and the agent of this machine.

The first start makes the region, an account with a root access key, and its default VPC. Later starts
adopt what runs. Ending nacre, also by kill -9, leaves every instance running.`,
		Example: "  nacre up --detach\n  eval \"$(nacre env)\"\n  aws ec2 describe-instances",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := g.absoluteDir()
			if err != nil {
				return err
			}
			o.dir = dir
			if err := o.validate(); err != nil {
				return err
			}
			if o.detach {
				return o.startDetached(cmd)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return serve(ctx, o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.listen, "listen", "", "`ADDRESS` of the API (default "+defaultListen+", or what the last start used)")
	f.StringVar(&o.metrics, "metrics-listen", "", "`ADDRESS` at which Prometheus reads nacre's own health, at /metrics, unsigned: whoever reaches it can read it (default nowhere)")
	f.StringVar(&o.region, "region", "", "`NAME` of the region, settled by the first start (default "+defaultRegion+")")
	f.StringVar(&o.pool, "public-pool", "", "`CIDR` that public addresses are drawn from, settled by the first start (default "+defaultPool+")")
	f.BoolVar(&o.detach, "detach", false, "return when the API answers, and go on in the background")
	f.Float64Var(&o.cpuFactor, "cpu-overcommit", 8, "virtual CPUs sold for each real one")
	f.Float64Var(&o.memoryFactor, "memory-overcommit", 4, "memory sold for each byte of real memory")
	f.Int64Var(&o.templateMiB, "template-memory", -1, "memory in `MIB` that virtual machines' templates may have together, 0 for none")
	f.Lookup("template-memory").DefValue = "an eighth of the server's"
	f.StringVar(&o.reserve, "memory-reserve", "", "`SIZE` of the server's memory that is to stay available, such as 2GiB: idle virtual machines lend theirs for it; 0 for never (default a tenth of it)")
	f.StringArrayVar(&o.hostPaths, "allow-host-path", nil, "`PATH[:ro]` of this server that the operator's account may show to its containers, with all below it; may be given several times, at every start")
	f.StringVar(&o.accelerator, "accelerator", firstOf(os.Getenv(acceleratorEnv), accel.Auto),
		"what executes virtual machines: auto (KVM where a guest is proved to boot with it), kvm or tcg; also "+acceleratorEnv)
	return cmd
}

func (o *upOptions) validate() error {
	if os.Geteuid() != 0 {
		return errors.New("nacre up needs root, for namespaces, mounts and links; run it with sudo")
	}
	if o.listen == "" {
		o.listen = defaultListen
		if a, err := o.dir.readAccess(); err == nil {
			o.listen = a.Endpoint[len("http://"):]
		}
	}
	if _, _, err := net.SplitHostPort(o.listen); err != nil {
		return fmt.Errorf("--listen %q: %w", o.listen, err)
	}
	if o.metrics != "" {
		if _, _, err := net.SplitHostPort(o.metrics); err != nil {
			return fmt.Errorf("--metrics-listen %q: %w; give an address and a port, such as 127.0.0.1:6422", o.metrics, err)
		}
	}
	if o.pool != "" {
		p, err := netip.ParsePrefix(o.pool)
		if err != nil || !p.Addr().Is4() || p != p.Masked() || p.Bits() < 8 || p.Bits() > 29 {
			return fmt.Errorf("--public-pool %q: give an IPv4 range from /8 to /29 by its first address, such as %s", o.pool, defaultPool)
		}
	}
	if o.cpuFactor < 1 || o.memoryFactor < 1 {
		return errors.New("--cpu-overcommit and --memory-overcommit are 1 or more")
	}
	if _, err := o.memoryReserve(); err != nil {
		return err
	}
	if _, err := o.allowedPaths(); err != nil {
		return err
	}
	if !slices.Contains(accel.Demands, o.accelerator) {
		return fmt.Errorf("--accelerator %q: use %s", o.accelerator, strings.Join(accel.Demands, ", "))
	}
	if err := os.MkdirAll(string(o.dir), 0o711); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	// The first process of a container, which is nobody outside, has to get through to its root.
	return os.Chmod(string(o.dir), 0o711)
}

// allowedPaths are the directories of this server that may be shown to containers.
func (o *upOptions) allowedPaths() ([]cloud.HostPath, error) {
	var list []cloud.HostPath
	for _, text := range o.hostPaths {
		p, err := cloud.ParseHostPath(text)
		if err != nil {
			return nil, fmt.Errorf("--allow-host-path %w", err)
		}
		var st unix.Stat_t
		switch err := unix.Lstat(p.Path, &st); {
		case err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR:
			return nil, fmt.Errorf("--allow-host-path %s: it is no directory of this server", p.Path)
		case !p.ReadOnly && (st.Uid == 0 || st.Gid == 0):
			return nil, fmt.Errorf("--allow-host-path %s: it belongs to root, as whom containers must not write; `chown` it to another user and group, or allow %s:ro", p.Path, p.Path)
		}
		list = append(list, p)
	}
	return list, nil
}

// memoryReserve is how much of the server's memory is to stay available, in bytes.
func (o *upOptions) memoryReserve() (int64, error) {
	if o.reserve != "" {
		n, err := mebibytes("--memory-reserve", o.reserve)
		return n << 20, err
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("ask for the server's memory: %w", err)
	}
	return int64(info.Totalram) * int64(info.Unit) / 10, nil
}

// startDetached starts nacre again in the background and waits until its API answers.
func (o *upOptions) startDetached(cmd *cobra.Command) error {
	if pid, err := o.dir.manager(); err != nil {
		return err
	} else if pid != 0 {
		return fmt.Errorf("data directory %s: %w (process %d); `nacre env` tells how to use it", o.dir, errRunning, pid)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program's file: %w", err)
	}
	logFile, err := os.OpenFile(o.dir.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	defer logFile.Close()
	begin, err := logFile.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	args := []string{"up", "--data-dir", string(o.dir), "--listen", o.listen,
		"--cpu-overcommit", fmt.Sprint(o.cpuFactor), "--memory-overcommit", fmt.Sprint(o.memoryFactor),
		"--template-memory", fmt.Sprint(o.templateMiB), "--accelerator", o.accelerator}
	if o.region != "" {
		args = append(args, "--region", o.region)
	}
	if o.reserve != "" {
		args = append(args, "--memory-reserve", o.reserve)
	}
	if o.metrics != "" {
		args = append(args, "--metrics-listen", o.metrics)
	}
	if o.pool != "" {
		args = append(args, "--public-pool", o.pool)
	}
	for _, path := range o.hostPaths {
		args = append(args, "--allow-host-path", path)
	}
	child := exec.Command(self, args...)
	child.Stdout, child.Stderr = logFile, logFile
	child.Dir = "/"
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := child.Start(); err != nil {
		return fmt.Errorf("start nacre in the background: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	ctx, cancel := context.WithTimeout(cmd.Context(), readyLimit)
	defer cancel()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		if conn, err := net.DialTimeout("tcp", o.listen, time.Second); err == nil {
			conn.Close()
			break
		}
		select {
		case <-ended:
			return fmt.Errorf("nacre ended while starting:\n%s", logSince(o.dir.log(), begin))
		case <-ctx.Done():
			return fmt.Errorf("the API did not answer within %v; the log is %s:\n%s", readyLimit, o.dir.log(), logSince(o.dir.log(), begin))
		case <-time.After(pause):
		}
	}
	// Whoever answers must be the one just started, not a stranger on its port.
	if pid, err := o.dir.manager(); err != nil || pid != child.Process.Pid {
		return fmt.Errorf("something else answers at %s; choose another --listen. nacre said:\n%s", o.listen, logSince(o.dir.log(), begin))
	}
	a, err := o.dir.readAccess()
	if err != nil {
		return err
	}
	greet(cmd.OutOrStdout(), o.dir, a)
	return nil
}

func logSince(path string, begin int64) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if _, err := f.Seek(begin, io.SeekStart); err != nil {
		return err.Error()
	}
	b, _ := io.ReadAll(io.LimitReader(f, 16<<10))
	return string(b)
}

// greet says how to go on.
func greet(w io.Writer, dir dataDir, a access) {
	data := ""
	if string(dir) != defaultDataDir {
		data = " --data-dir " + string(dir)
	}
	self := filepath.Base(os.Args[0])
	fmt.Fprintf(w, `The cloud is up: region %s, account %s, endpoint %s

  eval "$(%s env%s)"            # point AWS's tools at it
  %s image bake debian-12%s     # make an image, once
  %s run debian-12%s            # launch a server
  %s ls%s
`, a.Region, a.Account, a.Endpoint, self, data, self, data, self, data, self, data)
}
