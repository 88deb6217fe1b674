package cloud

import (
	"strings"
	"testing"
	"time"
)

func TestAnInstanceThatStandsStillSaysSinceWhenAndWhyUntilItGoesOn(t *testing.T) {
	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	var i Instance
	if i.Stall("", noon) {
		t.Error("one that goes on goes on anew")
	}
	if !i.Stall(strings.Repeat("ü", 300), noon) || i.Stall("for another reason", noon.Add(time.Hour)) || !i.Stalled.Equal(noon) {
		t.Errorf("it stands still since %v", i.Stalled)
	}
	if v := i.Tags[TagStalled]; len(v) > MaxTagValueLength || strings.Trim(v, "ü") != "" {
		t.Errorf("the tag says %q", v)
	}
	if !i.Stall("", noon) || !i.Stalled.IsZero() || len(i.Tags) != 0 {
		t.Errorf("it goes on with %v, %v", i.Stalled, i.Tags)
	}
}
