// Command nacre-sftp is the SFTP server that nacre brings into instances whose image has none.
//
// It speaks SFTP on standard input and output, as the user who runs it and with no more rights, and
// ends with its input. It opens no socket and reads no configuration.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/pkg/sftp"
)

// stdio is the client's end.
type stdio struct{}

func (stdio) Read(p []byte) (int, error)  { return os.Stdin.Read(p) }
func (stdio) Write(p []byte) (int, error) { return os.Stdout.Write(p) }
func (stdio) Close() error                { return errors.Join(os.Stdin.Close(), os.Stdout.Close()) }

func main() {
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "nacre-sftp:", err)
		os.Exit(1)
	}
}

func serve() error {
	syscall.Umask(0o022)
	server, err := sftp.NewServer(stdio{})
	if err != nil {
		return fmt.Errorf("serve SFTP on standard input: %w", err)
	}
	if err := server.Serve(); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("serve SFTP on standard input: %w", err)
	}
	return nil
}
