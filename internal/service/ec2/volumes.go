package ec2

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerVolumes(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionCreateVolume, s.createVolume, awsapi.Honours("AvailabilityZone", "ClientToken", "Encrypted", "Iops", "KmsKeyId", "MultiAttachEnabled", "Size", "SnapshotId",
		"TagSpecifications", "Throughput", "VolumeType"))
	awsapi.Handle(r, ec2.ActionDeleteVolume, s.deleteVolume, awsapi.Honours("VolumeId"))
	awsapi.Handle(r, ec2.ActionDescribeVolumes, s.describeVolumes, awsapi.Honours("Filters", "MaxResults", "NextToken", "VolumeIds"))
	s.registerVolumeAttachments(r)
	s.registerVolumeChanges(r)
	s.registerVolumeStatus(r)
	s.registerSnapshots(r)
	s.registerEncryption(r)
}

// maxVolumes bounds an account's volumes.
const maxVolumes = 100_000

func ownerOfVolume(v *cloud.Volume) cloud.AccountID { return v.Account }

// shapeError is EC2's answer to a shape that can't be.
func shapeError(err error) error {
	var shape *cloud.ShapeError
	if errors.As(err, &shape) && shape.Combination {
		return awsapi.InvalidCombination("%s", shape.Message)
	}
	return awsapi.InvalidParameterValue("%s", err.Error())
}

// number reads a size or a rate, refusing what no type of volume has.
func number(name string, v *int64) (int, error) {
	if v == nil {
		return 0, nil
	}
	if *v < 1 || *v > 1<<20 {
		return 0, awsapi.InvalidParameterValue("Invalid value '%d' for %s.", *v, name)
	}
	return int(*v), nil
}

// volumeShape reads what a call chooses of a volume.
func volumeShape(kind *string, size, iops, throughput *int64) (shape cloud.VolumeShape, err error) {
	shape.Type = cloud.VolumeType(deref(kind))
	if shape.SizeGiB, err = number("size", size); err != nil {
		return shape, err
	}
	if shape.IOPS, err = number("iops", iops); err != nil {
		return shape, err
	}
	shape.Throughput, err = number("throughput", throughput)
	return shape, err
}

// volumeTags checks the tags of a volume that the node acts on.
func volumeTags(tags cloud.Tags) error {
	target, ok := tags[cloud.TagMount]
	if !ok {
		return nil
	}
	if !path.IsAbs(target) || path.Clean(target) != target || target == "/" || strings.ContainsAny(target, ",\n\x00") {
		return awsapi.InvalidParameterValue("Invalid value '%s' for the tag %s: it is the absolute path of a directory.", target, cloud.TagMount)
	}
	if cloud.SystemPath(target) {
		return awsapi.InvalidParameterValue("Invalid value '%s' for the tag %s: it is the system's.", target, cloud.TagMount)
	}
	return nil
}

// noMultiAttach refuses what this cloud can't do with volumes.
func noMultiAttach(multi *bool) error {
	if deref(multi) {
		return awsapi.Unsupported("The value true of MultiAttachEnabled is not supported by this cloud: a volume is written by one machine at a time.")
	}
	return nil
}

// nodeForVolume chooses the node of a zone that could take the largest volume.
func nodeForVolume(r store.Reader, zone string, sizeGiB int) (cloud.NodeID, error) {
	var best *cloud.Node
	for _, n := range store.List(r, store.Nodes) {
		if n.Zone == zone && (best == nil || n.VolumeGiB > best.VolumeGiB || n.VolumeGiB == best.VolumeGiB && n.ID < best.ID) {
			best = n
		}
	}
	switch {
	case best == nil || best.VolumeGiB == 0:
		return "", awsapi.Errorf("InsufficientVolumeCapacity", "No server in the Availability Zone %s keeps volumes; `nacre doctor` tells what is missing.", zone)
	case sizeGiB > best.VolumeGiB:
		return "", tooLargeForNode(zone, sizeGiB, best.VolumeGiB)
	}
	return best.ID, nil
}

func tooLargeForNode(zone string, size, most int) error {
	return awsapi.Errorf("InsufficientVolumeCapacity", "There is not enough capacity to fulfill your request in the Availability Zone %s: a volume of %d GiB is larger than the disk that it would be on, which has %d GiB.", zone, size, most)
}

func (s *Service) createVolume(ctx context.Context, call *awsapi.Call, req *ec2.CreateVolumeRequest) (*ec2.Volume, error) {
	tags, err := tagsFor(req.TagSpecifications, "volume")
	if err == nil {
		err = volumeTags(tags["volume"])
	}
	if err == nil {
		err = noMultiAttach(req.MultiAttachEnabled)
	}
	if err != nil {
		return nil, err
	}
	shape, err := volumeShape(req.VolumeType, req.Size, req.Iops, req.Throughput)
	if err != nil {
		return nil, err
	}
	if shape.Type == "" {
		shape.Type = cloud.VolumeGP2 // EC2's, for calls that don't say
	}
	encrypted, err := parseEncryption(req.Encrypted, req.KmsKeyId)
	if err != nil {
		return nil, err
	}
	switch {
	case deref(req.AvailabilityZone) == "":
		return nil, awsapi.MissingParameter("AvailabilityZone")
	case shape.SizeGiB == 0 && deref(req.SnapshotId) == "":
		return nil, awsapi.MissingParameter("Size")
	}
	id, hash := newID[cloud.VolumeID](s), awsapi.RequestHash(req)
	made := id
	err = s.update(ctx, call, func(tx *store.Tx) error {
		made = id
		done, err := once(tx, call, "CreateVolume", deref(req.ClientToken), hash, string(id))
		if err != nil {
			return err
		}
		if done != "" {
			made = cloud.VolumeID(done)
			return nil
		}
		if region, ok := store.Region(tx); !ok || !slices.ContainsFunc(region.Zones, func(z cloud.Zone) bool { return z.Name == *req.AvailabilityZone }) {
			return awsapi.Errorf("InvalidZone.NotFound", "The zone '%s' does not exist.", *req.AvailabilityZone)
		}
		if err := roomForVolumes(tx, call.Account, 1); err != nil {
			return err
		}
		v, err := newVolume(tx, call, id, *req.AvailabilityZone, shape, encrypted, deref(req.SnapshotId))
		if err != nil {
			return err
		}
		v.Tags = tags["volume"]
		store.Put(tx, store.Volumes, v)
		return nil
	})
	if err != nil {
		return nil, err
	}
	view := s.store.View()
	v, ok := store.Get(view, store.Volumes, made)
	if !ok {
		return nil, kindVolume.notFound(string(made))
	}
	out := volumeAnswer(view, v)
	out.Attachments = nil // EC2 leaves them out of this answer
	return &out, nil
}

// roomForVolumes counts what a call makes against the account's limit.
func roomForVolumes(tx *store.Tx, account cloud.AccountID, more int) error {
	if more > 0 && len(store.ListBy(tx.View(), store.VolumesByAccount, account))+more > maxVolumes {
		return awsapi.Errorf("VolumeLimitExceeded", "You have exceeded your maximum number of volumes, %d.", maxVolumes)
	}
	return nil
}

// usableSnapshot finds a snapshot that a volume can be made of.
func usableSnapshot(tx *store.Tx, account cloud.AccountID, id string) (*cloud.Snapshot, error) {
	from, err := lookup(tx, store.Snapshots, ownerOfSnapshot, kindSnapshot, account, id)
	if err == nil && from.State == cloud.SnapshotError {
		err = awsapi.Errorf("IncorrectState", "Snapshot '%s' is in the 'error' state.", from.ID)
	}
	if err == nil && from.Written && from.State == cloud.SnapshotPending {
		err = awsapi.Errorf("IncorrectState", "Snapshot '%s' is in the 'pending' state: it is still being written.", from.ID)
	}
	return from, err
}

// newVolume is a volume that its node has still to make.
func newVolume(tx *store.Tx, call *awsapi.Call, id cloud.VolumeID, zone string, shape cloud.VolumeShape, encrypted encryption, snapshot string) (*cloud.Volume, error) {
	v := &cloud.Volume{ID: id, Account: call.Account, Zone: zone, Created: call.Now, State: cloud.VolumeCreating, AutoIO: false}
	var from *cloud.Snapshot
	if snapshot != "" {
		var err error
		if from, err = usableSnapshot(tx, call.Account, snapshot); err != nil {
			return nil, err
		}
		if shape.SizeGiB == 0 {
			shape.SizeGiB = from.SizeGiB
		}
		if shape.SizeGiB < from.SizeGiB {
			return nil, awsapi.InvalidParameterValue("The volume size '%d' is smaller than the size '%d' of the snapshot '%s'.", shape.SizeGiB, from.SizeGiB, from.ID)
		}
		v.Snapshot, v.Origin = from.ID, from.Origin
	}
	shape, err := shape.Settle()
	if err != nil {
		return nil, shapeError(err)
	}
	if v.Encrypted, err = encrypted.settle(tx, call.Account, from != nil && from.Encrypted); err != nil {
		return nil, err
	}
	v.Type, v.SizeGiB, v.IOPS, v.Throughput = shape.Type, shape.SizeGiB, shape.IOPS, shape.Throughput
	if v.Node, err = nodeForVolume(tx, zone, v.SizeGiB); err != nil {
		return nil, err
	}
	if from != nil && from.Node != v.Node { // its bytes are there
		n, ok := store.Get(tx, store.Nodes, from.Node)
		if !ok || n.Zone != zone {
			return nil, awsapi.Unsupported("The snapshot '%s' is kept in another Availability Zone.", from.ID)
		}
		if v.SizeGiB > n.VolumeGiB {
			return nil, tooLargeForNode(zone, v.SizeGiB, n.VolumeGiB)
		}
		v.Node = from.Node
	}
	return v, nil
}

func (s *Service) deleteVolume(ctx context.Context, call *awsapi.Call, req *ec2.DeleteVolumeRequest) (*ec2.DeleteVolumeResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		v, err := lookup(tx, store.Volumes, ownerOfVolume, kindVolume, call.Account, deref(req.VolumeId))
		if err != nil {
			return err
		}
		switch {
		case v.Instance != "":
			return awsapi.Errorf("VolumeInUse", "Volume %s is currently attached to %s", v.ID, v.Instance)
		case v.State == cloud.VolumeDeleting:
			return nil
		}
		v.State = cloud.VolumeDeleting
		store.Put(tx, store.Volumes, v)
		return nil
	})
	return &ec2.DeleteVolumeResult{}, err
}

// attachmentState is how EC2 calls how far an attachment is.
func attachmentState(v *cloud.Volume) string {
	if v.Attach == cloud.Detaching && v.Busy != "" {
		return "busy"
	}
	return string(v.Attach)
}

func volumeAttachmentShape(v *cloud.Volume) ec2.VolumeAttachment {
	return ec2.VolumeAttachment{VolumeId: text(v.ID), InstanceId: text(v.Instance), Device: text(v.Device), State: new(attachmentState(v)), AttachTime: &v.AttachTime,
		DeleteOnTermination: &v.DeleteOnTermination}
}

func volumeAnswer(r store.Reader, v *cloud.Volume) ec2.Volume {
	out := ec2.Volume{VolumeId: text(v.ID), VolumeType: text(v.Type), Size: new(int64(v.SizeGiB)), SnapshotId: new(string(v.Snapshot)), AvailabilityZone: &v.Zone,
		State: text(v.State), CreateTime: &v.Created, Encrypted: &v.Encrypted, KmsKeyId: keyOf(r, v.Account, v.Encrypted), MultiAttachEnabled: new(false), Iops: optional(v.Shape().Baseline()),
		Throughput: optional(int64(v.Throughput)), Attachments: []ec2.VolumeAttachment{}}
	if len(v.Tags) > 0 {
		out.Tags = tagList(v.Tags)
	}
	if v.Instance != "" {
		out.Attachments = append(out.Attachments, volumeAttachmentShape(v))
	}
	return out
}

func (s *Service) describeVolumes(_ context.Context, call *awsapi.Call, req *ec2.DescribeVolumesRequest) (*ec2.DescribeVolumesResult, error) {
	type V = *cloud.Volume
	attached := func(f func(V) string) func(V) []string {
		return one(func(v V) string {
			if v.Instance == "" {
				return ""
			}
			return f(v)
		})
	}
	no := one(func(V) string { return "false" })
	none := func(V) []string { return nil }
	l := listing[cloud.VolumeID, cloud.Volume]{store.Volumes, store.VolumesByAccount, ownerOfVolume, kindVolume, func(v V) cloud.VolumeID { return v.ID },
		awsapi.FilterSet[V]{Tags: func(v V) map[string]string { return v.Tags }, Values: map[string]func(V) []string{
			"attachment.attach-time":           attached(func(v V) string { return timeText(v.AttachTime) }),
			"attachment.delete-on-termination": attached(func(v V) string { return boolText(v.DeleteOnTermination) }),
			"attachment.device":                attached(func(v V) string { return v.Device }),
			"attachment.instance-id":           attached(func(v V) string { return string(v.Instance) }),
			"attachment.status":                attached(attachmentState),
			"availability-zone":                one(func(v V) string { return v.Zone }),
			"create-time":                      one(func(v V) string { return timeText(v.Created) }),
			"encrypted":                        one(func(v V) string { return boolText(v.Encrypted) }),
			"fast-restored":                    no, "multi-attach-enabled": no,
			"operator.managed": no, "operator.principal": none,
			"size":        one(func(v V) string { return fmt.Sprint(v.SizeGiB) }),
			"snapshot-id": one(func(v V) string { return string(v.Snapshot) }),
			"status":      one(func(v V) string { return string(v.State) }),
			"volume-id":   one(func(v V) string { return string(v.ID) }),
			"volume-type": one(func(v V) string { return string(v.Type) }),
		}}}
	view := s.store.View()
	page, err := l.page(view, call.Account, req.VolumeIds, req.Filters, req.MaxResults, req.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeVolumesResult{NextToken: page.Next, Volumes: []ec2.Volume{}}
	for _, v := range page.Items {
		out.Volumes = append(out.Volumes, volumeAnswer(view, v))
	}
	return out, nil
}
