package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

// listen makes an instance answer TCP on a port with its own address, until it ends.
func listen(m *cloudtest.Machine, port int) {
	m.Run(fmt.Sprintf("(while true; do hostname | nc -l -p %d; done) >/dev/null 2>&1 </dev/null &", port))
}

// reaches tells whether one instance gets an answer from another's port.
func reaches(from *cloudtest.Machine, address string, port int) bool {
	out, _ := from.Try(fmt.Sprintf("nc -w 2 %s %d </dev/null", address, port))
	return strings.HasPrefix(out, "ip-")
}

func TestSecurityGroupsDecideWhichPacketsPass(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	ctx := t.Context()
	key := c.KeyPair("k")
	ssh, web, client := c.Group("ssh", 22), c.Group("web"), c.Group("client")
	server := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(ssh, web))
	friend := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(ssh, client))
	stranger := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(ssh))
	s, f, x := c.SSH(server, "root", key).WaitLogin(), c.SSH(friend, "root", key).WaitLogin(), c.SSH(stranger, "root", key).WaitLogin()
	listen(s, 8080)
	address := *server.PrivateIpAddress

	if reaches(f, address, 8080) || reaches(x, address, 8080) {
		t.Error("a port that no rule opens is reached")
	}
	_, err := c.EC2.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &web, IpPermissions: []types.IpPermission{{
		IpProtocol: aws.String("tcp"), FromPort: aws.Int32(8080), ToPort: aws.Int32(8080),
		UserIdGroupPairs: []types.UserIdGroupPair{{GroupId: &client}}}}})
	if err != nil {
		t.Fatal(err)
	}
	c.WaitFor(5*time.Second, "the rule to hold", func() error {
		if !reaches(f, address, 8080) {
			return fmt.Errorf("the group named by the rule does not get through")
		}
		return nil
	})
	if reaches(x, address, 8080) {
		t.Error("an instance without the named group gets through")
	}

	// An open connection stays when its rule goes; a new one is refused.
	conn, err := net.DialTimeout("tcp", *server.PublicIpAddress+":22", 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	banner := make([]byte, 4)
	if _, err := conn.Read(banner); err != nil || string(banner) != "SSH-" {
		t.Fatalf("%v: %q", err, banner)
	}
	_, err = c.EC2.RevokeSecurityGroupIngress(ctx, &ec2.RevokeSecurityGroupIngressInput{GroupId: &ssh, IpPermissions: []types.IpPermission{cloudtest.TCP(22)}})
	if err != nil {
		t.Fatal(err)
	}
	c.WaitFor(5*time.Second, "the rule to go", func() error {
		other, err := net.DialTimeout("tcp", *server.PublicIpAddress+":22", 300*time.Millisecond)
		if err == nil {
			other.Close()
			return fmt.Errorf("a new connection is let in")
		}
		return nil
	})
	if _, err := conn.Write([]byte("SSH-2.0-test\r\n")); err != nil {
		t.Errorf("the open connection was cut: %v", err)
	}
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Read(make([]byte, 64)); err != nil {
		t.Errorf("the open connection is silent: %v", err)
	}
}

func TestAnUnassignedPublicAddressIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	base := net.ParseIP(strings.TrimSuffix(c.Pool, "/24")).To4()
	begin := time.Now()
	_, err := net.DialTimeout("tcp", net.JoinHostPort(net.IPv4(base[0], base[1], base[2], 200).String(), "22"), 3*time.Second)
	if err == nil {
		t.Fatal("an address that nobody has answered")
	}
	if nerr, ok := err.(net.Error); ok && nerr.Timeout() {
		t.Errorf("it timed out after %v instead of being refused: %v", time.Since(begin), err)
	}
}

func TestInstancesDoNotReachTheHost(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	key := c.KeyPair("k")
	i := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(c.Group("ssh", 22)))
	m := c.SSH(i, "root", key).WaitLogin()
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(conn, "ip-of-the-host")
			conn.Close()
		}
	}()
	port := l.Addr().(*net.TCPAddr).Port
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		ip := a.(*net.IPNet).IP
		if ip.To4() == nil || ip.IsLoopback() {
			continue
		}
		if reaches(m, ip.String(), port) {
			t.Errorf("the host's %s is reached from inside", ip)
		}
	}
}

func TestASpoofedSourceGetsNowhere(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	key := c.KeyPair("k")
	group := c.Group("open", 22)
	_, err := c.EC2.AuthorizeSecurityGroupIngress(t.Context(), &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &group, IpPermissions: []types.IpPermission{{
		IpProtocol: aws.String("-1"), IpRanges: []types.IpRange{{CidrIp: aws.String("0.0.0.0/0")}}}}})
	if err != nil {
		t.Fatal(err)
	}
	victim := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(group))
	attacker := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(group))
	m := c.SSH(attacker, "root", key).WaitLogin()
	if out, code := m.Try("ping -c 1 -W 2 " + *victim.PrivateIpAddress); code != 0 {
		t.Fatalf("the honest ping fails: %s", out)
	}
	out, code := m.Try("ip addr add 172.31.15.250/32 dev eth0 && ping -c 1 -W 2 -I 172.31.15.250 " + *victim.PrivateIpAddress)
	if code == 0 {
		t.Errorf("a ping from an address that is not the instance's own came back:\n%s", out)
	}
}

func TestElasticIPsMoveBetweenInstances(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	ctx := t.Context()
	key := c.KeyPair("k")
	group := c.Group("ssh", 22)
	a := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(group))
	b := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(group))
	eip, err := c.EC2.AllocateAddress(ctx, &ec2.AllocateAddressInput{Domain: types.DomainTypeVpc})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []types.Instance{a, b} {
		_, err := c.EC2.AssociateAddress(ctx, &ec2.AssociateAddressInput{AllocationId: eip.AllocationId, InstanceId: i.InstanceId, AllowReassociation: aws.Bool(true)})
		if err != nil {
			t.Fatal(err)
		}
		now := c.Describe(*i.InstanceId)
		if aws.ToString(now.PublicIpAddress) != *eip.PublicIp {
			t.Errorf("%s shows %s", *i.InstanceId, aws.ToString(now.PublicIpAddress))
		}
		m := c.SSH(now, "admin", key)
		want := "ip-" + strings.ReplaceAll(*i.PrivateIpAddress, ".", "-")
		c.WaitFor(15*time.Second, "the address to lead to "+want, func() error {
			if out, _ := m.Try("hostname"); strings.TrimSpace(out) != want {
				return fmt.Errorf("it leads to %q", out)
			}
			return nil
		})
	}
}

func TestTheMetadataServiceKnowsItsCaller(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	key := c.KeyPair("k")
	group := c.Group("ssh", 22)
	open := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(group))
	strict := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(group), func(in *ec2.RunInstancesInput) {
		in.MetadataOptions = &types.InstanceMetadataOptionsRequest{HttpTokens: types.HttpTokensStateRequired}
	})
	const root = "http://169.254.169.254/latest/"
	for _, i := range []types.Instance{open, strict} {
		m := c.SSH(i, "root", key).WaitLogin()
		token := "T=$(printf 'PUT /latest/api/token HTTP/1.0\\r\\nX-aws-ec2-metadata-token-ttl-seconds: 60\\r\\nContent-Length: 0\\r\\n\\r\\n' | nc -w 2 169.254.169.254 80 | tail -n 1)"
		get := func(path string) string {
			out, _ := m.Try(token + `; wget -q -O - --header "X-aws-ec2-metadata-token: $T" ` + root + path)
			return strings.TrimSpace(out)
		}
		for path, want := range map[string]string{
			"meta-data/instance-id": *i.InstanceId, "meta-data/local-ipv4": *i.PrivateIpAddress,
			"meta-data/public-ipv4": *i.PublicIpAddress, "meta-data/instance-type": string(i.InstanceType),
			"meta-data/placement/availability-zone": *i.Placement.AvailabilityZone, "meta-data/security-groups": "ssh",
			"meta-data/ami-id": *i.ImageId,
		} {
			if got := get(path); got != want {
				t.Errorf("%s of %s is %q, want %q", path, *i.InstanceId, got, want)
			}
		}
	}
	if out, code := c.SSH(open, "root", key).Try("wget -q -O - " + root + "meta-data/instance-id"); code != 0 {
		t.Errorf("version 1 is refused where it is allowed: %s", out)
	}
	if out, code := c.SSH(strict, "root", key).Try("wget -q -O - " + root + "meta-data/instance-id"); code == 0 {
		t.Errorf("version 1 answers where tokens are required: %s", out)
	}
}

func TestPrivateNamesResolveInside(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	key := c.KeyPair("k")
	i := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(c.Group("ssh", 22)))
	m := c.SSH(i, "root", key).WaitLogin()
	if out := m.Run("nslookup " + *i.PrivateDnsName); !strings.Contains(out, *i.PrivateIpAddress) {
		t.Errorf("%s resolves to:\n%s", *i.PrivateDnsName, out)
	}
}

func TestMachinesFollowTheirVPCsDHCPOptions(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	key := c.KeyPair("k")
	group := c.Group("ssh", 22)
	before := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(group))
	made, err := c.EC2.CreateDhcpOptions(t.Context(), &ec2.CreateDhcpOptionsInput{DhcpConfigurations: []types.NewDhcpConfiguration{
		{Key: aws.String("domain-name"), Values: []string{"corp.example"}},
		{Key: aws.String("domain-name-servers"), Values: []string{"AmazonProvidedDNS", "192.0.2.53"}},
		{Key: aws.String("ntp-servers"), Values: []string{"192.0.2.123"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.EC2.AssociateDhcpOptions(t.Context(), &ec2.AssociateDhcpOptionsInput{DhcpOptionsId: made.DhcpOptions.DhcpOptionsId, VpcId: before.VpcId}); err != nil {
		t.Fatal(err)
	}
	after := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(group))
	for _, m := range []struct {
		instance types.Instance
		want     string
	}{
		{before, "search ec2.internal\nnameserver 172.31.0.2\n"},
		{after, "search corp.example\nnameserver 172.31.0.2\nnameserver 192.0.2.53\n"},
	} {
		if got := c.SSH(m.instance, "root", key).WaitLogin().Run("cat /etc/resolv.conf"); strings.TrimSpace(got) != strings.TrimSpace(m.want) {
			t.Errorf("%s has %q, not %q", *m.instance.InstanceId, got, m.want)
		}
	}
	// One that runs already is told when it asks by DHCP, under the address that it has.
	told := c.SSH(before, "root", key).Run(`printf '#!/bin/sh\nenv\n' >/tmp/tell; chmod +x /tmp/tell; busybox udhcpc -f -n -q -i eth0 -s /tmp/tell -O ntpsrv -O staticroutes`)
	for _, want := range []string{"ip=" + *before.PrivateIpAddress, "domain=corp.example", "dns=172.31.0.2 192.0.2.53", "ntpsrv=192.0.2.123", "169.254.169.254/32 "} {
		if !strings.Contains(told, want) {
			t.Errorf("by DHCP, %s is not told %q, but:\n%s", *before.InstanceId, want, told)
		}
	}
}

func TestCloudsSideBySideDoNotMeet(t *testing.T) {
	t.Parallel()
	a, b := cloudtest.Start(t), cloudtest.Start(t)
	ia, ib := a.Launch(), b.Launch()
	if *ia.PublicIpAddress == *ib.PublicIpAddress {
		t.Errorf("both got %s", *ia.PublicIpAddress)
	}
	_, err := a.EC2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{*ib.InstanceId}})
	cloudtest.WantCode(t, err, "InvalidInstanceID.NotFound")
	a.Nacre("down", "--all")
	if got := b.Describe(*ib.InstanceId).State.Name; got != types.InstanceStateNameRunning {
		t.Errorf("taking one cloud down left the other's instance %s", got)
	}
	if err := syscall.Kill(b.PID(), 0); err != nil {
		t.Errorf("the other cloud's manager is gone: %v", err)
	}
	if _, err := os.Stat(b.Dir); err != nil {
		t.Error(err)
	}
}

// A second interface comes and goes while the machine runs, and the metadata service tells of it.
func TestAnInterfaceComesAndGoesWhileTheInstanceRuns(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	ctx := t.Context()
	key := c.KeyPair("k")
	vm := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(c.Group("ssh", 22)))
	m := c.SSH(vm, "root", key).WaitLogin()
	made, err := c.EC2.CreateNetworkInterface(ctx, &ec2.CreateNetworkInterfaceInput{SubnetId: vm.SubnetId})
	if err != nil {
		t.Fatal(err)
	}
	nic := made.NetworkInterface
	describe := func() types.NetworkInterface {
		out, err := c.EC2.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{NetworkInterfaceIds: []string{*nic.NetworkInterfaceId}})
		if err != nil {
			t.Fatal(err)
		}
		return out.NetworkInterfaces[0]
	}
	attached, err := c.EC2.AttachNetworkInterface(ctx, &ec2.AttachNetworkInterfaceInput{NetworkInterfaceId: nic.NetworkInterfaceId, InstanceId: vm.InstanceId, DeviceIndex: aws.Int32(1)})
	if err != nil {
		t.Fatal(err)
	}
	c.WaitFor(15*time.Second, "the interface to be attached", func() error {
		if a := describe().Attachment; a == nil || a.Status != types.AttachmentStatusAttached {
			return fmt.Errorf("it is %+v", a)
		}
		return nil
	})
	if out := m.Run("ip link show eth1"); !strings.Contains(out, *nic.MacAddress) {
		t.Errorf("eth1 is %q, want the address %q", out, *nic.MacAddress)
	}
	if out := m.Run("wget -q -O - http://169.254.169.254/latest/meta-data/network/interfaces/macs/" + *nic.MacAddress + "/local-ipv4s"); strings.TrimSpace(out) != *nic.PrivateIpAddress {
		t.Errorf("the metadata service tells of %q, want %q", out, *nic.PrivateIpAddress)
	}
	c.Kill() // what was attached is adopted
	c.Up()
	if _, err := c.EC2.DetachNetworkInterface(ctx, &ec2.DetachNetworkInterfaceInput{AttachmentId: attached.AttachmentId}); err != nil {
		t.Fatal(err)
	}
	c.WaitFor(15*time.Second, "the interface to be free", func() error {
		if n := describe(); n.Status != types.NetworkInterfaceStatusAvailable {
			return fmt.Errorf("it is %s", n.Status)
		}
		return nil
	})
	if out, code := m.Try("ip link show eth1"); code == 0 {
		t.Errorf("eth1 is still there: %s", out)
	}
	if _, err := c.EC2.DeleteNetworkInterface(ctx, &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: nic.NetworkInterfaceId}); err != nil {
		t.Fatal(err)
	}
}

func TestFlowLogsTellWhoWasLetInAndWhoWasRefused(t *testing.T) {
	t.Parallel()
	c := cloudtest.Start(t)
	ctx := t.Context()
	key := c.KeyPair("k")
	vm := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(c.Group("ssh", 22)))
	other := c.Launch(cloudtest.WithKey("k"), cloudtest.WithGroups(c.Group("other", 22)))
	m := c.SSH(other, "root", key).WaitLogin()
	made, err := c.EC2.CreateFlowLogs(ctx, &ec2.CreateFlowLogsInput{ResourceType: types.FlowLogsResourceTypeNetworkInterface,
		ResourceIds: []string{*vm.NetworkInterfaces[0].NetworkInterfaceId}, TrafficType: types.TrafficTypeAll, MaxAggregationInterval: aws.Int32(60),
		LogDestinationType: types.LogDestinationTypeS3, LogDestination: aws.String("arn:aws:s3:::nacre-flow-logs/e2e")})
	if err != nil || len(made.FlowLogIds) != 1 {
		t.Fatal(made, err)
	}
	wanted := map[string]string{" 22 6 ": "ACCEPT", " 7777 6 ": "REJECT"}
	c.WaitFor(3*time.Minute, "the lines of both flows", func() error {
		m.Try("nc -w 1 " + *vm.PrivateIpAddress + " 22 </dev/null; nc -w 1 " + *vm.PrivateIpAddress + " 7777 </dev/null")
		files, _ := filepath.Glob(filepath.Join(c.Dir, "flow-logs/e2e/AWSLogs/*/vpcflowlogs/*/*/*/*/*_"+made.FlowLogIds[0]+"_*.log"))
		var all string
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				return err
			}
			all += string(b)
		}
		from := *other.PrivateIpAddress + " " + *vm.PrivateIpAddress
		for port, action := range wanted {
			if !slices.ContainsFunc(strings.Split(all, "\n"), func(l string) bool {
				return strings.Contains(l, from) && strings.Contains(l, port) && strings.HasSuffix(l, action+" OK")
			}) {
				return fmt.Errorf("no %s of port%sin %q", action, port, all)
			}
		}
		return nil
	})
}
