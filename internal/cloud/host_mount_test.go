package cloud

import (
	"path"
	"strings"
	"testing"
)

func TestADirectoryOfTheServerIsShownAsFarAsItIsAllowed(t *testing.T) {
	var allowed []HostPath
	for _, text := range []string{"/srv/data", "/srv/data/fixed:ro", "/opt/x:ro"} {
		p, err := ParseHostPath(text)
		if err != nil {
			t.Fatal(err)
		}
		allowed = append(allowed, p)
	}
	for text, ok := range map[string]bool{
		"/srv/data:/d": true, "/srv/data/a:/d": true, "/srv/data/a:/d:ro": true, "/srv/data/fixed:/d": false, "/srv/data/fixed/a:/d": false, "/srv/data/fixed/a:/d:ro": true,
		"/opt/x:/d": false, "/opt/x:/d:ro": true, "/srv:/d": false, "/srv/database:/d": false, "/etc:/d:ro": false,
	} {
		list, err := ParseHostMounts(text)
		if err != nil {
			t.Fatal(text, err)
		}
		if _, is := list[0].AllowedBy(allowed); is != ok {
			t.Errorf("%s is allowed: %v", text, is)
		}
	}
	for _, text := range []string{"", "/a", "/a:b", "a:/b", "/a:/b:rw", "/a:/b:ro:ro", "/a/../b:/c", "/:/c", "/a:/", "/a:/proc/x", "/a:/dev", "/a:/b,", strings.Repeat("/a:/b,", 8) + "/a:/b"} {
		if list, err := ParseHostMounts(text); err == nil {
			t.Errorf("%q is read as %v", text, list)
		}
	}
	for _, text := range []string{"", "a", "/", "/a/", "/a/../b", "/a:rw", "/a,/b"} {
		if p, err := ParseHostPath(text); err == nil {
			t.Errorf("%q is read as %v", text, p)
		}
	}
}

func FuzzParseHostMounts(f *testing.F) {
	f.Add("/srv/data:/d:ro,/a:/b")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := ParseHostMounts(text)
		for _, m := range list {
			if err != nil || path.Clean(m.Source) != m.Source || !path.IsAbs(m.Target) || SystemPath(m.Target) {
				t.Errorf("%q is read as %+v, %v", text, m, err)
			}
		}
	})
}
