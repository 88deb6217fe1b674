package inside

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/nacre-cloud/nacre/internal/agent/machine/guest/wire"
	"github.com/nacre-cloud/nacre/internal/agent/machine/pagemap"
)

func TestAProcessIsFoundByItsIDOrItsOnlyName(t *testing.T) {
	p := t.TempDir() + "/nacre-pages"
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, b, 0o755); err != nil {
		t.Fatal(err)
	}
	begin := func() int {
		cmd := exec.Command(p, "100")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		return cmd.Process.Pid
	}
	one := begin()
	for _, word := range []string{"nacre-pages", strconv.Itoa(one)} {
		got, err := PagesOf(wire.Pages{Process: word})
		if err != nil || got.PID != one || got.Name != "nacre-pages" || len(got.Pages) == 0 {
			t.Errorf("%s: %+v, %v", word, got, err)
		}
	}
	begin()
	if _, err := PagesOf(wire.Pages{Process: "nacre-pages"}); err == nil || !strings.Contains(err.Error(), strconv.Itoa(one)) {
		t.Errorf("two of a name: %v", err)
	}
	for _, word := range []string{"no such process", "0", "-1", ""} {
		if _, err := PagesOf(wire.Pages{Process: word}); err == nil {
			t.Errorf("%q is a process", word)
		}
	}
}

func TestThePagesOfAProcessAreThoseOfItsMappings(t *testing.T) {
	self := strconv.Itoa(os.Getpid())
	each, err := PagesOf(wire.Pages{Process: self})
	if err != nil {
		t.Fatal(err)
	}
	stack := false
	for _, p := range each.Pages {
		stack = stack || p.Mapping == "rw-p [stack]"
		if !pagemap.Entry(p.Entry).Present() {
			t.Errorf("%+v is not there", p)
		}
	}
	if !stack {
		t.Errorf("no stack among %+v", each.Pages)
	}
	first, err := PagesOf(wire.Pages{Process: self, Count: 3})
	if err != nil || len(first.Pages) != 3 || first.Pages[0].Virtual != each.Pages[0].Virtual {
		t.Errorf("%+v, %v", first.Pages, err)
	}
	from := first.Pages[0].Virtual - 2*pagemap.PageSize + 5
	some, err := PagesOf(wire.Pages{Process: self, From: &from, Count: 4})
	if err != nil || len(some.Pages) != 4 || some.Pages[2].Virtual != first.Pages[0].Virtual || some.Pages[2].Entry == 0 || some.Pages[0].Virtual != from-5 {
		t.Errorf("%+v, %v", some.Pages, err)
	}
	last := ^uint64(0)
	if past, err := PagesOf(wire.Pages{Process: self, From: &last, Count: 4}); err != nil || len(past.Pages) != 1 || past.Pages[0].Entry != 0 {
		t.Errorf("%+v, %v", past.Pages, err)
	}
	if len(each.Anchors) == 0 || len(each.Anchors) > wire.MaxAnchors {
		t.Errorf("%d anchors", len(each.Anchors))
	}
	if _, err := PagesOf(wire.Pages{Process: self, Count: wire.MaxPages + 1}); err == nil {
		t.Error("more pages than an answer holds")
	}
}
