package qemu

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// mapLimit is how long a hypervisor may take to be found waiting in a system call.
const mapLimit = 5 * time.Second

// What the kernel leaves as the result of a system call that is to be carried out again after an interruption.
const (
	restartLow  = -516
	restartHigh = -512
)

// mapOver makes a process map parts of its descriptor fd privately over its own addresses from base on. The process is stopped where it
// waits in a system call, carries out mmap in the place of that, and is let go on with what it was waiting for.
func mapOver(pid int, base uint64, fd int, parts []extent) error {
	runtime.LockOSThread() // a process is traced by a thread
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(pid); err != nil {
		return fmt.Errorf("trace the hypervisor: %w", err)
	}
	saved, err := stopInCall(pid)
	if err != nil {
		return errors.Join(err, unix.PtraceDetach(pid))
	}
	err = func() error {
		for _, p := range parts {
			call := saved
			call.Rip -= 2
			call.Rax, call.Orig_rax = unix.SYS_MMAP, ^uint64(0)
			call.Rdi, call.Rsi, call.Rdx = base+uint64(p.from), uint64(p.to-p.from), unix.PROT_READ|unix.PROT_WRITE
			call.R10, call.R8, call.R9 = unix.MAP_PRIVATE|unix.MAP_FIXED|unix.MAP_NORESERVE, uint64(fd), uint64(p.from)
			if err := unix.PtraceSetRegs(pid, &call); err != nil {
				return err
			}
			if err := unix.PtraceSingleStep(pid); err != nil {
				return err
			}
			var ws unix.WaitStatus
			if err := wait(pid, &ws); err != nil {
				return err
			}
			var after unix.PtraceRegs
			if err := unix.PtraceGetRegs(pid, &after); err != nil {
				return err
			}
			if after.Rip != saved.Rip || after.Rax != call.Rdi {
				return fmt.Errorf("mmap of %d bytes at %x: %x, stopped by %v", call.Rsi, call.Rdi, after.Rax, ws.StopSignal())
			}
		}
		return nil
	}()
	back := saved
	if r := int64(back.Rax); r >= restartLow && r <= restartHigh {
		back.Rax = back.Orig_rax
		back.Rip -= 2
	}
	back.Orig_rax = ^uint64(0)
	err = errors.Join(err, unix.PtraceSetRegs(pid, &back), unix.PtraceDetach(pid))
	if err != nil {
		return fmt.Errorf("put the template's memory over the hypervisor's: %w", err)
	}
	return nil
}

// stopInCall stops a traced process right behind an instruction that calls the kernel.
func stopInCall(pid int) (regs unix.PtraceRegs, err error) {
	for deadline := time.Now().Add(mapLimit); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if err := unix.PtraceInterrupt(pid); err != nil {
			return regs, fmt.Errorf("stop the hypervisor: %w", err)
		}
		var ws unix.WaitStatus
		if err := wait(pid, &ws); err != nil {
			return regs, err
		}
		if err := unix.PtraceGetRegs(pid, &regs); err != nil {
			return regs, fmt.Errorf("read the hypervisor's registers: %w", err)
		}
		var code [2]byte
		if _, err := unix.PtracePeekText(pid, uintptr(regs.Rip-2), code[:]); err == nil && int64(regs.Orig_rax) >= 0 && code == [2]byte{0x0f, 0x05} {
			return regs, nil
		}
		if err := unix.PtraceCont(pid, 0); err != nil {
			return regs, fmt.Errorf("let the hypervisor go on: %w", err)
		}
	}
	return regs, fmt.Errorf("the hypervisor was not found waiting within %v", mapLimit)
}

// wait waits until a traced process has stopped.
func wait(pid int, ws *unix.WaitStatus) error {
	for {
		_, err := unix.Wait4(pid, ws, unix.WALL, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("wait for the hypervisor to stop: %w", err)
		case !ws.Stopped():
			return fmt.Errorf("the hypervisor ended (%v)", *ws)
		}
		return nil
	}
}
