package ec2

import (
	"context"
	"regexp"
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerAddressAttributes(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionDescribeAddressesAttribute, s.describeAddressesAttribute, awsapi.Honours("AllocationIds", "Attribute", "MaxResults", "NextToken"))
	awsapi.Handle(r, ec2.ActionModifyAddressAttribute, s.modifyAddressAttribute, awsapi.Honours("AllocationId", "DomainName"))
	awsapi.Handle(r, ec2.ActionResetAddressAttribute, s.resetAddressAttribute, awsapi.Honours("AllocationId", "Attribute"))
}

// domainName is what a PTR record may say: labels of letters, digits and hyphens, with or without the root's dot.
var domainName = regexp.MustCompile(`^([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)+[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.?$`)

func addressAttributeShape(a *cloud.Address) *ec2.AddressAttribute {
	return &ec2.AddressAttribute{AllocationId: text(a.ID), PublicIp: new(a.PublicIP.String()), PtrRecord: optional(a.PTR)}
}

func (s *Service) describeAddressesAttribute(_ context.Context, call *awsapi.Call, req *ec2.DescribeAddressesAttributeRequest) (*ec2.DescribeAddressesAttributeResult, error) {
	if err := addressAttribute(req.Attribute); err != nil {
		return nil, err
	}
	view := s.store.View()
	list := slices.Clone(store.ListBy(view, store.AddressesByAccount, call.Account))
	if len(req.AllocationIds) > 0 {
		var err error
		if list, err = lookupAll(view, store.Addresses, ownerOfAddress, kindAllocation, call.Account, req.AllocationIds); err != nil {
			return nil, err
		}
	}
	list = slices.DeleteFunc(list, func(a *cloud.Address) bool { return a.PTR == "" })
	page, err := awsapi.Paginate(list, func(a *cloud.Address) string { return string(a.ID) }, req.MaxResults, req.NextToken, req.AllocationIds)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeAddressesAttributeResult{NextToken: page.Next, Addresses: []ec2.AddressAttribute{}}
	for _, a := range page.Items {
		out.Addresses = append(out.Addresses, *addressAttributeShape(a))
	}
	return out, nil
}

func addressAttribute(name *string) error {
	if a := deref(name); a != "" && a != "domain-name" {
		return awsapi.InvalidParameterValue("Value (%s) for parameter attribute is invalid: it is domain-name.", a)
	}
	return nil
}

func (s *Service) modifyAddressAttribute(ctx context.Context, call *awsapi.Call, req *ec2.ModifyAddressAttributeRequest) (*ec2.ModifyAddressAttributeResult, error) {
	name := deref(req.DomainName)
	switch {
	case name == "":
		return nil, awsapi.MissingParameter("DomainName")
	case len(name) > 254 || !domainName.MatchString(name):
		return nil, awsapi.InvalidParameterValue("Value (%s) for parameter domainName is invalid.", name)
	}
	a, err := s.setPTR(ctx, call, req.AllocationId, strings.ToLower(strings.TrimSuffix(name, "."))+".")
	if err != nil {
		return nil, err
	}
	return &ec2.ModifyAddressAttributeResult{Address: addressAttributeShape(a)}, nil
}

func (s *Service) resetAddressAttribute(ctx context.Context, call *awsapi.Call, req *ec2.ResetAddressAttributeRequest) (*ec2.ResetAddressAttributeResult, error) {
	if req.Attribute == nil {
		return nil, awsapi.MissingParameter("Attribute")
	}
	if err := addressAttribute(req.Attribute); err != nil {
		return nil, err
	}
	a, err := s.setPTR(ctx, call, req.AllocationId, "")
	if err != nil {
		return nil, err
	}
	return &ec2.ResetAddressAttributeResult{Address: addressAttributeShape(a)}, nil
}

// setPTR sets the name that the resolvers of all VPCs answer for an Elastic IP; "" for EC2's own.
func (s *Service) setPTR(ctx context.Context, call *awsapi.Call, allocation *string, name string) (a *cloud.Address, err error) {
	err = s.update(ctx, call, func(tx *store.Tx) error {
		if a, err = findAddress(tx, call.Account, deref(allocation), ""); err != nil {
			return err
		}
		a.PTR = name
		store.Put(tx, store.Addresses, a)
		return nil
	})
	return a, err
}
