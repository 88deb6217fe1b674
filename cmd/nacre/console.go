package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2instanceconnect"
	"github.com/nacre-cloud/nacre/internal/awsapi/nacre"
)

// consoleDial is how long the endpoint may take to let a console's client in.
const consoleDial = 20 * time.Second

func consoleCommand(g *globals) *cobra.Command {
	var vnc, allow bool
	port := 0
	cmd := &cobra.Command{
		Use: "console INSTANCE", Short: "Sit down at an instance's serial console or screen",
		Long: `Type at the serial console of a running virtual machine and see what it writes, as many at once as like. Enter
brings a prompt where there is one. A container's console is read-only.

The connection is SSH to the endpoint with a key made for it, which is let in for a minute by EC2 Instance Connect's
SendSerialConsoleSSHPublicKey. The account has to allow serial consoles; --allow does so first.

At the beginning of a line:
  ~.  leave; the machine goes on
  ~B  send a break (Linux: the next key is a SysRq)
  ~?  list these
  ~~  type a ~

--vnc leads a port of this machine to the screen, keyboard and pointer of a machine with emulated devices, until it is
interrupted.`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: g.completeInstances,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case g.json():
				return errors.New("a console is text as it comes; leave out --output json")
			case cmd.Flags().Changed("port") && !vnc:
				return errors.New("--port goes with --vnc")
			case port < 0 || port > 65535:
				return fmt.Errorf("--port %d: ports are from 0 to 65535", port)
			}
			a, err := g.connect()
			if err != nil {
				return err
			}
			i, err := a.find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if allow {
				if _, err := a.ec2.EnableSerialConsoleAccess(cmd.Context(), &ec2.EnableSerialConsoleAccessRequest{}); err != nil {
					return err
				}
			}
			client, err := a.dialConsole(cmd.Context(), i.ID)
			if err != nil {
				return err
			}
			defer client.Close()
			stop := context.AfterFunc(cmd.Context(), func() { client.Close() })
			defer stop()
			if vnc {
				return serveScreen(cmd, client, i.ID, port)
			}
			return sitDown(cmd, client, i.ID)
		},
	}
	cmd.Flags().BoolVar(&vnc, "vnc", false, "lead a local port to the screen")
	cmd.Flags().IntVar(&port, "port", 0, "`PORT` of --vnc on 127.0.0.1 (default the first free one from 5901)")
	cmd.Flags().BoolVar(&allow, "allow", false, "first allow serial consoles for the account's instances")
	return cmd
}

// dialConsole logs in to the endpoint's consoles with a key that is made and pushed for it. The endpoint's own key is asked of the API.
func (a *api) dialConsole(ctx context.Context, id string) (*ssh.Client, error) {
	endpoint, err := url.Parse(a.raw.Endpoint)
	if err != nil || endpoint.Host == "" {
		return nil, fmt.Errorf("the endpoint %q is no URL", a.raw.Endpoint)
	}
	host := endpoint.Host
	if endpoint.Port() == "" {
		host = net.JoinHostPort(endpoint.Hostname(), map[string]string{"https": "443"}[endpoint.Scheme])
		if endpoint.Scheme != "https" {
			host = net.JoinHostPort(endpoint.Hostname(), "80")
		}
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	public := string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	connect := ec2instanceconnect.Client{Client: a.raw}
	_, err = connect.SendSerialConsoleSSHPublicKey(ctx, &ec2instanceconnect.SendSerialConsoleSSHPublicKeyRequest{InstanceId: &id, SSHPublicKey: &public, SerialPort: new(int64(0))})
	var refused *awsapi.Error
	if errors.As(err, &refused) && refused.Code == "SerialConsoleAccessDisabledException" {
		return nil, fmt.Errorf("the account does not allow serial consoles; allow them with `nacre console --allow %s` or `aws ec2 enable-serial-console-access`", id)
	}
	if err != nil {
		return nil, err
	}
	known, err := nacre.Client{Client: a.raw}.GetConsoleHostKeys(ctx, &nacre.GetConsoleHostKeysRequest{})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, consoleDial)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, fmt.Errorf("reach the console of %s: %w", id, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	c, channels, requests, err := ssh.NewClientConn(conn, host, &ssh.ClientConfig{User: id + ".port0", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if slices.Contains(known.HostKeys, string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(key)))) {
				return nil
			}
			return errors.New("what answers has another key than the API says: somebody is in between")
		}})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("log in to the console of %s at %s: %w", id, host, err)
	}
	return ssh.NewClient(c, channels, requests), nil
}

// sitDown joins this terminal and an instance's serial console.
func sitDown(cmd *cobra.Command, client *ssh.Client, id string) error {
	s, err := client.NewSession()
	if err != nil {
		return fmt.Errorf("the console of %s: %w", id, err)
	}
	defer s.Close()
	s.Stdout, s.Stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
	typed, err := s.StdinPipe()
	if err != nil {
		return err
	}
	restore := func() {}
	in, isFile := cmd.InOrStdin().(*os.File)
	raw := isFile && term.IsTerminal(int(in.Fd()))
	if raw {
		fmt.Fprintf(cmd.ErrOrStderr(), "the console of %s; ~. at the beginning of a line leaves it\r\n", id)
		state, err := term.MakeRaw(int(in.Fd()))
		if err != nil {
			return fmt.Errorf("take the terminal over: %w", err)
		}
		restore = func() { term.Restore(int(in.Fd()), state) }
	}
	defer restore()
	if err := s.Shell(); err != nil {
		return fmt.Errorf("the console of %s: %w", id, err)
	}
	left, ended := make(chan error, 1), make(chan error, 1)
	// Reading the terminal ends with the program.
	go func() {
		if raw {
			left <- typeRaw(cmd.InOrStdin(), typed, s, cmd.ErrOrStderr())
			return
		}
		if _, err := io.Copy(typed, cmd.InOrStdin()); err == nil {
			typed.Close() // what the machine says goes on
		}
	}()
	go func() { ended <- s.Wait() }()
	select {
	case err := <-left:
		return err
	case err := <-ended:
		restore()
		var code *ssh.ExitError
		switch {
		case cmd.Context().Err() != nil:
			return nil
		case err == nil:
			fmt.Fprintf(cmd.ErrOrStderr(), "the console of %s has ended\n", id)
			return nil
		case errors.As(err, &code): // it said why
			return exitCode(code.ExitStatus())
		}
		return fmt.Errorf("the connection to the console of %s is lost; the machine goes on", id)
	}
}

// typeRaw sends what is typed, save for the escapes, until one of them leaves.
func typeRaw(in io.Reader, to io.Writer, s *ssh.Session, say io.Writer) error {
	var e escapes
	b := make([]byte, 1024)
	for {
		n, err := in.Read(b)
		if err != nil {
			return fmt.Errorf("read the terminal: %w", err)
		}
		for rest := b[:n]; len(rest) > 0; {
			var send []byte
			var escape byte
			send, escape, rest = e.typed(rest)
			if len(send) > 0 {
				if _, err := to.Write(send); err != nil {
					return nil // the session's end is told elsewhere
				}
			}
			switch escape {
			case escapeLeave:
				fmt.Fprint(say, "\r\n")
				return nil
			case escapeBreak:
				if ok, err := s.SendRequest("break", true, ssh.Marshal(struct{ Milliseconds uint32 }{})); err == nil && !ok {
					fmt.Fprint(say, "\r\nno break was sent: only virtual machines take one\r\n")
				}
			case escapeHelp:
				fmt.Fprint(say, "\r\n~. leave  ~B send a break  ~? list these  ~~ type a ~\r\n")
			}
		}
	}
}
