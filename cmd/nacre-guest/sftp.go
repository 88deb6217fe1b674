package main

import (
	"errors"
	"io"
	"os"
	"syscall"

	"github.com/pkg/sftp"

	"github.com/nacre-cloud/nacre/internal/agent/machine/guestinit/first"
)

// sftpMode is the argument by which the program is an SFTP server on its standard input and output.
const sftpMode = "sftp"

type stdio struct {
	io.Reader
	io.Writer
}

func (stdio) Close() error { return errors.Join(os.Stdin.Close(), os.Stdout.Close()) }

func serveSFTP() int {
	syscall.Umask(0o022)
	server, err := sftp.NewServer(stdio{os.Stdin, os.Stdout})
	if err == nil {
		if err = server.Serve(); err == nil || errors.Is(err, io.EOF) {
			return 0
		}
	}
	first.Say("serve SFTP on standard input:", err.Error())
	return 1
}
