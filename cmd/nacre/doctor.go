package main

import (
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nacre-cloud/nacre/internal/doctor"
)

func doctorCommand(g *globals) *cobra.Command {
	var install bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Tell what this host has, lacks, and what each lack costs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := g.absoluteDir()
			if err != nil {
				return err
			}
			findings := doctor.Examine(cmd.Context(), dir.verdict())
			if install {
				err := doctor.Install(cmd.Context(), findings, func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), line) })
				if err != nil {
					return err
				}
				findings = doctor.Examine(cmd.Context(), dir.verdict())
			}
			missing := false
			for _, f := range findings {
				missing = missing || f.Verdict == doctor.Missing
			}
			if g.json() {
				if err := printJSON(cmd, findings); err != nil {
					return err
				}
			} else {
				w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
				for _, f := range findings {
					fmt.Fprintf(w, "%s\t%s\t%s\n", f.Verdict, f.Name, f.Found)
					if f.Cost != "" {
						fmt.Fprintf(w, "\t\tcosts: %s\n", f.Cost)
					}
					if f.Fix != "" {
						fmt.Fprintf(w, "\t\tdo: %s\n", f.Fix)
					}
				}
				w.Flush()
			}
			if missing {
				return errors.New("this host can't run instances yet; the lines marked missing say why")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&install, "install", false, "install the Debian packages that are missing")
	return cmd
}
