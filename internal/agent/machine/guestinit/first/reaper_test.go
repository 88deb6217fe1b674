package first

import (
	"syscall"
	"testing"
	"time"
)

func TestAWatchedProcessIsCollectedByTheReaperAndItsEndHandedOn(t *testing.T) {
	r := NewReaper()
	pid, end, err := r.Start("/bin/sh", []string{"sh", "-c", "exit 3"}, &syscall.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if !r.reap() {
			break
		}
	}
	select {
	case st := <-end:
		if st.ExitStatus() != 3 {
			t.Errorf("%v", st)
		}
	default:
		t.Fatal("the end was not handed on")
	}
	if _, ok := r.ended[pid]; ok {
		t.Error("the end is also taken for the application's")
	}
}
