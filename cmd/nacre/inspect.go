package main

import (
	"encoding/json"
	"errors"

	"github.com/spf13/cobra"

	"github.com/nacre-cloud/nacre/internal/awsapi/nacre"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

type inspectOptions struct {
	address, process string
	pages, processor int64
}

func inspectCommand(g *globals) *cobra.Command {
	var o inspectOptions
	cmd := &cobra.Command{
		Use:   "inspect INSTANCE",
		Short: "Look inside an instance: what it is made of, what it uses, where its memory is",
		Long: `Look inside a running instance. It goes on while it is looked at.

Of a virtual machine: by what it is executed and why, its processors and their privilege level, what the translator or KVM counted, its devices, and its memory on the
server. --address follows an address of the guest through the page tables that a processor has now: guest virtual, guest physical, host
virtual, host physical. --process takes a process's own tables, by its id or name, in guests with nacre's program; with it alone, a page of each of
its mappings is shown. --pages draws a table of that many pages.

Of a container: its namespaces and id map, its limits and their use, its processes, and the layers of its root with those who share them.

What is about the server (its addresses, processes, and other instances) is shown to the operator's account alone.`,
		Example: `  nacre inspect web
  nacre inspect web --address 0xffffffff81000000
  nacre inspect web --process nginx
  nacre inspect web --process 812 --address 0x7ffd1c2eb000 --pages 16`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: g.completeInstances,
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := o.request(cmd)
			if err != nil {
				return err
			}
			a, err := g.connect()
			if err != nil {
				return err
			}
			i, err := a.find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			req.InstanceId = &i.ID
			out, err := a.own.InspectInstance(cmd.Context(), req)
			if err != nil {
				return err
			}
			if g.json() {
				return printJSON(cmd, out)
			}
			found, err := inspectionOf(out)
			if err != nil {
				return err
			}
			return printInspection(cmd.OutOrStdout(), i, found)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.address, "address", "", "guest virtual `ADDRESS` to follow, in hexadecimal")
	f.StringVar(&o.process, "process", "", "`PROCESS` in the guest, by id or name, whose page tables count")
	f.Int64Var(&o.pages, "pages", 1, "`NUMBER` of pages to show, 1 to 512")
	f.Int64Var(&o.processor, "processor", 0, "`NUMBER` of the virtual CPU whose present page tables count")
	cmd.MarkFlagsMutuallyExclusive("process", "processor")
	return cmd
}

func (o inspectOptions) request(cmd *cobra.Command) (*nacre.InspectInstanceRequest, error) {
	req := &nacre.InspectInstanceRequest{}
	if o.address != "" {
		if _, err := cloud.HexAddress(o.address).Value(); err != nil {
			return nil, err
		}
		req.Address = &o.address
	}
	if o.process != "" {
		req.Process = &o.process
	}
	if cmd.Flags().Changed("pages") {
		req.Pages = &o.pages
	}
	if cmd.Flags().Changed("processor") {
		req.Processor = &o.processor
	}
	if o.address == "" && o.process == "" && (req.Pages != nil || req.Processor != nil) {
		return nil, errors.New("say where to look: --address, or --process")
	}
	return req, nil
}

// inspectionOf is an answer in the domain's terms, whose fields are called as the answer's members are.
func inspectionOf(out *nacre.InspectInstanceResponse) (cloud.Inspection, error) {
	var found cloud.Inspection
	b, err := json.Marshal(out)
	if err != nil {
		return found, err
	}
	return found, json.Unmarshal(b, &found)
}
