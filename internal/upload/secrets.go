package upload

import (
	"sync"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// secretsFor is how long the secrets of a build are kept.
const secretsFor = 24 * time.Hour

// Secrets are the secrets of builds, in this process's memory alone: they are in no store, no file and no log, and gone when it ends.
type Secrets struct {
	mu  sync.Mutex
	all map[cloud.ImportTaskID]kept
}

type kept struct {
	values map[string][]byte
	until  time.Time
}

// NewSecrets makes a place for them.
func NewSecrets() *Secrets { return &Secrets{all: map[cloud.ImportTaskID]kept{}} }

// Put keeps a build's secrets.
func (s *Secrets) Put(task cloud.ImportTaskID, values map[string][]byte, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clean(now)
	s.all[task] = kept{values, now.Add(secretsFor)}
}

// Get returns a build's secrets; false when they are not here.
func (s *Secrets) Get(task cloud.ImportTaskID) (map[string][]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.all[task]
	return k.values, ok
}

// Drop forgets a build's secrets.
func (s *Secrets) Drop(task cloud.ImportTaskID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, task)
}

func (s *Secrets) clean(now time.Time) {
	for id, k := range s.all {
		if now.After(k.until) {
			delete(s.all, id)
		}
	}
}
