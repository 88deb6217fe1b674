package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// change is one wish of a VPC's next transaction, and who waits for it.
type change struct {
	apply func(*[]Interface)
	done  chan error
}

// commit changes which interfaces a VPC's filter lets in, and returns when the kernel has the filter that follows from that and
// from the VPC's newest spec. Changes that come while a transaction is under way go into the next one together. When that fails each is tried alone, so
// that one bad change fails nobody else's.
func (v *vpc) commit(ctx context.Context, apply func(*[]Interface)) error {
	c := &change{apply, make(chan error, 1)}
	v.mu.Lock()
	v.wait = append(v.wait, c)
	if v.busy {
		v.mu.Unlock()
		return <-c.done
	}
	v.busy = true
	// One caller works for all; its own context must not fail the others.
	ctx = context.WithoutCancel(ctx)
	for len(v.wait) > 0 {
		batch := v.wait
		v.wait = nil
		v.mu.Unlock()
		if err := v.transact(ctx, batch); err == nil || len(batch) == 1 {
			for _, c := range batch {
				c.done <- err
			}
		} else {
			for _, c := range batch {
				c.done <- v.transact(ctx, []*change{c})
			}
		}
		v.mu.Lock()
	}
	v.busy = false
	v.mu.Unlock()
	return <-c.done
}

// transact makes some changes at once or not at all. Only commit calls it, one at a time.
func (v *vpc) transact(ctx context.Context, batch []*change) error {
	v.mu.Lock()
	spec, next := v.spec, slices.Clone(v.interfaces)
	v.mu.Unlock()
	for _, c := range batch {
		c.apply(&next)
	}
	wanted := compile(spec, next)
	if v.held != nil {
		script := wanted.from(v.held)
		if script == "" || nft(ctx, v.ns, script) == nil {
			return v.become(next, wanted)
		}
		v.held = nil // the kernel has something else than this process believes
	}
	if err := nft(ctx, v.ns, wanted.whole()); err != nil {
		return err
	}
	return v.become(next, wanted)
}

func (v *vpc) become(interfaces []Interface, held *filter) error {
	v.mu.Lock()
	v.interfaces = interfaces
	v.mu.Unlock()
	v.held = held
	six := held.v6 != nil
	if v.forward && (v.forward6 || !six) {
		return nil
	}
	err := within(v.ns, func() error {
		err := setting(forwarding, "1")
		if six {
			err = errors.Join(err, setting(forwarding6, "1"))
		}
		return err
	})
	if err != nil {
		return err
	}
	v.forward, v.forward6 = true, six
	return nil
}

// admit adds an interface at the end, in the place of what was known of it.
func admit(list *[]Interface, i Interface) {
	dismiss(list, i.ID)
	*list = append(*list, i)
}

func dismiss(list *[]Interface, id cloud.InterfaceID) {
	*list = slices.DeleteFunc(*list, func(i Interface) bool { return i.ID == id })
}

// nft applies a script as one transaction, in a namespace, or on the host when ns is nil.
func nft(ctx context.Context, ns *os.File, script string) error {
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	var messages bytes.Buffer
	cmd.Stderr = &messages
	err := error(nil)
	if ns == nil {
		err = cmd.Run()
	} else if err = within(ns, cmd.Start); err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("change the packet filter: %w: %s", err, firstLines(messages.String(), 5))
	}
	return nil
}

func firstLines(s string, n int) string {
	lines := strings.SplitN(strings.TrimSpace(s), "\n", n+1)
	return strings.Join(lines[:min(n, len(lines))], "\n")
}
