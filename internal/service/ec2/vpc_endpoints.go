package ec2

import (
	"context"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// This cloud serves nothing inside VPCs that an endpoint could lead to. So there are no endpoint services, an endpoint to any is
// refused as EC2 refuses one to a service that doesn't exist, and questions about endpoints are answered with none.

func (s *Service) registerVPCEndpoints(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionCreateVpcEndpoint, s.createVPCEndpoint, awsapi.Honours("ClientToken", "DnsOptions", "IpAddressType", "PolicyDocument", "PrivateDnsEnabled", "RouteTableIds",
		"SecurityGroupIds", "ServiceName", "SubnetConfigurations", "SubnetIds", "TagSpecifications", "VpcEndpointType", "VpcId")) // none comes to anything: the call is refused for its service
	awsapi.Handle(r, ec2.ActionDeleteVpcEndpoints, s.deleteVPCEndpoints, awsapi.Honours("VpcEndpointIds"))
	awsapi.Handle(r, ec2.ActionDescribeVpcEndpoints, s.describeVPCEndpoints, awsapi.Honours("Filters", "MaxResults", "NextToken", "VpcEndpointIds"))
	awsapi.Handle(r, ec2.ActionDescribeVpcEndpointServices, s.describeVPCEndpointServices, awsapi.Honours("Filters", "MaxResults", "NextToken", "ServiceNames"))
}

func noSuchService(name string) error {
	return awsapi.Errorf("InvalidServiceName", "The Vpc Endpoint Service '%s' does not exist", name)
}

func (s *Service) createVPCEndpoint(_ context.Context, call *awsapi.Call, req *ec2.CreateVpcEndpointRequest) (*ec2.CreateVpcEndpointResult, error) {
	if _, err := lookup(s.store.View(), store.VPCs, ownerOfVPC, kindVPC, call.Account, deref(req.VpcId)); err != nil {
		return nil, err
	}
	return nil, noSuchService(deref(req.ServiceName))
}

// endpointIDs refuses ids of another form.
func endpointIDs(ids []string) error {
	for _, id := range ids {
		if !cloud.ValidID[cloud.VPCEndpointID](id) {
			return awsapi.Malformed("InvalidVpcEndpointId.Malformed", id)
		}
	}
	return nil
}

func (s *Service) deleteVPCEndpoints(_ context.Context, _ *awsapi.Call, req *ec2.DeleteVpcEndpointsRequest) (*ec2.DeleteVpcEndpointsResult, error) {
	if len(req.VpcEndpointIds) == 0 {
		return nil, awsapi.MissingParameter("VpcEndpointId")
	}
	if err := endpointIDs(req.VpcEndpointIds); err != nil {
		return nil, err
	}
	out := &ec2.DeleteVpcEndpointsResult{Unsuccessful: []ec2.UnsuccessfulItem{}}
	for _, id := range req.VpcEndpointIds {
		out.Unsuccessful = append(out.Unsuccessful, ec2.UnsuccessfulItem{ResourceId: &id,
			Error: &ec2.UnsuccessfulItemError{Code: new("InvalidVpcEndpoint.NotFound"), Message: new("The Vpc Endpoint Id '" + id + "' does not exist")}})
	}
	return out, nil
}

func (s *Service) describeVPCEndpoints(_ context.Context, _ *awsapi.Call, req *ec2.DescribeVpcEndpointsRequest) (*ec2.DescribeVpcEndpointsResult, error) {
	if err := endpointIDs(req.VpcEndpointIds); err != nil {
		return nil, err
	}
	if len(req.VpcEndpointIds) > 0 {
		return nil, awsapi.NotFound("InvalidVpcEndpointId.NotFound", "Vpc Endpoint", req.VpcEndpointIds...)
	}
	names := []string{"ip-address-type", "service-name", "vpc-endpoint-id", "vpc-endpoint-state", "vpc-endpoint-type", "vpc-id"}
	page, err := emptyPage[ec2.VpcEndpoint](names, req.Filters, req.MaxResults, req.NextToken)
	if err != nil {
		return nil, err
	}
	return &ec2.DescribeVpcEndpointsResult{VpcEndpoints: page}, nil
}

func (s *Service) describeVPCEndpointServices(_ context.Context, _ *awsapi.Call, req *ec2.DescribeVpcEndpointServicesRequest) (*ec2.DescribeVpcEndpointServicesResult, error) {
	if len(req.ServiceNames) > 0 {
		return nil, noSuchService(req.ServiceNames[0])
	}
	names := []string{"owner", "service-name", "service-type", "supported-ip-address-types"}
	page, err := emptyPage[ec2.ServiceDetail](names, req.Filters, req.MaxResults, req.NextToken)
	if err != nil {
		return nil, err
	}
	return &ec2.DescribeVpcEndpointServicesResult{ServiceDetails: page, ServiceNames: []string{}}, nil
}

// emptyPage is a list of what there is none of, for a question that is right: these filters are known, and those by tags.
func emptyPage[T any](names []string, fs []ec2.Filter, maxResults *int64, token *string) ([]T, error) {
	if err := pageBounds(maxResults, 1, 1000, nil, ""); err != nil {
		return nil, err
	}
	set := awsapi.FilterSet[T]{Tags: func(T) map[string]string { return nil }, Values: map[string]func(T) []string{}}
	for _, name := range names {
		set.Values[name] = func(T) []string { return nil }
	}
	if _, err := set.Compile(filters(fs)); err != nil {
		return nil, err
	}
	page, err := awsapi.Paginate([]T{}, func(T) string { return "" }, maxResults, token, fs)
	return page.Items, err
}
