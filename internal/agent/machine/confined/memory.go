package confined

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// MemoryHeld is how many bytes a running machine's processes hold that the kernel can't take back by dropping copies of files.
func (k *Keeper) MemoryHeld(id cloud.InstanceID) (int64, error) {
	for _, version := range []struct{ dir, used, prefix string }{
		{filepath.Join(cgroupRoot, k.Group(id)), "memory.current", ""},
		{filepath.Join(cgroupRoot, "memory", k.Group(id)), "memory.usage_in_bytes", "total_"},
	} {
		text, err := os.ReadFile(filepath.Join(version.dir, version.used))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("machine %s: read its memory's use: %w", id, err)
		}
		held, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("machine %s: read its memory's use: %w", id, err)
		}
		stat, err := os.ReadFile(filepath.Join(version.dir, "memory.stat"))
		if err != nil {
			return 0, fmt.Errorf("machine %s: read its memory's use: %w", id, err)
		}
		for line := range bytes.Lines(stat) {
			name, value, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
			if name == version.prefix+"active_file" || name == version.prefix+"inactive_file" {
				n, err := strconv.ParseInt(value, 10, 64)
				if err != nil {
					return 0, fmt.Errorf("machine %s: read its memory's use: %w", id, err)
				}
				held -= n
			}
		}
		return max(held, 0), nil
	}
	return 0, fmt.Errorf("machine %s: its control group counts no memory", id)
}
