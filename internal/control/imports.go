package control

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// placeImports gives each new import to a node. Until images travel between nodes, it is the one that
// has been there longest.
func placeImports(ctx context.Context, s *store.Store) error {
	view := s.View()
	var node *cloud.Node
	for _, n := range store.List(view, store.Nodes) {
		if node == nil || n.Registered.Before(node.Registered) {
			node = n
		}
	}
	if node == nil {
		return nil
	}
	for _, t := range store.ListBy(view, store.ImportTasksByState, cloud.ImportActive) {
		if t.Node != "" {
			continue
		}
		err := s.Update(ctx, func(tx *store.Tx) error {
			t, ok := store.Get(tx, store.ImportTasks, t.ID)
			if !ok || t.Node != "" || t.State != cloud.ImportActive {
				return nil
			}
			t.Node = node.ID
			store.Put(tx, store.ImportTasks, t)
			return nil
		})
		if err != nil {
			return fmt.Errorf("give import %s to a node: %w", t.ID, err)
		}
	}
	return nil
}

// applyImport notes how far an import is, and registers its image when it is done.
func applyImport(ctx context.Context, s *store.Store, node cloud.NodeID, st agentrpc.ImportStatus, now time.Time) error {
	image := cloud.NewID[cloud.ImageID](rand.Reader)
	err := s.Update(ctx, func(tx *store.Tx) error {
		t, ok := store.Get(tx, store.ImportTasks, st.Task)
		if !ok || t.Node != node || (t.State != cloud.ImportActive && t.State != cloud.ImportDeleting) {
			return nil
		}
		switch {
		case !st.Done:
			if t.State == cloud.ImportDeleting {
				return nil
			}
			t.Progress, t.Message = max(t.Progress, st.Progress), st.Message
		case t.State == cloud.ImportDeleting:
			t.State, t.Message, t.Ended = cloud.ImportDeleted, "cancelled", now
		case st.Error != "":
			t.State, t.Message, t.Ended = cloud.ImportFailed, st.Error, now
		default:
			if err := registerImported(tx, t, st, image, now); err != nil {
				return err
			}
		}
		store.Put(tx, store.ImportTasks, t)
		return nil
	})
	if err != nil {
		return fmt.Errorf("import %s: note its progress: %w", st.Task, err)
	}
	return nil
}

// LoginUserTag tells clients an image's ordinary user, the one that a launch key is for.
const LoginUserTag = "nacre:login-user"

// registerImported makes the AMI of a finished import. A name that was taken meanwhile fails the
// import, not the bytes.
func registerImported(tx *store.Tx, t *cloud.ImportTask, st agentrpc.ImportStatus, id cloud.ImageID, now time.Time) error {
	t.Ended = now
	name := store.NameClaim("image", t.Account, t.Name)
	if err := store.Insert(tx, store.Claims, &store.Claim{Key: name, Owner: string(id)}); err != nil {
		if !errors.Is(err, store.ErrExists) {
			return err
		}
		t.State, t.Message = cloud.ImportFailed, fmt.Sprintf("an image named %q exists", t.Name)
		return nil
	}
	tags := cloud.Tags{}
	for k, v := range t.Tags {
		tags[k] = v
	}
	if st.LoginUser != "" {
		tags[LoginUserTag] = st.LoginUser
	}
	t.State, t.Progress, t.Message, t.Image = cloud.ImportCompleted, 100, "", id
	store.Put(tx, store.Images, &cloud.Image{
		ID: id, Account: t.Account, Name: t.Name, Description: t.Description, Digest: st.Digest, Location: t.Source,
		Architecture: st.Architecture, State: cloud.ImageAvailable, System: st.System, SizeMiB: st.SizeMiB, Tags: tags, Created: now,
	})
	return nil
}
