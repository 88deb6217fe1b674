package ec2

import (
	"cmp"
	"context"
	"fmt"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerVolumeChanges(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionModifyVolume, s.modifyVolume, awsapi.Honours("Iops", "MultiAttachEnabled", "Size", "Throughput", "VolumeId", "VolumeType"))
	awsapi.Handle(r, ec2.ActionDescribeVolumesModifications, s.describeVolumesModifications, awsapi.Honours("Filters", "MaxResults", "NextToken", "VolumeIds"))
}

func (s *Service) modifyVolume(ctx context.Context, call *awsapi.Call, req *ec2.ModifyVolumeRequest) (*ec2.ModifyVolumeResult, error) {
	if err := noMultiAttach(req.MultiAttachEnabled); err != nil {
		return nil, err
	}
	want, err := volumeShape(req.VolumeType, req.Size, req.Iops, req.Throughput)
	if err != nil {
		return nil, err
	}
	if want == (cloud.VolumeShape{}) && req.VolumeType == nil {
		return nil, awsapi.InvalidCombination("No parameters to modify: give a size, a type, iops or a throughput.")
	}
	var out ec2.VolumeModification
	err = s.update(ctx, call, func(tx *store.Tx) error {
		v, err := lookup(tx, store.Volumes, ownerOfVolume, kindVolume, call.Account, deref(req.VolumeId))
		if err != nil {
			return err
		}
		if err := device(v, "modified"); err != nil {
			return err
		}
		switch {
		case v.State != cloud.VolumeAvailable && v.State != cloud.VolumeInUse:
			return awsapi.Errorf("IncorrectState", "Volume '%s' is in the '%s' state: only volumes that are 'available' or 'in-use' can be modified.", v.ID, v.State)
		case v.Change != nil && v.Change.Ended.IsZero():
			return awsapi.Errorf("IncorrectModificationState", "The volume '%s' is being modified already.", v.ID)
		case want.SizeGiB != 0 && want.SizeGiB < v.SizeGiB:
			return awsapi.InvalidParameterValue("New size cannot be smaller than existing size")
		}
		shape := want
		shape.Type, shape.SizeGiB = cmp.Or(want.Type, v.Type), cmp.Or(want.SizeGiB, v.SizeGiB)
		if shape.Type == v.Type { // what isn't said stays; another type begins with its own
			shape.IOPS, shape.Throughput = cmp.Or(want.IOPS, v.IOPS), cmp.Or(want.Throughput, v.Throughput)
		}
		if shape, err = shape.Settle(); err != nil {
			return shapeError(err)
		}
		if n, ok := store.Get(tx, store.Nodes, v.Node); ok && shape.SizeGiB > max(n.VolumeGiB, v.SizeGiB) {
			return tooLargeForNode(v.Zone, shape.SizeGiB, n.VolumeGiB)
		}
		v.Wished++
		v.Change = &cloud.VolumeChange{Wished: v.Wished, Started: call.Now, OldType: v.Type, Type: shape.Type, OldSize: v.SizeGiB, SizeGiB: shape.SizeGiB,
			OldIOPS: v.IOPS, IOPS: shape.IOPS, OldThroughput: v.Throughput, Stream: shape.Throughput}
		v.Type, v.SizeGiB, v.IOPS, v.Throughput = shape.Type, shape.SizeGiB, shape.IOPS, shape.Throughput
		store.Put(tx, store.Volumes, v)
		out = modificationShape(v)
		return nil
	})
	return &ec2.ModifyVolumeResult{VolumeModification: &out}, err
}

// modificationState is EC2's word for how far a change is. Nothing is optimised here: what is done is completed.
func modificationState(c *cloud.VolumeChange) string {
	switch {
	case c.Ended.IsZero():
		return "modifying"
	case c.Failure != "":
		return "failed"
	}
	return "completed"
}

func modificationShape(v *cloud.Volume) ec2.VolumeModification {
	c := v.Change
	from := cloud.VolumeShape{Type: c.OldType, SizeGiB: c.OldSize, IOPS: c.OldIOPS}
	to := cloud.VolumeShape{Type: c.Type, SizeGiB: c.SizeGiB, IOPS: c.IOPS}
	out := ec2.VolumeModification{VolumeId: text(v.ID), ModificationState: new(modificationState(c)), StatusMessage: optional(c.Failure), StartTime: &c.Started, Progress: new(int64(0)),
		OriginalSize: new(int64(c.OldSize)), TargetSize: new(int64(c.SizeGiB)), OriginalVolumeType: text(c.OldType), TargetVolumeType: text(c.Type),
		OriginalIops: optional(from.Baseline()), TargetIops: optional(to.Baseline()), OriginalThroughput: optional(int64(c.OldThroughput)), TargetThroughput: optional(int64(c.Stream)),
		OriginalMultiAttachEnabled: new(false), TargetMultiAttachEnabled: new(false)}
	if !c.Ended.IsZero() {
		out.EndTime = &c.Ended
		if c.Failure == "" {
			out.Progress = new(int64(100))
		}
	}
	return out
}

func (s *Service) describeVolumesModifications(_ context.Context, call *awsapi.Call, req *ec2.DescribeVolumesModificationsRequest) (*ec2.DescribeVolumesModificationsResult, error) {
	type V = *cloud.Volume
	changed := func(f func(*cloud.VolumeChange) string) func(V) []string {
		return one(func(v V) string {
			if v.Change == nil {
				return ""
			}
			return f(v.Change)
		})
	}
	type C = *cloud.VolumeChange
	count := func(f func(C) int) func(V) []string { return changed(func(c C) string { return fmt.Sprint(f(c)) }) }
	no := one(func(V) string { return "false" })
	view := s.store.View()
	l := listing[cloud.VolumeID, cloud.Volume]{store.Volumes, store.VolumesByAccount, ownerOfVolume, kindVolume, func(v V) cloud.VolumeID { return v.ID },
		awsapi.FilterSet[V]{Values: map[string]func(V) []string{
			"modification-state":            changed(modificationState),
			"original-iops":                 count(func(c C) int { return c.OldIOPS }),
			"original-size":                 count(func(c C) int { return c.OldSize }),
			"original-volume-type":          changed(func(c C) string { return string(c.OldType) }),
			"originalMultiAttachEnabled":    no,
			"original-multi-attach-enabled": no,
			"start-time":                    changed(func(c C) string { return timeText(c.Started) }),
			"target-iops":                   count(func(c C) int { return c.IOPS }),
			"target-size":                   count(func(c C) int { return c.SizeGiB }),
			"target-volume-type":            changed(func(c C) string { return string(c.Type) }),
			"targetMultiAttachEnabled":      no,
			"target-multi-attach-enabled":   no,
			"volume-id":                     one(func(v V) string { return string(v.ID) }),
		}}}
	page, err := l.page(view, call.Account, req.VolumeIds, req.Filters, req.MaxResults, req.NextToken, func(v V) bool { return v.Change == nil })
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeVolumesModificationsResult{NextToken: page.Next, VolumesModifications: []ec2.VolumeModification{}}
	for _, v := range page.Items {
		out.VolumesModifications = append(out.VolumesModifications, modificationShape(v))
	}
	return out, nil
}
