package ec2

import (
	"slices"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// mountHost has an instance be shown the directories of its server that its tag names, from its next start on: those that the server's operator allows, and to the
// operator's account alone. The tag alone does nothing.
func mountHost(r store.Reader, account cloud.AccountID, i *cloud.Instance) error {
	text, ok := i.Tags[cloud.TagHostMounts]
	if !ok {
		i.HostMounts = nil
		return nil
	}
	list, err := cloud.ParseHostMounts(text)
	if err != nil {
		return awsapi.InvalidParameterValue("Invalid value '%s' for the tag %s: %s.", text, cloud.TagHostMounts, err)
	}
	if slices.Equal(list, i.HostMounts) {
		return nil
	}
	if i.VM() {
		return awsapi.Unsupported("The tag %s is not supported for virtual machines, which have file systems of their own: attach a volume.", cloud.TagHostMounts)
	}
	if region, ok := store.Region(r); !ok || region.Root != account {
		return awsapi.Errorf("UnauthorizedOperation", "Only the operator's account may show directories of a server to its instances (%s).", cloud.TagHostMounts)
	}
	for _, m := range list {
		allows := func(n *cloud.Node) bool {
			_, ok := m.AllowedBy(n.HostPaths)
			return ok && n.Zone == i.Zone && (i.Node == "" || i.Node == n.ID)
		}
		if !slices.ContainsFunc(store.List(r, store.Nodes), allows) {
			how := "read and written"
			if m.ReadOnly {
				how = "read"
			}
			return awsapi.Errorf("UnauthorizedOperation", "No server in %s allows its directory %s to be %s by instances: its operator does so with `nacre up --allow-host-path`.", i.Zone, m.Source, how)
		}
	}
	i.HostMounts = list
	return nil
}
