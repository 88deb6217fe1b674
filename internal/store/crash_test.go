package store_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/store"
)

// crashDir, set in a process's environment, makes this test's program the victim: it
// writes to the store there and prints what was acknowledged, until it is killed.
const crashDir = "NACRE_STORE_TEST_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		fmt.Fprintln(os.Stderr, writeUntilKilled(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func writeUntilKilled(dir string) error {
	s, err := store.OpenEtcd(context.Background(), store.EtcdConfig{DataDir: dir, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	failed := make(chan error)
	for w := range 8 {
		go func() {
			for n := 0; ; n++ {
				id := fmt.Sprintf("%d-%d-%d", os.Getpid(), w, n)
				err := s.Update(context.Background(), func(tx *store.Tx) error {
					for _, half := range []string{"left", "right"} {
						key := store.ClaimKey(store.JoinKey("crash", id, half))
						if err := store.Insert(tx, store.Claims, &store.Claim{Key: key, Owner: id}); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					failed <- err
				}
				fmt.Println(id) // one write to the pipe
			}
		}()
	}
	return <-failed
}

func TestEtcdLosesNothingAcknowledgedWhenKilled(t *testing.T) {
	dir := t.TempDir()
	acknowledged := map[string]bool{}
	for round := range 4 {
		for _, id := range runAndKill(t, dir, time.Duration(100+round*150)*time.Millisecond) {
			acknowledged[id] = true
		}
		s := openEtcd(t, config(t, dir))
		claims := store.List(s.View(), store.Claims)
		halves := map[string]int{}
		for _, c := range claims {
			halves[c.Owner]++
		}
		for id := range acknowledged {
			if halves[id] == 0 {
				t.Errorf("round %d: %s was acknowledged and is gone", round, id)
			}
		}
		for id, n := range halves {
			if n != 2 {
				t.Errorf("round %d: %d of 2 writes of transaction %s are there", round, n, id)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(acknowledged) < 100 {
		t.Errorf("only %d writes were acknowledged: nothing was tried", len(acknowledged))
	}
	t.Logf("%d acknowledged transactions survived", len(acknowledged))
}

// runAndKill runs a victim, kills it some time after its first write, and returns what it
// had acknowledged.
func runAndKill(t *testing.T, dir string, after time.Duration) []string {
	t.Helper()
	victim := exec.Command(os.Args[0])
	victim.Env = append(os.Environ(), crashDir+"="+dir)
	victim.Stderr = t.Output()
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	var ids []string
	var killing sync.WaitGroup
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Errorf("read what the victim acknowledged: %v", err)
			break
		}
		if len(ids) == 0 {
			killing.Go(func() {
				time.Sleep(after)
				if err := victim.Process.Kill(); err != nil {
					t.Errorf("kill the victim: %v", err)
				}
			})
		}
		ids = append(ids, strings.TrimSuffix(line, "\n"))
	}
	killing.Wait()
	if err := victim.Wait(); err == nil || victim.ProcessState.ExitCode() != -1 {
		t.Fatalf("the victim ended by itself: %v", err)
	}
	return ids
}
