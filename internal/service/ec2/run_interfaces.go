package ec2

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// launchInterface is one network interface of each instance of a launch: one that exists, or what to make.
type launchInterface struct {
	index     int
	existing  string // the id of an interface that exists; what follows is then not set
	subnet    string // "" for the zone's default one
	groups    []string
	names     []string // of groups
	addresses addressing
	public    *bool // nil for what the subnet says
	wish      cloud.Interface

	at *cloud.Subnet // found by resolve
}

// parseInterfaces takes the network interfaces from the call's list of them, or the only one from the call's own members.
func (l *launch) parseInterfaces() error {
	req := l.req
	if len(req.NetworkInterfaces) == 0 {
		addresses, err := addressRequest{private: req.PrivateIpAddress, ipv6: addressesOf(req.Ipv6Addresses), ipv6Count: req.Ipv6AddressCount}.parse()
		if err != nil {
			return err
		}
		if len(req.SecurityGroups) > 0 && deref(req.SubnetId) != "" {
			return awsapi.InvalidCombination("The parameter groupName cannot be used with the parameter subnet")
		}
		l.interfaces = []launchInterface{{subnet: deref(req.SubnetId), groups: req.SecurityGroupIds, names: req.SecurityGroups, addresses: addresses, wish: l.wish("", true)}}
	}
	for n, spec := range req.NetworkInterfaces {
		if len(req.SecurityGroupIds) > 0 || len(req.SecurityGroups) > 0 || deref(req.SubnetId) != "" || deref(req.PrivateIpAddress) != "" ||
			len(req.Ipv6Addresses) > 0 || req.Ipv6AddressCount != nil {
			return awsapi.InvalidCombination("Network interfaces and an instance-level subnet ID, private address or security groups may not be specified on the same request")
		}
		one, err := l.parseInterface("NetworkInterface."+strconv.Itoa(n+1), spec)
		if err != nil {
			return err
		}
		l.interfaces = append(l.interfaces, one)
	}
	slices.SortFunc(l.interfaces, func(a, b launchInterface) int { return cmp.Compare(a.index, b.index) })
	for n, x := range l.interfaces {
		switch {
		case n == 0 && x.index != 0:
			return awsapi.InvalidParameterValue("The first network interface must have the device index 0")
		case n > 0 && x.index == l.interfaces[n-1].index:
			return awsapi.InvalidParameterValue("The device index '%d' is given to two network interfaces", x.index)
		case n > 0 && x.public != nil || len(l.interfaces) > 1 && deref(x.public):
			return awsapi.InvalidCombination("The associatePublicIPAddress parameter cannot be specified when launching with multiple network interfaces.")
		case l.max > 1 && x.existing != "":
			return awsapi.InvalidCombination("A network interface may be attached to one instance only")
		case l.max > 1 && x.addresses.single():
			return awsapi.InvalidCombination("A private address may be given for one instance only")
		}
	}
	if len(l.interfaces) > l.size.MaxInterfaces {
		return tooManyInterfaces(l.size, len(l.interfaces))
	}
	return nil
}

// wish is what all interfaces that the launch makes have in common.
func (l *launch) wish(description string, delete bool) cloud.Interface {
	return cloud.Interface{Account: l.call.Account, Description: description, InterfaceType: cloud.InterfaceOrdinary, AttachState: cloud.Attaching,
		SourceDestCheck: true, Tags: l.nicTags, Created: l.call.Now, AttachTime: l.call.Now, DeleteOnTermination: delete}
}

func (l *launch) parseInterface(name string, spec ec2.InstanceNetworkInterfaceSpecification) (launchInterface, error) {
	var x launchInterface
	if err := networkCard(spec.NetworkCardIndex); err != nil {
		return x, err
	}
	id := deref(spec.NetworkInterfaceId)
	switch {
	case spec.DeviceIndex == nil:
		return x, awsapi.MissingParameter(name + ".DeviceIndex")
	case *spec.DeviceIndex < 0 || *spec.DeviceIndex > maxDeviceIndex:
		return x, awsapi.InvalidParameterValue("Invalid value '%d' for %s.DeviceIndex: it is from 0 to %d.", *spec.DeviceIndex, name, maxDeviceIndex)
	case deref(spec.InterfaceType) != "" && *spec.InterfaceType != cloud.InterfaceOrdinary:
		return x, awsapi.Unsupported("The value %s of %s.InterfaceType is not supported by this cloud.", *spec.InterfaceType, name)
	case id != "" && (deref(spec.SubnetId) != "" || len(spec.Groups) > 0 || spec.Description != nil || spec.PrivateIpAddress != nil || len(spec.PrivateIpAddresses) > 0 ||
		spec.SecondaryPrivateIpAddressCount != nil || len(spec.Ipv6Addresses) > 0 || spec.Ipv6AddressCount != nil || spec.AssociatePublicIpAddress != nil):
		return x, awsapi.InvalidCombination("A network interface ID may not be specified together with a subnet, security groups, addresses or a description: %s", name)
	case id != "" && deref(spec.DeleteOnTermination):
		return x, awsapi.InvalidCombination("%s.DeleteOnTermination may be true only for a network interface that the launch makes", name)
	}
	description, err := interfaceDescription(spec.Description)
	if err != nil {
		return x, err
	}
	x = launchInterface{index: int(*spec.DeviceIndex), existing: id, subnet: deref(spec.SubnetId), groups: spec.Groups, public: spec.AssociatePublicIpAddress,
		wish: l.wish(description, spec.DeleteOnTermination == nil || *spec.DeleteOnTermination)}
	x.addresses, err = addressRequest{spec.PrivateIpAddress, spec.PrivateIpAddresses, spec.SecondaryPrivateIpAddressCount, addressesOf(spec.Ipv6Addresses), spec.Ipv6AddressCount}.parse()
	return x, err
}

// resolveInterfaces finds what the interfaces stand on, and with that the VPC, zone and subnet of the instances.
func (l *launch) resolveInterfaces(tx *store.Tx) error {
	l.interfaces = slices.Clone(l.interfaces) // the transaction's function may run again
	i := &l.template
	for n := range l.interfaces {
		x := &l.interfaces[n]
		x.wish.DeviceIndex = x.index
		if x.existing != "" {
			nic, err := ownInterface(tx, l.call.Account, x.existing)
			if err != nil {
				return err
			}
			if nic.Instance != "" {
				return interfaceInUse(nic)
			}
			var ok bool
			if x.at, ok = store.Get(tx, store.Subnets, nic.Subnet); !ok {
				return kindSubnet.notFound(string(nic.Subnet))
			}
			x.wish = *nic
		} else {
			var err error
			if x.at, err = l.subnet(tx, x.subnet); err != nil {
				return err
			}
			groups, err := guardedGroups(tx, l.call.Account, x.at.VPC, x.groups, x.names)
			if err != nil {
				return err
			}
			x.wish.VPC, x.wish.Subnet, x.wish.Zone, x.wish.Groups = x.at.VPC, x.at.ID, x.at.Zone, groups
		}
		if n == 0 {
			i.VPC, i.Subnet, i.Zone = x.at.VPC, x.at.ID, x.at.Zone
			i.SourceDestCheck = x.wish.SourceDestCheck
			x.wish.AutoPublicIP = x.existing == "" && x.at.MapPublicIPOnLaunch && len(l.interfaces) == 1
			if x.public != nil {
				x.wish.AutoPublicIP = *x.public
			}
		}
		if zone := l.zone(); zone != "" && x.at.Zone != zone {
			return awsapi.InvalidParameterValue("The availability zone '%s' does not match the zone of subnet %s", zone, x.at.ID)
		}
		if x.at.VPC != i.VPC {
			return awsapi.InvalidParameterValue("The network interfaces of an instance must be in one VPC: %s is in %s, %s in %s.", i.Subnet, i.VPC, x.at.ID, x.at.VPC)
		}
		if x.at.Zone != i.Zone {
			return awsapi.InvalidCombination("The network interfaces of an instance must be in the same availability zone")
		}
	}
	return nil
}

// wireAll makes or takes the interfaces of one instance.
func (l *launch) wireAll(tx *store.Tx, i *cloud.Instance, nics []cloud.InterfaceID, attachments []cloud.AttachmentID) error {
	i.Interfaces = nil
	for n, x := range l.interfaces {
		nic := x.wish
		nic.Instance, nic.Attachment, nic.AttachState, nic.AttachTime, nic.DeviceIndex = i.ID, attachments[n], cloud.Attaching, l.call.Now, x.index
		if x.existing == "" {
			nic.ID = nics[n]
			if err := x.addresses.assign(tx, &nic, x.at); err != nil {
				return err
			}
			nic.MAC = macOf(nic.PrivateIP, nic.ID)
		}
		if err := fits(l.size, &nic); err != nil {
			return err
		}
		if nic.AutoPublicIP {
			pool, err := publicPool(tx.View())
			if err != nil {
				return err
			}
			public, err := claimPublic(tx, pool, nic.ID, netip.Addr{})
			if err != nil {
				return err
			}
			nic.Publish(cloud.PublicAddress{Private: nic.PrivateIP, Public: public})
		}
		i.Interfaces = append(i.Interfaces, nic.ID)
		store.Put(tx, store.Interfaces, &nic)
	}
	return nil
}
