package ec2

import (
	"context"
	"regexp"

	"github.com/nacre-cloud/nacre/internal/attachments"
	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerVolumeAttachments(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionAttachVolume, s.attachVolume, awsapi.Honours("Device", "InstanceId", "VolumeId"))
	awsapi.Handle(r, ec2.ActionDetachVolume, s.detachVolume, awsapi.Honours("Device", "Force", "InstanceId", "VolumeId"))
}

const (
	// maxAttachments bounds the volumes of an instance beside its root.
	maxAttachments = 16
	// maxSlots bounds the volumes beside its root and the interfaces of a virtual machine together, whose bus has as many slots for what
	// comes and goes. EC2's have such a bound too.
	maxSlots = 22
)

// fitsBus finds whether an instance can have so many volumes beside its root and so many interfaces.
func fitsBus(i *cloud.Instance, volumes, interfaces int) error {
	if i.VM() && volumes+interfaces > maxSlots {
		return awsapi.Errorf("AttachmentLimitExceeded", "A virtual machine has %d slots for volumes and network interfaces together; %d volumes and %d interfaces are too many.",
			maxSlots, volumes, interfaces)
	}
	return nil
}

// deviceNames are those that EC2 knows for Linux.
var deviceNames = regexp.MustCompile(`^/dev/(sd[b-z]([1-9]|1[0-5])?|xvd[b-z][a-z]?)$`)

// freeDevice checks the name that a volume is to have on an instance.
func freeDevice(r store.Reader, i *cloud.Instance, device string) error {
	switch {
	case device == "":
		return awsapi.MissingParameter("Device")
	case device == rootDeviceName:
		return freeRoot(r, i)
	case rootDevice(device):
		return awsapi.InvalidParameterValue("Invalid value '%s' for unixDevice. Attachment point %s is already in use", device, device)
	case !deviceNames.MatchString(device):
		return awsapi.InvalidParameterValue("Value (%s) for parameter device is invalid. %s is not a valid EBS device name.", device, device)
	}
	list := attachments.Beside(r, i)
	for _, v := range list {
		if seenAs(v.Device) == seenAs(device) {
			return awsapi.InvalidParameterValue("Invalid value '%s' for unixDevice. Attachment point %s is already in use", device, device)
		}
	}
	if len(list) >= maxAttachments {
		return awsapi.Errorf("AttachmentLimitExceeded", "Volume count %d exceeds the limit of %d for an instance.", len(list)+1, maxAttachments)
	}
	return fitsBus(i, len(list)+1, len(i.Interfaces))
}

// seenAs is a device's name inside.
func seenAs(device string) string {
	if len(device) > 7 && device[:7] == "/dev/sd" {
		return "/dev/xvd" + device[7:]
	}
	return device
}

func (s *Service) attachVolume(ctx context.Context, call *awsapi.Call, req *ec2.AttachVolumeRequest) (*ec2.VolumeAttachment, error) {
	var out ec2.VolumeAttachment
	err := s.update(ctx, call, func(tx *store.Tx) error {
		v, err := lookup(tx, store.Volumes, ownerOfVolume, kindVolume, call.Account, deref(req.VolumeId))
		if err != nil {
			return err
		}
		i, err := lookup(tx, store.Instances, ownerOfInstance, kindInstance, call.Account, deref(req.InstanceId))
		if err != nil {
			return err
		}
		switch {
		case v.Instance != "":
			return awsapi.Errorf("VolumeInUse", "%s is already attached to an instance", v.ID)
		case v.State != cloud.VolumeAvailable:
			return awsapi.Errorf("IncorrectState", "Volume '%s' is not 'available'.", v.ID)
		case i.State != cloud.StateRunning && i.State != cloud.StateStopped:
			return awsapi.Errorf("IncorrectState", "Instance '%s' is not 'running' or 'stopped'.", i.ID)
		case v.Zone != i.Zone:
			return awsapi.Errorf("InvalidVolume.ZoneMismatch", "The volume '%s' is not in the same availability zone as instance '%s'", v.ID, i.ID)
		case v.Node != i.Node:
			return awsapi.Unsupported("The volume '%s' is kept by another server than the one that the instance '%s' runs on: take a snapshot, and make a volume of it there.", v.ID, i.ID)
		case i.Asleep():
			return asleep(i)
		case i.Hardware.Devices == cloud.DevicesEmulated && i.VM() && deref(req.Device) != rootDeviceName:
			return awsapi.Unsupported("The instance '%s' has emulated devices, and none of its disk controllers takes volumes.", i.ID)
		}
		if err := freeDevice(tx, i, deref(req.Device)); err != nil {
			return err
		}
		attach(v, i, *req.Device, false, call)
		if i.State == cloud.StateStopped { // nothing of it is on any node
			v.Attach = cloud.Attached
		}
		i.Wiring++
		store.Put(tx, store.Volumes, v)
		store.Put(tx, store.Instances, i)
		out = volumeAttachmentShape(v)
		return nil
	})
	out.DeleteOnTermination = nil // EC2 leaves it out of this answer
	return &out, err
}

// attach ties a volume to an instance, whose node has still to do it.
func attach(v *cloud.Volume, i *cloud.Instance, device string, goesWithIt bool, call *awsapi.Call) {
	v.State, v.Instance, v.Device, v.Attach, v.AttachTime, v.DeleteOnTermination = cloud.VolumeInUse, i.ID, device, cloud.Attaching, call.Now, goesWithIt
	v.Busy, v.Forced = "", false
}

func (s *Service) detachVolume(ctx context.Context, call *awsapi.Call, req *ec2.DetachVolumeRequest) (*ec2.VolumeAttachment, error) {
	var out ec2.VolumeAttachment
	err := s.update(ctx, call, func(tx *store.Tx) error {
		v, err := lookup(tx, store.Volumes, ownerOfVolume, kindVolume, call.Account, deref(req.VolumeId))
		if err != nil {
			return err
		}
		force := deref(req.Force)
		switch {
		case v.Instance == "" || v.State == cloud.VolumeCreating:
			return awsapi.Errorf("IncorrectState", "Volume '%s' is in the '%s' state.", v.ID, v.State)
		case req.InstanceId != nil && !cloud.ValidID[cloud.InstanceID](*req.InstanceId):
			return kindInstance.malformed(*req.InstanceId)
		case req.InstanceId != nil && *req.InstanceId != string(v.Instance), req.Device != nil && *req.Device != v.Device:
			return awsapi.Errorf("InvalidAttachment.NotFound", "The volume '%s' is not attached to instance '%s' as device '%s'", v.ID, deref(req.InstanceId), deref(req.Device))
		}
		if err := device(v, "detached"); err != nil {
			return err
		}
		i, ok := store.Get(tx, store.Instances, v.Instance)
		switch {
		case !ok:
			return awsapi.Errorf("InvalidAttachment.NotFound", "The instance '%s' of volume '%s' is gone", v.Instance, v.ID)
		case i.Asleep():
			return asleep(i)
		case v.Device == rootDeviceName && i.State != cloud.StateStopped:
			return awsapi.Errorf("OperationNotPermitted", "Unable to detach root volume '%s' from instance '%s': stop it first.", v.ID, i.ID)
		case v.Attach == cloud.Detaching && (v.Forced || !force):
			out = volumeAttachmentShape(v) // on its way already
			return nil
		}
		v.Attach, v.Forced = cloud.Detaching, force
		i.Wiring++
		store.Put(tx, store.Volumes, v)
		out = volumeAttachmentShape(v)
		if i.State == cloud.StateStopped {
			attachments.Rest(tx, i)
		}
		store.Put(tx, store.Instances, i)
		return nil
	})
	out.DeleteOnTermination = nil
	return &out, err
}
