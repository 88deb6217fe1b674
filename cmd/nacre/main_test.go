package main

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

const nohupTest = "NACRE_TEST_NOHUP"

func TestWhatIsStartedUnderNohupCanBeHungUp(t *testing.T) {
	if os.Getenv(nohupTest) != "" {
		hearHangups()
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("sh", "-c", "kill -HUP $$; echo alive").Output(); err == nil || len(out) > 0 {
			t.Errorf("it says %q (%v)", out, err)
		}
		return
	}
	cmd := exec.Command("sh", "-c", `trap "" HUP; exec "$0" -test.run '^'"$1"'$'`, os.Args[0], t.Name())
	cmd.Env = append(os.Environ(), nohupTest+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
