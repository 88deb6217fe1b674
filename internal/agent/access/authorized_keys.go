package access

import (
	"bytes"
	"net/netip"
	"path"
	"strings"

	"golang.org/x/crypto/ssh"
)

const maxAuthorizedKeys = 256 << 10

// authorizedKey is a line of an authorized_keys file with the options that were understood.
type authorizedKey struct {
	key             ssh.PublicKey
	command         string // runs in place of what the client asks for; "" for none
	from            string // patterns of sources, separated by commas; "" for any
	pty, forwarding bool
}

// parseAuthorizedKeys reads the lines that are keys. A key with an option that isn't honoured here is left
// out: it would let in more than its owner meant.
func parseAuthorizedKeys(data []byte) []authorizedKey {
	var keys []authorizedKey
	for line := range bytes.Lines(data) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		key, _, options, _, err := ssh.ParseAuthorizedKey(line)
		if err != nil {
			continue
		}
		k := authorizedKey{key: key, pty: true, forwarding: true}
		understood := true
		for _, o := range options {
			understood = understood && k.apply(o)
		}
		if understood {
			keys = append(keys, k)
		}
	}
	return keys
}

// apply takes an option over; false means that it isn't honoured here.
func (k *authorizedKey) apply(option string) bool {
	name, value, hasValue := strings.Cut(option, "=")
	name = strings.ToLower(name)
	if hasValue {
		value, ok := unquote(value)
		if !ok || value == "" {
			return false
		}
		switch {
		case name == "command" && k.command == "":
			k.command = value
		case name == "from" && k.from == "":
			k.from = value
		default:
			return false
		}
		return true
	}
	switch name {
	case "restrict":
		k.pty, k.forwarding = false, false
	case "pty", "no-pty":
		k.pty = name == "pty"
	case "port-forwarding", "no-port-forwarding":
		k.forwarding = name == "port-forwarding"
	case "no-agent-forwarding", "no-x11-forwarding", "no-user-rc", "agent-forwarding", "x11-forwarding", "user-rc":
		// There is none of these here, for any key.
	default:
		return false
	}
	return true
}

// unquote takes the quotes off an option's value, where \" stands for a quote.
func unquote(s string) (string, bool) {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' || strings.ContainsRune(s, 0) {
		return "", false
	}
	return strings.ReplaceAll(s[1:len(s)-1], `\"`, `"`), true
}

// allowsSource matches an address against the key's from patterns: addresses, ranges and wildcards, each
// refused by a "!" before it. Names never match, because sources are not looked up in DNS.
func (k *authorizedKey) allowsSource(source netip.Addr) bool {
	if k.from == "" {
		return true
	}
	allowed := false
	for pattern := range strings.SplitSeq(k.from, ",") {
		pattern, refused := strings.CutPrefix(strings.TrimSpace(pattern), "!")
		if !matchSource(pattern, source) {
			continue
		}
		if refused {
			return false
		}
		allowed = true
	}
	return allowed
}

func matchSource(pattern string, source netip.Addr) bool {
	if !source.IsValid() {
		return false
	}
	if strings.Contains(pattern, "/") {
		prefix, err := netip.ParsePrefix(pattern)
		return err == nil && prefix.Contains(source)
	}
	if strings.ContainsAny(pattern, `[]\`) {
		return false // these mean something to path.Match, but nothing to ssh
	}
	ok, err := path.Match(pattern, source.String())
	return err == nil && ok
}
