package main

import (
	"encoding/base64"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
)

func base64Text(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// powerCommand is a command that takes instances to another state.
func powerCommand(g *globals, use, short, state string, call func(*cobra.Command, *api, []string) error) *cobra.Command {
	wait := true
	cmd := &cobra.Command{
		Use: use + " INSTANCE...", Short: short, Args: cobra.MinimumNArgs(1), ValidArgsFunction: g.completeInstances,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := g.connect()
			if err != nil {
				return err
			}
			ids, err := a.findAll(cmd.Context(), args)
			if err != nil {
				return err
			}
			if err := call(cmd, a, ids); err != nil {
				return err
			}
			if wait && state != "" {
				if _, err := a.waitFor(cmd, ids, state); err != nil {
					return err
				}
			}
			if g.json() {
				return printJSON(cmd, ids)
			}
			for _, id := range ids {
				fmt.Fprintln(cmd.OutOrStdout(), id)
			}
			return nil
		},
	}
	if state != "" {
		cmd.Flags().BoolVar(&wait, "wait", true, "wait until it is "+state)
	}
	return cmd
}

func stopCommand(g *globals) *cobra.Command {
	hibernate, force := false, false
	cmd := powerCommand(g, "stop", "Stop instances; their disks stay", "stopped", func(cmd *cobra.Command, a *api, ids []string) error {
		in := &ec2.StopInstancesRequest{InstanceIds: ids}
		if hibernate {
			in.Hibernate = &hibernate
		}
		if force {
			in.Force = &force
		}
		_, err := a.ec2.StopInstances(cmd.Context(), in)
		return err
	})
	cmd.Flags().BoolVar(&hibernate, "hibernate", false, "save the memory of virtual machines, which go on at the start where they were")
	cmd.Flags().BoolVar(&force, "force", false, "at once, without asking what runs inside; it may lose what it did not write to disk")
	cmd.MarkFlagsMutuallyExclusive("hibernate", "force")
	return cmd
}

func startCommand(g *globals) *cobra.Command {
	return powerCommand(g, "start", "Start stopped instances", "running", func(cmd *cobra.Command, a *api, ids []string) error {
		_, err := a.ec2.StartInstances(cmd.Context(), &ec2.StartInstancesRequest{InstanceIds: ids})
		return err
	})
}

func rebootCommand(g *globals) *cobra.Command {
	return powerCommand(g, "reboot", "Reboot instances", "", func(cmd *cobra.Command, a *api, ids []string) error {
		_, err := a.ec2.RebootInstances(cmd.Context(), &ec2.RebootInstancesRequest{InstanceIds: ids})
		return err
	})
}

func rmCommand(g *globals) *cobra.Command {
	return powerCommand(g, "rm", "Terminate instances; their disks are deleted", "terminated", func(cmd *cobra.Command, a *api, ids []string) error {
		_, err := a.ec2.TerminateInstances(cmd.Context(), &ec2.TerminateInstancesRequest{InstanceIds: ids})
		return err
	})
}
