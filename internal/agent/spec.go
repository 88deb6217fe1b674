package agent

import (
	"fmt"

	"github.com/nacre-cloud/nacre/internal/agent/image"
	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// spec is what a driver needs to run an assigned machine, save for the root file system and the
// network namespace.
func (a *Agent) spec(d *agentrpc.Machine, img image.Config) (machine.Spec, error) {
	i := &d.Instance
	limits, err := resourcesOf(i)
	if err != nil {
		return machine.Spec{}, err
	}
	a.mu.Lock()
	region := a.region.Name
	a.mu.Unlock()
	if len(d.Interfaces) == 0 {
		return machine.Spec{}, fmt.Errorf("machine %s: it has no network interface", i.ID)
	}
	primary := d.Interfaces[0]
	spec := machine.Spec{
		ID: i.ID, Boot: i.Boot, Dir: a.machineDir(i.ID),
		Hostname: cloud.HostName(primary.PrivateIP), FQDN: cloud.PrivateDNSName(primary.PrivateIP, region),
		Address: primary.PrivateIP.String(),
		System:  img.System, Args: append(append([]string(nil), img.Entrypoint...), img.Cmd...),
		Env: img.Env, WorkingDir: img.WorkingDir, User: img.User, StopSignal: img.StopSignal,
		Binds:    []machine.Bind{{Source: a.cfg.SFTPServer, Target: sftpTarget}},
		UserData: i.UserData, PublicKey: i.PublicKey,
		Resources: limits,
	}
	if vpc := a.vpcs.get(i.VPC); vpc != nil {
		spec.Resolvers, spec.Domain = namesOf(vpc, region)
	}
	if len(i.Command) > 0 {
		// As with every container tool: the command replaces the image's command, not its entrypoint.
		spec.Args = append(append([]string(nil), img.Entrypoint...), i.Command...)
		spec.System = false
	}
	return spec, nil
}

// resourcesOf is what an instance's size gives its machine.
func resourcesOf(i *cloud.Instance) (machine.Resources, error) {
	size, ok := i.Size()
	if !ok {
		return machine.Resources{}, fmt.Errorf("machine %s: this agent does not know the instance type %s; upgrade it", i.ID, i.Type)
	}
	return machine.Resources{VCPUs: size.VCPUs, Weight: 100 * size.VCPUs, Memory: size.MemoryMiB << 20, PIDs: int64(size.VCPUs) * pidsPerVCPU}, nil
}

// namesOf are the DNS servers and the search domain of a VPC's machines.
func namesOf(vpc *agentrpc.VPC, region string) (resolvers []string, domain string) {
	switch {
	case vpc.DHCP != nil:
		return vpc.DHCP.Servers(vpc.VPC.Resolver()), vpc.DHCP.Domain()
	case vpc.VPC.DHCPOptions != "": // a control plane that keeps no sets yet
		return []string{vpc.VPC.Resolver().String()}, cloud.PrivateDomain(region)
	}
	return nil, ""
}
