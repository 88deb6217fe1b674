package main

import (
	"net"
	"time"

	"github.com/soheilhy/cmux"
)

// firstBytes is how long a client may take to show what it speaks.
const firstBytes = 30 * time.Second

// endpoint parts what comes in at the API's address: clients of SSH say so in their first bytes, all others speak HTTP. One
// address is all that a cloud needs of its network.
type endpoint struct {
	mux       cmux.CMux
	http, ssh net.Listener
}

func newEndpoint(l net.Listener) endpoint {
	mux := cmux.New(l)
	mux.SetReadTimeout(firstBytes)
	return endpoint{mux: mux, ssh: mux.Match(cmux.PrefixMatcher("SSH-")), http: mux.Match(cmux.Any())}
}
