package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
)

// loginUserTag is an image's ordinary user, noted when the image was imported.
const loginUserTag = "nacre:login-user"

func sshCommand(g *globals) *cobra.Command {
	var user, identity string
	cmd := &cobra.Command{
		Use:   "ssh INSTANCE [COMMAND...]",
		Short: "Log in to an instance, or run a command in it",
		Long: `Log in to an instance by its public address, with this machine's own ssh and the private key that
"nacre run" or the file given with -i holds. The exit code is the command's.`,
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: g.completeInstances,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := g.connect()
			if err != nil {
				return err
			}
			i, err := a.find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if i.State != "running" || i.PublicIP == "" {
				return fmt.Errorf("%s is %s and has %s public address; only a running instance with one can be reached", i.ID, i.State, map[bool]string{true: "no", false: "a"}[i.PublicIP == ""])
			}
			if user == "" {
				user = a.loginUser(cmd, i.Image)
			}
			if identity == "" {
				identity = filepath.Join(a.keys, i.KeyName+".pem")
				if _, err := os.Stat(identity); err != nil {
					return fmt.Errorf("the private half of the key pair %q is not in %s; name its file with -i", i.KeyName, a.keys)
				}
			}
			program, err := exec.LookPath("ssh")
			if err != nil {
				return errors.New("there is no ssh on this machine; `nacre doctor --install` installs it")
			}
			argv := []string{"ssh", "-i", identity, "-o", "IdentitiesOnly=yes", "-o", "HostKeyAlias=" + i.ID, "-o", "LogLevel=ERROR",
				"-o", "StrictHostKeyChecking=accept-new", "-o", "UserKnownHostsFile=" + filepath.Join(a.keys, "known_hosts"), user + "@" + i.PublicIP}
			return syscall.Exec(program, append(argv, args[1:]...), os.Environ())
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows the instance is the command's
	cmd.Flags().StringVarP(&user, "user", "l", "", "`USER` to log in as (default the image's own)")
	cmd.Flags().StringVarP(&identity, "identity", "i", "", "`FILE` with the private key")
	return cmd
}

// loginUser is the ordinary user of an image, root when it has none.
func (a *api) loginUser(cmd *cobra.Command, image string) string {
	out, err := a.ec2.DescribeImages(cmd.Context(), &ec2.DescribeImagesRequest{ImageIds: []string{image}})
	if err != nil || len(out.Images) != 1 {
		return "root"
	}
	return firstOf(tagValue(out.Images[0].Tags, loginUserTag), "root")
}

func logsCommand(g *globals) *cobra.Command {
	follow := false
	cmd := &cobra.Command{
		Use: "logs INSTANCE", Short: "Print what an instance wrote to its console", Args: cobra.ExactArgs(1), ValidArgsFunction: g.completeInstances,
		RunE: func(cmd *cobra.Command, args []string) error {
			if follow && g.json() {
				return errors.New("--follow prints text as it comes; leave out --output json")
			}
			a, err := g.connect()
			if err != nil {
				return err
			}
			i, err := a.find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			b, err := a.consoleOutput(cmd.Context(), i.ID)
			if err != nil {
				return err
			}
			if g.json() {
				return printJSON(cmd, map[string]string{"id": i.ID, "output": string(b)})
			}
			for seen := []byte(nil); ; {
				if _, err := cmd.OutOrStdout().Write(unseen(seen, b)); err != nil || !follow {
					return err
				}
				seen = b
				select {
				case <-time.After(followPause):
				case <-cmd.Context().Done():
					return nil
				}
				if b, err = a.consoleOutput(cmd.Context(), i.ID); err != nil {
					return err
				}
			}
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what it writes, until interrupted")
	return cmd
}

const (
	// followPause is the time between looks at a console that is followed.
	followPause = 500 * time.Millisecond
	// landmark is how much of what was seen last is looked for in a console whose beginning was dropped, in bytes.
	landmark = 1024
)

func (a *api) consoleOutput(ctx context.Context, id string) ([]byte, error) {
	out, err := a.ec2.GetConsoleOutput(ctx, &ec2.GetConsoleOutputRequest{InstanceId: &id, Latest: new(true)})
	if err != nil {
		return nil, err
	}
	b, err := base64.StdEncoding.DecodeString(deref(out.Output))
	if err != nil {
		return nil, fmt.Errorf("read the console of %s: %w", id, err)
	}
	return b, nil
}

// unseen is what of a console's end is new since an earlier look at it. The API gives the last 64 KiB, so that the beginning may
// have gone meanwhile.
func unseen(seen, now []byte) []byte {
	if rest, ok := bytes.CutPrefix(now, seen); ok {
		return rest
	}
	last := seen[max(0, len(seen)-landmark):]
	if at := bytes.LastIndex(now, last); at >= 0 {
		return now[at+len(last):]
	}
	return now
}
