package confined

import (
	"strings"
	"testing"
)

func TestConsoleLinesAreJoined(t *testing.T) {
	got := joinLog([]byte("T stdout F one\nT stdout P tw\nT stdout F o\nnonsense\nT stderr F three\nT stdout F cut"))
	if string(got) != "one\ntwo\nthree\n" {
		t.Errorf("%q", got)
	}
}

func TestTheMonitorsAnswerIsAProcessOrAReason(t *testing.T) {
	if pid, err := parseAnswer(`{"data": 42}` + "\n"); err != nil || pid != 42 {
		t.Errorf("%d, %v", pid, err)
	}
	if _, err := parseAnswer(`{"pid": -1, "message": "no such file\n"}`); err == nil || !strings.HasSuffix(err.Error(), "no such file") {
		t.Errorf("%v", err)
	}
}

func FuzzMonitorAnswers(f *testing.F) {
	f.Add(`{"pid": 1}`)
	f.Add(`{"data": -1, "message": "x"}`)
	f.Fuzz(func(t *testing.T, line string) {
		if pid, err := parseAnswer(line); err == nil && pid <= 0 {
			t.Errorf("%q is process %d", line, pid)
		}
	})
}

func FuzzConsoleLogs(f *testing.F) {
	f.Add([]byte("2026-01-01T00:00:00Z stdout F hello\n2026-01-01T00:00:00Z stderr P par"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if out := joinLog(b); len(out) > len(b) {
			t.Errorf("%d bytes became %d", len(b), len(out))
		}
	})
}
