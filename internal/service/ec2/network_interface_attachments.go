package ec2

import (
	"context"
	"slices"

	"github.com/nacre-cloud/nacre/internal/attachments"
	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/nics"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerNetworkInterfaceAttachments(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionAttachNetworkInterface, s.attachNetworkInterface, awsapi.Honours("DeviceIndex", "InstanceId", "NetworkInterfaceId", "NetworkCardIndex"))
	// Every detachment is one that doesn't ask the guest, which is what Force means.
	awsapi.Handle(r, ec2.ActionDetachNetworkInterface, s.detachNetworkInterface, awsapi.Honours("AttachmentId", "Force"))
}

func networkCard(index *int64) error {
	if deref(index) != 0 {
		return awsapi.InvalidParameterValue("Invalid network card index '%d': the instance types of this cloud have one network card, 0.", *index)
	}
	return nil
}

// attachableTo finds why an interface can't be an instance's.
func attachableTo(tx *store.Tx, i *cloud.Instance, n *cloud.Interface, device int) error {
	size, ok := cloud.LookupInstanceType(i.Type)
	switch {
	case n.Instance != "":
		return interfaceInUse(n)
	case i.Asleep():
		return asleep(i)
	case n.VPC != i.VPC:
		return awsapi.InvalidParameterValue("The network interface '%s' and the instance '%s' are in different VPCs.", n.ID, i.ID)
	case n.Zone != i.Zone:
		return awsapi.InvalidCombination("You may not attach a network interface to an instance if they are not in the same availability zone")
	case !ok:
		return awsapi.Unsupported("The instance type %s of %s is not served by this cloud.", i.Type, i.ID)
	case device < 0 || device > maxDeviceIndex:
		return awsapi.InvalidParameterValue("Invalid value '%d' for deviceIndex: it is from 0 to %d.", device, maxDeviceIndex)
	case len(i.Interfaces) >= size.MaxInterfaces:
		return tooManyInterfaces(size, len(i.Interfaces)+1)
	}
	if err := fitsBus(i, len(attachments.Beside(tx, i)), len(i.Interfaces)+1); err != nil {
		return err
	}
	for _, other := range store.ListBy(tx, store.InterfacesByInstance, i.ID) {
		if other.DeviceIndex == device {
			return awsapi.InvalidParameterValue("Instance '%s' already has an interface attached at device index '%d'.", i.ID, device)
		}
	}
	return fits(size, n)
}

// maxDeviceIndex is where the numbers of interfaces inside an instance end.
const maxDeviceIndex = 31

func tooManyInterfaces(size cloud.InstanceTypeInfo, count int) error {
	return awsapi.Errorf("AttachmentLimitExceeded", "Interface count %d exceeds the limit for %s", count, size.Name)
}

func interfaceInUse(n *cloud.Interface) error {
	return awsapi.Errorf("InvalidNetworkInterface.InUse", "Interface: [%s] in use.", n.ID)
}

func (s *Service) attachNetworkInterface(ctx context.Context, call *awsapi.Call, req *ec2.AttachNetworkInterfaceRequest) (*ec2.AttachNetworkInterfaceResult, error) {
	if req.DeviceIndex == nil {
		return nil, awsapi.MissingParameter("DeviceIndex")
	}
	if err := networkCard(req.NetworkCardIndex); err != nil {
		return nil, err
	}
	attachment := newID[cloud.AttachmentID](s)
	err := s.update(ctx, call, func(tx *store.Tx) error {
		n, err := ownInterface(tx, call.Account, deref(req.NetworkInterfaceId))
		if err != nil {
			return err
		}
		i, err := lookup(tx, store.Instances, ownerOfInstance, kindInstance, call.Account, deref(req.InstanceId))
		if err != nil {
			return err
		}
		if i.State != cloud.StateRunning && i.State != cloud.StateStopped {
			return awsapi.Errorf("IncorrectState", "Instance '%s' is not 'running' or 'stopped'.", i.ID)
		}
		if err := attachableTo(tx, i, n, int(*req.DeviceIndex)); err != nil {
			return err
		}
		n.Instance, n.Attachment, n.AttachTime, n.DeviceIndex = i.ID, attachment, call.Now, int(*req.DeviceIndex)
		n.AttachState = cloud.Attaching
		if i.State == cloud.StateStopped { // nothing of it is on any node
			n.AttachState = cloud.Attached
		}
		wire(tx, i, n)
		store.Put(tx, store.Interfaces, n)
		store.Put(tx, store.Instances, i)
		return nil
	})
	return &ec2.AttachNetworkInterfaceResult{AttachmentId: text(attachment), NetworkCardIndex: new(int64(0))}, err
}

// wire adds an interface to an instance's list, which is in the order of the device indexes.
func wire(r store.Reader, i *cloud.Instance, n *cloud.Interface) {
	at := slices.IndexFunc(i.Interfaces, func(id cloud.InterfaceID) bool {
		other, ok := store.Get(r, store.Interfaces, id)
		return ok && other.DeviceIndex > n.DeviceIndex
	})
	if at < 0 {
		at = len(i.Interfaces)
	}
	i.Interfaces = slices.Insert(i.Interfaces, at, n.ID)
	i.Wiring++
}

func (s *Service) detachNetworkInterface(ctx context.Context, call *awsapi.Call, req *ec2.DetachNetworkInterfaceRequest) (*ec2.DetachNetworkInterfaceResult, error) {
	id := deref(req.AttachmentId)
	if !cloud.ValidID[cloud.AttachmentID](id) {
		return nil, awsapi.Malformed("InvalidNetworkInterfaceAttachmentId.Malformed", id)
	}
	err := s.update(ctx, call, func(tx *store.Tx) error {
		list := store.ListBy(tx.View(), store.InterfacesByAttachment, cloud.AttachmentID(id))
		if len(list) == 0 || list[0].Account != call.Account {
			return awsapi.Errorf("InvalidAttachmentID.NotFound", "The attachment ID '%s' does not exist", id)
		}
		n, err := ownInterface(tx, call.Account, string(list[0].ID))
		if err != nil {
			return err
		}
		i, ok := store.Get(tx, store.Instances, n.Instance)
		switch {
		case !ok || string(n.Attachment) != id:
			return awsapi.Errorf("InvalidAttachmentID.NotFound", "The attachment ID '%s' does not exist", id)
		case n.DeviceIndex == 0:
			return awsapi.Errorf("OperationNotPermitted", "The network interface at device index 0 cannot be detached.")
		case n.AttachState == cloud.Detaching:
			return awsapi.Errorf("IncorrectState", "The network interface attachment '%s' is being detached.", id)
		case i.State == cloud.StateShuttingDown || i.State == cloud.StateTerminated:
			return awsapi.Errorf("IncorrectState", "Instance '%s' is not 'running' or 'stopped'.", i.ID)
		case i.Asleep():
			return asleep(i)
		}
		n.AttachState = cloud.Detaching
		i.Wiring++
		store.Put(tx, store.Interfaces, n)
		if i.State == cloud.StateStopped {
			nics.Settle(tx, i)
		}
		store.Put(tx, store.Instances, i)
		return nil
	})
	return &ec2.DetachNetworkInterfaceResult{}, err
}
