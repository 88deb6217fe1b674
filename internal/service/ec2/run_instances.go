package ec2

import (
	"cmp"
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

// launchTagged are the kinds of resources that a launch tags as it makes them.
var launchTagged = []string{"instance", "network-interface", "volume"}

// launch is a RunInstances call that was found valid, ready to be committed.
type launch struct {
	call     *awsapi.Call
	req      *ec2.RunInstancesRequest
	template cloud.Instance // what all instances have in common
	size     cloud.InstanceTypeInfo
	min, max int
	nicTags  cloud.Tags
	group    *placement.Group // nil for none
	image    *cloud.Image

	interfaces []launchInterface // by device index

	root       launchVolume
	mapped     []launchVolume // beside the root, by the call
	suppressed []string       // devices of the image that the call wants no volume at
	volumes    []launchVolume // beside the root, by call and image
	volumeTags cloud.Tags
	volumeGiB  int          // the largest of them
	keeper     cloud.NodeID // of the snapshots that they are made of, "" for none
}

func (s *Service) runInstances(ctx context.Context, call *awsapi.Call, req *ec2.RunInstancesRequest) (*ec2.Reservation, error) {
	hash, token := awsapi.RequestHash(req), deref(req.ClientToken)
	// A retry is answered even when its launch template has changed or gone since.
	done, err := replay(s.store.View(), call, "RunInstances", token, hash)
	if err != nil {
		return nil, err
	}
	if done != "" {
		return reservationShape(s.store.View(), cloud.ReservationID(done))
	}
	merged, origin, err := fromTemplate(s.store.View(), call.Account, req)
	if err != nil {
		return nil, err
	}
	l := launch{call: call, req: merged}
	if err := l.parse(); err != nil {
		return nil, err
	}
	l.template.Tags = withTags(l.template.Tags, origin)
	// Ids are drawn before the transaction, whose function may run again.
	reservation, ids := newID[cloud.ReservationID](s), s.drawIDs(&l)
	err = s.update(ctx, call, func(tx *store.Tx) error {
		done, err := once(tx, call, "RunInstances", token, hash, string(reservation))
		if err != nil {
			return err
		}
		if done != "" {
			reservation = cloud.ReservationID(done)
			return nil
		}
		_, err = l.commit(tx, reservation, ids)
		return err
	})
	if err != nil {
		return nil, err
	}
	return reservationShape(s.store.View(), reservation)
}

// reservationShape describes instances that were launched together.
func reservationShape(view *store.View, reservation cloud.ReservationID) (*ec2.Reservation, error) {
	list := store.ListBy(view, store.InstancesByReservation, reservation)
	if len(list) == 0 {
		return nil, awsapi.Errorf("InvalidReservationID.NotFound", "The instances of this client token are gone.")
	}
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b *cloud.Instance) int { return a.LaunchIndex - b.LaunchIndex })
	res := newDescriber(view).reservation(list)
	return &res, nil
}

// launchIDs are what a launch is called, drawn for as many instances as it may make.
type launchIDs struct {
	instances   []cloud.InstanceID
	nics        []cloud.InterfaceID
	attachments []cloud.AttachmentID
	volumes     []cloud.VolumeID
}

func (s *Service) drawIDs(l *launch) launchIDs {
	volumes := 1 + len(l.mapped)
	if img, ok := store.Get(s.store.View(), store.Images, cloud.ImageID(*l.req.ImageId)); ok {
		volumes += len(img.Volumes) // which never change
	}
	ids := launchIDs{make([]cloud.InstanceID, l.max), make([]cloud.InterfaceID, l.max*len(l.interfaces)), make([]cloud.AttachmentID, l.max*len(l.interfaces)),
		make([]cloud.VolumeID, l.max*volumes)}
	for n := range ids.instances {
		ids.instances[n] = newID[cloud.InstanceID](s)
	}
	for n := range ids.nics {
		ids.nics[n], ids.attachments[n] = newID[cloud.InterfaceID](s), newID[cloud.AttachmentID](s)
	}
	for n := range ids.volumes {
		ids.volumes[n] = newID[cloud.VolumeID](s)
	}
	return ids
}

// commit writes the instances of a launch that was parsed, as many as fit, and returns them.
func (l launch) commit(tx *store.Tx, reservation cloud.ReservationID, ids launchIDs) ([]cloud.InstanceID, error) {
	if err := l.resolve(tx); err != nil {
		return nil, err
	}
	count, err := l.room(capacity.Promised(tx.View()))
	if err != nil {
		return nil, err
	}
	return ids.instances[:count], l.write(tx, reservation, ids, count)
}

// write makes count instances of a launch that was resolved.
func (l *launch) write(tx *store.Tx, reservation cloud.ReservationID, ids launchIDs, count int) error {
	// Once a day is enough, and keeps launches side by side from meeting at the image.
	if l.call.Now.Sub(l.image.LastLaunched) > 24*time.Hour {
		l.image.LastLaunched = l.call.Now
		store.Put(tx, store.Images, l.image)
	}
	if err := roomForVolumes(tx, l.call.Account, count*(1+len(l.volumes))); err != nil {
		return err
	}
	for n := range count {
		i, k := l.template, len(l.interfaces)
		i.ID, i.Reservation, i.LaunchIndex = ids.instances[n], reservation, n
		if err := l.wireAll(tx, &i, ids.nics[n*k:][:k], ids.attachments[n*k:][:k]); err != nil {
			return err
		}
		l.equip(tx, &i, ids.volumes[n*(1+len(l.volumes)):])
		store.Put(tx, store.Instances, &i)
	}
	return nil
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
	tags, err := tagsFor(req.TagSpecifications, launchTagged...)
	if err != nil {
		return err
	}
	l.nicTags = tags["network-interface"]
	i := &l.template
	*i = cloud.Instance{
		Account: call.Account, ClientToken: deref(req.ClientToken), Created: call.Now, LaunchTime: call.Now,
		Architecture: l.size.Architecture, Type: name, KeyName: deref(req.KeyName), UserData: userData,
		SourceDestCheck: true, DisableAPITermination: deref(req.DisableApiTermination), DisableAPIStop: deref(req.DisableApiStop),
		ShutdownBehavior: cloud.ShutdownStop, EBSOptimized: deref(req.EbsOptimized), Monitoring: req.Monitoring != nil && deref(req.Monitoring.Enabled),
		Tags: tags["instance"], Desired: cloud.DesiredRunning, Boot: 1,
		State: cloud.StatePending, StateReason: cloud.ReasonPending, StateChanged: call.Now,
	}
	if b := deref(req.InstanceInitiatedShutdownBehavior); b != "" {
		i.ShutdownBehavior = cloud.ShutdownBehavior(b)
	}
	if m := req.MaintenanceOptions; m != nil {
		i.NoAutoRecovery = deref(m.AutoRecovery) == ec2.InstanceAutoRecoveryStateDisabled
	}
	if err := plainOptions(req); err != nil {
		return err
	}
	if p := req.Placement; p != nil && deref(p.Tenancy) != "" && deref(p.Tenancy) != "default" {
		return awsapi.Unsupported("The tenancy '%s' is not supported by this cloud.", deref(p.Tenancy))
	}
	if err := l.ownSize(); err != nil {
		return err
	}
	if command, ok := i.Tags[commandTag]; ok {
		if err := json.Unmarshal([]byte(command), &i.Command); err != nil || len(i.Command) == 0 {
			return awsapi.InvalidParameterValue("The tag %s must be a JSON list of strings, such as [\"sleep\",\"60\"]", commandTag)
		}
	}
	if err := l.parseVolumes(tags["volume"]); err != nil {
		return err
	}
	return l.parseInterfaces()
}

// resolve finds what the call names: image, key, subnet and groups. It fills the template.
func (l *launch) resolve(tx *store.Tx) error {
	account, i := l.call.Account, &l.template
	img, err := visibleImage(tx, account, *l.req.ImageId)
	if err != nil {
		return err
	}
	if img.State != cloud.ImageAvailable {
		return imageUnavailable(img)
	}
	if img.Architecture != l.size.Architecture {
		return awsapi.InvalidParameterValue("The architecture '%s' of the specified instance type does not match the architecture '%s' of the specified AMI. Specify an instance type and an AMI that have matching architectures, and try again.",
			l.size.Architecture, img.Architecture)
	}
	if img.Kind() != cloud.ImageMachine {
		return awsapi.InvalidParameterValue("The image %s is a %s, which machines are started with: give it as the parameter of that name, and a machine image as ImageId", img.ID, img.Kind())
	}
	if i.Hardware, err = bootable(tx, account, img, deref(l.req.KernelId), deref(l.req.RamdiskId)); err != nil {
		return err
	}
	if h := l.req.HibernationOptions; h != nil && deref(h.Configured) {
		if !img.VM() {
			return awsapi.Errorf("UnsupportedHibernationConfiguration", "Instances of %s are containers, whose memory is part of their server's kernel: only virtual machines can hibernate.", img.ID)
		}
		i.HibernationConfigured = true
	}
	i.Image, i.ImageDigest = img.ID, img.Digest
	i.Isolation = cmp.Or(img.Isolation, cloud.IsolationContainer)
	i.Tags = withTags(i.Tags, isolationTag(i.Isolation))
	l.image = img
	if i.KeyName != "" {
		key, ok := keyPairNamed(tx.View(), account, i.KeyName)
		if !ok {
			return awsapi.Errorf("InvalidKeyPair.NotFound", "The key pair '%s' does not exist", i.KeyName)
		}
		if key, ok = store.Get(tx, store.KeyPairs, key.ID); !ok {
			return awsapi.Errorf("InvalidKeyPair.NotFound", "The key pair '%s' does not exist", i.KeyName)
		}
		i.PublicKey = key.PublicKey
	}
	if err := l.resolveMetadata(tx); err != nil {
		return err
	}
	if err := l.chooseCredits(tx); err != nil {
		return err
	}
	if err := l.resolveGroup(tx); err != nil {
		return err
	}
	if err := l.resolveInterfaces(tx); err != nil {
		return err
	}
	i.HostMounts = nil // the transaction's function may run again
	if err := mountHost(tx, account, i); err != nil {
		return err
	}
	return l.resolveVolumes(tx)
}

// resolveMetadata takes the metadata options from the call, and else from what the account has chosen.
func (l *launch) resolveMetadata(tx *store.Tx) error {
	i := &l.template
	chosen := settingsOf(tx, l.call.Account).Metadata
	i.Metadata = chosen.Options()
	if l.image.TokensOnly && chosen.Tokens == "" {
		i.Metadata.TokensRequired = true
	}
	if l.image.TokensOnly && chosen.HopLimit == 0 {
		i.Metadata.HopLimit = 2 // EC2's for images that say so: containers inside reach the service too
	}
	if m := l.req.MetadataOptions; m != nil {
		if err := applyMetadataOptions(&i.Metadata, m.HttpTokens, m.HttpEndpoint, m.InstanceMetadataTags, m.HttpProtocolIpv6, m.HttpPutResponseHopLimit); err != nil {
			return err
		}
	}
	if i.Metadata.InstanceTags {
		return visibleTags(i.Tags)
	}
	return nil
}

// zone is the one that the call asks for, "" for any.
func (l *launch) zone() string {
	if l.req.Placement == nil {
		return ""
	}
	return deref(l.req.Placement.AvailabilityZone)
}

// subnet finds the subnet: the one that is named, else the default one of the zone.
func (l *launch) subnet(tx *store.Tx, id string) (*cloud.Subnet, error) {
	zone := l.zone()
	region, ok := store.Region(tx)
	if !ok {
		return nil, awsapi.Errorf("InternalError", "The region is not set up.")
	}
	if zone != "" && !slices.ContainsFunc(region.Zones, func(z cloud.Zone) bool { return z.Name == zone }) {
		return nil, awsapi.InvalidParameterValue("Invalid availability zone: [%s]", zone)
	}
	if id != "" {
		return lookup(tx, store.Subnets, ownerOfSubnet, kindSubnet, l.call.Account, id)
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

// wanted is what each instance of a launch that was resolved needs of a server.
func (l *launch) wanted() placement.Request {
	return placement.Request{Type: l.size, Zone: l.template.Zone, Isolation: l.template.Isolation, Group: l.group, VolumeGiB: l.volumeGiB, Keeper: l.keeper}
}

// room is how many instances to launch: as many as fit, none when fewer than the minimum do.
func (l *launch) room(promised []placement.Candidate) (int, error) {
	n, res := placement.Room(promised, l.wanted(), l.max)
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

// plainOptions refuses what no instance here has. Clients say also that they don't want it.
func plainOptions(req *ec2.RunInstancesRequest) error {
	if e := req.EnclaveOptions; e != nil && deref(e.Enabled) {
		return awsapi.Unsupported("The parameter EnclaveOptions is not supported by this cloud: no server has enclaves.")
	}
	if c := req.CapacityReservationSpecification; c != nil && deref(c.CapacityReservationPreference) != "" && *c.CapacityReservationPreference != "open" {
		return awsapi.Unsupported("The value %s of CapacityReservationPreference is not supported by this cloud: it has no capacity reservations.", *c.CapacityReservationPreference)
	}
	return nil
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
	if ipv6 != nil {
		m.IPv6 = *ipv6 == "enabled"
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

// replay finds the resource of an earlier call with the same client token, "" when there was none or the call has no token.
func replay(r store.Reader, call *awsapi.Call, action, token, hash string) (string, error) {
	if token == "" {
		return "", nil
	}
	if len(token) > 64 {
		return "", awsapi.InvalidParameterValue("A client token has 64 characters at most")
	}
	old, ok := store.Get(r, store.ClientTokens, store.TokenKey(call.Account, action, token))
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

// once is replay, and remember when there was no earlier call. Calls without a token are made every time.
func once(tx *store.Tx, call *awsapi.Call, action, token, hash, resource string) (string, error) {
	done, err := replay(tx, call, action, token, hash)
	if err == nil && done == "" && token != "" {
		remember(tx, call, action, token, hash, resource)
	}
	return done, err
}
