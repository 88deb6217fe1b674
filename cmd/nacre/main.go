// Command nacre is the whole product: control plane, agent and command line in one binary.
//
// This package wires the parts and talks to people. It decides nothing about clouds: every command but up,
// down, doctor and version is a caller of the signed API like any other.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/nacre-cloud/nacre/internal/version"
)

func main() {
	hearHangups()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := rootCommand().ExecuteContext(ctx)
	stop()
	var exit exitCode
	switch {
	case err == nil:
	case errors.As(err, &exit):
		os.Exit(int(exit))
	default:
		fmt.Fprintln(os.Stderr, "nacre:", explain(err))
		os.Exit(1)
	}
}

// exitCode ends the program with a code and nothing printed.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func rootCommand() *cobra.Command {
	g := &globals{}
	root := &cobra.Command{
		Use:   "nacre",
		Short: "Turn Linux servers into a cloud that AWS's own tools drive",
		Long: `nacre turns Linux servers into a cloud that AWS's own tools drive.

Start one with "nacre up --detach", make an image with "nacre image bake debian-12", and launch a server
with "nacre run debian-12". Commands use the cloud on this machine (--data-dir or NACRE_DATA_DIR), or
with AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY any other.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	f := root.PersistentFlags()
	f.StringVar(&g.dataDir, "data-dir", "", "`DIR` of the cloud on this machine (default $NACRE_DATA_DIR or "+defaultDataDir+")")
	f.StringVarP(&g.output, "output", "o", "table", "`FORMAT` of what is printed: table or json")
	root.AddGroup(&cobra.Group{ID: "cloud", Title: "The cloud on this machine:"}, &cobra.Group{ID: "use", Title: "Instances and images:"})
	for _, c := range []*cobra.Command{upCommand(g), downCommand(g), envCommand(g), configureCommand(g), doctorCommand(g)} {
		c.GroupID = "cloud"
		root.AddCommand(c)
	}
	for _, c := range []*cobra.Command{runCommand(g), lsCommand(g), sshCommand(g), logsCommand(g), consoleCommand(g), stopCommand(g), startCommand(g),
		rebootCommand(g), resizeCommand(g), inspectCommand(g), rmCommand(g), imageCommand(g), volumeCommand(g), billCommand(g), pricesCommand(g)} {
		c.GroupID = "use"
		root.AddCommand(c)
	}
	root.AddCommand(&cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		if g.json() {
			return printJSON(cmd, map[string]string{"version": version.Version})
		}
		fmt.Fprintln(cmd.OutOrStdout(), "nacre", version.Version)
		return nil
	}})
	return root
}

// hearHangups keeps what this process starts from inheriting that it takes no notice of hang-ups, as nohup has it do: the processes of sessions are
// to end with them. This process itself goes on taking none.
func hearHangups() {
	if signal.Ignored(syscall.SIGHUP) {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
}
