package control

import (
	"context"
	"crypto/rand"
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
			if err := registerImported(tx, t, st, now); err != nil {
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

// registerImported makes the images of a finished import. A name that was taken meanwhile fails the import, not the
// bytes; a kernel or RAM disk that the account has already is taken as it is.
func registerImported(tx *store.Tx, t *cloud.ImportTask, st agentrpc.ImportStatus, now time.Time) error {
	t.Ended = now
	if len(st.Images) == 0 {
		t.State, t.Message = cloud.ImportFailed, "the import brought no image"
		return nil
	}
	if t.Build != nil {
		again, err := makeWay(tx, t, st, now)
		if err != nil || again {
			return err
		}
	}
	for _, brought := range st.Images {
		if _, taken := store.Get(tx, store.Claims, store.NameClaim("image", t.Account, t.Name+brought.Suffix)); taken && !isFile(brought.Type) {
			t.State, t.Message = cloud.ImportFailed, fmt.Sprintf("an image named %q exists", t.Name+brought.Suffix)
			return nil
		}
	}
	files := map[string]cloud.ImageID{} // of kernels and RAM disks, by digest
	for _, i := range store.List(tx.View(), store.Images) {
		if i.Account == t.Account && isFile(i.Type) && i.State == cloud.ImageAvailable {
			files[i.Digest] = i.ID
		}
	}
	for _, brought := range st.Images {
		id := cloud.NewImageID(rand.Reader, brought.Type)
		if isFile(brought.Type) {
			if _, there := files[brought.Digest]; there {
				continue
			}
			files[brought.Digest] = id
		}
		if err := registerOne(tx, t, brought, id, files, now); err != nil {
			return err
		}
		if brought.Suffix == "" {
			t.Image, t.Architecture = id, brought.Architecture
		}
	}
	t.State, t.Progress, t.Message = cloud.ImportCompleted, 100, ""
	return nil
}

func isFile(t cloud.ImageType) bool { return t == cloud.ImageKernel || t == cloud.ImageRamdisk }

func registerOne(tx *store.Tx, t *cloud.ImportTask, brought agentrpc.Imported, id cloud.ImageID, files map[string]cloud.ImageID, now time.Time) error {
	name := t.Name + brought.Suffix
	claim := store.NameClaim("image", t.Account, name)
	if _, taken := store.Get(tx, store.Claims, claim); taken { // a newer kernel under the recipe's name
		name = fmt.Sprintf("%s-%s", name, id[len(id)-8:])
		claim = store.NameClaim("image", t.Account, name)
	}
	if err := store.Insert(tx, store.Claims, &store.Claim{Key: claim, Owner: string(id)}); err != nil {
		return err
	}
	tags := cloud.Tags{}
	for k, v := range t.Tags {
		tags[k] = v
	}
	if brought.LoginUser != "" {
		tags[LoginUserTag] = brought.LoginUser
	}
	if brought.Isolation == cloud.IsolationVM {
		tags[cloud.TagIsolation] = string(cloud.IsolationVM)
	}
	hardware := brought.Hardware
	hardware.Kernel, hardware.Ramdisk = files[hardware.KernelDigest], files[hardware.RamdiskDigest]
	if k, ok := store.Get(tx, store.Images, hardware.Kernel); ok && hardware.Ramdisk != "" && k.Hardware.Ramdisk == "" {
		k.Hardware.Ramdisk, k.Hardware.RamdiskDigest = hardware.Ramdisk, hardware.RamdiskDigest
		store.Put(tx, store.Images, k)
	}
	store.Put(tx, store.Images, &cloud.Image{
		ID: id, Account: t.Account, Name: name, Description: t.Description, Type: brought.Type, Digest: brought.Digest, Location: t.Source,
		Isolation: brought.Isolation, Hardware: hardware,
		Architecture: brought.Architecture, State: cloud.ImageAvailable, System: brought.System, SizeMiB: brought.SizeMiB, Tags: tags, Created: now,
	})
	return nil
}
