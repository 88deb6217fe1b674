package ec2_test

import (
	"cmp"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gen "github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/store"
)

// stage is a world in which one of each kind of resource exists, made through the API by whatever actions are built, and
// which can fill in any action's request from AWS's model: the tests of every action stand on it, and new actions
// are on it without a line.
type stage struct {
	*world
	props map[string]string // a value for each element's name that was seen in an answer, such as vpcId
	count int
}

// extras are what an action needs beside the members that the model calls required, or instead of what their names
// suggest. A value that begins with $ is a prop, and % is a number that is new each time. Lines are only needed for a request
// to go deeper than its first refusal.
var extras = map[string]string{
	"AllocateAddress":                            "Domain=vpc",
	"AssignIpv6Addresses":                        "Ipv6AddressCount=1",
	"AssignPrivateIpAddresses":                   "SecondaryPrivateIpAddressCount=1",
	"AssociateAddress":                           "AllocationId=$spare.allocationId&NetworkInterfaceId=$spare.networkInterfaceId",
	"AssociateDhcpOptions":                       "DhcpOptionsId=$dhcpOptionsId&VpcId=$vpcId",
	"AssociateRouteTable":                        "SubnetId=$subnetId",
	"AssociateSubnetCidrBlock":                   "SubnetId=$subnetId&Ipv6CidrBlock=$ipv6Subnet",
	"AssociateVpcCidrBlock":                      "CidrBlock=100.64.%.0/24",
	"AttachInternetGateway":                      "VpcId=$CreateVpc.vpcId",
	"AttachNetworkInterface":                     "NetworkInterfaceId=$spare.networkInterfaceId&DeviceIndex=2",
	"AuthorizeSecurityGroupEgress":               "GroupId=$groupId&" + aRule,
	"AuthorizeSecurityGroupIngress":              "GroupId=$groupId&" + aRule,
	"CancelImportTask":                           "ImportTaskId=$importTaskId",
	"CreateEgressOnlyInternetGateway":            "VpcId=$vpcId",
	"CreateDhcpOptions":                          "DhcpConfiguration.1.Key=domain-name&DhcpConfiguration.1.Value.1=example.com",
	"CreateFleet":                                "Type=instant&LaunchTemplateConfigs.1.LaunchTemplateSpecification.LaunchTemplateId=$launchTemplateId&LaunchTemplateConfigs.1.LaunchTemplateSpecification.Version=1",
	"CreateFlowLogs":                             "LogDestination=arn:aws:s3:::nacre-flow-logs/at-%&LogDestinationType=s3&TrafficType=ALL&ResourceType=NetworkInterface&ResourceId.1=$spare.networkInterfaceId",
	"CreateKeyPair":                              "KeyName=key-%&KeyType=ed25519",
	"CreateLaunchTemplate":                       "LaunchTemplateName=template-%&LaunchTemplateData.ImageId=$imageId",
	"CreateLaunchTemplateVersion":                "LaunchTemplateId=$launchTemplateId&LaunchTemplateData.ImageId=$imageId",
	"CreateManagedPrefixList":                    "AddressFamily=IPv4&MaxEntries=5&PrefixListName=list-%&Entry.1.Cidr=10.%.0.0/16&Entry.1.Description=d",
	"CreateNatGateway":                           "ConnectivityType=private",
	"CreateNetworkAclEntry":                      "CidrBlock=10.0.0.0/8&RuleNumber=%&Protocol=-1&RuleAction=allow&Egress=true",
	"CreatePlacementGroup":                       "GroupName=group-%&Strategy=cluster",
	"CreateRoute":                                "DestinationCidrBlock=10.%.0.0/16&GatewayId=$DescribeInternetGateways.internetGatewayId",
	"CreateSecurityGroup":                        "VpcId=$vpcId&GroupName=group-%",
	"CreateSubnet":                               "CidrBlock=172.31.%.0/24",
	"CreateSubnetCidrReservation":                "Cidr=172.31.15.240/28&SubnetId=$subnetId",
	"AttachVolume":                               "VolumeId=$spare.volumeId&InstanceId=$instanceId&Device=/dev/sdp",
	"CopySnapshot":                               "SourceSnapshotId=$CreateSnapshot.snapshotId",
	"CreateSnapshot":                             "VolumeId=$CreateVolume.volumeId",
	"CreateVolume":                               "AvailabilityZone=us-east-1a&Size=10&VolumeType=gp3",
	"ModifyEbsDefaultKmsKeyId":                   "KmsKeyId=alias/aws/ebs",
	"DeleteSnapshot":                             "SnapshotId=$CreateSnapshot.snapshotId",
	"DeleteVolume":                               "VolumeId=$spare.volumeId",
	"DescribeVolumeAttribute":                    "VolumeId=$CreateVolume.volumeId",
	"DetachVolume":                               "VolumeId=$AttachVolume.volumeId",
	"ModifyVolume":                               "VolumeId=$CreateVolume.volumeId&Size=20",
	"ModifyVolumeAttribute":                      "VolumeId=$CreateVolume.volumeId&AutoEnableIO.Value=true",
	"CreateVpc":                                  "CidrBlock=10.%.0.0/16",
	"CreateVpcPeeringConnection":                 "VpcId=$vpcId&PeerVpcId=$CreateVpc.vpcId",
	"DeleteDhcpOptions":                          "DhcpOptionsId=$CreateDhcpOptions.dhcpOptionsId",
	"DeleteKeyPair":                              "KeyName=$keyName",
	"DeleteLaunchTemplate":                       "LaunchTemplateId=$launchTemplateId",
	"DeleteLaunchTemplateVersions":               "LaunchTemplateId=$launchTemplateId&LaunchTemplateVersion.1=2",
	"DeleteNetworkAclEntry":                      "NetworkAclId=$DescribeNetworkAcls.networkAclId&RuleNumber=100&Egress=true",
	"DeleteNetworkInterface":                     "NetworkInterfaceId=$spare.networkInterfaceId",
	"DeletePlacementGroup":                       "GroupName=$CreatePlacementGroup.groupName",
	"DeleteRoute":                                "RouteTableId=$DescribeRouteTables.routeTableId&DestinationCidrBlock=0.0.0.0/0",
	"DeleteRouteTable":                           "RouteTableId=$spare.routeTableId",
	"DeleteSecurityGroup":                        "GroupId=$groupId",
	"DeleteSubnet":                               "SubnetId=$CreateSubnet.subnetId",
	"DeleteSubnetCidrReservation":                "SubnetCidrReservationId=$subnetCidrReservationId",
	"DeleteVpc":                                  "VpcId=$CreateVpc.vpcId",
	"DescribeInstanceAttribute":                  "Attribute=userData",
	"DescribeLaunchTemplateVersions":             "LaunchTemplateId=$launchTemplateId",
	"DescribeNetworkInterfaceAttribute":          "Attribute=description",
	"DetachInternetGateway":                      "InternetGatewayId=$DescribeInternetGateways.internetGatewayId",
	"DetachNetworkInterface":                     "AttachmentId=$AttachNetworkInterface.attachmentId",
	"DisassociateAddress":                        "AssociationId=$AssociateAddress.associationId",
	"DisassociateRouteTable":                     "AssociationId=$AssociateRouteTable.associationId",
	"DisassociateVpcCidrBlock":                   "AssociationId=$AssociateVpcCidrBlock.associationId",
	"GetInstanceTypesFromInstanceRequirements":   "ArchitectureType.1=x86_64&VirtualizationType.1=hvm&InstanceRequirements.VCpuCount.Min=1&InstanceRequirements.MemoryMiB.Min=1",
	"ImportImage":                                "DiskContainer.1.Url=docker://debian&Description=imported-%",
	"ImportKeyPair":                              "KeyName=key-%",
	"ModifyAddressAttribute":                     "DomainName=a.example.com",
	"ModifyDefaultCreditSpecification":           "InstanceFamily=t3&CpuCredits=standard",
	"ModifyImageAttribute":                       "Attribute=description&Value=changed",
	"ModifyInstanceAttribute":                    "DisableApiTermination.Value=true",
	"ModifyInstanceCreditSpecification":          "InstanceCreditSpecification.1.InstanceId=$instanceId&InstanceCreditSpecification.1.CpuCredits=standard",
	"ModifyInstanceMaintenanceOptions":           "AutoRecovery=disabled",
	"ModifyInstanceMetadataOptions":              "HttpTokens=required",
	"ModifyInstancePlacement":                    "InstanceId=$stopped.instanceId&Tenancy=default",
	"ModifyLaunchTemplate":                       "LaunchTemplateId=$launchTemplateId&SetDefaultVersion=1",
	"ModifyManagedPrefixList":                    "AddEntry.1.Cidr=10.60.0.0/16&CurrentVersion=1",
	"ModifyNetworkInterfaceAttribute":            "Description.Value=changed",
	"ModifySecurityGroupRules":                   "SecurityGroupRule.1.SecurityGroupRule.IpProtocol=tcp&SecurityGroupRule.1.SecurityGroupRule.FromPort=1&SecurityGroupRule.1.SecurityGroupRule.ToPort=1&SecurityGroupRule.1.SecurityGroupRule.CidrIpv4=10.0.0.0/8&SecurityGroupRule.1.SecurityGroupRuleId=$securityGroupRuleId",
	"ModifySubnetAttribute":                      "MapPublicIpOnLaunch.Value=false",
	"ModifyVpcAttribute":                         "EnableDnsHostnames.Value=true",
	"RegisterImage":                              "Name=registered-%&Architecture=x86_64&ImageLocation=$imageId",
	"ReleaseAddress":                             "AllocationId=$spare.allocationId",
	"ReplaceNetworkAclAssociation":               "AssociationId=$networkAclAssociationId",
	"ReplaceNetworkAclEntry":                     "NetworkAclId=$DescribeNetworkAcls.networkAclId&CidrBlock=10.0.0.0/8&RuleNumber=100&Protocol=-1&RuleAction=deny&Egress=true",
	"ReplaceRoute":                               "RouteTableId=$DescribeRouteTables.routeTableId&DestinationCidrBlock=0.0.0.0/0&GatewayId=$DescribeInternetGateways.internetGatewayId",
	"ReplaceRouteTableAssociation":               "AssociationId=$AssociateRouteTable.associationId",
	"ReportInstanceStatus":                       "ReasonCode.1=other&Status=ok",
	"ResetInstanceAttribute":                     "Attribute=sourceDestCheck&InstanceId=$spare.instanceId",
	"ResetNetworkInterfaceAttribute":             "SourceDestCheck=true",
	"RevokeSecurityGroupEgress":                  "GroupId=$groupId&IpPermissions.1.IpProtocol=-1&IpPermissions.1.IpRanges.1.CidrIp=0.0.0.0/0",
	"RevokeSecurityGroupIngress":                 "GroupId=$groupId&SecurityGroupRuleId.1=$securityGroupRuleId",
	"RunInstances":                               "ImageId=$imageId&MinCount=1&MaxCount=1&InstanceType=t3.medium",
	"StartInstances":                             "InstanceId.1=$stopped.instanceId",
	"UnassignIpv6Addresses":                      "NetworkInterfaceId=$AssignIpv6Addresses.networkInterfaceId&Ipv6Addresses.1=$AssignIpv6Addresses.assignedIpv6Addresses",
	"UnassignPrivateIpAddresses":                 "NetworkInterfaceId=$networkInterfaceId&PrivateIpAddress.1=$AssignPrivateIpAddresses.privateIpAddress",
	"UpdateSecurityGroupRuleDescriptionsEgress":  "GroupId=$groupId&IpPermissions.1.IpProtocol=-1&IpPermissions.1.IpRanges.1.CidrIp=0.0.0.0/0&IpPermissions.1.IpRanges.1.Description=d",
	"UpdateSecurityGroupRuleDescriptionsIngress": "GroupId=$groupId&SecurityGroupRuleDescription.1.SecurityGroupRuleId=$securityGroupRuleId&SecurityGroupRuleDescription.1.Description=d",
}

const aRule = "IpPermissions.1.IpProtocol=tcp&IpPermissions.1.FromPort=%&IpPermissions.1.ToPort=65535&IpPermissions.1.IpRanges.1.CidrIp=10.0.0.0/8"

// aliases are the props of parameters whose names aren't those of the elements that answers carry.
var aliases = map[string]string{
	"ResourceId": "instanceId", "PeerVpcId": "vpcId", "SecurityGroupId": "groupId", "GatewayId": "internetGatewayId", "AclId": "networkAclId",
	"NatGatewayId": "natGatewayId", "DestinationPrefixListId": "prefixListId", "PlacementGroupName": "groupName", "AttachmentId": "attachmentId", "SourceImageId": "imageId",
}

// publicKey is a key that nobody has the private half of.
const publicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f of-a-test"

// fixed are values of parameters by their names.
var fixed = map[string]string{
	"AvailabilityZone": "us-east-1a", "RegionName": "us-east-1", "SourceRegion": "us-east-1", "InstanceType": "t3.micro", "CidrBlock": "10.30.0.0/24",
	"CidrIp": "10.0.0.0/8", "Cidr": "10.50.0.0/16", "CidrIpv6": "fd00::/8", "DestinationCidrBlock": "10.40.0.0/16", "IpProtocol": "tcp", "Protocol": "6", "Description": "of a test",
	"Key": "color", "ReasonCodes": "other", "PrivateIpAddress": "172.31.15.200", "Owner": "self", "MaxResults": "10",
	"MaxCount": "1", "MinCount": "1",
}

// stageChecked is set once the answers that make a stage have been held against the model.
var stageChecked atomic.Bool

func newStage(t testing.TB) *stage {
	s := &stage{world: newWorldFrom(t, "198.18.0.0/24", mathrand.NewChaCha8([32]byte{})), props: map[string]string{}}
	s.update(func(tx *store.Tx) { // a node on which every launch has room
		node, _ := store.Get(tx, store.Nodes, s.node)
		node.CPUs, node.MemoryMiB, node.IPv6 = 256, 1<<20, true
		store.Put(tx, store.Nodes, node)
	})
	s.withVMs()
	s.props["kernelId"], s.props["ramdiskId"] = s.kernel("linux", "x86_64")
	door := s.door
	if stageChecked.Load() { // what makes a stage is the same every time
		s.door = s.handler
	}
	defer func() { s.door = door; stageChecked.Store(true) }()
	s.props["imageId"], s.props["accountId"] = s.image, string(s.key.Account)
	s.see("DescribeVpcs", "DescribeSubnets", "DescribeSecurityGroups", "DescribeSecurityGroupRules", "DescribeRouteTables", "DescribeInternetGateways", "DescribeNetworkAcls")
	// What one action makes another one needs: two rounds are enough for what there is.
	made := map[string]bool{}
	for range 2 {
		for _, action := range s.built() {
			if !makes(action) || made[action] {
				continue
			}
			if status, text := s.ask(s.form(action)); status == http.StatusOK {
				s.learn(action, text)
				made[action] = true
			}
		}
	}
	s.settle()
	for _, step := range []struct {
		action  string
		instead []string
	}{
		{"AuthorizeSecurityGroupIngress", nil},
		{"CreateSnapshot", nil},
		{"CreateVolume", nil},
		{"AttachVolume", []string{"VolumeId", "$volumeId", "Device", "/dev/sdf"}},
		{"AttachNetworkInterface", []string{"DeviceIndex", "1"}},
		{"AssociateAddress", []string{"NetworkInterfaceId", "$networkInterfaceId", "AllocationId", "$allocationId"}},
		{"AssignPrivateIpAddresses", nil},
		{"AssociateRouteTable", nil},
		{"AssociateVpcCidrBlock", nil},
		{"AssociateVpcCidrBlock", []string{"CidrBlock", "", "AmazonProvidedIpv6CidrBlock", "true"}},
		{"DescribeVpcs", nil},
		{"AssociateSubnetCidrBlock", nil},
		{"AssignIpv6Addresses", nil},
	} {
		form := s.form(step.action)
		for i := 0; i < len(step.instead); i += 2 {
			if form.Del(step.instead[i]); step.instead[i+1] != "" {
				form.Set(step.instead[i], cmp.Or(s.props[strings.TrimPrefix(step.instead[i+1], "$")], step.instead[i+1]))
			}
		}
		if status, text := s.ask(form); status == http.StatusOK {
			s.learn(step.action, text)
			s.settle()
		}
	}
	// These are free still: what is above hangs together.
	for _, action := range []string{"AllocateAddress", "CreateNetworkInterface", "RunInstances", "CreateRouteTable", "CreateFlowLogs", "CreateVolume"} {
		if status, text := s.ask(s.form(action)); status == http.StatusOK {
			s.learn("spare", text)
		}
	}
	if status, text := s.ask(s.form("RunInstances")); status == http.StatusOK {
		s.learn("stopped", text)
		s.settle()
		s.ask(url.Values{"Action": {"StopInstances"}, "InstanceId.1": {s.props["stopped.instanceId"]}})
	}
	s.settle()
	return s
}

func makes(action string) bool {
	for _, verb := range []string{"Create", "Allocate", "Run", "Import", "Register"} {
		if strings.HasPrefix(action, verb) && action != "CreateTags" {
			return true
		}
	}
	return false
}

func (s *stage) see(actions ...string) {
	for _, action := range actions {
		if _, text := s.ask(url.Values{"Action": {action}}); text != "" {
			s.learn(action, text)
		}
	}
}

// learn keeps the values of an answer's elements: the first ones that are seen, save for what the action has just made, and all
// under the action's name too. Networks stay the default ones, in which everything else is made.
func (s *stage) learn(action, text string) {
	own := strings.TrimPrefix(action, "Create")
	own = strings.ToLower(own[:1]) + own[1:] + "Id"
	switch action {
	case "CreateSecurityGroup":
		own = "groupId"
	case "AuthorizeSecurityGroupIngress":
		own = "securityGroupRuleId"
	case "RunInstances":
		own = "instanceId"
	case "CreateVpc", "CreateSubnet":
		own = ""
	}
	dec := xml.NewDecoder(strings.NewReader(text))
	var path []string
	for {
		tok, err := dec.Token()
		if err != nil {
			return
		}
		switch t := tok.(type) {
		case xml.StartElement:
			path = append(path, t.Name.Local)
		case xml.EndElement:
			path = path[:len(path)-1]
		case xml.CharData:
			if len(path) < 2 || string(t) == "" {
				continue
			}
			name := path[len(path)-1]
			if name == "item" { // of a list of values
				name = strings.TrimSuffix(path[len(path)-2], "Set")
			}
			if name == "ipv6CidrBlock" { // the first range of a subnet in it
				s.props["ipv6Subnet"] = strings.Replace(string(t), "/56", "/64", 1)
			}
			for _, key := range []string{name, action + "." + name} {
				if s.props[key] == "" || name == own {
					s.props[key] = string(t)
				}
			}
		}
	}
}

// form is a request with the members that an action can't do without, which succeeds where the stage has all it needs.
func (s *stage) form(action string) url.Values {
	form := url.Values{}
	s.count++
	more, err := url.ParseQuery(strings.ReplaceAll(extras[action], "%", strconv.Itoa(s.count%200+20)))
	if err != nil {
		s.t.Fatal(err)
	}
	for name, values := range more {
		if prop, ok := strings.CutPrefix(values[0], "$"); ok {
			if s.props[prop] == "" {
				continue
			}
			values[0] = s.props[prop]
		}
		form[name] = values
	}
	for name, values := range s.required(gen.Service.Shapes[action].Request, "") {
		given := slices.ContainsFunc(slices.Collect(maps.Keys(form)), func(have string) bool {
			return have == name || strings.HasPrefix(have, strings.TrimSuffix(name, "1")) && strings.HasSuffix(name, ".1")
		})
		if !given {
			form[name] = values
		}
	}
	form.Set("Action", action)
	return form
}

// required fills in the members of a shape that the model calls required.
func (s *stage) required(t reflect.Type, path string) url.Values {
	form := url.Values{}
	for i := range t.NumField() {
		if f := t.Field(i); f.Tag.Get("required") != "" {
			maps.Copy(form, s.fill(f, path+f.Tag.Get("form")))
		}
	}
	return form
}

// fill gives a member a value that should do.
func (s *stage) fill(f reflect.StructField, path string) url.Values {
	t := f.Type
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8 {
		path, t = path+".1", t.Elem()
	}
	if t.Kind() == reflect.Struct && t != timeType {
		form := s.required(t, path+".")
		if len(form) == 0 {
			for i := range t.NumField() { // any member, so that the structure is there
				if inner := t.Field(i); inner.Type.Kind() == reflect.Pointer && inner.Type.Elem().Kind() != reflect.Struct {
					return s.fill(inner, path+"."+inner.Tag.Get("form"))
				}
			}
			for i := range t.NumField() {
				if inner := t.Field(i); inner.Type.Kind() == reflect.Pointer {
					return s.fill(inner, path+"."+inner.Tag.Get("form"))
				}
			}
		}
		return form
	}
	return url.Values{path: {s.scalar(f, t)}}
}

var timeType = reflect.TypeFor[time.Time]()

// scalar is a value of a member that takes a single one.
func (s *stage) scalar(f reflect.StructField, t reflect.Type) string {
	name := f.Tag.Get("form")
	if enum := f.Tag.Get("enum"); enum != "" && fixed[name] == "" {
		return gen.Service.Enums[enum][0]
	}
	if prop := s.props[strings.ToLower(name[:1])+name[1:]]; prop != "" && t.Kind() == reflect.String {
		return prop
	}
	if prop := s.props[aliases[name]]; prop != "" {
		return prop
	}
	if name == "PublicKeyMaterial" {
		return base64.StdEncoding.EncodeToString([]byte(publicKey))
	}
	if v := fixed[name]; v != "" {
		return v
	}
	switch {
	case t == timeType:
		return time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339)
	case t.Kind() == reflect.Slice:
		return base64.StdEncoding.EncodeToString([]byte("bytes"))
	case t.Kind() == reflect.Bool:
		return "true"
	case t.Kind() == reflect.Int64, t.Kind() == reflect.Float64:
		if low, _ := strconv.Atoi(f.Tag.Get("min")); low > 1 {
			return fmt.Sprint(low)
		}
		return "1"
	}
	return "a-name"
}
