package ec2_test

import (
	"bytes"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/nacre-cloud/nacre/internal/service/coverage"
)

// It stands here, beside the handlers, because whoever adds an action runs this package's tests.
func TestTheCoveragePageSaysWhatIsBuilt(t *testing.T) {
	written, err := os.ReadFile("../../../docs/api-coverage.md")
	if err != nil {
		t.Fatal(err)
	}
	made := coverage.Page()
	if bytes.Equal(written, made) {
		return
	}
	have, want := strings.Split(string(written), "\n"), strings.Split(string(made), "\n")
	for i := range min(len(have), len(want)) {
		if have[i] != want[i] {
			t.Fatalf("docs/api-coverage.md is not what `make generate` makes; line %d is\n%s\nand should be\n%s", i+1, have[i], want[i])
		}
	}
	t.Fatalf("docs/api-coverage.md has %d lines and should have %d; run `make generate`", len(have), len(want))
}

func TestAnActionThatIsRefusedByDesignSaysWhy(t *testing.T) {
	w := newWorld(t)
	status, text := w.ask(url.Values{"Action": {"CreateFpgaImage"}})
	if got := said(status, text); !strings.HasPrefix(got, "UnsupportedOperation (") || !strings.Contains(got, "there are no servers with FPGAs behind this API") {
		t.Errorf("answered %s", got)
	}
}
