// Package wire is what the agent and the program inside a virtual machine say to each other over a serial port.
//
// The port carries bytes and nothing else: neither end is told where the other one's connection begins. So the frames can be
// found again in the middle of a stream, and a connection begins with the host's Preamble and Hello, whose nonce the guest
// repeats; whatever came before it belongs to an earlier connection.
//
// A frame is, in network order: Magic (4 bytes), a checksum of all that follows (CRC-32C, 4 bytes), the type (1), the stream
// (4), the payload's length (4), the payload.
package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	// Magic begins each frame.
	Magic = "\x9cNG1"
	// MaxPayload bounds a frame's payload, in bytes.
	MaxPayload = 128 << 10
	// MaxChunk bounds the bytes of a process's stream in one frame, so that others get their turn.
	MaxChunk = 16 << 10

	headerSize = 17
)

// Type is what a frame says.
type Type uint8

const (
	TypeHello   Type = iota + 1 // host: Hello; guest: Welcome
	TypeRequest                 // host: Request; the stream is the call's number
	TypeReply                   // guest: Reply to the call of that number
	TypeExec                    // host: Exec; opens the stream
	TypeStarted                 // guest: Started
	TypeStdin                   // host: bytes; none is the end
	TypeStdout                  // guest: bytes
	TypeStderr                  // guest: bytes
	TypeWindow                  // both: Window: so many bytes more may come
	TypeSignal                  // host: Signal
	TypeResize                  // host: Resize
	TypeExit                    // guest: Exit, after all output; closes the stream
	TypeLast    = TypeExit
)

// Frame is one message.
type Frame struct {
	Type    Type
	Stream  uint32
	Payload []byte
}

var (
	// ErrTooLong is returned for a payload above MaxPayload.
	ErrTooLong = fmt.Errorf("a message of more than %d bytes", MaxPayload)
	// ErrGarbage is returned for bytes that are no frame.
	ErrGarbage = errors.New("bytes that are no message")

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// Append adds a frame's bytes to b.
func Append(b []byte, f Frame) ([]byte, error) {
	if len(f.Payload) > MaxPayload {
		return b, ErrTooLong
	}
	at := len(b)
	b = append(b, Magic...)
	b = append(b, 0, 0, 0, 0, byte(f.Type))
	b = binary.BigEndian.AppendUint32(b, f.Stream)
	b = binary.BigEndian.AppendUint32(b, uint32(len(f.Payload)))
	b = append(b, f.Payload...)
	binary.BigEndian.PutUint32(b[at+4:], crc32.Checksum(b[at+8:], castagnoli))
	return b, nil
}

// Preamble is what a connection begins with: it completes the frame that an earlier one may have left half written, whatever
// its length.
func Preamble() []byte { return make([]byte, MaxPayload+headerSize) }

// Reader finds frames in a stream of bytes.
type Reader struct {
	// Strict makes any byte outside of a frame an error. Otherwise such bytes are skipped.
	Strict bool
	// Tolerate is how many frames with a wrong checksum are skipped; each may cost the time to read MaxPayload bytes. Below
	// zero there is no limit.
	Tolerate int

	from  io.Reader
	buf   []byte // unread bytes
	chunk [32 << 10]byte
}

// NewReader returns a Reader that skips what is no frame.
func NewReader(from io.Reader) *Reader { return &Reader{from: from, Tolerate: -1} }

// Next returns the next frame. Its payload is the caller's.
func (r *Reader) Next() (Frame, error) {
	for {
		f, need, err := r.take()
		if err != nil {
			return Frame{}, err
		}
		if need == 0 {
			return f, nil
		}
		n, err := r.from.Read(r.chunk[:])
		r.buf = append(r.buf, r.chunk[:n]...)
		if n == 0 && err != nil {
			if err == io.EOF && len(r.buf) > 0 && r.Strict {
				err = io.ErrUnexpectedEOF
			}
			return Frame{}, err
		}
	}
}

// Reset forgets the bytes of a frame that has not come whole.
func (r *Reader) Reset() { r.buf = nil }

// take cuts a frame off the buffer; need tells that more bytes must come first.
func (r *Reader) take() (f Frame, need int, err error) {
	for {
		if err := r.seek(); err != nil {
			return f, 0, err
		}
		if len(r.buf) < headerSize {
			return f, headerSize - len(r.buf), nil
		}
		length := binary.BigEndian.Uint32(r.buf[13:])
		typ := Type(r.buf[8])
		if length > MaxPayload || typ == 0 || typ > TypeLast {
			if r.Strict {
				return f, 0, ErrGarbage
			}
			r.buf = r.buf[1:]
			continue
		}
		end := headerSize + int(length)
		if len(r.buf) < end {
			return f, end - len(r.buf), nil
		}
		if crc32.Checksum(r.buf[8:end], castagnoli) != binary.BigEndian.Uint32(r.buf[4:]) {
			if r.Strict || r.Tolerate == 0 {
				return f, 0, ErrGarbage
			}
			r.Tolerate--
			r.buf = r.buf[1:]
			continue
		}
		f = Frame{Type: typ, Stream: binary.BigEndian.Uint32(r.buf[9:]), Payload: bytes.Clone(r.buf[headerSize:end])}
		r.buf = r.buf[end:]
		if len(r.buf) == 0 {
			r.buf = nil
		}
		return f, 0, nil
	}
}

// seek drops what can't be the beginning of a frame.
func (r *Reader) seek() error {
	at := bytes.Index(r.buf, []byte(Magic))
	if at < 0 {
		at = len(r.buf)
		for k := min(len(Magic)-1, len(r.buf)); k > 0; k-- {
			if bytes.HasPrefix([]byte(Magic), r.buf[len(r.buf)-k:]) {
				at = len(r.buf) - k
				break
			}
		}
	}
	if at > 0 && r.Strict {
		return ErrGarbage
	}
	r.buf = r.buf[at:]
	return nil
}
