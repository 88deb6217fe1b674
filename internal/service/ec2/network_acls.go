package ec2

import (
	"context"
	"slices"
	"strconv"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerNetworkACLs(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionCreateNetworkAcl, s.createNetworkACL, awsapi.Honours("ClientToken", "VpcId", "TagSpecifications"))
	awsapi.Handle(r, ec2.ActionDeleteNetworkAcl, s.deleteNetworkACL, awsapi.Honours("NetworkAclId"))
	awsapi.Handle(r, ec2.ActionReplaceNetworkAclAssociation, s.replaceNetworkACLAssociation, awsapi.Honours("AssociationId", "NetworkAclId"))
	awsapi.Handle(r, ec2.ActionDescribeNetworkAcls, s.describeNetworkACLs, awsapi.Honours("Filters", "NetworkAclIds", "MaxResults", "NextToken"))
	s.registerNetworkACLEntries(r)
}

// maxACLsPerVPC is EC2's default limit.
const maxACLsPerVPC = 200

func (s *Service) createNetworkACL(ctx context.Context, call *awsapi.Call, req *ec2.CreateNetworkAclRequest) (*ec2.CreateNetworkAclResult, error) {
	tags, err := tagsFor(req.TagSpecifications, "network-acl")
	if err != nil {
		return nil, err
	}
	id, hash := newID[cloud.NetworkACLID](s), awsapi.RequestHash(req)
	made := id
	err = s.update(ctx, call, func(tx *store.Tx) error {
		made = id
		if token := deref(req.ClientToken); token != "" {
			done, err := replay(tx, call, "CreateNetworkAcl", token, hash)
			if err != nil {
				return err
			}
			if done != "" {
				made = cloud.NetworkACLID(done)
				return nil
			}
			remember(tx, call, "CreateNetworkAcl", token, hash, string(id))
		}
		vpc, err := lookup(tx, store.VPCs, ownerOfVPC, kindVPC, call.Account, deref(req.VpcId))
		if err != nil {
			return err
		}
		if len(store.ListBy(tx.View(), store.NetworkACLsByVPC, vpc.ID)) >= maxACLsPerVPC {
			return awsapi.Errorf("NetworkAclLimitExceeded", "The VPC %s has %d network ACLs, which is the most.", vpc.ID, maxACLsPerVPC)
		}
		store.Put(tx, store.NetworkACLs, &cloud.NetworkACL{ID: id, Account: call.Account, VPC: vpc.ID, Tags: tags["network-acl"], Created: call.Now})
		return nil
	})
	if err != nil {
		return nil, err
	}
	view := s.store.View()
	a, ok := store.Get(view, store.NetworkACLs, made)
	if !ok {
		return nil, kindACL.notFound(string(made))
	}
	return &ec2.CreateNetworkAclResult{NetworkAcl: new(networkACLShape(view, a)), ClientToken: req.ClientToken}, nil
}

func (s *Service) deleteNetworkACL(ctx context.Context, call *awsapi.Call, req *ec2.DeleteNetworkAclRequest) (*ec2.DeleteNetworkAclResult, error) {
	err := s.update(ctx, call, func(tx *store.Tx) error {
		a, err := lookup(tx, store.NetworkACLs, ownerOfACL, kindACL, call.Account, deref(req.NetworkAclId))
		if err != nil {
			return err
		}
		if a.Default {
			return awsapi.InvalidParameterValue("The network ACL '%s' is the default of its VPC and cannot be deleted", a.ID)
		}
		if len(store.ListBy(tx, store.SubnetsByACL, a.ID)) > 0 {
			return awsapi.Errorf("DependencyViolation", "The networkAcl '%s' has dependencies and cannot be deleted.", a.ID)
		}
		store.Delete(tx, store.NetworkACLs, a.ID)
		return nil
	})
	return &ec2.DeleteNetworkAclResult{}, err
}

// replaceNetworkACLAssociation puts another ACL around the subnet of an association, which gets a new id.
func (s *Service) replaceNetworkACLAssociation(ctx context.Context, call *awsapi.Call, req *ec2.ReplaceNetworkAclAssociationRequest) (*ec2.ReplaceNetworkAclAssociationResult, error) {
	id, fresh := deref(req.AssociationId), newID[cloud.ACLAssociationID](s)
	if !cloud.ValidID[cloud.ACLAssociationID](id) {
		return nil, awsapi.Malformed("InvalidAssociationID.Malformed", id)
	}
	err := s.update(ctx, call, func(tx *store.Tx) error {
		list := store.ListBy(tx, store.SubnetsByACLAssociation, cloud.ACLAssociationID(id))
		if len(list) == 0 || list[0].Account != call.Account {
			return awsapi.Errorf("InvalidAssociationID.NotFound", "The association ID '%s' does not exist", id)
		}
		subnet := list[0]
		a, err := lookup(tx, store.NetworkACLs, ownerOfACL, kindACL, call.Account, deref(req.NetworkAclId))
		if err != nil {
			return err
		}
		if a.VPC != subnet.VPC {
			return awsapi.InvalidParameterValue("Network ACL %s and subnet %s belong to different networks", a.ID, subnet.ID)
		}
		subnet.ACL, subnet.ACLAssociation = a.ID, fresh
		store.Put(tx, store.Subnets, subnet)
		return nil
	})
	return &ec2.ReplaceNetworkAclAssociationResult{NewAssociationId: text(fresh)}, err
}

func (s *Service) describeNetworkACLs(_ context.Context, call *awsapi.Call, req *ec2.DescribeNetworkAclsRequest) (*ec2.DescribeNetworkAclsResult, error) {
	view := s.store.View()
	type A = *cloud.NetworkACL
	subnets := func(f func(*cloud.Subnet) string) func(A) []string {
		return func(a A) (out []string) {
			for _, n := range store.ListBy(view, store.SubnetsByACL, a.ID) {
				out = append(out, f(n))
			}
			return out
		}
	}
	entries := func(f func(ec2.NetworkAclEntry) string) func(A) []string {
		return func(a A) (out []string) {
			for _, e := range entryShapes(view, a) {
				if v := f(e); v != "" {
					out = append(out, v)
				}
			}
			return out
		}
	}
	number := func(n *int64) string {
		if n == nil {
			return ""
		}
		return strconv.FormatInt(*n, 10)
	}
	l := listing[cloud.NetworkACLID, cloud.NetworkACL]{store.NetworkACLs, store.NetworkACLsByAccount, ownerOfACL, kindACL, func(a A) cloud.NetworkACLID { return a.ID }, awsapi.FilterSet[A]{
		Tags: func(a A) map[string]string { return a.Tags }, Values: map[string]func(A) []string{
			"association.association-id": subnets(func(n *cloud.Subnet) string { return string(n.ACLAssociation) }),
			"association.network-acl-id": subnets(func(n *cloud.Subnet) string { return string(n.ACL) }),
			"association.subnet-id":      subnets(func(n *cloud.Subnet) string { return string(n.ID) }),
			"default":                    one(func(a A) string { return boolText(a.Default) }),
			"entry.cidr":                 entries(func(e ec2.NetworkAclEntry) string { return deref(e.CidrBlock) }),
			"entry.ipv6-cidr":            entries(func(e ec2.NetworkAclEntry) string { return deref(e.Ipv6CidrBlock) }),
			"entry.icmp.code":            entries(func(e ec2.NetworkAclEntry) string { return number(deref(e.IcmpTypeCode).Code) }),
			"entry.icmp.type":            entries(func(e ec2.NetworkAclEntry) string { return number(deref(e.IcmpTypeCode).Type) }),
			"entry.port-range.from":      entries(func(e ec2.NetworkAclEntry) string { return number(deref(e.PortRange).From) }),
			"entry.port-range.to":        entries(func(e ec2.NetworkAclEntry) string { return number(deref(e.PortRange).To) }),
			"entry.protocol":             entries(func(e ec2.NetworkAclEntry) string { return deref(e.Protocol) }),
			"entry.rule-action":          entries(func(e ec2.NetworkAclEntry) string { return deref(e.RuleAction) }),
			"entry.egress":               entries(func(e ec2.NetworkAclEntry) string { return boolText(deref(e.Egress)) }),
			"entry.rule-number":          entries(func(e ec2.NetworkAclEntry) string { return number(e.RuleNumber) }),
			"network-acl-id":             one(func(a A) string { return string(a.ID) }), "owner-id": one(func(a A) string { return string(a.Account) }),
			"vpc-id": one(func(a A) string { return string(a.VPC) }),
		}}}
	page, err := l.page(view, call.Account, req.NetworkAclIds, req.Filters, req.MaxResults, req.NextToken)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeNetworkAclsResult{NextToken: page.Next, NetworkAcls: []ec2.NetworkAcl{}}
	for _, a := range page.Items {
		out.NetworkAcls = append(out.NetworkAcls, networkACLShape(view, a))
	}
	return out, nil
}

func networkACLShape(r store.Reader, a *cloud.NetworkACL) ec2.NetworkAcl {
	out := ec2.NetworkAcl{NetworkAclId: text(a.ID), OwnerId: text(a.Account), VpcId: text(a.VPC), IsDefault: &a.Default, Tags: tagList(a.Tags),
		Entries: entryShapes(r, a), Associations: []ec2.NetworkAclAssociation{}}
	for _, n := range store.ListBy(r, store.SubnetsByACL, a.ID) {
		out.Associations = append(out.Associations, ec2.NetworkAclAssociation{NetworkAclAssociationId: text(n.ACLAssociation), NetworkAclId: text(a.ID), SubnetId: text(n.ID)})
	}
	return out
}

// entryShapes lists an ACL's entries with the last ones, which EC2 adds and nobody changes: all else is refused.
func entryShapes(r store.Reader, a *cloud.NetworkACL) []ec2.NetworkAclEntry {
	list := slices.Clone(a.Entries)
	whole := cloud.NetworkACL{Entries: list}
	for _, egress := range []bool{true, false} {
		last := cloud.NetworkACLEntry{Number: cloud.MaxACLEntryNumber + 1, Egress: egress, Protocol: cloud.ProtocolAll, FromPort: -1, ToPort: -1, Prefix: cloud.AllIPv4}
		whole.Add(last)
		if vpcHasIPv6(r, a.VPC) {
			last.Number, last.Prefix = cloud.MaxACLEntryNumber+2, cloud.AllIPv6
			whole.Add(last)
		}
	}
	out := make([]ec2.NetworkAclEntry, len(whole.Entries))
	for n, e := range whole.Entries {
		out[n] = entryShape(e)
	}
	return out
}

func entryShape(e cloud.NetworkACLEntry) ec2.NetworkAclEntry {
	out := ec2.NetworkAclEntry{RuleNumber: new(int64(e.Number)), Egress: &e.Egress, Protocol: new(strconv.Itoa(int(e.Protocol))), RuleAction: new("deny")}
	if e.Allow {
		out.RuleAction = new("allow")
	}
	if e.Prefix.Addr().Is4() {
		out.CidrBlock = new(e.Prefix.String())
	} else {
		out.Ipv6CidrBlock = new(e.Prefix.String())
	}
	switch e.Protocol {
	case cloud.ProtocolTCP, cloud.ProtocolUDP:
		out.PortRange = &ec2.PortRange{From: new(int64(e.FromPort)), To: new(int64(e.ToPort))}
	case cloud.ProtocolICMP, cloud.ProtocolICMPv6:
		out.IcmpTypeCode = &ec2.IcmpTypeCode{Type: new(int64(e.FromPort)), Code: new(int64(e.ToPort))}
	}
	return out
}
