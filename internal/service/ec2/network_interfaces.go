package ec2

import (
	"context"
	"slices"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerNetworkInterfaces(r *awsapi.Registry) {
	s.registerNetworkInterfaceLife(r)
	s.registerNetworkInterfaceAttachments(r)
	s.registerNetworkInterfaceAttributes(r)
	s.registerPrivateAddresses(r)
	awsapi.Handle(r, ec2.ActionDescribeNetworkInterfaces, s.describeNetworkInterfaces, awsapi.Honours("Filters", "NetworkInterfaceIds", "MaxResults", "NextToken"))
}

func (s *Service) describeNetworkInterfaces(_ context.Context, call *awsapi.Call, req *ec2.DescribeNetworkInterfacesRequest) (*ec2.DescribeNetworkInterfacesResult, error) {
	if err := pageBounds(req.MaxResults, 5, 1000, req.NetworkInterfaceIds, "networkInterfaceIds"); err != nil {
		return nil, err
	}
	view := s.store.View()
	list := store.ListBy(view, store.InterfacesByAccount, call.Account)
	if len(req.NetworkInterfaceIds) > 0 {
		var err error
		if list, err = lookupAll(view, store.Interfaces, ownerOfInterface, kindInterface, call.Account, req.NetworkInterfaceIds); err != nil {
			return nil, err
		}
	}
	pass, err := awsapi.FilterSet[*cloud.Interface]{Tags: func(n *cloud.Interface) map[string]string { return n.Tags },
		Values: interfaceValues(view, call.Region)}.Compile(filters(req.Filters))
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(slices.Clone(list), func(n *cloud.Interface) bool { return !pass(n) })
	page, err := awsapi.Paginate(list, func(n *cloud.Interface) string { return string(n.ID) }, req.MaxResults, req.NextToken, req.Filters)
	if err != nil {
		return nil, err
	}
	d := newDescriber(view)
	out := &ec2.DescribeNetworkInterfacesResult{NextToken: page.Next, NetworkInterfaces: []ec2.NetworkInterface{}}
	for _, n := range page.Items {
		out.NetworkInterfaces = append(out.NetworkInterfaces, d.elasticInterface(n))
	}
	return out, nil
}
