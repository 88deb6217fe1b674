package main

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"github.com/nacre-cloud/nacre/internal/relay"
)

const (
	// screenTarget is what the endpoint's consoles call an instance's screen.
	screenTarget = "vnc:5900"
	// firstScreen and lastScreen are the ports of the displays that VNC's viewers call :1 to :99.
	firstScreen, lastScreen = 5901, 5999
)

// serveScreen leads a local port to an instance's screen until the command is interrupted or the connection ends.
func serveScreen(cmd *cobra.Command, client *ssh.Client, id string, port int) error {
	probe, err := client.Dial("tcp", screenTarget)
	if err != nil {
		return fmt.Errorf("the screen of %s: %w", id, err)
	}
	probe.Close()
	l, err := listenForViewers(port)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	defer l.Close()
	fmt.Fprintf(cmd.OutOrStdout(), "the screen of %s is at %s (VNC display :%d); Ctrl-C ends it\n", id, l.Addr(), l.Addr().(*net.TCPAddr).Port-firstScreen+1)
	lost := make(chan error, 1)
	go func() { lost <- client.Wait(); l.Close() }()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var viewers sync.WaitGroup
	defer viewers.Wait()
	defer cancel() // before the wait
	for {
		viewer, err := l.Accept()
		if err != nil {
			if cmd.Context().Err() != nil {
				return nil
			}
			select {
			case <-lost:
				return fmt.Errorf("the connection to the screen of %s is lost; the machine goes on", id)
			default:
				return fmt.Errorf("wait for viewers of the screen of %s: %w", id, err)
			}
		}
		viewers.Go(func() {
			screen, err := client.Dial("tcp", screenTarget)
			if err != nil {
				viewer.Close()
				fmt.Fprintf(cmd.ErrOrStderr(), "a viewer was turned away: %v\n", err)
				return
			}
			relay.Both(ctx, viewer, screen)
		})
	}
}

// listenForViewers listens on a port of this machine alone: the one given, or the first free one of VNC's.
func listenForViewers(port int) (net.Listener, error) {
	first, last := port, port
	if port == 0 {
		first, last = firstScreen, lastScreen
	}
	var err error
	for p := first; p <= last; p++ {
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p))); err == nil {
			return l, nil
		}
	}
	return nil, fmt.Errorf("listen for viewers of the screen: %w; choose another with --port", err)
}
