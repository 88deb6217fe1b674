package wire

import (
	"encoding/json"
	"errors"
	"io"
	"sync"
)

// ErrClosed is returned for a stream that has ended.
var ErrClosed = errors.New("the stream has ended")

// ErrOverrun is returned when the other end sends more than its window.
var ErrOverrun = errors.New("more bytes than were allowed")

// Credit is what may be sent of one stream.
type Credit struct {
	mu     sync.Mutex
	cond   *sync.Cond
	left   int
	closed bool
}

// NewCredit returns a full window.
func NewCredit() *Credit {
	c := &Credit{left: WindowSize}
	c.cond = sync.NewCond(&c.mu)
	return c
}

// Take waits until something may be sent, and takes up to most bytes of it.
func (c *Credit) Take(most int) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.left == 0 && !c.closed {
		c.cond.Wait()
	}
	if c.closed {
		return 0, ErrClosed
	}
	n := min(c.left, most)
	c.left -= n
	return n, nil
}

// Add gives back what the other end has consumed. More than it ever got is an error.
func (c *Credit) Add(n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n < 0 || n > WindowSize-c.left {
		return ErrOverrun
	}
	c.left += n
	c.cond.Broadcast()
	return nil
}

// Close wakes those who wait.
func (c *Credit) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.cond.Broadcast()
}

// Queue holds what has come of one stream and was not consumed yet; never more than a window.
type Queue struct {
	mu   sync.Mutex
	cond *sync.Cond
	buf  []byte
	due  int // handed out and not yet given back as credit
	end  error
}

// NewQueue returns an empty queue.
func NewQueue() *Queue {
	q := &Queue{}
	q.cond = sync.NewCond(&q.mu)
	return q
}

// Put adds what has come. It never blocks.
func (q *Queue) Put(b []byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.end != nil {
		return nil // nobody reads it
	}
	if len(q.buf)+q.due+len(b) > WindowSize {
		return ErrOverrun
	}
	q.buf = append(q.buf, b...)
	q.cond.Broadcast()
	return nil
}

// End lets readers have what is left and then err, io.EOF in the ordinary case. The first one counts.
func (q *Queue) End(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.end == nil {
		q.end = err
	}
	q.cond.Broadcast()
}

// CopyTo writes what comes to w until the end, and calls consumed for what may be given back as credit. A w that fails
// loses the rest, not the stream: the sender must not stall.
func (q *Queue) CopyTo(w io.Writer, consumed func(int)) error {
	var failed error
	for {
		q.mu.Lock()
		for len(q.buf) == 0 && q.end == nil {
			q.cond.Wait()
		}
		b := q.buf
		q.buf, q.due = nil, len(b)
		end := q.end
		q.mu.Unlock()
		if len(b) == 0 {
			if failed == nil && end != io.EOF {
				failed = end
			}
			return failed
		}
		if failed == nil && w != nil {
			_, failed = w.Write(b)
		}
		q.mu.Lock()
		q.due = 0
		q.mu.Unlock()
		consumed(len(b))
	}
}

// Writer writes frames whole, from many goroutines.
type Writer struct {
	mu sync.Mutex
	to io.Writer
}

// NewWriter returns a Writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{to: w} }

// Bytes writes a frame of bytes.
func (w *Writer) Bytes(t Type, stream uint32, b []byte) error {
	f, err := Append(nil, Frame{t, stream, b})
	if err != nil {
		return err
	}
	return w.Raw(f)
}

// Message writes a frame that holds v.
func (w *Writer) Message(t Type, stream uint32, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.Bytes(t, stream, b)
}

// Raw writes bytes as they are.
func (w *Writer) Raw(b []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.to.Write(b)
	return err
}
