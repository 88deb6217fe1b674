package image

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// debianSuites are the suites that make up Debian 12; the first is the one without which there is nothing to bake.
var debianSuites = []string{"bookworm", "bookworm-updates", "bookworm-security"}

const (
	debianKeyring  = "/usr/share/keyrings/debian-archive-keyring.gpg"
	maxSourcesFile = 1 << 20
)

// aptSource is where apt gets packages from: one stanza of its newer form, or one line of its older.
type aptSource struct {
	uris, suites, components []string
	keyring                  string
}

// String is the source in apt's newer form.
func (a aptSource) String() string {
	return fmt.Sprintf("Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\nSigned-By: %s\n",
		strings.Join(a.uris, " "), strings.Join(a.suites, " "), strings.Join(a.components, " "), a.keyring)
}

// debian12 reduces a source to what it has of Debian 12, and tells whether that is anything. Other vendors name their
// suites alike; their keys tell them apart.
func (a aptSource) debian12() (aptSource, bool) {
	if a.keyring == "" {
		a.keyring = debianKeyring
	}
	a.suites = slices.DeleteFunc(slices.Clone(a.suites), func(s string) bool { return !slices.Contains(debianSuites, s) })
	a.uris = slices.DeleteFunc(slices.Clone(a.uris), func(u string) bool {
		return !strings.HasPrefix(u, "http://") && !strings.HasPrefix(u, "https://")
	})
	ours := strings.HasPrefix(a.keyring, "/") && strings.HasPrefix(filepath.Base(a.keyring), "debian-archive-")
	return a, ours && len(a.uris) > 0 && len(a.suites) > 0 && slices.Contains(a.components, "main")
}

// debianSources finds the host's own package sources for Debian 12 below /etc/apt.
func debianSources(etc string) ([]aptSource, error) {
	lists, err := filepath.Glob(filepath.Join(etc, "sources.list.d", "*.list"))
	if err != nil {
		return nil, fmt.Errorf("look for package sources: %w", err)
	}
	stanzas, err := filepath.Glob(filepath.Join(etc, "sources.list.d", "*.sources"))
	if err != nil {
		return nil, fmt.Errorf("look for package sources: %w", err)
	}
	var found []aptSource
	main := false
	for _, path := range append(append([]string{filepath.Join(etc, "sources.list")}, lists...), stanzas...) {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read package sources: %w", err)
		}
		parse := parseOneLine
		if strings.HasSuffix(path, ".sources") {
			parse = parseStanzas
		}
		list, err := parse(io.LimitReader(f, maxSourcesFile))
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("read the package sources in %s: %w", path, err)
		}
		for _, a := range list {
			if a, ok := a.debian12(); ok {
				found = append(found, a)
				main = main || slices.Contains(a.suites, debianSuites[0])
			}
		}
	}
	if !main {
		return nil, fmt.Errorf("none of the package sources below %s is Debian 12's (suite %s, component main)", etc, debianSuites[0])
	}
	return found, nil
}

// parseOneLine reads apt's older form: deb [option=value …] URI suite component…
func parseOneLine(r io.Reader) ([]aptSource, error) {
	var list []aptSource
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb")
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '\t' {
			continue
		}
		var a aptSource
		rest = strings.TrimSpace(rest)
		if options, after, ok := strings.Cut(rest, "]"); ok && strings.HasPrefix(options, "[") {
			for _, o := range strings.Fields(options[1:]) {
				if value, ok := strings.CutPrefix(o, "signed-by="); ok {
					a.keyring = value
				}
			}
			rest = after
		}
		if fields := strings.Fields(rest); len(fields) >= 3 {
			a.uris, a.suites, a.components = fields[:1], fields[1:2], fields[2:]
			list = append(list, a)
		}
	}
	return list, lines.Err()
}

// parseStanzas reads apt's newer form, deb822.
func parseStanzas(r io.Reader) ([]aptSource, error) {
	var list []aptSource
	fields := map[string]string{}
	end := func() {
		if slices.Contains(strings.Fields(fields["types"]), "deb") && !slices.Contains([]string{"no", "false", "off", "0"}, strings.ToLower(strings.TrimSpace(fields["enabled"]))) {
			list = append(list, aptSource{uris: strings.Fields(fields["uris"]), suites: strings.Fields(fields["suites"]),
				components: strings.Fields(fields["components"]), keyring: strings.TrimSpace(fields["signed-by"])})
		}
		clear(fields)
	}
	last := ""
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			end()
			last = ""
		case line[0] == ' ' || line[0] == '\t':
			fields[last] += " " + line
		default:
			name, value, ok := strings.Cut(line, ":")
			if !ok {
				return nil, fmt.Errorf("%q is no field", line)
			}
			last = strings.ToLower(strings.TrimSpace(name))
			fields[last] = value
		}
	}
	end()
	return list, lines.Err()
}
