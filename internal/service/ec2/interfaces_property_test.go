package ec2_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// However interfaces, addresses and instances come, move and go: each address has one holder, who says so too, and
// when all is deleted nothing is left of it.
func TestRandomCallsOnInterfacesKeepTheBooks(t *testing.T) {
	w := newWorld(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	empty := w.claims()
	var vms []string
	pick := func(list []string) *string {
		if len(list) == 0 {
			return nil
		}
		return &list[rnd.IntN(len(list))]
	}
	ids := func() (nics, eips, attachments, associations, secondaries []string) {
		for _, n := range store.List(w.store.View(), store.Interfaces) {
			nics = append(nics, string(n.ID))
			if n.Attachment != "" {
				attachments = append(attachments, string(n.Attachment))
			}
			for _, a := range n.Secondary {
				secondaries = append(secondaries, a.String())
			}
		}
		for _, a := range store.List(w.store.View(), store.Addresses) {
			eips = append(eips, string(a.ID))
			if a.Association != "" {
				associations = append(associations, string(a.Association))
			}
		}
		return
	}
	done := map[string]int{}
	all := []string{"create", "delete", "attach", "detach", "allocate", "associate", "disassociate", "release", "assign", "unassign", "run", "power"}
	missing := func() []string {
		return slices.DeleteFunc(slices.Clone(all), func(what string) bool { return done[what] > 0 })
	}
	for n := 0; n < 600 || n < 6000 && len(missing()) > 0; n++ { // a rare step may take longer to succeed
		nics, eips, attachments, associations, secondaries := ids()
		ctx := t.Context()
		var err error
		var what string
		switch n := rnd.IntN(14); n {
		case 0:
			what = "create"
			_, err = w.CreateNetworkInterface(ctx, &sdk.CreateNetworkInterfaceInput{SubnetId: (*string)(&w.subnet().ID), SecondaryPrivateIpAddressCount: aws.Int32(rnd.Int32N(3))})
		case 1:
			what = "delete"
			_, err = w.DeleteNetworkInterface(ctx, &sdk.DeleteNetworkInterfaceInput{NetworkInterfaceId: pick(nics)})
		case 2, 3:
			what = "attach"
			_, err = w.AttachNetworkInterface(ctx, &sdk.AttachNetworkInterfaceInput{NetworkInterfaceId: pick(nics), InstanceId: pick(vms), DeviceIndex: aws.Int32(1 + rnd.Int32N(3))})
		case 4:
			what = "detach"
			_, err = w.DetachNetworkInterface(ctx, &sdk.DetachNetworkInterfaceInput{AttachmentId: pick(attachments)})
		case 5:
			what = "allocate"
			_, err = w.AllocateAddress(ctx, &sdk.AllocateAddressInput{})
		case 6, 7:
			what = "associate"
			in := &sdk.AssociateAddressInput{AllocationId: pick(eips), NetworkInterfaceId: pick(nics)}
			if rnd.IntN(2) == 0 {
				in.PrivateIpAddress = pick(secondaries)
			}
			_, err = w.AssociateAddress(ctx, in)
		case 8:
			what = "disassociate"
			_, err = w.DisassociateAddress(ctx, &sdk.DisassociateAddressInput{AssociationId: pick(associations)})
		case 9:
			what = "release"
			_, err = w.ReleaseAddress(ctx, &sdk.ReleaseAddressInput{AllocationId: pick(eips)})
		case 10:
			what = "assign"
			in := &sdk.AssignPrivateIpAddressesInput{NetworkInterfaceId: pick(nics), AllowReassignment: aws.Bool(rnd.IntN(2) == 0)}
			if other := pick(secondaries); other != nil && rnd.IntN(2) == 0 {
				in.PrivateIpAddresses = []string{*other}
			} else {
				in.SecondaryPrivateIpAddressCount = aws.Int32(1 + rnd.Int32N(2))
			}
			_, err = w.AssignPrivateIpAddresses(ctx, in)
		case 11:
			what = "unassign"
			if addr := pick(secondaries); addr != nil {
				_, err = w.UnassignPrivateIpAddresses(ctx, &sdk.UnassignPrivateIpAddressesInput{NetworkInterfaceId: pick(nics), PrivateIpAddresses: []string{*addr}})
			}
		case 12:
			what = "run"
			if len(vms) < 4 {
				vms = append(vms, *w.launch(ofType("t3.small"), w.inSubnet)[0].InstanceId)
			}
			w.settle()
		case 13:
			what = "power"
			id := pick(vms)
			switch {
			case id == nil:
			case rnd.IntN(4) == 0:
				_, err = w.TerminateInstances(ctx, &sdk.TerminateInstancesInput{InstanceIds: []string{*id}})
				vms = slices.DeleteFunc(vms, func(x string) bool { return x == *id })
			case rnd.IntN(2) == 0:
				_, err = w.StopInstances(ctx, &sdk.StopInstancesInput{InstanceIds: []string{*id}})
			default:
				_, err = w.StartInstances(ctx, &sdk.StartInstancesInput{InstanceIds: []string{*id}})
			}
			w.settle()
		}
		if err == nil {
			done[what]++
		}
		if rnd.IntN(3) == 0 && len(vms) > 0 {
			w.wired(*pick(vms))
		}
		w.checkBooks()
		if t.Failed() {
			t.Fatalf("after %s: %v", what, err)
		}
	}
	if list := missing(); len(list) > 0 {
		t.Errorf("never succeeded: %q", list)
	}
	for _, id := range vms {
		if _, err := w.TerminateInstances(t.Context(), &sdk.TerminateInstancesInput{InstanceIds: []string{id}}); err != nil {
			t.Fatal(err)
		}
	}
	w.settle()
	nics, _, _, _, _ := ids()
	for _, id := range nics {
		if _, err := w.DeleteNetworkInterface(t.Context(), &sdk.DeleteNetworkInterfaceInput{NetworkInterfaceId: &id}); err != nil {
			t.Fatal(err)
		}
	}
	_, eips, _, _, _ := ids()
	for _, id := range eips {
		if _, err := w.ReleaseAddress(t.Context(), &sdk.ReleaseAddressInput{AllocationId: &id}); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.claims(); got != empty {
		t.Errorf("%d claims at first, %d when all is deleted", empty, got)
	}
}

// checkBooks compares what interfaces, instances, Elastic IPs and claims say of each other.
func (w *world) checkBooks() {
	w.t.Helper()
	view := w.store.View()
	claimed := map[store.ClaimKey]string{}
	for _, c := range store.List(view, store.Claims) {
		claimed[c.Key] = c.Owner
	}
	owned := 0
	own := func(key store.ClaimKey, owner string) {
		owned++
		if claimed[key] != owner {
			w.t.Errorf("%s is claimed by %q, and %s has it", key, claimed[key], owner)
		}
	}
	for _, n := range store.List(view, store.Interfaces) {
		for _, a := range append(n.Addresses(), n.IPv6...) {
			own(store.AddressClaim(n.Subnet, a), string(n.ID))
		}
		seen := map[netip.Addr]bool{}
		for _, p := range n.Publics {
			if seen[p.Private] || !n.Owns(p.Private) {
				w.t.Errorf("%s publishes %s twice, or hasn't got it", n.ID, p.Private)
			}
			seen[p.Private] = true
			if p.Allocation == "" {
				own(store.PublicAddressClaim(p.Public), string(n.ID))
			} else if a, ok := store.Get(view, store.Addresses, p.Allocation); !ok || a.Interface != n.ID || a.PrivateIP != p.Private || a.PublicIP != p.Public || a.Association == "" {
				w.t.Errorf("%s says it has %+v, the allocation says %+v", n.ID, p, a)
			}
		}
		i, attached := store.Get(view, store.Instances, n.Instance)
		if (n.Instance != "") != (n.Attachment != "") || (n.Instance != "") != (n.AttachState != "") || n.Instance != "" && (!attached || !slices.Contains(i.Interfaces, n.ID)) {
			w.t.Errorf("%s is attached to %q by %q, %s", n.ID, n.Instance, n.Attachment, n.AttachState)
		}
	}
	for _, a := range store.List(view, store.Addresses) {
		own(store.PublicAddressClaim(a.PublicIP), string(a.ID))
		if n, ok := store.Get(view, store.Interfaces, a.Interface); a.Interface != "" && (!ok || n.Public(a.PrivateIP).Allocation != a.ID) {
			w.t.Errorf("%s says it is at %s of %s", a.ID, a.PrivateIP, a.Interface)
		}
	}
	for _, i := range store.List(view, store.Instances) {
		index := -1
		for _, id := range i.Interfaces {
			n, ok := store.Get(view, store.Interfaces, id)
			if !ok || n.Instance != i.ID || n.DeviceIndex <= index {
				w.t.Errorf("%s has %s, which is of %+v", i.ID, id, n)
				continue
			}
			index = n.DeviceIndex
		}
		if i.State == cloud.StateTerminated && len(i.Interfaces) > 0 {
			w.t.Errorf("%s is terminated and has %s", i.ID, fmt.Sprint(i.Interfaces))
		}
	}
	addresses := 0
	for key := range claimed {
		if k := string(key); len(k) > 2 && (k[:2] == "ip" || k[:6] == "public") {
			addresses++
		}
	}
	if addresses != owned {
		w.t.Errorf("%d addresses are claimed, %d are had", addresses, owned)
	}
}
