package store

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestEtcdForgetsOldRevisionsAndSaysSo(t *testing.T) {
	b, err := startEtcd(t.Context(), EtcdConfig{DataDir: t.TempDir(), HistoryKept: time.Second, Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.close(); err != nil {
			t.Error(err)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		if _, _, err := b.commit(ctx, nil, []write{{key: "/test", value: []byte("x")}}); err != nil {
			t.Fatal(err)
		}
		enough := errors.New("the history is still there")
		err := b.follow(ctx, 1, func(delta) error { return enough })
		if errors.Is(err, errTrimmed) {
			return
		}
		if !errors.Is(err, enough) {
			t.Fatalf("follow from the start of history: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func TestEtcdIsReadInPages(t *testing.T) {
	b, err := startEtcd(t.Context(), EtcdConfig{DataDir: t.TempDir(), Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.close(); err != nil {
			t.Error(err)
		}
	}()
	const keys = 2*loadPage + 1
	var writes []write
	for n := range keys {
		writes = append(writes, write{key: root + JoinKey("test", string(rune('a'+n%26)), time.Duration(n).String())})
	}
	if _, _, err := b.commit(t.Context(), nil, writes); err != nil {
		t.Fatal(err)
	}
	d, err := b.load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, e := range d.events {
		seen[e.key] = true
	}
	if len(d.events) != keys || len(seen) != keys {
		t.Errorf("%d events of %d keys, want %d", len(d.events), len(seen), keys)
	}
}
