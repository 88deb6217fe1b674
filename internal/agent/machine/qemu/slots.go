package qemu

import (
	"fmt"
	"slices"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
)

// Devices that come and go while a machine runs have the slots of the bus from firstSlot to lastSlot; those before are for what machines are
// made with. A machine that goes on from a saved state must have each where it was, whatever came and went before.
const (
	firstSlot = 0x0a
	lastSlot  = 0x1f
	// firstCardSlot is where a machine's first card is, which one that is started from a template must find there.
	firstCardSlot = 0x10
)

// cardSlots and volumeSlots are all slots, in the order in which each kind of device takes them.
var cardSlots, volumeSlots = slotOrders()

func slotOrders() (cards, volumes []int) {
	for slot := firstCardSlot; slot <= lastSlot; slot++ {
		cards = append(cards, slot)
	}
	for slot := firstCardSlot - 1; slot >= firstSlot; slot-- {
		cards = append(cards, slot)
	}
	volumes = slices.Clone(cards)
	slices.Sort(volumes)
	slices.Reverse(volumes)
	return cards, volumes
}

// freeSlot is the first slot in an order that no device of a machine has, those included that its guest holds on to.
func freeSlot(vm *machine.VM, order []int) (int, error) {
	for _, slot := range order {
		if !slices.ContainsFunc(vm.NICs, func(n machine.NIC) bool { return n.Slot == slot }) &&
			!slices.ContainsFunc(vm.Volumes, func(v machine.Volume) bool { return v.Slot == slot }) &&
			!slices.ContainsFunc(vm.Left, func(l machine.Left) bool { return l.Slot == slot }) {
			return slot, nil
		}
	}
	return 0, fmt.Errorf("its %d slots are taken by %d network cards, %d volumes and %d devices that its guest does not let go of; take one away first, or reboot it for the last",
		len(order), len(vm.NICs), len(vm.Volumes), len(vm.Left))
}

// slotted gives each card and volume of a machine that has no slot one of its own.
func slotted(vm *machine.VM) (err error) {
	vm.NICs, vm.Volumes = slices.Clone(vm.NICs), slices.Clone(vm.Volumes)
	for i := range vm.NICs {
		if n := &vm.NICs[i]; n.Slot == 0 {
			if n.Slot, err = freeSlot(vm, cardSlots); err != nil {
				return fmt.Errorf("network card %s: %w", n.Interface, err)
			}
		}
	}
	for i := range vm.Volumes {
		if v := &vm.Volumes[i]; v.Slot == 0 {
			if v.Slot, err = freeSlot(vm, volumeSlots); err != nil {
				return fmt.Errorf("volume %s: %w", v.Graph.ID, err)
			}
		}
	}
	return nil
}
