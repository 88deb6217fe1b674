package e2e

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

// A fleet's servers are told by their template what to run and by their metadata what they are.
func TestAFleetFromATemplateRunsWhatTheTemplateSays(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	key, ssh := c.KeyPair("k"), c.Group("ssh", 22)
	if _, err := c.EC2.CreatePlacementGroup(t.Context(), &ec2.CreatePlacementGroupInput{GroupName: aws.String("parts"), PartitionCount: aws.Int32(3)}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.EC2.ModifyInstanceMetadataDefaults(t.Context(), &ec2.ModifyInstanceMetadataDefaultsInput{InstanceMetadataTags: "enabled"}); err != nil {
		t.Fatal(err)
	}
	template, err := c.EC2.CreateLaunchTemplate(t.Context(), &ec2.CreateLaunchTemplateInput{LaunchTemplateName: aws.String("web"), LaunchTemplateData: &types.RequestLaunchTemplateData{
		ImageId: aws.String(c.ImageID("busybox")), InstanceType: types.InstanceTypeT3Nano, KeyName: aws.String("k"), SecurityGroupIds: []string{ssh},
		UserData:          aws.String(base64.StdEncoding.EncodeToString([]byte("#!/bin/sh\necho templated >/root/mark\n"))),
		Placement:         &types.LaunchTemplatePlacementRequest{GroupName: aws.String("parts")},
		TagSpecifications: []types.LaunchTemplateTagSpecificationRequest{{ResourceType: "instance", Tags: []types.Tag{{Key: aws.String("role"), Value: aws.String("web")}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	fleet, err := c.EC2.CreateFleet(t.Context(), &ec2.CreateFleetInput{Type: types.FleetTypeInstant,
		TargetCapacitySpecification: &types.TargetCapacitySpecificationRequest{TotalTargetCapacity: aws.Int32(2), DefaultTargetCapacityType: types.DefaultTargetCapacityTypeOnDemand},
		LaunchTemplateConfigs: []types.FleetLaunchTemplateConfigRequest{{LaunchTemplateSpecification: &types.FleetLaunchTemplateSpecificationRequest{
			LaunchTemplateId: template.LaunchTemplate.LaunchTemplateId, Version: aws.String("$Latest")}}}})
	if err != nil || len(fleet.Errors) > 0 || len(fleet.Instances) != 1 {
		t.Fatal(fleet, err)
	}
	for _, id := range fleet.Instances[0].InstanceIds {
		i := c.WaitState(id, types.InstanceStateNameRunning)
		if *i.Placement.PartitionNumber != 1 {
			t.Errorf("%s is in partition %d", id, *i.Placement.PartitionNumber)
		}
		m := c.SSH(i, "root", key).WaitLogin()
		const get = "wget -q -O - http://169.254.169.254/latest/meta-data/"
		for path, want := range map[string]string{"tags/instance/role": "web", "tags/instance/aws:ec2:fleet-id": *fleet.FleetId, "placement/group-name": "parts", "placement/partition-number": "1"} {
			if got := strings.TrimSpace(m.Run(get + path)); got != want {
				t.Errorf("%s: %s is %q, want %q", id, path, got, want)
			}
		}
		if got := strings.TrimSpace(m.Run("cat /root/mark")); got != "templated" {
			t.Errorf("%s: the user data left %q", id, got)
		}
		// Tags are told as they are now, not as they were at launch.
		if _, err := c.EC2.CreateTags(t.Context(), &ec2.CreateTagsInput{Resources: []string{id}, Tags: []types.Tag{{Key: aws.String("role"), Value: aws.String("db")}}}); err != nil {
			t.Fatal(err)
		}
		c.WaitFor(cloudtest.StateLimit, "the new tag", func() error {
			if got := strings.TrimSpace(m.Run(get + "tags/instance/role")); got != "db" {
				return errors.New("it is " + got)
			}
			return nil
		})
	}
	if _, err := c.EC2.DeleteFleets(t.Context(), &ec2.DeleteFleetsInput{FleetIds: []string{*fleet.FleetId}, TerminateInstances: aws.Bool(true)}); err != nil {
		t.Fatal(err)
	}
	for _, id := range fleet.Instances[0].InstanceIds {
		c.WaitState(id, types.InstanceStateNameTerminated)
	}
	if _, err := c.EC2.DeletePlacementGroup(t.Context(), &ec2.DeletePlacementGroupInput{GroupName: aws.String("parts")}); err != nil {
		t.Error(err)
	}
}
