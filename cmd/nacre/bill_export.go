package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/nacre-cloud/nacre/internal/awsapi/nacre"
	"github.com/nacre-cloud/nacre/internal/focus"
)

func billExportCommand(g *globals) *cobra.Command {
	var month, format, file string
	c := &cobra.Command{
		Use:   "export",
		Short: "Write a month's charges as FOCUS 1.2, in CSV or Parquet",
		Long: `Write a month's charges in the columns of FOCUS 1.2, the FinOps Open Cost and Usage Specification, which tools for costs of any cloud read.

A row is what a resource cost in a day (UTC) at one price. Costs have up to 20 decimals, so that the rows of a day, and of the month,
add up to the bill's micro-dollars. A month of storage has 30 days. There are no invoices and no discounts: InvoiceId is null, and billed, effective, contracted and
list costs are the same. In Parquet, decimals are DECIMAL(38, 20). The operator's account exports all accounts' charges, every other its own.`,
		Example: `  nacre bill export --month 2026-10 --file october.csv
  nacre bill export --format parquet --file now.parquet`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "csv" && format != "parquet" {
				return fmt.Errorf("--format %q: use csv or parquet", format)
			}
			if month == "" {
				month = time.Now().UTC().Format("2006-01")
			} else if _, err := time.Parse("2006-01", month); err != nil {
				return fmt.Errorf("--month %q: give a month such as 2026-11", month)
			}
			api, err := g.connect()
			if err != nil {
				return err
			}
			client := nacre.Client{Client: api.raw}
			if file == "-" {
				_, err := export(cmd.Context(), client, month, format, cmd.OutOrStdout())
				return err
			}
			out, err := renameio.TempFile("", file)
			if err != nil {
				return fmt.Errorf("write %s: %w", file, err)
			}
			defer out.Cleanup()
			rows, err := export(cmd.Context(), client, month, format, out)
			if err != nil {
				return err
			}
			if err := out.CloseAtomicallyReplace(); err != nil {
				return fmt.Errorf("write %s: %w", file, err)
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%d charges of %s are in %s\n", rows, month, file)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&month, "month", "", "the `MONTH`, such as 2026-11 (default the current one, so far)")
	f.StringVar(&format, "format", "csv", "the `FORMAT`: csv or parquet")
	f.StringVar(&file, "file", "-", "the `FILE` to write, whole or not at all; \"-\" is standard output")
	return c
}

// export writes a month's charges, a page after the other, and returns how many there are.
func export(ctx context.Context, c nacre.Client, month, format string, w io.Writer) (rows int, err error) {
	buffered := bufio.NewWriter(w)
	out := focus.Writer(nil)
	if format == "parquet" {
		out = focus.Parquet(buffered)
	} else if out, err = focus.CSV(buffered); err != nil {
		return 0, err
	}
	req := &nacre.ListChargesRequest{Month: &month}
	for {
		page, err := c.ListCharges(ctx, req)
		if err != nil {
			return rows, err
		}
		for _, row := range page.Rows {
			if err := out.Write(row); err != nil {
				return rows, err
			}
			rows++
		}
		if page.NextToken == nil {
			break
		}
		req.NextToken, req.AsOf = page.NextToken, page.AsOf
	}
	if err := out.Close(); err != nil {
		return rows, err
	}
	return rows, buffered.Flush()
}
