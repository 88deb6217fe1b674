package first

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"strconv"
	"syscall"

	"github.com/nacre-cloud/nacre/internal/agent/machine/guestinit"
)

// Step runs the command that it is told over a socket, and tells over it with which code that ended. When the other end is closed it ends
// at once; with it, as it is the first process, everything does.
func Step(s *Signals) int {
	syscall.CloseOnExec(guestinit.StepSocket)
	socket := os.NewFile(guestinit.StepSocket, "socket")
	in := bufio.NewReader(socket)
	c := &guestinit.Config{}
	line, err := in.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, c)
	}
	if err != nil {
		Say("read the command:", err.Error())
		return 1
	}
	given := make(chan struct{})
	go func() {
		io.Copy(io.Discard, in)
		close(given)
	}()
	os.Clearenv()
	app, err := startApplication(c)
	if err != nil {
		Say("start", c.Args[0]+":", err.Error())
		return tell(socket, 127)
	}
	r := NewReaper()
	for {
		r.reap()
		if st, ok := r.ended[app]; ok {
			return tell(socket, code(st))
		}
		clear(r.ended)
		select {
		case <-s.children:
		case <-s.others: // they are not for the first process of a step
		case <-given:
			return 1
		}
	}
}

func tell(socket *os.File, n int) int {
	socket.WriteString(strconv.Itoa(n) + "\n")
	return n
}
