package main

// Keys that are the terminal's own at the beginning of a line, as OpenSSH has them.
const (
	escapeKey   = '~'
	escapeLeave = '.'
	escapeBreak = 'B'
	escapeHelp  = '?'
)

// escapes finds them in what is typed.
type escapes struct {
	within  bool // a line has begun
	pending bool // an escape key was typed, and not what it means
}

// typed takes some bytes and returns those to be sent, up to the first escape that means something, which it returns, and the rest.
func (e *escapes) typed(in []byte) (send []byte, escape byte, rest []byte) {
	for i, c := range in {
		if e.pending {
			e.pending = false
			switch c {
			case escapeLeave, escapeBreak, escapeHelp:
				return send, c, in[i+1:]
			case escapeKey: // twice is the key itself
				e.within = true
				send = append(send, c)
				continue
			}
			send = append(send, escapeKey)
		} else if c == escapeKey && !e.within {
			e.pending = true
			continue
		}
		e.within = c != '\r' && c != '\n'
		send = append(send, c)
	}
	return send, 0, nil
}
