package ec2_test

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func TestALaunchIsPendingWithItsAddressesAtOnceAndRunningOnceItsNodeSaysSo(t *testing.T) {
	w := newWorld(t)
	out, err := w.RunInstances(t.Context(), &sdk.RunInstancesInput{ImageId: &w.image, InstanceType: "t3.micro", MinCount: aws.Int32(2), MaxCount: aws.Int32(2)})
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Instances) != 2 || *out.OwnerId != string(w.key.Account) || !strings.HasPrefix(*out.ReservationId, "r-") {
		t.Fatalf("the reservation is %+v", out)
	}
	seen := map[string]bool{}
	for n, i := range out.Instances {
		if i.State.Name != "pending" || *i.State.Code != 0 || int(*i.AmiLaunchIndex) != n || *i.ImageId != w.image {
			t.Errorf("instance %d is the %d. of %s, %s", n, *i.AmiLaunchIndex, *i.ImageId, i.State.Name)
		}
		for _, unique := range []string{*i.InstanceId, *i.PrivateIpAddress, *i.PublicIpAddress, *i.NetworkInterfaces[0].MacAddress, *i.NetworkInterfaces[0].NetworkInterfaceId} {
			if seen[unique] {
				t.Errorf("%s comes twice", unique)
			}
			seen[unique] = true
		}
		if name := "ip-" + strings.ReplaceAll(*i.PrivateIpAddress, ".", "-") + ".ec2.internal"; *i.PrivateDnsName != name {
			t.Errorf("the private name is %s, want %s", *i.PrivateDnsName, name)
		}
		if *i.SecurityGroups[0].GroupName != "default" || *i.NetworkInterfaces[0].Association.PublicIp != *i.PublicIpAddress {
			t.Errorf("instance %d is in %v and has %+v", n, i.SecurityGroups, i.NetworkInterfaces[0].Association)
		}
		if i.EnaSupport == nil || i.MetadataOptions.State != "applied" || i.Placement == nil || *i.PlatformDetails != "Linux/UNIX" || i.CpuOptions == nil {
			t.Errorf("members are missing in %+v", i)
		}
	}
	w.settle()
	if i := w.instance(*out.Instances[0].InstanceId); i.State.Name != "running" || *i.State.Code != 16 {
		t.Errorf("it is %+v", i.State)
	}
}

func TestALaunchMakesAsManyAsFitAndNoneBelowTheMinimum(t *testing.T) {
	w := newWorld(t) // 8 CPUs and 16 GiB: two of 8 GiB
	w.unchanged(func() {
		_, err := w.run(count(3, 5), ofType("t3.large"))
		refused(t, err, "InsufficientInstanceCapacity", "t3.large", "us-east-1a")
	})
	if list := w.launch(count(1, 5), ofType("t3.large")); len(list) != 2 {
		t.Errorf("%d were launched, want 2", len(list))
	}
	// What was launched and not placed yet has its room already.
	_, err := w.run(ofType("t3.large"))
	refused(t, err, "InsufficientInstanceCapacity")
}

func TestATypeLargerThanTheServerIsRefused(t *testing.T) {
	w := newWorld(t)
	_, err := w.run(ofType("c5.18xlarge"))
	refused(t, err, "InsufficientInstanceCapacity", "c5.18xlarge has 72 vCPUs and the server 8")
}

func TestADryRunValidatesEverythingAndChangesNothing(t *testing.T) {
	w := newWorld(t)
	dry := func(in *order) { in.DryRun = aws.Bool(true) }
	w.unchanged(func() {
		_, err := w.run(dry)
		refused(t, err, "DryRunOperation")
		_, err = w.run(dry, ofType("c5.18xlarge"))
		refused(t, err, "InsufficientInstanceCapacity")
		_, err = w.run(dry, func(in *order) { in.KeyName = aws.String("none") })
		refused(t, err, "InvalidKeyPair.NotFound")
		_, err = w.DescribeInstances(t.Context(), &sdk.DescribeInstancesInput{DryRun: aws.Bool(true)})
		refused(t, err, "DryRunOperation")
	})
	id := w.running()
	w.unchanged(func() {
		_, err := w.StopInstances(t.Context(), &sdk.StopInstancesInput{InstanceIds: []string{id}, DryRun: aws.Bool(true)})
		refused(t, err, "DryRunOperation")
		_, err = w.TerminateInstances(t.Context(), &sdk.TerminateInstancesInput{InstanceIds: []string{id}, DryRun: aws.Bool(true)})
		refused(t, err, "DryRunOperation")
	})
}

func TestAClientTokenMakesARetryTheSameLaunch(t *testing.T) {
	w := newWorld(t)
	token := func(in *order) { in.ClientToken = aws.String("once") }
	first := w.launch(token, count(2, 2))
	w.settle()
	again := w.launch(token, count(2, 2))
	if len(again) != 2 || *again[0].InstanceId != *first[0].InstanceId || *again[1].InstanceId != *first[1].InstanceId {
		t.Errorf("a retry launched %v beside %v", again, first)
	}
	if len(w.found()) != 2 {
		t.Error("a retry made new instances")
	}
	w.unchanged(func() {
		_, err := w.run(token, count(1, 2))
		refused(t, err, "IdempotentParameterMismatch")
		_, err = w.run(func(in *order) { in.ClientToken = aws.String(strings.Repeat("x", 65)) })
		refused(t, err, "InvalidParameterValue")
	})
	w.update(func(tx *store.Tx) {
		for _, k := range store.List(tx, store.ClientTokens) {
			k.Created = k.Created.Add(-25 * time.Hour)
			store.Put(tx, store.ClientTokens, k)
		}
	})
	if later := w.launch(token); *later[0].InstanceId == *first[0].InstanceId {
		t.Error("a token is remembered for longer than a day")
	}
}

func TestConcurrentRetriesLaunchOnce(t *testing.T) {
	w := newWorld(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := w.run(func(in *order) { in.ClientToken = aws.String("once") }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(w.found()); n != 1 {
		t.Errorf("%d instances were launched", n)
	}
}

func TestSecurityGroupsAreGivenByIdOrByName(t *testing.T) {
	w := newWorld(t)
	web, ssh := w.group("web"), w.group("ssh")
	groups := func(i types.Instance) (names []string) {
		for _, g := range i.SecurityGroups {
			names = append(names, *g.GroupName)
		}
		slices.Sort(names)
		return names
	}
	for name, how := range map[string]func(*order){
		"ids":          func(in *order) { in.SecurityGroupIds = []string{web, ssh, web} },
		"names":        func(in *order) { in.SecurityGroups = []string{"web", "ssh"} },
		"an interface": withInterface(func(n *types.InstanceNetworkInterfaceSpecification) { n.Groups = []string{ssh, web} }),
	} {
		if got := groups(w.launch(how)[0]); !slices.Equal(got, []string{"ssh", "web"}) {
			t.Errorf("by %s: the groups are %v", name, got)
		}
	}
	subnet := string(w.subnet().ID)
	for code, how := range map[string]func(*order){
		"InvalidGroup.NotFound":       func(in *order) { in.SecurityGroups = []string{"none"} },
		"InvalidGroupId.Malformed":    func(in *order) { in.SecurityGroupIds = []string{"web"} },
		"InvalidParameterCombination": func(in *order) { in.SecurityGroups, in.SubnetId = []string{"web"}, &subnet },
		"SecurityGroupsPerInstanceLimitExceeded": func(in *order) {
			for n := range 6 {
				in.SecurityGroupIds = append(in.SecurityGroupIds, w.group(fmt.Sprint("g", n)))
			}
		},
	} {
		_, err := w.run(how)
		refused(t, err, code)
	}
}

func withInterface(change func(*types.InstanceNetworkInterfaceSpecification)) func(*order) {
	return func(in *order) {
		n := types.InstanceNetworkInterfaceSpecification{DeviceIndex: aws.Int32(0)}
		change(&n)
		in.NetworkInterfaces = []types.InstanceNetworkInterfaceSpecification{n}
	}
}

func TestTheNetworkInterfaceFormSaysTheSameAsTheParameters(t *testing.T) {
	w := newWorld(t)
	subnet := string(w.subnet().ID)
	i := w.launch(withInterface(func(n *types.InstanceNetworkInterfaceSpecification) {
		n.SubnetId, n.PrivateIpAddress, n.Description = &subnet, aws.String("172.31.1.2"), aws.String("the only one")
		n.AssociatePublicIpAddress, n.DeleteOnTermination = aws.Bool(false), aws.Bool(true)
	}), func(in *order) {
		in.TagSpecifications = append(in.TagSpecifications, tagSpec("network-interface", "a", "b"))
	})[0]
	if *i.PrivateIpAddress != "172.31.1.2" || i.PublicIpAddress != nil || *i.NetworkInterfaces[0].Description != "the only one" {
		t.Errorf("launched %+v", i)
	}
	out, err := w.DescribeNetworkInterfaces(t.Context(), &sdk.DescribeNetworkInterfacesInput{Filters: filterList("tag:a", "b", "attachment.instance-id", *i.InstanceId)})
	if err != nil || len(out.NetworkInterfaces) != 1 || *out.NetworkInterfaces[0].PrivateIpAddress != "172.31.1.2" || out.NetworkInterfaces[0].Association != nil {
		t.Errorf("described %+v, %v", out, err)
	}
	for name, test := range map[string]struct {
		code   string
		change func(*order)
	}{
		"a subnet beside it": {"InvalidParameterCombination", func(in *order) {
			withInterface(func(*types.InstanceNetworkInterfaceSpecification) {})(in)
			in.SubnetId = &subnet
		}},
		"one index twice": {"InvalidParameterValue", func(in *order) {
			in.NetworkInterfaces = []types.InstanceNetworkInterfaceSpecification{{DeviceIndex: aws.Int32(0)}, {DeviceIndex: aws.Int32(0)}}
		}},
		"more than the type has": {"AttachmentLimitExceeded", func(in *order) {
			in.NetworkInterfaces = []types.InstanceNetworkInterfaceSpecification{{DeviceIndex: aws.Int32(0)}, {DeviceIndex: aws.Int32(1)}, {DeviceIndex: aws.Int32(2)}}
		}},
		"a public address for one of two": {"InvalidParameterCombination", func(in *order) {
			in.NetworkInterfaces = []types.InstanceNetworkInterfaceSpecification{{DeviceIndex: aws.Int32(0), AssociatePublicIpAddress: aws.Bool(true)}, {DeviceIndex: aws.Int32(1)}}
		}},
		"no index":      {"MissingParameter", withInterface(func(n *types.InstanceNetworkInterfaceSpecification) { n.DeviceIndex, n.SubnetId = nil, &subnet })},
		"another index": {"InvalidParameterValue", withInterface(func(n *types.InstanceNetworkInterfaceSpecification) { n.DeviceIndex = aws.Int32(1) })},
		"one that isn't there": {"InvalidNetworkInterfaceID.NotFound", withInterface(func(n *types.InstanceNetworkInterfaceSpecification) {
			n.NetworkInterfaceId = aws.String("eni-0123456789abcdef0")
		})},
	} {
		if _, err := w.run(test.change); codeOf(err) != test.code {
			t.Errorf("%s: answered %v, want %s", name, err, test.code)
		}
	}
}

func TestAPrivateAddressCanBeChosenOnce(t *testing.T) {
	w := newWorld(t)
	at := func(a string) func(*order) { return func(in *order) { in.PrivateIpAddress = &a } }
	id := *w.launch(at("172.31.0.9"))[0].InstanceId
	w.unchanged(func() {
		for address, code := range map[string]string{
			"172.31.0.9":    "InvalidIPAddress.InUse",
			"172.31.0.1":    "InvalidParameterValue", // the subnet's router
			"172.31.15.255": "InvalidParameterValue", // its last address
			"10.0.0.9":      "InvalidParameterValue",
			"fe80::1":       "InvalidParameterValue",
			"here":          "InvalidParameterValue",
		} {
			_, err := w.run(at(address))
			refused(t, err, code)
		}
		_, err := w.run(at("172.31.0.10"), count(2, 2))
		refused(t, err, "InvalidParameterCombination")
	})
	if _, err := w.TerminateInstances(t.Context(), &sdk.TerminateInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	w.settle()
	w.launch(at("172.31.0.9"))
}

func TestWhatALaunchNamesMustExistAndFit(t *testing.T) {
	w := newWorld(t)
	theirs := w.addImage(strangerAccount, "theirs", "x86_64")
	gone := w.addImage(w.key.Account, "gone", "x86_64", func(i *cloud.Image) { i.State = cloud.ImageDeregistered })
	image := func(id string) func(*order) { return func(in *order) { in.ImageId = &id } }
	subnet := string(w.subnet().ID)
	w.unchanged(func() {
		for name, test := range map[string]struct {
			code   string
			change func(*order)
		}{
			"an image's name":         {"InvalidAMIID.Malformed", image("debian-12")},
			"no such image":           {"InvalidAMIID.NotFound", image("ami-0123456789abcdef0")},
			"a private image":         {"InvalidAMIID.NotFound", image(theirs)},
			"a deregistered image":    {"InvalidAMIID.Unavailable", image(gone)},
			"a parameter's name":      {"InvalidAMIID.Malformed", image("resolve:ssm:/debian")},
			"a type of AWS's":         {"Unsupported", ofType("p5.48xlarge")},
			"a type of nobody's":      {"InvalidParameterValue", ofType("t3.huge")},
			"another architecture":    {"InvalidParameterValue", ofType("t4g.micro")},
			"no such key":             {"InvalidKeyPair.NotFound", func(in *order) { in.KeyName = aws.String("none") }},
			"no such subnet":          {"InvalidSubnetID.NotFound", func(in *order) { in.SubnetId = aws.String("subnet-0123456789abcdef0") }},
			"no subnet at all":        {"InvalidSubnetID.Malformed", func(in *order) { in.SubnetId = aws.String("here") }},
			"no such zone":            {"InvalidParameterValue", zone("us-east-1z")},
			"a minimum of none":       {"InvalidParameterValue", count(0, 1)},
			"a maximum below":         {"InvalidParameterValue", count(3, 2)},
			"absurdly many":           {"InstanceLimitExceeded", count(1, 1<<31-1)},
			"fewer than none":         {"InvalidParameterValue", count(-5, -1)},
			"tenancy of its own":      {"UnsupportedOperation", func(in *order) { in.Placement = &types.Placement{Tenancy: "dedicated"} }},
			"a reserved tag":          {"InvalidParameterValue", tagged("aws:name", "x")},
			"a command that's none":   {"InvalidParameterValue", tagged("nacre:command", "sleep 60")},
			"an empty command":        {"InvalidParameterValue", tagged("nacre:command", "[]")},
			"far too many hops":       {"InvalidParameterValue", hops(65)},
			"no hop":                  {"InvalidParameterValue", hops(0)},
			"a kernel of its own":     {"InvalidParameterCombination", func(in *order) { in.KernelId = aws.String("aki-1") }},
			"a stranger's parameters": {"UnsupportedOperation", func(in *order) { in.AdditionalInfo = aws.String("more") }},
		} {
			if _, err := w.run(test.change); codeOf(err) != test.code {
				t.Errorf("%s: answered %v, want %s", name, err, test.code)
			}
		}
	})
	w.launch(zone("us-east-1a"), func(in *order) { in.SubnetId = &subnet })
	_, err := w.stranger.RunInstances(t.Context(), &order{ImageId: &w.image, MinCount: aws.Int32(1), MaxCount: aws.Int32(1)})
	refused(t, err, "InvalidAMIID.NotFound")
	_, err = w.stranger.RunInstances(t.Context(), &order{ImageId: &theirs, MinCount: aws.Int32(1), MaxCount: aws.Int32(1), SubnetId: &subnet})
	refused(t, err, "InvalidSubnetID.NotFound")
	_, err = w.stranger.RunInstances(t.Context(), &order{ImageId: &theirs, MinCount: aws.Int32(1), MaxCount: aws.Int32(1)})
	refused(t, err, "VPCIdNotSpecified")
}

func zone(name string) func(*order) {
	return func(in *order) { in.Placement = &types.Placement{AvailabilityZone: &name} }
}

func hops(n int32) func(*order) {
	return func(in *order) {
		in.MetadataOptions = &types.InstanceMetadataOptionsRequest{HttpPutResponseHopLimit: &n}
	}
}

func TestAPublicImageOfAnotherAccountCanBeLaunched(t *testing.T) {
	w := newWorld(t)
	public := w.addImage(strangerAccount, "public", "x86_64", func(i *cloud.Image) { i.Public = true })
	shared := w.addImage(strangerAccount, "shared", "x86_64", func(i *cloud.Image) { i.Launch = []cloud.AccountID{w.key.Account} })
	for _, id := range []string{public, shared} {
		w.launch(func(in *order) { in.ImageId = &id })
	}
}

func TestParametersThatAreNotHonouredAreRefusedByName(t *testing.T) {
	w := newWorld(t)
	w.unchanged(func() {
		for name, change := range map[string]func(*order){
			"IamInstanceProfile": func(in *order) {
				in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Name: aws.String("x")}
			},
			"BlockDeviceMapping.1": func(in *order) {
				in.BlockDeviceMappings = []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/sdb"), VirtualName: aws.String("ephemeral0")}}
			},
			"CpuOptions":     func(in *order) { in.CpuOptions = &types.CpuOptionsRequest{CoreCount: aws.Int32(1)} },
			"EnclaveOptions": func(in *order) { in.EnclaveOptions = &types.EnclaveOptionsRequest{Enabled: aws.Bool(true)} },
			"CapacityReservationPreference": func(in *order) {
				in.CapacityReservationSpecification = &types.CapacityReservationSpecification{CapacityReservationPreference: "none"}
			},
			"Placement.HostId":               func(in *order) { in.Placement = &types.Placement{HostId: aws.String("x")} },
			"NetworkInterface.1.PrimaryIpv6": withInterface(func(n *types.InstanceNetworkInterfaceSpecification) { n.PrimaryIpv6 = aws.Bool(true) }),
		} {
			_, err := w.run(change)
			says, _, _ := strings.Cut(name, ".1")
			refused(t, err, "UnsupportedOperation", says)
		}
	})
}

func TestOptionsThatSayNoAreTaken(t *testing.T) {
	w := newWorld(t)
	i := w.instance(*w.launch(func(in *order) {
		in.HibernationOptions = &types.HibernationOptionsRequest{Configured: aws.Bool(false)}
		in.EnclaveOptions = &types.EnclaveOptionsRequest{Enabled: aws.Bool(false)}
		in.CapacityReservationSpecification = &types.CapacityReservationSpecification{CapacityReservationPreference: "open"}
	})[0].InstanceId)
	if *i.HibernationOptions.Configured || *i.EnclaveOptions.Enabled || i.CapacityReservationSpecification.CapacityReservationPreference != "open" {
		t.Errorf("it has %+v, %+v, %+v", i.HibernationOptions, i.EnclaveOptions, i.CapacityReservationSpecification)
	}
	_, err := w.run(func(in *order) { in.HibernationOptions = &types.HibernationOptionsRequest{Configured: aws.Bool(true)} })
	refused(t, err, "UnsupportedHibernationConfiguration")
}

func TestUserDataIsDecodedAndLimited(t *testing.T) {
	w := newWorld(t)
	with := func(s string) func(*order) { return func(in *order) { in.UserData = &s } }
	of := func(n int) string { return base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", n))) }
	id := *w.launch(with(of(16384)))[0].InstanceId
	out, err := w.DescribeInstanceAttribute(t.Context(), &sdk.DescribeInstanceAttributeInput{InstanceId: &id, Attribute: "userData"})
	if err != nil || *out.UserData.Value != of(16384) {
		t.Errorf("it reads %+v, %v", out, err)
	}
	_, err = w.run(with(of(16385)))
	refused(t, err, "InvalidParameterValue", "User data is limited to 16384 bytes")
	_, err = w.run(with("#!/bin/sh"))
	refused(t, err, "InvalidUserData.Malformed")
}

func TestTheLaunchKeepsTheKeysPublicHalfAndTheCommandOfItsTag(t *testing.T) {
	w := newWorld(t)
	key, err := w.CreateKeyPair(t.Context(), &sdk.CreateKeyPairInput{KeyName: aws.String("mine"), KeyType: "ed25519"})
	if err != nil {
		t.Fatal(err)
	}
	id := *w.launch(func(in *order) { in.KeyName = key.KeyName }, tagged("nacre:command", `["sleep","60"]`, "Name", "web"))[0].InstanceId
	if _, err := w.DeleteKeyPair(t.Context(), &sdk.DeleteKeyPairInput{KeyName: key.KeyName}); err != nil {
		t.Fatal(err)
	}
	i, _ := store.Get(w.store.View(), store.Instances, cloud.InstanceID(id))
	if !strings.HasPrefix(i.PublicKey, "ssh-ed25519 ") || !slices.Equal(i.Command, []string{"sleep", "60"}) || i.Tags["Name"] != "web" {
		t.Errorf("it is launched with %q, %q, %v", i.PublicKey, i.Command, i.Tags)
	}
}

func TestABurstOfAHundredIsOneTransaction(t *testing.T) {
	w := newWorld(t)
	w.update(func(tx *store.Tx) {
		n, _ := store.Get(tx, store.Nodes, w.node)
		n.CPUFactor, n.MemoryFactor = 100, 100
		store.Put(tx, store.Nodes, n)
	})
	before := w.revision()
	list := w.launch(count(100, 100), ofType("t3.nano"))
	if after := w.revision(); len(list) != 100 || after != before+1 {
		t.Errorf("%d were launched in %d transactions", len(list), after-before)
	}
	private, public := map[string]bool{}, map[string]bool{}
	for _, i := range list {
		private[*i.PrivateIpAddress], public[*i.PublicIpAddress] = true, true
	}
	if len(private) != 100 || len(public) != 100 {
		t.Errorf("they share %d private and %d public addresses", len(private), len(public))
	}
}

func TestAPoolThatIsUsedUpStopsTheLaunchWhole(t *testing.T) {
	w := newWorldOf(t, "198.18.0.0/29") // six addresses
	w.launch(count(5, 5))
	w.unchanged(func() {
		_, err := w.run(count(2, 2))
		refused(t, err, "InsufficientAddressCapacity")
	})
	w.launch()
	w.launch(withInterface(func(n *types.InstanceNetworkInterfaceSpecification) { n.AssociatePublicIpAddress = aws.Bool(false) }))
}
