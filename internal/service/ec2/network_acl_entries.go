package ec2

import (
	"context"
	"net/netip"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerNetworkACLEntries(r *awsapi.Registry) {
	entry := awsapi.Honours("NetworkAclId", "RuleNumber", "Egress", "Protocol", "RuleAction", "CidrBlock", "Ipv6CidrBlock", "IcmpTypeCode", "PortRange")
	awsapi.Handle(r, ec2.ActionCreateNetworkAclEntry, s.createNetworkACLEntry, entry)
	awsapi.Handle(r, ec2.ActionReplaceNetworkAclEntry, s.replaceNetworkACLEntry, entry)
	awsapi.Handle(r, ec2.ActionDeleteNetworkAclEntry, s.deleteNetworkACLEntry, awsapi.Honours("NetworkAclId", "RuleNumber", "Egress"))
}

// maxACLEntries bounds an ACL's entries in one direction. EC2's default is 20; operators of their own servers get the most that
// EC2 grants.
const maxACLEntries = 40

// entryOf reads an entry in EC2's meanings.
func entryOf(req *ec2.CreateNetworkAclEntryRequest) (e cloud.NetworkACLEntry, err error) {
	if e.Number, err = entryNumber(req.RuleNumber); err != nil {
		return e, err
	}
	if req.Egress == nil {
		return e, awsapi.MissingParameter("Egress")
	}
	e.Egress, e.FromPort, e.ToPort = *req.Egress, -1, -1
	switch action := deref(req.RuleAction); action {
	case "allow", "deny":
		e.Allow = action == "allow"
	case "":
		return e, awsapi.MissingParameter("RuleAction")
	default:
		return e, awsapi.InvalidParameterValue("Invalid value '%s' for ruleAction: it is allow or deny.", action)
	}
	if e.Prefix, err = entryPrefix(deref(req.CidrBlock), deref(req.Ipv6CidrBlock)); err != nil {
		return e, err
	}
	if e.Protocol, err = parseProtocol(deref(req.Protocol)); err != nil {
		return e, err
	}
	switch e.Protocol {
	case cloud.ProtocolTCP, cloud.ProtocolUDP:
		p := deref(req.PortRange)
		if p.From == nil || p.To == nil {
			return e, awsapi.MissingParameter("PortRange")
		}
		if *p.From < 0 || *p.To > 65535 || *p.From > *p.To {
			return e, awsapi.InvalidParameterValue("Invalid TCP/UDP port range (%d:%d)", *p.From, *p.To)
		}
		e.FromPort, e.ToPort = int(*p.From), int(*p.To)
	case cloud.ProtocolICMP, cloud.ProtocolICMPv6:
		p := deref(req.IcmpTypeCode)
		if p.Type == nil || p.Code == nil {
			return e, awsapi.MissingParameter("Icmp")
		}
		if *p.Type < -1 || *p.Type > 255 || *p.Code < -1 || *p.Code > 255 || *p.Type == -1 && *p.Code != -1 {
			return e, awsapi.InvalidParameterValue("ICMP type (%d) and code (%d) are from -1 to 255, and all types have all codes", *p.Type, *p.Code)
		}
		e.FromPort, e.ToPort = int(*p.Type), int(*p.Code)
	}
	if e.Protocol == cloud.ProtocolICMPv6 && e.Prefix.Addr().Is4() {
		return e, awsapi.InvalidParameterValue("The protocol 58 (ICMPv6) needs an IPv6 CIDR block")
	}
	return e, nil
}

func entryNumber(n *int64) (int, error) {
	if n == nil {
		return 0, awsapi.MissingParameter("RuleNumber")
	}
	if *n < 1 || *n > cloud.MaxACLEntryNumber {
		return 0, awsapi.InvalidParameterValue("Value (%d) for parameter ruleNumber is invalid: it is from 1 to %d.", *n, cloud.MaxACLEntryNumber)
	}
	return int(*n), nil
}

// entryPrefix reads the one range that an entry is for; host bits are cleared, as EC2 does.
func entryPrefix(v4, v6 string) (netip.Prefix, error) {
	switch {
	case v4 != "" && v6 != "":
		return netip.Prefix{}, awsapi.InvalidCombination("Only one of CidrBlock and Ipv6CidrBlock may be specified")
	case v4 != "":
		return parseCIDR(v4)
	case v6 != "":
		return parseCIDR6(v6)
	}
	return netip.Prefix{}, awsapi.MissingParameter("CidrBlock")
}

// parseCIDR6 reads an IPv6 range; host bits are cleared, as EC2 does.
func parseCIDR6(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is6() || p.Addr().Is4In6() || strings.Contains(s, "%") {
		return p, awsapi.InvalidParameterValue("CIDR block %s is malformed", s)
	}
	return p.Masked(), nil
}

// changeEntries applies one change to the entries of an ACL.
func (s *Service) changeEntries(ctx context.Context, call *awsapi.Call, id *string, change func(*cloud.NetworkACL) error) error {
	return s.update(ctx, call, func(tx *store.Tx) error {
		a, err := lookup(tx, store.NetworkACLs, ownerOfACL, kindACL, call.Account, deref(id))
		if err != nil {
			return err
		}
		if err := change(a); err != nil {
			return err
		}
		store.Put(tx, store.NetworkACLs, a)
		return nil
	})
}

func unknownEntry(number int) error {
	return awsapi.Errorf("InvalidNetworkAclEntry.NotFound", "The network acl entry identified by %d does not exist", number)
}

func (s *Service) createNetworkACLEntry(ctx context.Context, call *awsapi.Call, req *ec2.CreateNetworkAclEntryRequest) (*ec2.CreateNetworkAclEntryResult, error) {
	e, err := entryOf(req)
	if err != nil {
		return nil, err
	}
	err = s.changeEntries(ctx, call, req.NetworkAclId, func(a *cloud.NetworkACL) error {
		if a.Find(e.Number, e.Egress) >= 0 {
			return awsapi.Errorf("NetworkAclEntryAlreadyExists", "The network acl entry identified by %d already exists.", e.Number)
		}
		count := 0
		for _, other := range a.Entries {
			if other.Egress == e.Egress {
				count++
			}
		}
		if count >= maxACLEntries {
			return awsapi.Errorf("NetworkAclEntryLimitExceeded", "A network ACL has %d entries a direction at most.", maxACLEntries)
		}
		a.Add(e)
		return nil
	})
	return &ec2.CreateNetworkAclEntryResult{}, err
}

func (s *Service) replaceNetworkACLEntry(ctx context.Context, call *awsapi.Call, req *ec2.ReplaceNetworkAclEntryRequest) (*ec2.ReplaceNetworkAclEntryResult, error) {
	same := ec2.CreateNetworkAclEntryRequest(*req)
	e, err := entryOf(&same)
	if err != nil {
		return nil, err
	}
	err = s.changeEntries(ctx, call, req.NetworkAclId, func(a *cloud.NetworkACL) error {
		at := a.Find(e.Number, e.Egress)
		if at < 0 {
			return unknownEntry(e.Number)
		}
		a.Entries[at] = e
		return nil
	})
	return &ec2.ReplaceNetworkAclEntryResult{}, err
}

func (s *Service) deleteNetworkACLEntry(ctx context.Context, call *awsapi.Call, req *ec2.DeleteNetworkAclEntryRequest) (*ec2.DeleteNetworkAclEntryResult, error) {
	number, err := entryNumber(req.RuleNumber)
	if err != nil {
		return nil, err
	}
	if req.Egress == nil {
		return nil, awsapi.MissingParameter("Egress")
	}
	err = s.changeEntries(ctx, call, req.NetworkAclId, func(a *cloud.NetworkACL) error {
		at := a.Find(number, *req.Egress)
		if at < 0 {
			return unknownEntry(number)
		}
		a.Entries = append(a.Entries[:at], a.Entries[at+1:]...)
		return nil
	})
	return &ec2.DeleteNetworkAclEntryResult{}, err
}
