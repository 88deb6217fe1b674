package agentrpc

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Refusal is why a node can't do with a snapshot's blocks what it was asked for, when asking again doesn't help.
type Refusal string

// Refusals.
const (
	RefusedNotFound  Refusal = "not-found"
	RefusedUnrelated Refusal = "unrelated"
	RefusedNoBlock   Refusal = "no-block"
	RefusedSealed    Refusal = "sealed"
	RefusedRotten    Refusal = "rotten"
	RefusedTooLarge  Refusal = "too-large"
	RefusedTooLong   Refusal = "too-long"
)

// Refused is a refusal as an error, with the node's own words.
type Refused struct {
	Why  Refusal
	Text string
}

func (r *Refused) Error() string { return r.Text }

// BlocksQuery asks about a snapshot's blocks: which there are, or, with First, which may differ from that snapshot's; with Begin, to begin one; with Written, what
// was written to one that was begun.
type BlocksQuery struct {
	Snapshot cloud.SnapshotID
	First    cloud.SnapshotID `json:",omitempty"`
	Related  bool             `json:",omitempty"` // both are of one volume
	From     int64            `json:",omitempty"`
	Most     int              `json:",omitempty"`
	Begin    *BeginSnapshot   `json:",omitempty"`
	Written  bool             `json:",omitempty"`
}

// BeginSnapshot is a snapshot that is going to be written block by block.
type BeginSnapshot struct {
	Size   int64            // bytes
	Parent cloud.SnapshotID `json:",omitempty"`
	Idle   time.Duration    // for how long nothing may be written before it is given up
}

// BlocksAnswer answers it.
type BlocksAnswer struct {
	Refused *Refused `json:",omitempty"`
	Blocks  []Block  `json:",omitempty"`
	Next    int64    // from where to go on; -1 after the last
	Count   int64    `json:",omitempty"` // of the blocks that were written
	Linear  []byte   `json:",omitempty"` // the SHA-256 of their digests
}

// Block is one that may hold more than zeros in the first or in the second snapshot.
type Block struct {
	Index         int64
	First, Second bool
}

// BlockTarget is a block that a tunnel carries: to the control plane, or, with Write, to the node.
type BlockTarget struct {
	Snapshot cloud.SnapshotID
	Index    int64
	Write    bool
}

// A block's tunnel begins, or for one that is written ends, with the node's head on a line of its own; the block itself is bare.
const maxHead = 4 << 10

// BlockHead is the node's word about a block.
type BlockHead struct {
	Refused *Refused `json:",omitempty"`
	Error   string   `json:",omitempty"`
}

// SendHead writes a head.
func SendHead(w io.Writer, h BlockHead) error {
	b, err := json.Marshal(h)
	if err == nil && len(b) >= maxHead {
		b, err = json.Marshal(BlockHead{Error: "the node's word is too long"})
	}
	if err == nil {
		_, err = w.Write(append(b, '\n'))
	}
	return err
}

// ReceiveHead reads a head; what follows is in r. The error is the node's.
func ReceiveHead(r *bufio.Reader) error {
	line, err := r.ReadSlice('\n')
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("hear of a block: %w", err)
	}
	var h BlockHead
	if err := json.Unmarshal(line, &h); err != nil {
		return fmt.Errorf("hear of a block: %w", err)
	}
	switch {
	case h.Refused != nil:
		return h.Refused
	case h.Error != "":
		return errors.New(h.Error)
	}
	return nil
}

// NewHeadReader reads a tunnel that carries a block.
func NewHeadReader(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, maxHead) }
