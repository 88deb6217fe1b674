package ec2

import (
	"context"
	"net/netip"
	"slices"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerSubnetReservations(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionCreateSubnetCidrReservation, s.createSubnetReservation, awsapi.Honours("Cidr", "Description", "ReservationType", "SubnetId", "TagSpecifications"))
	awsapi.Handle(r, ec2.ActionDeleteSubnetCidrReservation, s.deleteSubnetReservation, awsapi.Honours("SubnetCidrReservationId"))
	awsapi.Handle(r, ec2.ActionGetSubnetCidrReservations, s.getSubnetReservations, awsapi.Honours("Filters", "MaxResults", "NextToken", "SubnetId"))
}

const maxSubnetReservations = 100 // a subnet

func ownerOfReservation(x *cloud.SubnetReservation) cloud.AccountID { return x.Account }

// reservations are what is set aside of a subnet.
type reservations []*cloud.SubnetReservation

func reservationsOf(r store.Reader, id cloud.SubnetID) reservations {
	return store.ListBy(r, store.SubnetReservationsBySubnet, id)
}

// at is the reservation that an address lies in, nil when it is free to be given out.
func (list reservations) at(addr netip.Addr) *cloud.SubnetReservation {
	for _, x := range list {
		if x.Prefix.Contains(addr) {
			return x
		}
	}
	return nil
}

// admit refuses an address that was asked for by name and is set aside for prefixes.
func (list reservations) admit(addr netip.Addr) error {
	if x := list.at(addr); x != nil && !x.Explicit {
		return awsapi.InvalidParameterValue("Address %s is in the range %s, which %s reserves for prefixes", addr, x.Prefix, x.ID)
	}
	return nil
}

// claim is the key of an address that may be given out unasked, "" for one that may not.
func (list reservations) claim(subnet cloud.SubnetID, addr netip.Addr) store.ClaimKey {
	if list.at(addr) != nil {
		return ""
	}
	return store.AddressClaim(subnet, addr)
}

// within counts the addresses of a subnet that are set aside and would be lent otherwise.
func (list reservations) within(subnet netip.Prefix) (count int64) {
	for _, x := range list {
		if !x.Prefix.Addr().Is4() {
			continue
		}
		first := offset(subnet, x.Prefix.Addr())
		count += max(0, int64(min(first+sizeOf(x.Prefix), sizeOf(subnet)-reservedLast))-int64(max(first, reservedFirst)))
	}
	return count
}

func (s *Service) createSubnetReservation(ctx context.Context, call *awsapi.Call, req *ec2.CreateSubnetCidrReservationRequest) (*ec2.CreateSubnetCidrReservationResult, error) {
	tags, err := tagsFor(req.TagSpecifications, "subnet-cidr-reservation")
	if err != nil {
		return nil, err
	}
	block, err := netip.ParsePrefix(deref(req.Cidr))
	if err != nil || block.Addr().Is4In6() {
		return nil, awsapi.InvalidParameterValue("Value (%s) for parameter cidr is invalid. This is not a valid CIDR block.", deref(req.Cidr))
	}
	if len(deref(req.Description)) > 255 {
		return nil, awsapi.InvalidParameterValue("The description of a reservation has 255 characters at most.")
	}
	x := cloud.SubnetReservation{ID: newID[cloud.SubnetReservationID](s), Account: call.Account, Prefix: block.Masked(), Explicit: deref(req.ReservationType) == "explicit",
		Description: deref(req.Description), Tags: tags["subnet-cidr-reservation"], Created: call.Now}
	err = s.update(ctx, call, func(tx *store.Tx) error {
		subnet, err := lookup(tx, store.Subnets, ownerOfSubnet, kindSubnet, call.Account, deref(req.SubnetId))
		if err != nil {
			return err
		}
		x.Subnet = subnet.ID
		if !encloses(subnet.CIDR, x.Prefix) && !encloses(subnet.IPv6, x.Prefix) {
			return awsapi.InvalidParameterValue("The CIDR block %s is not within the subnet %s.", x.Prefix, subnet.ID)
		}
		others := reservationsOf(tx, subnet.ID)
		if len(others) >= maxSubnetReservations {
			return awsapi.Errorf("ResourceLimitExceeded", "A subnet has %d CIDR reservations at most.", maxSubnetReservations)
		}
		for _, o := range others {
			if o.Prefix.Overlaps(x.Prefix) {
				return awsapi.Errorf("CidrConflict", "The CIDR block %s overlaps with %s, which %s reserves.", x.Prefix, o.Prefix, o.ID)
			}
		}
		store.Put(tx, store.SubnetReservations, &x)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &ec2.CreateSubnetCidrReservationResult{SubnetCidrReservation: new(subnetReservationShape(&x))}, nil
}

// encloses tells whether one range is all within another; nothing is within no range.
func encloses(outer, inner netip.Prefix) bool {
	return outer.IsValid() && outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

func (s *Service) deleteSubnetReservation(ctx context.Context, call *awsapi.Call, req *ec2.DeleteSubnetCidrReservationRequest) (*ec2.DeleteSubnetCidrReservationResult, error) {
	out := &ec2.DeleteSubnetCidrReservationResult{}
	err := s.update(ctx, call, func(tx *store.Tx) error {
		x, err := lookup(tx, store.SubnetReservations, ownerOfReservation, kindReservation, call.Account, deref(req.SubnetCidrReservationId))
		if err != nil {
			return err
		}
		store.Delete(tx, store.SubnetReservations, x.ID)
		out.DeletedSubnetCidrReservation = new(subnetReservationShape(x))
		return nil
	})
	return out, err
}

// dropReservations ends the reservations of a range that a subnet loses.
func dropReservations(tx *store.Tx, id cloud.SubnetID, gone netip.Prefix) {
	for _, x := range reservationsOf(tx, id) {
		if encloses(gone, x.Prefix) {
			store.Delete(tx, store.SubnetReservations, x.ID)
		}
	}
}

func (s *Service) getSubnetReservations(_ context.Context, call *awsapi.Call, req *ec2.GetSubnetCidrReservationsRequest) (*ec2.GetSubnetCidrReservationsResult, error) {
	view := s.store.View()
	subnet, err := lookup(view, store.Subnets, ownerOfSubnet, kindSubnet, call.Account, deref(req.SubnetId))
	if err != nil {
		return nil, err
	}
	if err := pageBounds(req.MaxResults, 5, 1000, nil, ""); err != nil {
		return nil, err
	}
	type X = *cloud.SubnetReservation
	pass, err := awsapi.FilterSet[X]{Tags: func(x X) map[string]string { return x.Tags }, Values: map[string]func(X) []string{
		"reservationType": one(reservationType), "subnet-id": one(func(x X) string { return string(x.Subnet) }),
	}}.Compile(filters(req.Filters))
	if err != nil {
		return nil, err
	}
	list := slices.DeleteFunc(slices.Clone(reservationsOf(view, subnet.ID)), func(x X) bool { return !pass(x) })
	page, err := awsapi.Paginate(list, func(x X) string { return string(x.ID) }, req.MaxResults, req.NextToken, []any{subnet.ID, req.Filters})
	if err != nil {
		return nil, err
	}
	out := &ec2.GetSubnetCidrReservationsResult{NextToken: page.Next, SubnetIpv4CidrReservations: []ec2.SubnetCidrReservation{}, SubnetIpv6CidrReservations: []ec2.SubnetCidrReservation{}}
	for _, x := range page.Items {
		if x.Prefix.Addr().Is4() {
			out.SubnetIpv4CidrReservations = append(out.SubnetIpv4CidrReservations, subnetReservationShape(x))
		} else {
			out.SubnetIpv6CidrReservations = append(out.SubnetIpv6CidrReservations, subnetReservationShape(x))
		}
	}
	return out, nil
}

func reservationType(x *cloud.SubnetReservation) string {
	if x.Explicit {
		return "explicit"
	}
	return "prefix"
}

func subnetReservationShape(x *cloud.SubnetReservation) ec2.SubnetCidrReservation {
	return ec2.SubnetCidrReservation{SubnetCidrReservationId: text(x.ID), SubnetId: text(x.Subnet), OwnerId: text(x.Account), Cidr: new(x.Prefix.String()),
		ReservationType: new(reservationType(x)), Description: optional(x.Description), Tags: tagList(x.Tags)}
}
