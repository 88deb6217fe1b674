package network

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// change is one wish of a VPC's next transaction, and who waits for it.
type change struct {
	apply func(*filter)
	done  chan error
}

// commit changes what a VPC's filter is made from, and returns when the kernel has the filter that follows. Changes that
// come while a transaction is under way go into the next one together. When that fails each is tried alone, so
// that one bad change fails nobody else's.
func (v *vpc) commit(ctx context.Context, apply func(*filter)) error {
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
	next := filter{v.filter.spec, slices.Clone(v.filter.interfaces)}
	v.mu.Unlock()
	for _, c := range batch {
		c.apply(&next)
	}
	wanted := compile(next)
	if v.held != nil {
		script := wanted.from(v.held, table)
		if script == "" || nft(ctx, v.ns, script) == nil {
			v.become(next, wanted)
			return nil
		}
		v.held = nil // the kernel has something else than this process believes
	}
	if err := nft(ctx, v.ns, wanted.whole(table)); err != nil {
		return err
	}
	v.become(next, wanted)
	return nil
}

func (v *vpc) become(f filter, held *ruleset) {
	v.mu.Lock()
	v.filter = f
	v.mu.Unlock()
	v.held = held
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
