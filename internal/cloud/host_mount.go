package cloud

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// TagHostMounts is the tag of a container by which it is shown directories of its server: HOST:PATH or HOST:PATH:ro, separated by commas.
const TagHostMounts = "nacre:host-mounts"

// maxHostMounts bounds the directories of a server that one container is shown.
const maxHostMounts = 8

// HostMount is a directory of the server that a container is shown.
type HostMount struct {
	Source, Target string // absolute, on the server and inside
	ReadOnly       bool   `json:",omitempty"`
}

// HostPath is a directory of a server whose operator allows it to be shown, with all below it.
type HostPath struct {
	Path     string
	ReadOnly bool `json:",omitempty"`
}

// ParseHostPath reads what an operator allows: PATH or PATH:ro.
func ParseHostPath(text string) (HostPath, error) {
	p := HostPath{Path: text}
	p.Path, p.ReadOnly = strings.CutSuffix(text, ":ro")
	if err := plainPath(p.Path); err != nil {
		return HostPath{}, fmt.Errorf("%q: %w", text, err)
	}
	return p, nil
}

func plainPath(p string) error {
	if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || strings.ContainsAny(p, ":,\n\x00") {
		return errors.New("it is not the absolute path of a directory, without '..', ':' and ','")
	}
	return nil
}

// ParseHostMounts reads the value of TagHostMounts.
func ParseHostMounts(text string) ([]HostMount, error) {
	var list []HostMount
	for word := range strings.SplitSeq(text, ",") {
		parts := strings.Split(word, ":")
		m := HostMount{Source: parts[0]}
		if len(parts) == 3 && parts[2] == "ro" {
			m.ReadOnly = true
		} else if len(parts) != 2 {
			return nil, fmt.Errorf("%q is not HOST:PATH or HOST:PATH:ro", word)
		}
		m.Target = parts[1]
		for _, p := range []string{m.Source, m.Target} {
			if err := plainPath(p); err != nil {
				return nil, fmt.Errorf("%q: %w", p, err)
			}
		}
		if SystemPath(m.Target) {
			return nil, fmt.Errorf("%q is the system's", m.Target)
		}
		list = append(list, m)
	}
	if len(list) > maxHostMounts {
		return nil, fmt.Errorf("%d directories are more than %d", len(list), maxHostMounts)
	}
	return list, nil
}

// SystemPath tells whether a path inside a container is one where nothing else may be mounted.
func SystemPath(target string) bool {
	for _, own := range []string{"/proc", "/sys", "/dev"} {
		if target == own || strings.HasPrefix(target, own+"/") {
			return true
		}
	}
	return false
}

// AllowedBy finds the innermost of the allowed directories that a mount is in. Links are not looked at: whoever mounts has to stay below.
func (m HostMount) AllowedBy(list []HostPath) (p HostPath, ok bool) {
	for _, a := range list {
		if (m.Source == a.Path || strings.HasPrefix(m.Source, a.Path+"/")) && len(a.Path) > len(p.Path) {
			p, ok = a, true
		}
	}
	return p, ok && (m.ReadOnly || !p.ReadOnly)
}
