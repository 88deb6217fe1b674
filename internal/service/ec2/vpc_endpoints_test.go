package ec2_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func TestThereAreNoEndpointServicesAndSoNoEndpoints(t *testing.T) {
	w := newWorld(t)
	vpc := w.vpc("10.0.0.0/16")
	services, err := w.DescribeVpcEndpointServices(t.Context(), &sdk.DescribeVpcEndpointServicesInput{Filters: filterList("service-type", "Gateway")})
	if err != nil || len(services.ServiceNames) != 0 || len(services.ServiceDetails) != 0 {
		t.Errorf("%v: %v", err, services)
	}
	_, err = w.DescribeVpcEndpointServices(t.Context(), &sdk.DescribeVpcEndpointServicesInput{ServiceNames: []string{"com.amazonaws.us-east-1.s3"}})
	refused(t, err, "InvalidServiceName")
	create := func(vpc string) error {
		_, err := w.CreateVpcEndpoint(t.Context(), &sdk.CreateVpcEndpointInput{VpcId: &vpc, ServiceName: aws.String("com.amazonaws.us-east-1.s3"), VpcEndpointType: types.VpcEndpointTypeGateway,
			RouteTableIds: []string{w.routeTable(string(w.subnet().VPC))}})
		return err
	}
	refused(t, create(vpc), "InvalidServiceName", "com.amazonaws.us-east-1.s3")
	refused(t, create("vpc-00000000000000000"), "InvalidVpcID.NotFound")

	const none = "vpce-00000000000000000"
	endpoints, err := w.DescribeVpcEndpoints(t.Context(), &sdk.DescribeVpcEndpointsInput{Filters: filterList("vpc-id", vpc)})
	if err != nil || len(endpoints.VpcEndpoints) != 0 {
		t.Errorf("%v: %v", err, endpoints)
	}
	_, err = w.DescribeVpcEndpoints(t.Context(), &sdk.DescribeVpcEndpointsInput{VpcEndpointIds: []string{none}})
	refused(t, err, "InvalidVpcEndpointId.NotFound")
	gone, err := w.DeleteVpcEndpoints(t.Context(), &sdk.DeleteVpcEndpointsInput{VpcEndpointIds: []string{none, "vpce-00000000000000001"}})
	if err != nil || len(gone.Unsuccessful) != 2 || *gone.Unsuccessful[0].ResourceId != none || *gone.Unsuccessful[0].Error.Code != "InvalidVpcEndpoint.NotFound" {
		t.Errorf("%v: %+v", err, gone)
	}
	_, err = w.DeleteVpcEndpoints(t.Context(), &sdk.DeleteVpcEndpointsInput{VpcEndpointIds: []string{"nonsense"}})
	refused(t, err, "InvalidVpcEndpointId.Malformed")
}
