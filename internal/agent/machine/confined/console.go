package confined

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nacre-cloud/nacre/internal/agent/machine"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// oldConsoleLog is the log of earlier boots, once the log had grown to its size.
const oldConsoleLog = "console.old.log"

// turnConsole puts a console's log aside that earlier boots have filled: the monitor counts its own bytes only.
func (k *Keeper) turnConsole(id cloud.InstanceID) error {
	path := filepath.Join(k.Bundle(id), consoleLog)
	if info, err := os.Stat(path); err != nil || info.Size() < ConsoleSize {
		return nil
	}
	if err := os.Rename(path, filepath.Join(k.Bundle(id), oldConsoleLog)); err != nil {
		return fmt.Errorf("machine %s: put its full console log aside: %w", id, err)
	}
	return nil
}

// Console implements machine.Driver. The log is bounded: what was written longest ago is lost first.
func (k *Keeper) Console(_ context.Context, id cloud.InstanceID, limit int) ([]byte, time.Time, error) {
	if _, err := os.Stat(k.Bundle(id)); err != nil {
		return nil, time.Time{}, fmt.Errorf("machine %s: %w", id, machine.ErrNotFound)
	}
	out, last, err := k.readConsole(id, consoleLog, limit)
	if err != nil {
		return nil, time.Time{}, err
	}
	if len(out) < limit {
		older, oldLast, err := k.readConsole(id, oldConsoleLog, limit-len(out))
		if err != nil {
			return nil, time.Time{}, err
		}
		if out = append(older, out...); last.IsZero() {
			last = oldLast
		}
	}
	return out, last, nil
}

// readConsole returns the end of one of the console's logs, and when it was written.
func (k *Keeper) readConsole(id cloud.InstanceID, name string, limit int) ([]byte, time.Time, error) {
	f, err := os.Open(filepath.Join(k.Bundle(id), name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, time.Time{}, nil // nothing was written yet
	}
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("machine %s: open its console: %w", id, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("machine %s: read its console: %w", id, err)
	}
	if info.Size() == 0 {
		return nil, time.Time{}, nil
	}
	// Every line carries some 40 bytes of its own; short lines need more than the limit to be read.
	window := int64(limit)*8 + 4096
	begin := max(0, info.Size()-window)
	b, err := io.ReadAll(io.NewSectionReader(f, begin, info.Size()-begin))
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("machine %s: read its console: %w", id, err)
	}
	if begin > 0 { // the first line is cut
		if n := bytes.IndexByte(b, '\n'); n >= 0 {
			b = b[n+1:]
		}
	}
	out := joinLog(b)
	return out[max(0, len(out)-limit):], info.ModTime().UTC(), nil
}

// joinLog takes the monitor's marks off: each line is "TIME STREAM TAG TEXT", with the tag F for a whole line and P for
// a part of one. What isn't such a line, as the last one while it is written, is left out.
func joinLog(b []byte) []byte {
	var out []byte
	for line := range bytes.Lines(b) {
		if line[len(line)-1] != '\n' {
			break
		}
		fields := bytes.SplitN(line, []byte(" "), 4)
		if len(fields) != 4 {
			continue
		}
		switch {
		case bytes.Equal(fields[2], []byte("F")):
			out = append(out, fields[3]...)
		case bytes.Equal(fields[2], []byte("P")):
			out = append(out, fields[3][:len(fields[3])-1]...)
		}
	}
	return out
}
