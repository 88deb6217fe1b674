package cloud

import (
	"encoding/json"
	"errors"
	"net/netip"
	"testing"
)

func TestRoutesAreReadAsOlderCloudsKeptThem(t *testing.T) {
	want := Route{Destination: netip.MustParsePrefix("0.0.0.0/0"), Target: "igw-1"}
	for _, kept := range []string{`{"Destination":"0.0.0.0/0","Gateway":"igw-1"}`, `{"Destination":"0.0.0.0/0","PrefixList":"","Target":"igw-1"}`} {
		var r Route
		if err := json.Unmarshal([]byte(kept), &r); err != nil || r != want {
			t.Errorf("%s: %+v, %v", kept, r, err)
		}
	}
	b, err := json.Marshal(want)
	var again Route
	if err := errors.Join(err, json.Unmarshal(b, &again)); err != nil || again != want {
		t.Errorf("%s: %+v, %v", b, again, err)
	}
}
