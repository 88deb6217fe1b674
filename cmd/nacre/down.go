package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// stopLimit is how long the managers may take to end.
const stopLimit = 20 * time.Second

func downCommand(g *globals) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop the managers, or with --all the whole cloud",
		Long: `Stop the control plane and the agent of this machine. Instances go on running, and the next
"nacre up" adopts them.

With --all every instance is terminated and every machine, namespace, filter and mount of this data directory
is removed. Images, the account and its keys stay.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := g.absoluteDir()
			if err != nil {
				return err
			}
			pid, err := stopManager(cmd.Context(), dir)
			if err != nil {
				return err
			}
			if all {
				return removeAll(cmd.Context(), dir, cmd.ErrOrStderr())
			}
			if pid == 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "no nacre is running on %s\n", dir)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "also terminate every instance and remove all that runs")
	return cmd
}

// stopManager ends the data directory's manager and waits until it is gone. It returns its process id, 0
// when there was none.
func stopManager(ctx context.Context, dir dataDir) (int, error) {
	pid, err := dir.manager()
	if err != nil || pid == 0 {
		return 0, err
	}
	if err := unix.Kill(pid, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
		return pid, fmt.Errorf("stop nacre (process %d): %w", pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	for {
		now, err := dir.manager()
		if err != nil || now != pid {
			return pid, err
		}
		select {
		case <-ctx.Done():
			return pid, fmt.Errorf("nacre (process %d) did not end within %v; machines are safe, so `kill -9 %d` is too", pid, stopLimit, pid)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
