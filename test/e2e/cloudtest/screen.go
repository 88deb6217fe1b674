package cloudtest

import (
	"net"
	"strings"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/machine/machinetest"
)

// OfferScreen has the nacre command lead a port of this machine to an instance's screen, until the test ends.
func (c *Cloud) OfferScreen(instance string) (offer *Talk, port string) {
	c.t.Helper()
	offer = c.TalkTo("console", "--vnc", instance)
	offer.Hears("Ctrl-C ends it")
	_, rest, _ := strings.Cut(offer.Said(), "127.0.0.1:")
	port, _, _ = strings.Cut(rest, " ")
	return offer, port
}

// View opens a screen that is offered at a port, on which there must be something to see.
func (c *Cloud) View(port string) *machinetest.Screen {
	c.t.Helper()
	conn, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		c.t.Fatal(err)
	}
	s, err := machinetest.OpenScreen(conn)
	if err != nil {
		c.t.Fatal(err)
	}
	if lit, err := s.Lit(); err != nil || lit < 100 {
		c.t.Errorf("%d pixels of %d x %d are lit, %v", lit, s.Width, s.Height, err)
	}
	return s
}
