package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

func TestARuleFollowsThePrefixListThatItNames(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	ctx := t.Context()
	key := c.KeyPair("k")
	ssh, web := c.Group("ssh", 22), c.Group("web")
	server := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(ssh, web))
	client := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(ssh))
	s, x := c.SSH(server, "root", key).WaitLogin(), c.SSH(client, "root", key).WaitLogin()
	listen(s, 8080)
	range32 := *client.PrivateIpAddress + "/32"

	made, err := c.EC2.CreateManagedPrefixList(ctx, &ec2.CreateManagedPrefixListInput{AddressFamily: aws.String("IPv4"), MaxEntries: aws.Int32(5), PrefixListName: aws.String("clients"),
		Entries: []types.AddPrefixListEntry{{Cidr: aws.String("192.0.2.0/24")}, {Cidr: &range32}}})
	if err != nil {
		t.Fatal(err)
	}
	list := made.PrefixList.PrefixListId
	if reaches(x, *server.PrivateIpAddress, 8080) {
		t.Error("a port that no rule opens is reached")
	}
	_, err = c.EC2.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &web, IpPermissions: []types.IpPermission{{
		IpProtocol: aws.String("tcp"), FromPort: aws.Int32(8080), ToPort: aws.Int32(8080), PrefixListIds: []types.PrefixListId{{PrefixListId: list}}}}})
	if err != nil {
		t.Fatal(err)
	}
	reached := func(what string, want bool) {
		t.Helper()
		c.WaitFor(10*time.Second, what, func() error {
			if got := reaches(x, *server.PrivateIpAddress, 8080); got != want {
				return fmt.Errorf("the server is reached: %v", got)
			}
			return nil
		})
	}
	reached("the rule to let the list's ranges in", true)
	_, err = c.EC2.ModifyManagedPrefixList(ctx, &ec2.ModifyManagedPrefixListInput{PrefixListId: list, CurrentVersion: aws.Int64(1), RemoveEntries: []types.RemovePrefixListEntry{{Cidr: &range32}}})
	if err != nil {
		t.Fatal(err)
	}
	reached("the range that left the list to be kept out", false)
	_, err = c.EC2.RestoreManagedPrefixListVersion(ctx, &ec2.RestoreManagedPrefixListVersionInput{PrefixListId: list, CurrentVersion: aws.Int64(2), PreviousVersion: aws.Int64(1)})
	if err != nil {
		t.Fatal(err)
	}
	reached("the restored list to let it in", true)
}
