package ec2

import (
	"slices"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/capacity"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/cloud/placement"
	"github.com/nacre-cloud/nacre/internal/store"
)

// ownSize takes CPUs and memory of a launch from its tags, where they say more than the type.
func (l *launch) ownSize() error {
	i := &l.template
	cpus, memory, err := cloud.SizeTags(i.Tags)
	if err != nil {
		return awsapi.InvalidParameterValue("%s", sentence(err))
	}
	i.CPUs, i.MemoryMiB = cpus, memory
	l.size, _ = i.Size()
	return nil
}

// sentence is an error's text as the wire says it.
func sentence(err error) string {
	text := err.Error()
	return string(text[0]-'a'+'A') + text[1:]
}

// resizeAsTagged gives an instance whose tags have changed the size that they ask for.
func resizeAsTagged(tx *store.Tx, i *cloud.Instance) error {
	if i.State == cloud.StateTerminated || i.State == cloud.StateShuttingDown {
		return nil // nothing of it will ever run again
	}
	want := i.Sizing()
	var err error
	if want.CPUs, want.MemoryMiB, err = cloud.SizeTags(i.Tags); err != nil {
		return awsapi.InvalidParameterValue("%s", sentence(err))
	}
	return resizeInstance(tx, i, want)
}

// resizeInstance gives an instance another size: a stopped one at its next start, a running one now, by its server.
func resizeInstance(tx *store.Tx, i *cloud.Instance, want cloud.Sizing) error {
	before := i.Sizing()
	if want == before {
		return nil
	}
	switch {
	case i.Asleep():
		return asleep(i)
	case i.State == cloud.StateStopped:
		i.SetSizing(want)
		delete(i.Tags, cloud.TagResize)
		return nil
	case i.State != cloud.StateRunning:
		return awsapi.Errorf("IncorrectInstanceState", "The instance '%s' must be in the 'running' or the 'stopped' state to change its size.", i.ID)
	}
	i.SetSizing(want)
	if i.Before == nil {
		i.Before = &before
	}
	i.Sized++
	i.Tags[cloud.TagResize] = cloud.ResizePending
	now, _ := i.Size()
	if was, ok := before.Info(); ok && now.VCPUs <= was.VCPUs && now.MemoryMiB <= was.MemoryMiB && now.BaselinePercent == was.BaselinePercent {
		return nil // less is there, whatever else is
	}
	return hasRoomFor(tx.View(), i)
}

// hasRoomFor refuses a running instance more than its server has beside the others.
func hasRoomFor(r store.Reader, i *cloud.Instance) error {
	wanted, ok := capacity.Wanted(r, i)
	if !ok {
		return awsapi.Unsupported("The instance type %s of %s is not served by this cloud.", i.Type, i.ID)
	}
	others := slices.DeleteFunc(capacity.Without(r, i.ID), func(c placement.Candidate) bool { return c.Node.ID != i.Node })
	if res := placement.Place(others, wanted); res.Node == "" {
		return insufficientCapacity(i.Type, i.Zone, res)
	}
	return nil
}
