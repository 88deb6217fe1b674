package agentrpc

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A stream through a tunnel ends alike whether its sender was done or died. What has to arrive whole is sent in pieces, each with its length before it: a
// piece of length 0 is the end, and one of length failed is followed by the reason why there is no more.
const (
	failed   = ^uint32(0)
	maxPiece = 64 << 10
	// maxReason bounds the reason, in bytes.
	maxReason = 4 << 10
)

// ErrNotWhole is a stream that ended before what it carries.
var ErrNotWhole = errors.New("the stream ended before what it carries")

// SendWhole has send write to w, and tells the other end whether all of it was written.
func SendWhole(w io.Writer, send func(w io.Writer) error) error {
	out := bufio.NewWriterSize(w, maxPiece+4)
	var end [4]byte
	if err := send(pieces{out}); err != nil {
		reason := err.Error()
		reason = reason[:min(len(reason), maxReason)]
		binary.BigEndian.PutUint32(end[:], failed)
		out.Write(end[:])
		out.WriteString(reason)
		return errors.Join(err, out.Flush())
	}
	if _, err := out.Write(end[:]); err != nil {
		return err
	}
	return out.Flush()
}

type pieces struct{ out *bufio.Writer }

func (p pieces) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		piece := b[:min(len(b), maxPiece)]
		var head [4]byte
		binary.BigEndian.PutUint32(head[:], uint32(len(piece)))
		if _, err := p.out.Write(head[:]); err != nil {
			return n, err
		}
		if _, err := p.out.Write(piece); err != nil {
			return n, err
		}
		n, b = n+len(piece), b[len(piece):]
	}
	return n, nil
}

// WholeReader reads what SendWhole sent: it ends with io.EOF only when all of it was there.
func WholeReader(r io.Reader) io.Reader { return &whole{in: bufio.NewReaderSize(r, maxPiece+4)} }

type whole struct {
	in   *bufio.Reader
	left int
	err  error
}

func (w *whole) Read(b []byte) (int, error) {
	if w.left == 0 && w.err == nil {
		w.err = w.next()
	}
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.in.Read(b[:min(len(b), w.left)])
	if w.left -= n; err != nil {
		w.err = ErrNotWhole
	}
	return n, nil
}

func (w *whole) next() error {
	var head [4]byte
	if _, err := io.ReadFull(w.in, head[:]); err != nil {
		return ErrNotWhole
	}
	switch size := binary.BigEndian.Uint32(head[:]); {
	case size == 0:
		return io.EOF
	case size == failed:
		reason, _ := io.ReadAll(io.LimitReader(w.in, maxReason)) // what arrived of it
		return fmt.Errorf("%w: %s", ErrNotWhole, reason)
	case size > maxPiece:
		return fmt.Errorf("%w: a piece of %d bytes", ErrNotWhole, size)
	default:
		w.left = int(size)
	}
	return nil
}
