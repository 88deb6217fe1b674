package agent

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/flowlog"
	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	// flowsEvery is how often the packet filter is asked for its counts; a record's start and end are as exact.
	flowsEvery = 10 * time.Second
	// flowsCleaned is how often old files are looked for.
	flowsCleaned = time.Hour
)

// logFlows writes the flow logs of this node until ctx ends.
func (a *Agent) logFlows(ctx context.Context) {
	var collector *flowlog.Collector
	tick, clean := time.NewTicker(flowsEvery), time.NewTicker(flowsCleaned)
	defer tick.Stop()
	defer clean.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-clean.C:
			if collector != nil {
				if err := collector.Clean(a.cfg.Now()); err != nil {
					a.log.Error("old flow logs stay", "error", err)
				}
			}
			continue
		case <-tick.C:
		}
		vpcs := a.flows(ctx)
		if collector == nil {
			if len(vpcs) == 0 {
				continue
			}
			a.mu.Lock()
			collector = flowlog.New(a.cfg.FlowLogsDir, a.region.Name)
			a.mu.Unlock()
		}
		if err := collector.Tell(a.cfg.Now(), vpcs); err != nil {
			a.log.Error("flow logs can't be written", "error", err)
		}
	}
}

// flows reads what was counted in every VPC that has flow logs.
func (a *Agent) flows(ctx context.Context) []flowlog.VPC {
	var out []flowlog.VPC
	for _, v := range a.vpcs.logged() {
		flows, err := a.cfg.Network.Flows(ctx, v.ID)
		if err != nil {
			if ctx.Err() == nil {
				a.log.Warn("flows can't be read", "vpc", v.ID, "error", err)
			}
			continue
		}
		v.Flows = flows
		out = append(out, v)
	}
	return out
}

// logged lists the VPCs that have flow logs, with their interfaces on this node.
func (v *vpcs) logged() []flowlog.VPC {
	v.mu.RLock()
	defer v.mu.RUnlock()
	var out []flowlog.VPC
	for _, id := range slices.Sorted(maps.Keys(v.known)) {
		if m := v.known[id]; len(m.FlowLogs) > 0 {
			out = append(out, flowlog.VPC{ID: id, Logs: m.FlowLogs, Interfaces: interfacesIn(id, v.machines)})
		}
	}
	return out
}

func interfacesIn(vpc cloud.VPCID, machines map[cloud.InstanceID]*agentrpc.Machine) []flowlog.Interface {
	var out []flowlog.Interface
	for _, m := range machines {
		for _, i := range m.Interfaces {
			if i.VPC == vpc && m.Instance.Desired == cloud.DesiredRunning {
				out = append(out, flowlog.Interface{ID: i.ID, Subnet: i.Subnet, Account: i.Account})
			}
		}
	}
	return out
}
