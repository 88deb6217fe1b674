package ec2_test

import (
	"fmt"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// acl makes a network ACL in the default VPC.
func (w *world) acl() string {
	w.t.Helper()
	out, err := w.CreateNetworkAcl(w.t.Context(), &sdk.CreateNetworkAclInput{VpcId: (*string)(&w.subnet().VPC)})
	if err != nil {
		w.t.Fatal(err)
	}
	return *out.NetworkAcl.NetworkAclId
}

// acls describes the ACLs that pass filters.
func (w *world) acls(filters ...string) []types.NetworkAcl {
	w.t.Helper()
	out, err := w.DescribeNetworkAcls(w.t.Context(), &sdk.DescribeNetworkAclsInput{Filters: filterList(filters...)})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.NetworkAcls
}

// entries writes an ACL's entries as one line each.
func entries(a types.NetworkAcl) (list []string) {
	for _, e := range a.Entries {
		line := fmt.Sprint(map[bool]string{true: "out", false: "in"}[*e.Egress], " ", *e.RuleNumber, " ", e.RuleAction, " ", *e.Protocol, " ", aws.ToString(e.CidrBlock), aws.ToString(e.Ipv6CidrBlock))
		if e.PortRange != nil {
			line += fmt.Sprint(" ports ", *e.PortRange.From, "-", *e.PortRange.To)
		}
		if e.IcmpTypeCode != nil {
			line += fmt.Sprint(" icmp ", *e.IcmpTypeCode.Type, "/", *e.IcmpTypeCode.Code)
		}
		list = append(list, line)
	}
	return list
}

func sameLines(t *testing.T, got []string, want ...string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got\n%q, want\n%q", got, want)
	}
}

func TestTheDefaultACLLetsEverythingPass(t *testing.T) {
	w := newWorld(t)
	list := w.acls("default", "true", "association.subnet-id", string(w.subnet().ID))
	if len(list) != 1 {
		t.Fatalf("%d default ACLs are around the default subnet", len(list))
	}
	sameLines(t, entries(list[0]), "out 100 allow -1 0.0.0.0/0", "out 32767 deny -1 0.0.0.0/0", "in 100 allow -1 0.0.0.0/0", "in 32767 deny -1 0.0.0.0/0")
	_, err := w.DeleteNetworkAcl(t.Context(), &sdk.DeleteNetworkAclInput{NetworkAclId: list[0].NetworkAclId})
	refused(t, err, "InvalidParameterValue")
}

func TestEntriesAreKeptInTheOrderOfTheirNumbers(t *testing.T) {
	w := newWorld(t)
	id := w.acl()
	add := func(number int32, egress bool, protocol, cidr string, ports *types.PortRange, icmp *types.IcmpTypeCode) error {
		_, err := w.CreateNetworkAclEntry(t.Context(), &sdk.CreateNetworkAclEntryInput{NetworkAclId: &id, RuleNumber: &number, Egress: &egress, Protocol: &protocol,
			CidrBlock: &cidr, RuleAction: types.RuleActionAllow, PortRange: ports, IcmpTypeCode: icmp})
		return err
	}
	web := &types.PortRange{From: aws.Int32(80), To: aws.Int32(443)}
	for _, err := range []error{add(200, false, "6", "10.1.2.3/8", web, nil), add(100, false, "icmp", "0.0.0.0/0", nil, &types.IcmpTypeCode{Type: aws.Int32(8), Code: aws.Int32(-1)}),
		add(150, true, "-1", "10.0.0.0/8", nil, nil)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	mine := func() []string { return entries(w.acls("network-acl-id", id)[0]) }
	sameLines(t, mine(), "out 150 allow -1 10.0.0.0/8", "out 32767 deny -1 0.0.0.0/0", "in 100 allow 1 0.0.0.0/0 icmp 8/-1", "in 200 allow 6 10.0.0.0/8 ports 80-443", "in 32767 deny -1 0.0.0.0/0")
	w.unchanged(func() {
		refused(t, add(200, false, "17", "10.0.0.0/8", web, nil), "NetworkAclEntryAlreadyExists")
		refused(t, add(0, false, "17", "10.0.0.0/8", web, nil), "InvalidParameterValue")
		refused(t, add(32767, false, "17", "10.0.0.0/8", web, nil), "InvalidParameterValue")
		refused(t, add(1, false, "17", "10.0.0.0/8", nil, nil), "MissingParameter", "PortRange")
		refused(t, add(1, false, "17", "10.0.0.0/33", web, nil), "InvalidParameterValue")
		refused(t, add(1, false, "1", "10.0.0.0/8", nil, nil), "MissingParameter", "Icmp")
		refused(t, add(1, false, "58", "10.0.0.0/8", nil, &types.IcmpTypeCode{Type: aws.Int32(8), Code: aws.Int32(-1)}), "InvalidParameterValue")
		refused(t, add(1, false, "nonsense", "10.0.0.0/8", nil, nil), "InvalidParameterValue")
	})
	if _, err := w.ReplaceNetworkAclEntry(t.Context(), &sdk.ReplaceNetworkAclEntryInput{NetworkAclId: &id, RuleNumber: aws.Int32(200), Egress: aws.Bool(false), Protocol: aws.String("17"),
		CidrBlock: aws.String("10.0.0.0/8"), RuleAction: types.RuleActionDeny, PortRange: &types.PortRange{From: aws.Int32(53), To: aws.Int32(53)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.DeleteNetworkAclEntry(t.Context(), &sdk.DeleteNetworkAclEntryInput{NetworkAclId: &id, RuleNumber: aws.Int32(100), Egress: aws.Bool(false)}); err != nil {
		t.Fatal(err)
	}
	sameLines(t, mine(), "out 150 allow -1 10.0.0.0/8", "out 32767 deny -1 0.0.0.0/0", "in 200 deny 17 10.0.0.0/8 ports 53-53", "in 32767 deny -1 0.0.0.0/0")
	_, err := w.DeleteNetworkAclEntry(t.Context(), &sdk.DeleteNetworkAclEntryInput{NetworkAclId: &id, RuleNumber: aws.Int32(100), Egress: aws.Bool(false)})
	refused(t, err, "InvalidNetworkAclEntry.NotFound")
}

func TestAnACLIsPutAroundASubnetInPlaceOfAnother(t *testing.T) {
	w := newWorld(t)
	id, subnet := w.acl(), string(w.subnet().ID)
	of := func() types.NetworkAclAssociation {
		t.Helper()
		for _, a := range w.acls("association.subnet-id", subnet)[0].Associations {
			if *a.SubnetId == subnet {
				return a
			}
		}
		t.Fatal("no ACL is around the subnet")
		return types.NetworkAclAssociation{}
	}
	before := of()
	out, err := w.ReplaceNetworkAclAssociation(t.Context(), &sdk.ReplaceNetworkAclAssociationInput{AssociationId: before.NetworkAclAssociationId, NetworkAclId: &id})
	if err != nil {
		t.Fatal(err)
	}
	if now := of(); *now.NetworkAclId != id || *now.NetworkAclAssociationId != *out.NewAssociationId || *out.NewAssociationId == *before.NetworkAclAssociationId {
		t.Errorf("the association is %+v", now)
	}
	_, err = w.ReplaceNetworkAclAssociation(t.Context(), &sdk.ReplaceNetworkAclAssociationInput{AssociationId: before.NetworkAclAssociationId, NetworkAclId: &id})
	refused(t, err, "InvalidAssociationID.NotFound")
	_, err = w.DeleteNetworkAcl(t.Context(), &sdk.DeleteNetworkAclInput{NetworkAclId: &id})
	refused(t, err, "DependencyViolation")
	if _, err := w.ReplaceNetworkAclAssociation(t.Context(), &sdk.ReplaceNetworkAclAssociationInput{AssociationId: out.NewAssociationId, NetworkAclId: before.NetworkAclId}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.DeleteNetworkAcl(t.Context(), &sdk.DeleteNetworkAclInput{NetworkAclId: &id}); err != nil {
		t.Fatal(err)
	}
}
