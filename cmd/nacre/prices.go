package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"os"

	"github.com/spf13/cobra"

	"github.com/nacre-cloud/nacre/internal/awsapi/nacre"
)

// maxPrices bounds a price list's file, in bytes.
const maxPrices = 1 << 20

func pricesCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "prices",
		Short: "What everything costs: show or set the price list",
		Long: `What everything costs. Without a list of the operator's own, AWS's public on-demand prices of us-east-1 hold, and half of them for containers.

A list is a JSON file: a day from which it holds, and a price in dollars for everything that the cloud serves. Bills of months
that are over don't change: a list begins in this month or later.`,
		Example: `  nacre prices show > prices.json
  nacre prices set prices.json`,
	}
	var on string
	show := &cobra.Command{Use: "show", Short: "Print the price list of a day, in the form that set takes", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		api, err := g.connect()
		if err != nil {
			return err
		}
		req := &nacre.GetPricesRequest{}
		if on != "" {
			req.Day = &on
		}
		res, err := nacre.Client{Client: api.raw}.GetPrices(cmd.Context(), req)
		if err != nil {
			return err
		}
		return printJSON(cmd, res.PriceList)
	}}
	show.Flags().StringVar(&on, "on", "", "the `DAY`, such as 2026-11-01 (default today)")
	set := &cobra.Command{Use: "set FILE", Short: "Set the price list that a file has (\"-\" for standard input)", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		list, err := readPrices(args[0], cmd.InOrStdin())
		if err != nil {
			return err
		}
		api, err := g.connect()
		if err != nil {
			return err
		}
		if _, err := (nacre.Client{Client: api.raw}).PutPrices(cmd.Context(), &nacre.PutPricesRequest{PriceList: list}); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "prices from %s on are set\n", *list.Effective)
		return nil
	}}
	c.AddCommand(show, set)
	return c
}

// readPrices reads a price list's file. What it means is the API's to judge.
func readPrices(path string, in io.Reader) (*nacre.PriceList, error) {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read the price list: %w", err)
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxPrices+1))
	if err != nil {
		return nil, fmt.Errorf("read the price list %s: %w", path, err)
	}
	if len(text) > maxPrices {
		return nil, fmt.Errorf("read the price list %s: it is larger than %d bytes", path, maxPrices)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	list := &nacre.PriceList{}
	if err := dec.Decode(list); err != nil {
		return nil, fmt.Errorf("read the price list %s: %w; `nacre prices show` prints one", path, err)
	}
	if list.Effective == nil {
		return nil, fmt.Errorf("read the price list %s: it doesn't say from which day it holds (Effective)", path)
	}
	return list, nil
}

// addDollars adds amounts up that the API told.
func addDollars(amounts ...string) (string, error) {
	sum := new(big.Rat)
	for _, a := range amounts {
		x, ok := new(big.Rat).SetString(a)
		if !ok {
			return "", fmt.Errorf("the amount %q is no number", a)
		}
		sum.Add(sum, x)
	}
	return sum.FloatString(6), nil
}
