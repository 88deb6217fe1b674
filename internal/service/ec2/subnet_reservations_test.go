package ec2_test

import (
	"net/netip"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// reserve sets a range of a subnet aside.
func (w *world) reserve(subnet, cidr string, kind types.SubnetCidrReservationType) (string, error) {
	out, err := w.CreateSubnetCidrReservation(w.t.Context(), &sdk.CreateSubnetCidrReservationInput{SubnetId: &subnet, Cidr: &cidr, ReservationType: kind, Description: aws.String("of a test")})
	if err != nil {
		return "", err
	}
	return *out.SubnetCidrReservation.SubnetCidrReservationId, nil
}

func (w *world) mustReserve(subnet, cidr string, kind types.SubnetCidrReservationType) string {
	w.t.Helper()
	id, err := w.reserve(subnet, cidr, kind)
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

// available is how many addresses a subnet says to have left.
func (w *world) available(subnet string) int32 {
	w.t.Helper()
	out, err := w.DescribeSubnets(w.t.Context(), &sdk.DescribeSubnetsInput{SubnetIds: []string{subnet}})
	if err != nil {
		w.t.Fatal(err)
	}
	return *out.Subnets[0].AvailableIpAddressCount
}

// lend makes an interface in a subnet, with an address of its choice or of the subnet's.
func (w *world) lend(subnet, wanted string) (netip.Addr, error) {
	in := &sdk.CreateNetworkInterfaceInput{SubnetId: &subnet}
	if wanted != "" {
		in.PrivateIpAddress = &wanted
	}
	out, err := w.CreateNetworkInterface(w.t.Context(), in)
	if err != nil {
		return netip.Addr{}, err
	}
	return netip.MustParseAddr(*out.NetworkInterface.PrivateIpAddress), nil
}

func TestAReservedRangeIsNotGivenOutUnasked(t *testing.T) {
	w := newWorld(t)
	subnet := w.subnetIn(w.vpc("10.0.0.0/16"), "10.0.0.0/27")
	if _, err := w.lend(subnet, "10.0.0.9"); err != nil { // in a range that is reserved later
		t.Fatal(err)
	}
	if got := w.available(subnet); got != 26 {
		t.Errorf("%d addresses are left before", got)
	}
	w.mustReserve(subnet, "10.0.0.0/28", types.SubnetCidrReservationTypeExplicit) // four of them are EC2's
	prefix := w.mustReserve(subnet, "10.0.0.24/29", types.SubnetCidrReservationTypePrefix)
	if got := w.available(subnet); got != 27-12-7 {
		t.Errorf("%d addresses are left, with 12 and 7 reserved", got)
	}
	for range 27 - 12 - 7 {
		addr, err := w.lend(subnet, "")
		if err != nil {
			t.Fatal(err)
		}
		if !netip.MustParsePrefix("10.0.0.16/29").Contains(addr) {
			t.Errorf("the reserved address %s was given out", addr)
		}
	}
	if got := w.available(subnet); got != 0 {
		t.Errorf("%d addresses are left after all of them", got)
	}
	_, err := w.lend(subnet, "")
	refused(t, err, "InsufficientFreeAddressesInSubnet")
	if addr, err := w.lend(subnet, "10.0.0.10"); err != nil || addr.String() != "10.0.0.10" {
		t.Errorf("an address of an explicit reservation: %s, %v", addr, err)
	}
	_, err = w.lend(subnet, "10.0.0.25")
	refused(t, err, "InvalidParameterValue", prefix)
	if got := w.available(subnet); got != 0 {
		t.Errorf("%d addresses are left after an explicit one", got)
	}
	if _, err := w.DeleteSubnetCidrReservation(t.Context(), &sdk.DeleteSubnetCidrReservationInput{SubnetCidrReservationId: &prefix}); err != nil {
		t.Fatal(err)
	}
	if addr, err := w.lend(subnet, ""); err != nil || w.available(subnet) != 6 {
		t.Errorf("without the reservation: %s, %v, and %d left", addr, err, w.available(subnet))
	}
}

func TestAReservedRangeOfIPv6IsNotGivenOutUnasked(t *testing.T) {
	w := newWorld(t)
	w.carryIPv6()
	vpc, p := w.vpc6("10.0.0.0/16")
	subnet := w.subnetIn(vpc, "10.0.0.0/24")
	tied, err := w.AssociateSubnetCidrBlock(t.Context(), &sdk.AssociateSubnetCidrBlockInput{SubnetId: &subnet, Ipv6CidrBlock: aws.String(subnet64(p))})
	if err != nil {
		t.Fatal(err)
	}
	half := netip.PrefixFrom(p.Addr(), 65)
	w.mustReserve(subnet, half.String(), types.SubnetCidrReservationTypeExplicit)
	for range 20 {
		out, err := w.CreateNetworkInterface(t.Context(), &sdk.CreateNetworkInterfaceInput{SubnetId: &subnet, Ipv6AddressCount: aws.Int32(2)})
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range out.NetworkInterface.Ipv6Addresses {
			if half.Contains(netip.MustParseAddr(*a.Ipv6Address)) {
				t.Errorf("the reserved address %s was given out", *a.Ipv6Address)
			}
		}
	}
	// The other half too: then nothing is left, and that is found out at once.
	other := half.Addr().As16()
	other[8] = 0x80
	w.mustReserve(subnet, netip.PrefixFrom(netip.AddrFrom16(other), 65).String(), types.SubnetCidrReservationTypePrefix)
	_, err = w.CreateNetworkInterface(t.Context(), &sdk.CreateNetworkInterfaceInput{SubnetId: &subnet, Ipv6AddressCount: aws.Int32(1)})
	refused(t, err, "InsufficientFreeAddressesInSubnet")
	other[15] = 7
	byName := func(addr netip.Addr) error {
		_, err := w.CreateNetworkInterface(t.Context(), &sdk.CreateNetworkInterfaceInput{SubnetId: &subnet, Ipv6Addresses: []types.InstanceIpv6Address{{Ipv6Address: aws.String(addr.String())}}})
		return err
	}
	refused(t, byName(netip.AddrFrom16(other)), "InvalidParameterValue", "prefixes")
	if err := byName(half.Addr().Next().Next().Next().Next()); err != nil {
		t.Error(err)
	}
	if got := w.available(subnet); got != 251-21 {
		t.Errorf("%d addresses of IPv4 are left", got)
	}
	refused(t, func() error {
		_, err := w.DisassociateSubnetCidrBlock(t.Context(), &sdk.DisassociateSubnetCidrBlockInput{AssociationId: tied.Ipv6CidrBlockAssociation.AssociationId})
		return err
	}(), "DependencyViolation")
}

func TestReservationsAreWithinTheirSubnetAndGoWithIt(t *testing.T) {
	w := newWorld(t)
	subnet := w.subnetIn(w.vpc("10.0.0.0/16"), "10.0.0.0/24")
	explicit, prefix := types.SubnetCidrReservationTypeExplicit, types.SubnetCidrReservationTypePrefix
	first := w.mustReserve(subnet, "10.0.0.33/28", explicit)
	w.mustReserve(subnet, "10.0.0.48/28", prefix)
	for cidr, code := range map[string]string{"10.0.1.0/28": "InvalidParameterValue", "10.0.0.0/16": "InvalidParameterValue", "fd00::/80": "InvalidParameterValue", "10.0.0.40": "InvalidParameterValue",
		"10.0.0.40/30": "CidrConflict", "10.0.0.32/27": "CidrConflict"} {
		_, err := w.reserve(subnet, cidr, explicit)
		refused(t, err, code, cidr)
	}
	_, err := w.reserve("subnet-00000000000000000", "10.0.0.0/28", explicit)
	refused(t, err, "InvalidSubnetID.NotFound")
	get := func(filters ...string) *sdk.GetSubnetCidrReservationsOutput {
		t.Helper()
		out, err := w.GetSubnetCidrReservations(t.Context(), &sdk.GetSubnetCidrReservationsInput{SubnetId: &subnet, Filters: filterList(filters...)})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if out := get(); len(out.SubnetIpv4CidrReservations) != 2 || len(out.SubnetIpv6CidrReservations) != 0 {
		t.Errorf("the subnet has %+v", out)
	}
	out := get("reservationType", "explicit")
	if len(out.SubnetIpv4CidrReservations) != 1 {
		t.Fatalf("explicit ones are %+v", out)
	}
	if x := out.SubnetIpv4CidrReservations[0]; *x.SubnetCidrReservationId != first || *x.Cidr != "10.0.0.32/28" || *x.SubnetId != subnet || x.ReservationType != explicit || *x.Description != "of a test" {
		t.Errorf("the first one reads %+v", x)
	}
	if _, err := w.DeleteSubnet(t.Context(), &sdk.DeleteSubnetInput{SubnetId: &subnet}); err != nil {
		t.Fatal(err)
	}
	_, err = w.DeleteSubnetCidrReservation(t.Context(), &sdk.DeleteSubnetCidrReservationInput{SubnetCidrReservationId: &first})
	refused(t, err, "InvalidSubnetCidrReservationID.NotFound")
}
