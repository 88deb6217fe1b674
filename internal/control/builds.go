package control

import (
	"fmt"
	"time"

	"github.com/nacre-cloud/nacre/internal/agentrpc"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// makeWay looks at the image that has a build's name already. One of the same content is the build's result, which done says; another one gives
// way when the build is to replace it, unless it is protected.
func makeWay(tx *store.Tx, t *cloud.ImportTask, st agentrpc.ImportStatus, now time.Time) (done bool, err error) {
	claim := store.NameClaim("image", t.Account, t.Name)
	taken, ok := store.Get(tx, store.Claims, claim)
	if !ok || len(st.Images) != 1 {
		return false, nil
	}
	old, ok := store.Get(tx, store.Images, cloud.ImageID(taken.Owner))
	if !ok {
		return false, nil
	}
	switch {
	case old.Digest == st.Images[0].Digest && old.State == cloud.ImageAvailable && old.Isolation == st.Images[0].Isolation:
		t.Image, t.Architecture = old.ID, old.Architecture
		t.State, t.Progress, t.Message = cloud.ImportCompleted, 100, ""
		return true, nil
	case !t.Build.Replace:
		return false, nil
	case old.Protection.Enabled, now.Before(old.Protection.Until):
		t.State, t.Message = cloud.ImportFailed, fmt.Sprintf("the image %s, which is called %q, is protected from deregistration", old.ID, t.Name)
		return true, nil
	case old.Kind() != cloud.ImageMachine:
		return false, nil
	}
	store.Delete(tx, store.Images, old.ID)
	store.Delete(tx, store.Claims, claim)
	return false, nil
}
