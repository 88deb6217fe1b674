package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// progress shows how far long work is: a bar on a terminal, a line at each tenth elsewhere.
type progress struct {
	w     io.Writer
	tty   bool
	last  string
	tenth int64
	begin time.Time
	drawn bool
}

// quiet is how long work may take before a bar appears.
const quiet = 300 * time.Millisecond

func newProgress(w io.Writer) *progress {
	f, ok := w.(*os.File)
	return &progress{w: w, tty: ok && term.IsTerminal(int(f.Fd())), tenth: -1, begin: time.Now()}
}

// set shows done of total; a total of 0 is unknown.
func (p *progress) set(done, total int64, what string) {
	if time.Since(p.begin) < quiet {
		return
	}
	if !p.tty {
		tenth := int64(0)
		if total > 0 {
			tenth = 10 * done / total
		}
		if what != p.last && p.last == "" || tenth > p.tenth && total > 0 {
			fmt.Fprintf(p.w, "%3d%% %s\n", 10*tenth, what)
			p.last, p.tenth = what, tenth
		}
		return
	}
	const width = 30
	filled := 0
	if total > 0 {
		filled = int(min(width, width*done/total))
	}
	percent := 0
	if total > 0 {
		percent = int(100 * done / total)
	}
	if r := []rune(what); len(r) > 60 {
		what = string(r[:60])
	}
	fmt.Fprintf(p.w, "\r\x1b[K[%s%s] %3d%% %s", strings.Repeat("#", filled), strings.Repeat(" ", width-filled), percent, what)
	p.drawn = true
}

// end takes the bar away.
func (p *progress) end() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn = false
	}
}

// count reports what passes through a reader.
type count struct {
	r    io.Reader
	done int64
	tell func(done int64)
}

func (c *count) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.done += int64(n)
	c.tell(c.done)
	return n, err
}
