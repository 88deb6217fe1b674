package ec2_test

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func TestFiltersFindWhatInstancesHave(t *testing.T) {
	w := newWorld(t)
	web := w.group("web")
	a := w.running(tagged("Name", "web-1", "role", "front"), func(in *order) { in.SecurityGroupIds = []string{web} })
	b := w.running(tagged("Name", "web*2"), ofType("t3.small"), withInterface(func(n *types.InstanceNetworkInterfaceSpecification) {
		n.AssociatePublicIpAddress, n.Description = aws.Bool(false), aws.String("inner")
	}))
	c := w.stopped()
	i := w.instance(a)
	both := func(ids ...string) []string { slices.Sort(ids); return ids }
	for _, test := range []struct {
		filters []string
		want    []string
	}{
		{[]string{"instance-state-name", "running"}, both(a, b)},
		{[]string{"instance-state-name", "stopped,terminated"}, both(c)},
		{[]string{"instance-state-code", "16"}, both(a, b)},
		{[]string{"instance-state-name", "r*g"}, both(a, b)},
		{[]string{"instance-state-name", "stoppe?"}, both(c)},
		{[]string{"tag:Name", "web*"}, both(a, b)},
		{[]string{"tag:Name", `web\*2`}, both(b)},
		{[]string{"tag:Name", "web-1", "instance-state-name", "running"}, both(a)},
		{[]string{"tag:Name", "web-1", "instance-state-name", "stopped"}, nil},
		{[]string{"tag:name", "web-1"}, nil},
		{[]string{"tag-key", "role"}, both(a)},
		{[]string{"tag-value", "front"}, both(a)},
		{[]string{"instance-type", "t3.small"}, both(b)},
		{[]string{"instance.group-id", web}, both(a)},
		{[]string{"instance.group-name", "default"}, both(b, c)},
		{[]string{"group-name", "w?b"}, both(a)},
		{[]string{"private-ip-address", *i.PrivateIpAddress}, both(a)},
		{[]string{"ip-address", *i.PublicIpAddress}, both(a)},
		{[]string{"dns-name", *i.PublicDnsName}, both(a)},
		{[]string{"private-dns-name", *i.PrivateDnsName}, both(a)},
		{[]string{"network-interface.description", "inner"}, both(b)},
		{[]string{"network-interface.addresses.private-ip-address", *i.PrivateIpAddress}, both(a)},
		{[]string{"reservation-id", "r-*"}, both(a, b, c)},
		{[]string{"image-id", w.image, "vpc-id", *i.VpcId, "subnet-id", *i.SubnetId, "availability-zone", "us-east-1a"}, both(a, b, c)},
		{[]string{"state-reason-code", "Client.UserInitiatedShutdown"}, both(c)},
		{[]string{"launch-time", time.Now().UTC().Format("2006-01-02") + "*"}, both(a, b, c)},
		{[]string{"owner-id", string(strangerAccount)}, nil},
		{[]string{"instance-lifecycle", "spot"}, nil},
		{[]string{"hypervisor", "xen", "root-device-type", "ebs", "virtualization-type", "hvm", "tenancy", "default"}, both(a, b, c)},
	} {
		got := w.found(test.filters...)
		slices.Sort(got)
		if !slices.Equal(got, test.want) {
			t.Errorf("%v found %v, want %v", test.filters, got, test.want)
		}
	}
	for name, filters := range map[string][]types.Filter{
		"unknown":   filterList("colour", "blue"),
		"no values": {{Name: aws.String("vpc-id")}},
		"no name":   {{Values: []string{"x"}}},
	} {
		if _, err := w.DescribeInstances(t.Context(), &sdk.DescribeInstancesInput{Filters: filters}); codeOf(err) != "InvalidParameterValue" {
			t.Errorf("%s: answered %v", name, err)
		}
	}
}

func TestInstancesComeGroupedByTheirLaunch(t *testing.T) {
	w := newWorld(t)
	w.launch(count(3, 3))
	w.launch(count(2, 2))
	out, err := w.DescribeInstances(t.Context(), &sdk.DescribeInstancesInput{})
	if err != nil {
		t.Fatal(err)
	}
	var sizes []int
	for _, r := range out.Reservations {
		sizes = append(sizes, len(r.Instances))
		for n, i := range r.Instances {
			if int(*i.AmiLaunchIndex) != n {
				t.Errorf("instance %d of its launch comes at place %d", *i.AmiLaunchIndex, n)
			}
		}
	}
	slices.Sort(sizes)
	if !slices.Equal(sizes, []int{2, 3}) {
		t.Errorf("the reservations have %v instances", sizes)
	}
	one, err := w.DescribeInstances(t.Context(), &sdk.DescribeInstancesInput{InstanceIds: []string{*out.Reservations[0].Instances[1].InstanceId}})
	if err != nil || len(idsOf(one.Reservations)) != 1 {
		t.Errorf("one by its id: %+v, %v", one, err)
	}
}

func TestAnotherAccountsInstancesAreNotThere(t *testing.T) {
	w := newWorld(t)
	id := w.running()
	out, err := w.stranger.DescribeInstances(t.Context(), &sdk.DescribeInstancesInput{})
	if err != nil || len(out.Reservations) != 0 {
		t.Errorf("a stranger sees %+v, %v", out, err)
	}
	_, err = w.stranger.DescribeInstances(t.Context(), &sdk.DescribeInstancesInput{InstanceIds: []string{id}})
	refused(t, err, "InvalidInstanceID.NotFound", id)
	nics, err := w.stranger.DescribeNetworkInterfaces(t.Context(), &sdk.DescribeNetworkInterfacesInput{})
	if err != nil || len(nics.NetworkInterfaces) != 0 {
		t.Errorf("a stranger sees %+v, %v", nics, err)
	}
}

func TestPagesShowEveryInstanceOnceWhateverComesAndGoes(t *testing.T) {
	w := newWorld(t)
	w.fill(23)
	all := w.found()
	seen := map[string]bool{}
	in := &sdk.DescribeInstancesInput{MaxResults: aws.Int32(5)}
	for pages := 1; ; pages++ {
		out, err := w.DescribeInstances(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range idsOf(out.Reservations) {
			if seen[id] {
				t.Errorf("%s comes twice", id)
			}
			seen[id] = true
		}
		if out.NextToken == nil {
			break
		}
		if pages > 30 {
			t.Fatal("the pages don't end")
		}
		w.fill(1)
		in.NextToken = out.NextToken
	}
	for _, id := range all {
		if !seen[id] {
			t.Errorf("%s never came", id)
		}
	}
}

func TestPageBounds(t *testing.T) {
	w := newWorld(t)
	w.fill(7)
	first, err := w.DescribeInstances(t.Context(), &sdk.DescribeInstancesInput{MaxResults: aws.Int32(5)})
	if err != nil || first.NextToken == nil {
		t.Fatalf("%+v, %v", first, err)
	}
	for name, test := range map[string]struct {
		code string
		in   sdk.DescribeInstancesInput
	}{
		"ids beside it":    {"InvalidParameterCombination", sdk.DescribeInstancesInput{MaxResults: aws.Int32(5), InstanceIds: w.found()[:1]}},
		"too few":          {"InvalidParameterValue", sdk.DescribeInstancesInput{MaxResults: aws.Int32(4)}},
		"too many":         {"InvalidParameterValue", sdk.DescribeInstancesInput{MaxResults: aws.Int32(1001)}},
		"a foreign token":  {"InvalidNextToken", sdk.DescribeInstancesInput{NextToken: aws.String("AAAA")}},
		"another question": {"InvalidNextToken", sdk.DescribeInstancesInput{NextToken: first.NextToken, Filters: filterList("vpc-id", "*")}},
	} {
		if _, err := w.DescribeInstances(t.Context(), &test.in); codeOf(err) != test.code {
			t.Errorf("%s: answered %v, want %s", name, err, test.code)
		}
	}
}

func TestStatusIsOfRunningInstancesUnlessAllAreAskedFor(t *testing.T) {
	w := newWorld(t)
	up, down := w.running(), w.stopped()
	status := func(in sdk.DescribeInstanceStatusInput) map[string]types.InstanceStatus {
		t.Helper()
		out, err := w.DescribeInstanceStatus(t.Context(), &in)
		if err != nil {
			t.Fatal(err)
		}
		m := map[string]types.InstanceStatus{}
		for _, s := range out.InstanceStatuses {
			m[*s.InstanceId] = s
		}
		return m
	}
	s := status(sdk.DescribeInstanceStatusInput{})
	if len(s) != 1 || s[up].InstanceStatus.Status != "ok" || s[up].SystemStatus.Details[0].Status != "passed" || s[up].InstanceState.Name != "running" {
		t.Errorf("the status is %+v", s)
	}
	s = status(sdk.DescribeInstanceStatusInput{IncludeAllInstances: aws.Bool(true)})
	if len(s) != 2 || s[down].InstanceStatus.Status != "not-applicable" || s[down].InstanceState.Name != "stopped" {
		t.Errorf("with all, it is %+v", s)
	}
	if s = status(sdk.DescribeInstanceStatusInput{InstanceIds: []string{down}}); len(s) != 0 {
		t.Errorf("of a stopped one, it is %+v", s)
	}
	if s = status(sdk.DescribeInstanceStatusInput{Filters: filterList("instance-status.status", "ok", "system-status.reachability", "passed")}); len(s) != 1 {
		t.Errorf("of the healthy, it is %+v", s)
	}
	w.update(func(tx *store.Tx) {
		i, _ := store.Get(tx, store.Instances, cloud.InstanceID(up))
		i.Stall("the server has no room", time.Now())
		store.Put(tx, store.Instances, i)
	})
	s = status(sdk.DescribeInstanceStatusInput{Filters: filterList("instance-status.status", "impaired")})
	if d := s[up].SystemStatus; len(s) != 1 || d.Status != "impaired" || d.Details[0].Status != "failed" || d.Details[0].ImpairedSince == nil {
		t.Errorf("of one that stands still, it is %+v", s)
	}
}

func TestAnInterfaceIsDescribedWithWhatItsInstanceSays(t *testing.T) {
	w := newWorld(t)
	i := w.instance(w.running())
	out, err := w.DescribeNetworkInterfaces(t.Context(), &sdk.DescribeNetworkInterfacesInput{NetworkInterfaceIds: []string{*i.NetworkInterfaces[0].NetworkInterfaceId}})
	if err != nil {
		t.Fatal(err)
	}
	n := out.NetworkInterfaces[0]
	if *n.PrivateIpAddress != *i.PrivateIpAddress || *n.Association.PublicIp != *i.PublicIpAddress || *n.Association.IpOwnerId != "amazon" ||
		*n.Attachment.InstanceId != *i.InstanceId || n.Status != "in-use" || *n.MacAddress != *i.NetworkInterfaces[0].MacAddress ||
		!strings.HasPrefix(*n.MacAddress, "0a:") || *n.Groups[0].GroupName != "default" {
		t.Errorf("it is %+v", n)
	}
	_, err = w.DescribeNetworkInterfaces(t.Context(), &sdk.DescribeNetworkInterfacesInput{NetworkInterfaceIds: []string{"eni-0123456789abcdef0"}})
	refused(t, err, "InvalidNetworkInterfaceID.NotFound")
}

// fill puts n instances into the store that no node knows.
func (w *world) fill(n int) {
	w.t.Helper()
	subnet := w.subnet()
	group := store.ListBy(w.store.View(), store.SecurityGroupsByVPC, subnet.VPC)[0].ID
	now := time.Now().UTC()
	w.update(func(tx *store.Tx) {
		for k := range n {
			nic := cloud.Interface{ID: cloud.NewID[cloud.InterfaceID](rand.Reader), Account: w.key.Account, VPC: subnet.VPC, Subnet: subnet.ID, Zone: subnet.Zone,
				MAC: "0a:00:00:00:00:01", PrivateIP: netip.AddrFrom4([4]byte{172, 31, byte(k >> 8), byte(k)}), Publics: []cloud.PublicAddress{{Private: netip.AddrFrom4([4]byte{172, 31, byte(k >> 8), byte(k)}), Public: netip.AddrFrom4([4]byte{198, 18, byte(k >> 8), byte(k)})}},
				Groups: []cloud.SecurityGroupID{group}, Created: now, AttachTime: now, DeleteOnTermination: true,
				Attachment: cloud.NewID[cloud.AttachmentID](rand.Reader)}
			i := cloud.Instance{ID: cloud.NewID[cloud.InstanceID](rand.Reader), Account: w.key.Account, Reservation: cloud.NewID[cloud.ReservationID](rand.Reader),
				Image: cloud.ImageID(w.image), Type: "t3.micro", Architecture: "x86_64", Zone: subnet.Zone, VPC: subnet.VPC, Subnet: subnet.ID,
				Interfaces: []cloud.InterfaceID{nic.ID}, Metadata: cloud.DefaultMetadataOptions(), Tags: cloud.Tags{"Name": fmt.Sprint("server-", k)},
				State: cloud.StateRunning, Desired: cloud.DesiredRunning, Created: now, LaunchTime: now, Node: w.node}
			nic.Instance = i.ID
			store.Put(tx, store.Interfaces, &nic)
			store.Put(tx, store.Instances, &i)
		}
	})
}

// BenchmarkDescribeInstances measures whole calls at the server: signature, decoding, reading and encoding.
func BenchmarkDescribeInstances(b *testing.B) {
	w := newWorld(b)
	w.fill(1000)
	ids := w.found()
	for name, form := range map[string]url.Values{
		"all-1000":    {},
		"by-id":       {"InstanceId.1": {ids[500]}},
		"by-state":    {"Filter.1.Name": {"instance-state-name"}, "Filter.1.Value.1": {"stopped"}},
		"by-tag":      {"Filter.1.Name": {"tag:Name"}, "Filter.1.Value.1": {"server-500"}},
		"by-wildcard": {"Filter.1.Name": {"network-interface.private-dns-name"}, "Filter.1.Value.1": {"*-255.ec2*"}},
	} {
		form.Set("Action", "DescribeInstances")
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				req := w.signed(form)
				answer := counted{header: http.Header{}}
				b.StartTimer()
				w.handler.ServeHTTP(&answer, req)
				b.SetBytes(int64(answer.size))
				if answer.status != http.StatusOK {
					b.Fatal(answer.status)
				}
			}
		})
	}
}

// counted takes an answer as a socket does, without keeping it.
type counted struct {
	header http.Header
	status int
	size   int
}

func (c *counted) Header() http.Header    { return c.header }
func (c *counted) WriteHeader(status int) { c.status = status }

func (c *counted) Write(b []byte) (int, error) {
	c.size += len(b)
	return len(b), nil
}
