package ec2_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/nics"
	"github.com/nacre-cloud/nacre/internal/store"
)

// nic makes an interface in the first default subnet, where instances are launched when a test says nothing.
func (w *world) nic(changes ...func(*sdk.CreateNetworkInterfaceInput)) types.NetworkInterface {
	w.t.Helper()
	in := &sdk.CreateNetworkInterfaceInput{SubnetId: (*string)(&w.subnet().ID)}
	for _, c := range changes {
		c(in)
	}
	out, err := w.CreateNetworkInterface(w.t.Context(), in)
	if err != nil {
		w.t.Fatal(err)
	}
	return *out.NetworkInterface
}

// describedNIC describes an interface.
func (w *world) describedNIC(id string) types.NetworkInterface {
	w.t.Helper()
	out, err := w.DescribeNetworkInterfaces(w.t.Context(), &sdk.DescribeNetworkInterfacesInput{NetworkInterfaceIds: []string{id}})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.NetworkInterfaces[0]
}

func (w *world) attach(nic, instance string, index int32) (string, error) {
	out, err := w.AttachNetworkInterface(w.t.Context(), &sdk.AttachNetworkInterfaceInput{NetworkInterfaceId: &nic, InstanceId: &instance, DeviceIndex: &index})
	if err != nil {
		return "", err
	}
	return *out.AttachmentId, nil
}

// wired does what the node of an instance does: it makes what is being attached and takes away what is being detached.
func (w *world) wired(instance string) {
	w.t.Helper()
	w.update(func(tx *store.Tx) {
		i, _ := store.Get(tx, store.Instances, cloud.InstanceID(instance))
		nics.Settle(tx, i)
		store.Put(tx, store.Instances, i)
	})
}

// claims counts the addresses that are lent to interfaces and allocations.
func (w *world) claims() int { return len(store.List(w.store.View(), store.Claims)) }

// inSubnet launches into the subnet that nic uses.
func (w *world) inSubnet(in *order) { in.SubnetId = (*string)(&w.subnet().ID) }

func TestAnInterfaceIsMadeDescribedAndDeletedWithoutALeftover(t *testing.T) {
	w := newWorld(t)
	before := w.claims()
	made := w.nic(func(in *sdk.CreateNetworkInterfaceInput) {
		in.Description, in.SecondaryPrivateIpAddressCount = aws.String("second leg"), aws.Int32(2)
		in.TagSpecifications = []types.TagSpecification{tagSpec("network-interface", "tier", "db")}
	})
	if made.Status != "pending" || made.Attachment != nil {
		t.Errorf("the answer to its making says %s, attachment %v", made.Status, made.Attachment)
	}
	n := w.describedNIC(*made.NetworkInterfaceId)
	if n.Status != types.NetworkInterfaceStatusAvailable || *n.Description != "second leg" || len(n.PrivateIpAddresses) != 3 || !*n.PrivateIpAddresses[0].Primary ||
		*n.PrivateIpAddresses[1].Primary || len(n.TagSet) != 1 || len(n.Groups) != 1 || *n.Groups[0].GroupName != "default" || !*n.SourceDestCheck || n.Attachment != nil {
		t.Errorf("described as %+v", n)
	}
	if _, err := w.DeleteNetworkInterface(t.Context(), &sdk.DeleteNetworkInterfaceInput{NetworkInterfaceId: n.NetworkInterfaceId}); err != nil {
		t.Fatal(err)
	}
	if after := w.claims(); after != before {
		t.Errorf("%d claims before, %d after", before, after)
	}
	_, err := w.DescribeNetworkInterfaces(t.Context(), &sdk.DescribeNetworkInterfacesInput{NetworkInterfaceIds: []string{*n.NetworkInterfaceId}})
	refused(t, err, "InvalidNetworkInterfaceID.NotFound")
}

func TestAnInterfaceIsMadeOnceForOneClientToken(t *testing.T) {
	w := newWorld(t)
	token := func(in *sdk.CreateNetworkInterfaceInput) { in.ClientToken = aws.String("once") }
	if a, b := w.nic(token), w.nic(token); *a.NetworkInterfaceId != *b.NetworkInterfaceId {
		t.Error("the same token made two interfaces")
	}
	_, err := w.CreateNetworkInterface(t.Context(), &sdk.CreateNetworkInterfaceInput{SubnetId: (*string)(&w.subnet().ID), ClientToken: aws.String("once"), Description: aws.String("other")})
	refused(t, err, "IdempotentParameterMismatch")
}

func TestAnAttachmentComesAndGoesWithTheNodesWork(t *testing.T) {
	w := newWorld(t)
	vm, nic := w.running(w.inSubnet), *w.nic().NetworkInterfaceId
	attachment, err := w.attach(nic, vm, 1)
	if err != nil {
		t.Fatal(err)
	}
	if n := w.describedNIC(nic); n.Status != "in-use" || n.Attachment.Status != "attaching" || *n.Attachment.InstanceId != vm || *n.Attachment.DeviceIndex != 1 || *n.Attachment.DeleteOnTermination {
		t.Errorf("at once: %s, %+v", n.Status, n.Attachment)
	}
	w.wired(vm)
	if n := w.describedNIC(nic); n.Attachment.Status != "attached" {
		t.Errorf("after the node's work: %s", n.Attachment.Status)
	}
	if i := w.instance(vm); len(i.NetworkInterfaces) != 2 || *i.NetworkInterfaces[1].NetworkInterfaceId != nic || *i.PrivateIpAddress == *i.NetworkInterfaces[1].PrivateIpAddress {
		t.Errorf("the instance has %+v", i.NetworkInterfaces)
	}
	if got := w.found("network-interface.attachment.attachment-id", attachment); !slices.Equal(got, []string{vm}) {
		t.Errorf("found by its attachment: %v", got)
	}
	_, err = w.DeleteNetworkInterface(t.Context(), &sdk.DeleteNetworkInterfaceInput{NetworkInterfaceId: &nic})
	refused(t, err, "InvalidParameterValue", "currently in use")

	if _, err := w.DetachNetworkInterface(t.Context(), &sdk.DetachNetworkInterfaceInput{AttachmentId: &attachment}); err != nil {
		t.Fatal(err)
	}
	if n := w.describedNIC(nic); n.Status != "in-use" || n.Attachment.Status != "detaching" {
		t.Errorf("while the node works: %s, %+v", n.Status, n.Attachment)
	}
	w.wired(vm)
	if n := w.describedNIC(nic); n.Status != "available" || n.Attachment != nil {
		t.Errorf("afterwards: %s, %+v", n.Status, n.Attachment)
	}
	if i := w.instance(vm); len(i.NetworkInterfaces) != 1 {
		t.Errorf("the instance still has %d interfaces", len(i.NetworkInterfaces))
	}
	_, err = w.DetachNetworkInterface(t.Context(), &sdk.DetachNetworkInterfaceInput{AttachmentId: &attachment})
	refused(t, err, "InvalidAttachmentID.NotFound")
}

func TestAStoppedInstanceIsWiredAtOnce(t *testing.T) {
	w := newWorld(t)
	vm, nic := w.running(w.inSubnet), *w.nic().NetworkInterfaceId
	if _, err := w.StopInstances(t.Context(), &sdk.StopInstancesInput{InstanceIds: []string{vm}}); err != nil {
		t.Fatal(err)
	}
	_, err := w.attach(nic, vm, 1)
	refused(t, err, "IncorrectState")
	w.settle()
	attachment, err := w.attach(nic, vm, 1)
	if err != nil {
		t.Fatal(err)
	}
	if n := w.describedNIC(nic); n.Attachment.Status != "attached" {
		t.Errorf("attached: %s", n.Attachment.Status)
	}
	if _, err := w.DetachNetworkInterface(t.Context(), &sdk.DetachNetworkInterfaceInput{AttachmentId: &attachment}); err != nil {
		t.Fatal(err)
	}
	if n := w.describedNIC(nic); n.Status != "available" {
		t.Errorf("detached: %s", n.Status)
	}
}

func TestWhatCannotBeAttachedIsRefused(t *testing.T) {
	w := newWorld(t)
	vm := w.running(w.inSubnet) // t3.micro: two interfaces, two addresses each
	a, b := *w.nic().NetworkInterfaceId, *w.nic().NetworkInterfaceId
	fat := *w.nic(func(in *sdk.CreateNetworkInterfaceInput) { in.SecondaryPrivateIpAddressCount = aws.Int32(2) }).NetworkInterfaceId
	elsewhere := cloud.Subnet{ID: "subnet-ffffffffffffffffe", Account: w.key.Account, VPC: w.subnet().VPC, CIDR: netip.MustParsePrefix("172.31.240.0/24"), Zone: "us-east-1z"}
	w.update(func(tx *store.Tx) { store.Put(tx, store.Subnets, &elsewhere) })
	other := *w.nic(func(in *sdk.CreateNetworkInterfaceInput) {
		in.SubnetId = (*string)(&elsewhere.ID)
	}).NetworkInterfaceId
	first := *w.instance(vm).NetworkInterfaces[0].Attachment.AttachmentId
	w.unchanged(func() {
		for _, c := range []struct {
			nic   string
			index int32
			code  string
		}{{a, 0, "InvalidParameterValue"}, {a, -1, "InvalidParameterValue"}, {a, 99, "InvalidParameterValue"}, {fat, 1, "PrivateIpAddressLimitExceeded"},
			{other, 1, "InvalidParameterCombination"}, {"eni-00000000000000000", 1, "InvalidNetworkInterfaceID.NotFound"}, {"nic", 1, "InvalidNetworkInterfaceId.Malformed"}} {
			_, err := w.attach(c.nic, vm, c.index)
			refused(t, err, c.code)
		}
		_, err := w.DetachNetworkInterface(t.Context(), &sdk.DetachNetworkInterfaceInput{AttachmentId: &first})
		refused(t, err, "OperationNotPermitted")
	})
	if _, err := w.attach(a, vm, 1); err != nil {
		t.Fatal(err)
	}
	_, err := w.attach(a, vm, 2)
	refused(t, err, "InvalidNetworkInterface.InUse")
	_, err = w.attach(b, vm, 2)
	refused(t, err, "AttachmentLimitExceeded")
}

func TestAnInterfaceOutlivesItsInstanceUnlessToldOtherwise(t *testing.T) {
	w := newWorld(t)
	vm := w.running(w.inSubnet, ofType("t3.small"))
	keep, drop := *w.nic().NetworkInterfaceId, *w.nic().NetworkInterfaceId
	if _, err := w.attach(keep, vm, 1); err != nil {
		t.Fatal(err)
	}
	attachment, err := w.attach(drop, vm, 2)
	if err != nil {
		t.Fatal(err)
	}
	w.wired(vm)
	if _, err := w.ModifyNetworkInterfaceAttribute(t.Context(), &sdk.ModifyNetworkInterfaceAttributeInput{NetworkInterfaceId: &drop,
		Attachment: &types.NetworkInterfaceAttachmentChanges{AttachmentId: &attachment, DeleteOnTermination: aws.Bool(true)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.TerminateInstances(t.Context(), &sdk.TerminateInstancesInput{InstanceIds: []string{vm}}); err != nil {
		t.Fatal(err)
	}
	w.settle()
	if n := w.describedNIC(keep); n.Status != "available" || n.Attachment != nil {
		t.Errorf("the one to keep is %s", n.Status)
	}
	_, err = w.DescribeNetworkInterfaces(t.Context(), &sdk.DescribeNetworkInterfacesInput{NetworkInterfaceIds: []string{drop}})
	refused(t, err, "InvalidNetworkInterfaceID.NotFound")
}

func TestInterfaceAttributesAreReadBackAsTheyWereSet(t *testing.T) {
	w := newWorld(t)
	nic, g := *w.nic().NetworkInterfaceId, w.group("db")
	modify := func(in sdk.ModifyNetworkInterfaceAttributeInput) {
		t.Helper()
		in.NetworkInterfaceId = &nic
		if _, err := w.ModifyNetworkInterfaceAttribute(t.Context(), &in); err != nil {
			t.Fatal(err)
		}
	}
	modify(sdk.ModifyNetworkInterfaceAttributeInput{Description: &types.AttributeValue{Value: aws.String("new")}})
	modify(sdk.ModifyNetworkInterfaceAttributeInput{Groups: []string{g}})
	modify(sdk.ModifyNetworkInterfaceAttributeInput{SourceDestCheck: &types.AttributeBooleanValue{Value: aws.Bool(false)}})
	read := func(a types.NetworkInterfaceAttribute) *sdk.DescribeNetworkInterfaceAttributeOutput {
		t.Helper()
		out, err := w.DescribeNetworkInterfaceAttribute(t.Context(), &sdk.DescribeNetworkInterfaceAttributeInput{NetworkInterfaceId: &nic, Attribute: a})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got := *read("description").Description.Value; got != "new" {
		t.Errorf("description %q", got)
	}
	if got := read("groupSet").Groups; len(got) != 1 || *got[0].GroupId != g {
		t.Errorf("groups %+v", got)
	}
	if *read("sourceDestCheck").SourceDestCheck.Value {
		t.Error("the check is still on")
	}
	if _, err := w.ResetNetworkInterfaceAttribute(t.Context(), &sdk.ResetNetworkInterfaceAttributeInput{NetworkInterfaceId: &nic, SourceDestCheck: aws.String("true")}); err != nil {
		t.Fatal(err)
	}
	if !*read("sourceDestCheck").SourceDestCheck.Value {
		t.Error("the check is still off")
	}
	_, err := w.DeleteSecurityGroup(t.Context(), &sdk.DeleteSecurityGroupInput{GroupId: &g})
	refused(t, err, "DependencyViolation")
	_, err = w.ModifyNetworkInterfaceAttribute(t.Context(), &sdk.ModifyNetworkInterfaceAttributeInput{NetworkInterfaceId: &nic, Groups: []string{g},
		Description: &types.AttributeValue{Value: aws.String("x")}})
	refused(t, err, "InvalidParameterCombination")
}

func TestSecondaryAddressesMoveOnlyWhenAllowed(t *testing.T) {
	w := newWorld(t)
	before := w.claims()
	a, b := *w.nic().NetworkInterfaceId, *w.nic().NetworkInterfaceId
	assign := func(nic string, addr *string, reassign bool) error {
		in := &sdk.AssignPrivateIpAddressesInput{NetworkInterfaceId: &nic, AllowReassignment: &reassign}
		if addr != nil {
			in.PrivateIpAddresses = []string{*addr}
		} else {
			in.SecondaryPrivateIpAddressCount = aws.Int32(1)
		}
		_, err := w.AssignPrivateIpAddresses(t.Context(), in)
		return err
	}
	if err := assign(a, nil, false); err != nil {
		t.Fatal(err)
	}
	n := w.describedNIC(a)
	addr, primary := n.PrivateIpAddresses[1].PrivateIpAddress, n.PrivateIpAddress
	refused(t, assign(b, addr, false), "InvalidIPAddress.InUse")
	refused(t, assign(b, primary, true), "InvalidIPAddress.InUse")
	if err := assign(b, addr, true); err != nil {
		t.Fatal(err)
	}
	if len(w.describedNIC(a).PrivateIpAddresses) != 1 || *w.describedNIC(b).PrivateIpAddresses[1].PrivateIpAddress != *addr {
		t.Error("the address did not move")
	}
	unassign := func(nic string, addr *string) error {
		_, err := w.UnassignPrivateIpAddresses(t.Context(), &sdk.UnassignPrivateIpAddressesInput{NetworkInterfaceId: &nic, PrivateIpAddresses: []string{*addr}})
		return err
	}
	refused(t, unassign(a, addr), "InvalidParameterValue")
	refused(t, unassign(a, primary), "InvalidParameterValue")
	if err := unassign(b, addr); err != nil {
		t.Fatal(err)
	}
	if got := w.claims() - before; got != 2 {
		t.Errorf("two interfaces with one address each hold %d claims", got)
	}
}

func TestAnElasticIPStandsForASecondaryAddressAndGoesWithIt(t *testing.T) {
	w := newWorld(t)
	nic := w.nic(func(in *sdk.CreateNetworkInterfaceInput) { in.SecondaryPrivateIpAddressCount = aws.Int32(1) })
	eip, err := w.AllocateAddress(t.Context(), &sdk.AllocateAddressInput{})
	if err != nil {
		t.Fatal(err)
	}
	second := nic.PrivateIpAddresses[1].PrivateIpAddress
	got, err := w.AssociateAddress(t.Context(), &sdk.AssociateAddressInput{AllocationId: eip.AllocationId, NetworkInterfaceId: nic.NetworkInterfaceId, PrivateIpAddress: second})
	if err != nil {
		t.Fatal(err)
	}
	n := w.describedNIC(*nic.NetworkInterfaceId)
	if n.Association != nil || *n.PrivateIpAddresses[1].Association.PublicIp != *eip.PublicIp || *n.PrivateIpAddresses[1].Association.AssociationId != *got.AssociationId {
		t.Errorf("associations: %+v and %+v", n.Association, n.PrivateIpAddresses[1].Association)
	}
	describe := func() types.Address {
		t.Helper()
		out, err := w.DescribeAddresses(t.Context(), &sdk.DescribeAddressesInput{AllocationIds: []string{*eip.AllocationId}})
		if err != nil {
			t.Fatal(err)
		}
		return out.Addresses[0]
	}
	if a := describe(); *a.PrivateIpAddress != *second || *a.NetworkInterfaceId != *nic.NetworkInterfaceId || a.InstanceId != nil {
		t.Errorf("the address is %+v", a)
	}
	// From one address of the interface to the other, and back to nothing.
	if _, err := w.AssociateAddress(t.Context(), &sdk.AssociateAddressInput{AllocationId: eip.AllocationId, NetworkInterfaceId: nic.NetworkInterfaceId}); err != nil {
		t.Fatal(err)
	}
	if n := w.describedNIC(*nic.NetworkInterfaceId); n.Association == nil || n.PrivateIpAddresses[1].Association != nil {
		t.Errorf("after its move: %+v", n.PrivateIpAddresses)
	}
	if _, err := w.DeleteNetworkInterface(t.Context(), &sdk.DeleteNetworkInterfaceInput{NetworkInterfaceId: nic.NetworkInterfaceId}); err != nil {
		t.Fatal(err)
	}
	if a := describe(); a.AssociationId != nil || a.PrivateIpAddress != nil || a.NetworkInterfaceId != nil {
		t.Errorf("after the interface's end: %+v", a)
	}
}

func TestAnInstanceWithSeveralInterfacesWantsTheInterfaceNamed(t *testing.T) {
	w := newWorld(t)
	vm := w.running(w.inSubnet)
	if _, err := w.attach(*w.nic().NetworkInterfaceId, vm, 1); err != nil {
		t.Fatal(err)
	}
	eip, err := w.AllocateAddress(t.Context(), &sdk.AllocateAddressInput{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.AssociateAddress(t.Context(), &sdk.AssociateAddressInput{AllocationId: eip.AllocationId, InstanceId: &vm})
	refused(t, err, "InvalidInstanceID", "multiple interfaces")
	_, err = w.ModifyInstanceAttribute(t.Context(), &sdk.ModifyInstanceAttributeInput{InstanceId: &vm, SourceDestCheck: &types.AttributeBooleanValue{Value: aws.Bool(false)}})
	refused(t, err, "InvalidInstanceID", "multiple interfaces")
}

func TestALaunchMakesAndTakesSeveralInterfaces(t *testing.T) {
	w := newWorld(t)
	before := w.claims()
	own := *w.nic(func(in *sdk.CreateNetworkInterfaceInput) { in.Description = aws.String("kept") }).NetworkInterfaceId
	order := func(in *order) {
		in.InstanceType = types.InstanceTypeT3Small
		in.NetworkInterfaces = []types.InstanceNetworkInterfaceSpecification{
			{DeviceIndex: aws.Int32(2), NetworkInterfaceId: &own},
			{DeviceIndex: aws.Int32(0), SubnetId: (*string)(&w.subnet().ID), SecondaryPrivateIpAddressCount: aws.Int32(2)},
			{DeviceIndex: aws.Int32(1), SubnetId: (*string)(&w.subnet().ID), DeleteOnTermination: aws.Bool(false), Description: aws.String("left")},
		}
	}
	vm := *w.launch(order)[0].InstanceId
	i := w.instance(vm)
	if len(i.NetworkInterfaces) != 3 || *i.NetworkInterfaces[2].NetworkInterfaceId != own || *i.NetworkInterfaces[1].Description != "left" ||
		len(i.NetworkInterfaces[0].PrivateIpAddresses) != 3 || i.PublicIpAddress != nil || i.NetworkInterfaces[0].Attachment.Status != "attaching" {
		t.Errorf("launched with %+v", i.NetworkInterfaces)
	}
	_, err := w.run(order)
	refused(t, err, "InvalidNetworkInterface.InUse")
	w.settle()
	if i := w.instance(vm); i.NetworkInterfaces[2].Attachment.Status != "attached" {
		t.Errorf("running with one that is %s", i.NetworkInterfaces[2].Attachment.Status)
	}
	if _, err := w.TerminateInstances(t.Context(), &sdk.TerminateInstancesInput{InstanceIds: []string{vm}}); err != nil {
		t.Fatal(err)
	}
	w.settle()
	out, err := w.DescribeNetworkInterfaces(t.Context(), &sdk.DescribeNetworkInterfacesInput{})
	if err != nil || len(out.NetworkInterfaces) != 2 || out.NetworkInterfaces[0].Status != "available" || out.NetworkInterfaces[1].Status != "available" {
		t.Errorf("what is left: %+v, %v", out.NetworkInterfaces, err)
	}
	if got := w.claims() - before; got != 2 {
		t.Errorf("two interfaces with one address each hold %d claims", got)
	}
}

func TestTheNameOfAnElasticIPIsSetAndReset(t *testing.T) {
	w := newWorld(t)
	eip, err := w.AllocateAddress(t.Context(), &sdk.AllocateAddressInput{})
	if err != nil {
		t.Fatal(err)
	}
	set, err := w.ModifyAddressAttribute(t.Context(), &sdk.ModifyAddressAttributeInput{AllocationId: eip.AllocationId, DomainName: aws.String("Mail.example.com")})
	if err != nil || *set.Address.PtrRecord != "mail.example.com." {
		t.Fatal(set, err)
	}
	describe := func() []types.AddressAttribute {
		t.Helper()
		out, err := w.DescribeAddressesAttribute(t.Context(), &sdk.DescribeAddressesAttributeInput{Attribute: types.AddressAttributeNameDomainName})
		if err != nil {
			t.Fatal(err)
		}
		return out.Addresses
	}
	if got := describe(); len(got) != 1 || *got[0].PtrRecord != "mail.example.com." || *got[0].PublicIp != *eip.PublicIp {
		t.Errorf("described %+v", got)
	}
	for _, bad := range []string{"", "no dots", "-a.b", "a..b", "1.2.3.4"} {
		_, err := w.ModifyAddressAttribute(t.Context(), &sdk.ModifyAddressAttributeInput{AllocationId: eip.AllocationId, DomainName: &bad})
		if err == nil {
			t.Errorf("%q is taken for a name", bad)
		}
	}
	if _, err := w.ResetAddressAttribute(t.Context(), &sdk.ResetAddressAttributeInput{AllocationId: eip.AllocationId, Attribute: types.AddressAttributeNameDomainName}); err != nil {
		t.Fatal(err)
	}
	if got := describe(); len(got) != 0 {
		t.Errorf("after the reset: %+v", got)
	}
}
