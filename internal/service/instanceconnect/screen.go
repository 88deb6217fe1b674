package instanceconnect

import (
	"golang.org/x/crypto/ssh"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/relay"
)

// ScreenHost and ScreenPort are what clients forward a port to for an instance's screen.
const (
	ScreenHost = "vnc"
	ScreenPort = 5900
)

// forward connects a client to the instance's screen, which is all that there is to be forwarded to.
func (c *connection) forward(nc ssh.NewChannel) {
	var m struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	if err := ssh.Unmarshal(nc.ExtraData(), &m); err != nil || m.Host != ScreenHost || m.Port != ScreenPort {
		nc.Reject(ssh.Prohibited, "only the screen, vnc:5900, can be reached from here")
		return
	}
	t, err := c.reach(agentrpc.Target{Screen: c.instance})
	if err != nil {
		nc.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	ch, requests, err := nc.Accept()
	if err != nil {
		t.Close()
		return
	}
	go ssh.DiscardRequests(requests) // ends with the channel
	relay.Both(c.ctx, ch, t)
}
