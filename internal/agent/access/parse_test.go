package access

import (
	"crypto/ed25519"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

func testKeyLine(t testing.TB) string {
	t.Helper()
	key, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(ssh.MarshalAuthorizedKey(key))
}

func TestKeysWithOptionsThatAreNotHonouredAreLeftOut(t *testing.T) {
	line := testKeyLine(t)
	for _, c := range []struct {
		options string
		want    *authorizedKey // nil: left out
	}{
		{"", &authorizedKey{pty: true, forwarding: true}},
		{`command="a \"b\" c"`, &authorizedKey{command: `a "b" c`, pty: true, forwarding: true}},
		{"restrict,pty", &authorizedKey{pty: true}},
		{"NO-PTY,no-Port-Forwarding,no-agent-forwarding,no-X11-forwarding,no-user-rc", &authorizedKey{}},
		{`from="10.0.0.0/8,!10.1.0.1"`, &authorizedKey{from: "10.0.0.0/8,!10.1.0.1", pty: true, forwarding: true}},
		{`permitopen="localhost:80"`, nil},
		{`permitlisten="8080"`, nil},
		{`environment="LD_PRELOAD=x"`, nil},
		{`expiry-time="20200101"`, nil},
		{`principals="a"`, nil},
		{"cert-authority", nil},
		{"verify-required", nil},
		{`command="a",command="b"`, nil},
		{`command=""`, nil},
		{`command`, nil},
		{`from="10.0.0.1",no-such-option`, nil},
	} {
		got := parseAuthorizedKeys([]byte(c.options + " " + line))
		switch {
		case c.want == nil && len(got) != 0:
			t.Errorf("%s: accepted as %+v", c.options, got)
		case c.want != nil && len(got) != 1:
			t.Errorf("%s: %d keys", c.options, len(got))
		case c.want != nil:
			got[0].key = nil // interfaces to keys can't be compared
			if got[0] != *c.want {
				t.Errorf("%s: %+v", c.options, got[0])
			}
		}
	}
}

func TestSourcesAreMatchedByAddressRangeAndWildcard(t *testing.T) {
	for _, c := range []struct {
		from, source string
		want         bool
	}{
		{"10.0.0.1", "10.0.0.1", true},
		{"10.0.0.1", "10.0.0.10", false},
		{"10.0.0.0/24, 192.168.*", "192.168.3.4", true},
		{"10.0.0.?", "10.0.0.7", true},
		{"*,!10.0.0.7", "10.0.0.7", false},
		{"!10.0.0.7", "10.0.0.8", false},
		{"2001:db8::/32", "2001:db8::1", true},
		{"example.com", "10.0.0.1", false},
		{"10.0.0.[12]", "10.0.0.1", false},
		{"10.0.0.0/99", "10.0.0.1", false},
	} {
		k := authorizedKey{from: c.from}
		if got := k.allowsSource(netip.MustParseAddr(c.source)); got != c.want {
			t.Errorf("%s from %s: %v", c.source, c.from, got)
		}
	}
	if (&authorizedKey{from: "*"}).allowsSource(netip.Addr{}) {
		t.Error("an unknown source matches")
	}
}

func TestLinesOfPasswdThatAreNoUsersArePassedOver(t *testing.T) {
	got := parsePasswd([]byte("root:x:0:0:root:/root:\n\n# comment\n+nis::::::\n-x:x:1:1:::\nshort:x:1\nneg:x:-1:0::/:/bin/sh\n" +
		"big:x:70000:0::/:/bin/sh\nrel:x:5:6::home/../../x:/bin/sh\na:x:1:1::/:/bin/sh:extra\nlast:x:7:8::/last:/bin/last"))
	want := []user{
		{name: "root", home: "/root", shell: "/bin/sh"},
		{name: "rel", uid: 5, gid: 6, home: "/x", shell: "/bin/sh"},
		{name: "last", uid: 7, gid: 8, home: "/last", shell: "/bin/last"},
	}
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%+v instead of %+v", got[i], want[i])
		}
	}
}

func TestHostKeysAreMadeOnceAndKept(t *testing.T) {
	dir := t.TempDir()
	results := make(chan string, 8)
	for range cap(results) {
		go func() {
			signers, err := LoadOrCreateHostKeys(dir)
			if err != nil {
				results <- err.Error()
				return
			}
			var prints []string
			for _, s := range signers {
				prints = append(prints, s.PublicKey().Type()+" "+ssh.FingerprintSHA256(s.PublicKey()))
			}
			results <- strings.Join(prints, ",")
		}()
	}
	first := <-results
	for range cap(results) - 1 {
		if got := <-results; got != first {
			t.Errorf("%s instead of %s", got, first)
		}
	}
	if !strings.HasPrefix(first, "ssh-ed25519 ") || !strings.Contains(first, "ecdsa-sha2-nistp256 ") {
		t.Errorf("the keys are %s", first)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	name := filepath.Join(dir, hostKeysFile)
	if st, err := os.Stat(name); err != nil || st.Mode() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if err := os.WriteFile(name, []byte("spoilt"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateHostKeys(dir); err == nil {
		t.Error("a spoilt file was taken, or replaced")
	}
}

func FuzzParseAuthorizedKeys(f *testing.F) {
	line := testKeyLine(f)
	f.Add([]byte(line))
	f.Add([]byte(`command="a \" b",from="10.0.0.0/8,!::1",restrict ` + line + "# c\n\x00" + line))
	f.Add([]byte(`permitopen="x",environment="` + line))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, k := range parseAuthorizedKeys(data) {
			if k.key == nil || strings.ContainsRune(k.command, 0) {
				t.Errorf("%+v", k)
			}
			if !k.allowsSource(netip.Addr{}) != (k.from != "") {
				t.Errorf("an unknown source and from=%q", k.from)
			}
			// A key is never worth more than its line says.
			if (k.pty || k.forwarding) && !strings.Contains(strings.ToLower(string(data)), "pty") && k.pty != k.forwarding &&
				!strings.Contains(strings.ToLower(string(data)), "forwarding") {
				t.Errorf("%+v", k)
			}
		}
	})
}

func FuzzParsePasswd(f *testing.F) {
	f.Add([]byte("root:x:0:0:root:/root:/bin/sh\nadmin:x:1000:1000::/home/admin:\n+::::::\n"))
	f.Add([]byte("a:b:65535:65536:c:../..:\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, u := range parsePasswd(data) {
			if u.name == "" || u.uid > maxID || u.gid > maxID || !filepath.IsAbs(u.home) || u.home != filepath.Clean(u.home) || u.shell == "" ||
				strings.ContainsAny(u.name+u.home+u.shell, ":\n\x00") {
				t.Errorf("%+v", u)
			}
		}
	})
}

func FuzzParseHosts(f *testing.F) {
	f.Add([]byte("127.0.0.1 localhost web\n::1 web # x\n"), "web")
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		for _, a := range parseHosts(data, name) {
			if !a.IsValid() {
				t.Errorf("%v", a)
			}
		}
	})
}
