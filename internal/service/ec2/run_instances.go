package ec2

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/netip"
	"slices"
	"time"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/capacity"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/cloud/placement"
	"github.com/nacre-cloud/nacre/internal/store"
)

const (
	// defaultType is launched when the call names no type. EC2's own default, m1.small, is not served.
	defaultType = "t3.micro"
	// maxUserData is EC2's limit, in bytes before encoding.
	maxUserData = 16 << 10
	// maxLaunch bounds one call.
	maxLaunch = 1000
	// commandTag carries a command that replaces the image's, as a JSON list of strings.
	commandTag = "nacre:command"
)

// launch is a RunInstances call that was found valid, ready to be committed.
type launch struct {
	call     *awsapi.Call
	req      *ec2.RunInstancesRequest
	template cloud.Instance // what all instances have in common
	nic      cloud.Interface
	size     cloud.InstanceTypeInfo
	min, max int
	address  netip.Addr // asked for, zero for any
	public   *bool      // AssociatePublicIpAddress
	nicTags  cloud.Tags
	hash     string
}

func (s *Service) runInstances(ctx context.Context, call *awsapi.Call, req *ec2.RunInstancesRequest) (*ec2.Reservation, error) {
	l := launch{call: call, req: req, hash: awsapi.RequestHash(req)}
	// Ids are drawn before the transaction, whose function may run again.
	reservation := newID[cloud.ReservationID](s)
	if err := l.parse(); err != nil {
		return nil, err
	}
	ids := make([]cloud.InstanceID, l.max)
	nics := make([]cloud.InterfaceID, l.max)
	attachments := make([]cloud.AttachmentID, l.max)
	for n := range l.max {
		ids[n], nics[n], attachments[n] = newID[cloud.InstanceID](s), newID[cloud.InterfaceID](s), newID[cloud.AttachmentID](s)
	}
	err := s.update(ctx, call, func(tx *store.Tx) error {
		if token := deref(req.ClientToken); token != "" {
			done, err := replay(tx, call, "RunInstances", token, l.hash)
			if err != nil {
				return err
			}
			if done != "" {
				reservation = cloud.ReservationID(done)
				return nil
			}
			remember(tx, call, "RunInstances", token, l.hash, string(reservation))
		}
		l := l
		subnet, err := l.resolve(tx)
		if err != nil {
			return err
		}
		count, err := l.room(tx.View())
		if err != nil {
			return err
		}
		pool, err := publicPool(tx.View())
		if err != nil {
			return err
		}
		for n := range count {
			i, nic := l.template, l.nic
			i.ID, i.Reservation, i.LaunchIndex, i.Interfaces = ids[n], reservation, n, []cloud.InterfaceID{nics[n]}
			nic.ID, nic.Instance, nic.Attachment = nics[n], ids[n], attachments[n]
			if nic.PrivateIP, err = claimPrivate(tx, subnet, nic.ID, l.address); err != nil {
				return err
			}
			nic.MAC = macOf(nic.PrivateIP, nic.ID)
			if nic.AutoPublicIP {
				public, err := claimPublic(tx, pool, nic.ID, netip.Addr{})
				if err != nil {
					return err
				}
				nic.Publics = []cloud.PublicAddress{{Private: nic.PrivateIP, Public: public}}
			}
			store.Put(tx, store.Interfaces, &nic)
			store.Put(tx, store.Instances, &i)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	view := s.store.View()
	list := store.ListBy(view, store.InstancesByReservation, reservation)
	if len(list) == 0 {
		return nil, awsapi.Errorf("InvalidReservationID.NotFound", "The instances of this client token are gone.")
	}
	slices.SortFunc(list, func(a, b *cloud.Instance) int { return a.LaunchIndex - b.LaunchIndex })
	res := newDescriber(view).reservation(list)
	return &res, nil
}

// parse checks what can be checked without the store.
func (l *launch) parse() error {
	req, call := l.req, l.call
	l.min, l.max = int(deref(req.MinCount)), int(deref(req.MaxCount))
	switch {
	case l.min < 1:
		return awsapi.InvalidParameterValue("Value ( %d ) for parameter minCount is invalid. It must be 1 or more.", l.min)
	case l.max < l.min:
		return awsapi.InvalidParameterValue("Value ( %d ) for parameter maxCount is invalid. It must not be less than minCount.", l.max)
	case l.max > maxLaunch:
		return awsapi.Errorf("InstanceLimitExceeded", "You have requested more instances (%d) than one call may launch (%d).", l.max, maxLaunch)
	case deref(req.ImageId) == "":
		return awsapi.MissingParameter("ImageId")
	}
	name := cloud.InstanceType(deref(req.InstanceType))
	if name == "" {
		name = defaultType
	}
	var ok bool
	if l.size, ok = cloud.LookupInstanceType(name); !ok {
		return awsapi.Errorf("Unsupported", "The instance type %s is not served by this cloud; DescribeInstanceTypes lists those that are.", name)
	}
	userData, err := userDataOf(deref(req.UserData))
	if err != nil {
		return err
	}
	tags, err := tagsFor(req.TagSpecifications, "instance", "network-interface")
	if err != nil {
		return err
	}
	l.nicTags = tags["network-interface"]
	i := &l.template
	*i = cloud.Instance{
		Account: call.Account, ClientToken: deref(req.ClientToken), Created: call.Now, LaunchTime: call.Now,
		Isolation: cloud.IsolationContainer, Architecture: l.size.Architecture, Type: name, KeyName: deref(req.KeyName), UserData: userData,
		SourceDestCheck: true, DisableAPITermination: deref(req.DisableApiTermination), DisableAPIStop: deref(req.DisableApiStop),
		ShutdownBehavior: cloud.ShutdownStop, EBSOptimized: deref(req.EbsOptimized), Monitoring: req.Monitoring != nil && deref(req.Monitoring.Enabled),
		Metadata: cloud.DefaultMetadataOptions(), Tags: tags["instance"], Desired: cloud.DesiredRunning, Boot: 1,
		State: cloud.StatePending, StateReason: cloud.ReasonPending, StateChanged: call.Now,
	}
	if b := deref(req.InstanceInitiatedShutdownBehavior); b != "" {
		i.ShutdownBehavior = cloud.ShutdownBehavior(b)
	}
	if m := req.MetadataOptions; m != nil {
		if err := applyMetadataOptions(&i.Metadata, m.HttpTokens, m.HttpEndpoint, m.InstanceMetadataTags, m.HttpProtocolIpv6, m.HttpPutResponseHopLimit); err != nil {
			return err
		}
	}
	if p := req.Placement; p != nil && deref(p.Tenancy) != "" && deref(p.Tenancy) != "default" {
		return awsapi.Unsupported("The tenancy '%s' is not supported by this cloud.", deref(p.Tenancy))
	}
	if command, ok := i.Tags[commandTag]; ok {
		if err := json.Unmarshal([]byte(command), &i.Command); err != nil || len(i.Command) == 0 {
			return awsapi.InvalidParameterValue("The tag %s must be a JSON list of strings, such as [\"sleep\",\"60\"]", commandTag)
		}
	}
	return l.parseInterface()
}

// parseInterface takes the one network interface's settings from the call or from its interface specification.
func (l *launch) parseInterface() error {
	req := l.req
	l.nic = cloud.Interface{Account: l.call.Account, InterfaceType: cloud.InterfaceOrdinary, AttachState: cloud.Attaching, SourceDestCheck: true, Tags: l.nicTags, Created: l.call.Now, AttachTime: l.call.Now,
		DeleteOnTermination: true}
	address := deref(req.PrivateIpAddress)
	if len(req.NetworkInterfaces) > 1 {
		return awsapi.Unsupported("The parameter NetworkInterface.2 is not supported by this cloud: an instance has one interface.")
	}
	if len(req.NetworkInterfaces) == 1 {
		n := req.NetworkInterfaces[0]
		switch {
		case len(req.SecurityGroupIds) > 0 || len(req.SecurityGroups) > 0 || deref(req.SubnetId) != "" || address != "":
			return awsapi.InvalidCombination("Network interfaces and an instance-level subnet ID, private address or security groups may not be specified on the same request")
		case n.DeviceIndex == nil:
			return awsapi.MissingParameter("NetworkInterface.1.DeviceIndex")
		case *n.DeviceIndex != 0:
			return awsapi.InvalidParameterValue("The first network interface must have the device index 0")
		case n.DeleteOnTermination != nil && !*n.DeleteOnTermination:
			return awsapi.Unsupported("The value false of NetworkInterface.1.DeleteOnTermination is not supported by this cloud.")
		}
		l.nic.Description, l.public, address = deref(n.Description), n.AssociatePublicIpAddress, deref(n.PrivateIpAddress)
	}
	if address != "" {
		a, err := netip.ParseAddr(address)
		if err != nil || !a.Is4() {
			return awsapi.InvalidParameterValue("Value (%s) for parameter privateIpAddress is invalid. Invalid IPv4 address.", address)
		}
		if l.max > 1 {
			return awsapi.InvalidCombination("A private address may be given for one instance only")
		}
		l.address = a
	}
	return nil
}

// resolve finds what the call names: image, key, subnet and groups. It fills the template.
func (l *launch) resolve(tx *store.Tx) (*cloud.Subnet, error) {
	account, i := l.call.Account, &l.template
	img, err := visibleImage(tx, account, *l.req.ImageId)
	if err != nil {
		return nil, err
	}
	if img.State != cloud.ImageAvailable {
		return nil, awsapi.Errorf("InvalidAMIID.Unavailable", "The image id '[%s]' is no longer available", img.ID)
	}
	if img.Architecture != l.size.Architecture {
		return nil, awsapi.InvalidParameterValue("The architecture '%s' of the specified instance type does not match the architecture '%s' of the specified AMI. Specify an instance type and an AMI that have matching architectures, and try again.",
			l.size.Architecture, img.Architecture)
	}
	i.Image, i.ImageDigest = img.ID, img.Digest
	if i.KeyName != "" {
		key, ok := keyPairNamed(tx.View(), account, i.KeyName)
		if !ok {
			return nil, awsapi.Errorf("InvalidKeyPair.NotFound", "The key pair '%s' does not exist", i.KeyName)
		}
		if key, ok = store.Get(tx, store.KeyPairs, key.ID); !ok {
			return nil, awsapi.Errorf("InvalidKeyPair.NotFound", "The key pair '%s' does not exist", i.KeyName)
		}
		i.PublicKey = key.PublicKey
	}
	subnet, err := l.subnet(tx)
	if err != nil {
		return nil, err
	}
	ids, names := l.req.SecurityGroupIds, l.req.SecurityGroups
	if len(names) > 0 && deref(l.req.SubnetId) != "" {
		return nil, awsapi.InvalidCombination("The parameter groupName cannot be used with the parameter subnet")
	}
	if len(l.req.NetworkInterfaces) == 1 {
		ids = l.req.NetworkInterfaces[0].Groups
	}
	// The groups are read guarded, so that none is deleted while the launch commits; names are looked up in the view.
	groups, err := groupsFor(tx.View(), account, subnet.VPC, ids, names)
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		if _, ok := store.Get(tx, store.SecurityGroups, g); !ok {
			return nil, kindGroup.notFound(string(g))
		}
	}
	i.VPC, i.Subnet, i.Zone = subnet.VPC, subnet.ID, subnet.Zone
	l.nic.VPC, l.nic.Subnet, l.nic.Zone, l.nic.Groups = subnet.VPC, subnet.ID, subnet.Zone, groups
	l.nic.AutoPublicIP = subnet.MapPublicIPOnLaunch
	if l.public != nil {
		l.nic.AutoPublicIP = *l.public
	}
	return subnet, nil
}

// subnet finds the subnet: the one that is named, else the default one of the zone.
func (l *launch) subnet(tx *store.Tx) (*cloud.Subnet, error) {
	id := deref(l.req.SubnetId)
	if len(l.req.NetworkInterfaces) == 1 {
		id = deref(l.req.NetworkInterfaces[0].SubnetId)
	}
	zone := ""
	if l.req.Placement != nil {
		zone = deref(l.req.Placement.AvailabilityZone)
	}
	region, ok := store.Region(tx)
	if !ok {
		return nil, awsapi.Errorf("InternalError", "The region is not set up.")
	}
	if zone != "" && !slices.ContainsFunc(region.Zones, func(z cloud.Zone) bool { return z.Name == zone }) {
		return nil, awsapi.InvalidParameterValue("Invalid availability zone: [%s]", zone)
	}
	if id != "" {
		s, err := lookup(tx, store.Subnets, ownerOfSubnet, kindSubnet, l.call.Account, id)
		if err != nil {
			return nil, err
		}
		if zone != "" && s.Zone != zone {
			return nil, awsapi.InvalidParameterValue("The availability zone '%s' does not match the zone of subnet %s", zone, s.ID)
		}
		return s, nil
	}
	vpc, err := defaultVPC(tx.View(), l.call.Account)
	if err != nil {
		return nil, err
	}
	for _, s := range store.ListBy(tx.View(), store.SubnetsByVPC, vpc.ID) {
		if s.DefaultForAZ && (zone == "" || s.Zone == zone) {
			if s, ok := store.Get(tx, store.Subnets, s.ID); ok {
				return s, nil
			}
		}
	}
	return nil, awsapi.Errorf("MissingInput", "No subnets found for the default VPC '%s'. Please specify a subnet.", vpc.ID)
}

// room is how many instances to launch: as many as fit, none when fewer than the minimum do.
func (l *launch) room(r store.Reader) (int, error) {
	n, res := placement.Room(capacity.Promised(r), placement.Request{Type: l.size, Zone: l.template.Zone, Isolation: l.template.Isolation}, l.max)
	if n < l.min {
		return 0, insufficientCapacity(l.size.Name, l.template.Zone, res)
	}
	return n, nil
}

func userDataOf(encoded string) ([]byte, error) {
	if encoded == "" {
		return nil, nil
	}
	b, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, awsapi.Errorf("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.")
	}
	if len(b) > maxUserData {
		return nil, awsapi.InvalidParameterValue("User data is limited to %d bytes", maxUserData)
	}
	return b, nil
}

// macOf is a locally administered address that is unique in its VPC: it holds the private address, which is, and
// two bytes that keep one interface's from being the next one's on the same address.
func macOf(ip netip.Addr, id cloud.InterfaceID) string {
	a := ip.As4()
	const digits = "0123456789abcdef"
	b := []byte("0a:")
	for i, x := range []byte{byte(start(string(id), 256)), a[0], a[1], a[2], a[3]} {
		if i > 0 {
			b = append(b, ':')
		}
		b = append(b, digits[x>>4], digits[x&15])
	}
	return string(b)
}

func applyMetadataOptions(m *cloud.MetadataOptions, tokens, endpoint, tags, ipv6 *string, hops *int64) error {
	if deref(ipv6) == "enabled" {
		return awsapi.Unsupported("The value enabled of HttpProtocolIpv6 is not supported by this cloud.")
	}
	if tokens != nil {
		m.TokensRequired = *tokens == "required"
	}
	if endpoint != nil {
		m.Disabled = *endpoint == "disabled"
	}
	if tags != nil {
		m.InstanceTags = *tags == "enabled"
	}
	if hops != nil {
		if *hops < 1 || *hops > 64 {
			return awsapi.InvalidParameterValue("HttpPutResponseHopLimit must be from 1 to 64")
		}
		m.HopLimit = int(*hops)
	}
	return nil
}

// replay finds the resource of an earlier call with the same client token, "" when there was none.
func replay(tx *store.Tx, call *awsapi.Call, action, token, hash string) (string, error) {
	if len(token) > 64 {
		return "", awsapi.InvalidParameterValue("A client token has 64 characters at most")
	}
	old, ok := store.Get(tx, store.ClientTokens, store.TokenKey(call.Account, action, token))
	if !ok || call.Now.Sub(old.Created) > 24*time.Hour {
		return "", nil
	}
	if old.Request != hash {
		return "", awsapi.IdempotentParameterMismatch()
	}
	return old.Resource, nil
}

// remember notes what a call with a client token made.
func remember(tx *store.Tx, call *awsapi.Call, action, token, hash, resource string) {
	store.Put(tx, store.ClientTokens, &cloud.ClientToken{Account: call.Account, Action: action, Token: token, Request: hash, Resource: resource, Created: call.Now})
}
