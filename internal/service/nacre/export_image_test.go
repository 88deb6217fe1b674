package nacre_test

import (
	"crypto/rand"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/control"
	"github.com/nacre-cloud/nacre/internal/service/nacre"
	"github.com/nacre-cloud/nacre/internal/store"
)

func TestAnImageIsItsOwnersToExport(t *testing.T) {
	s := store.OpenMemory()
	t.Cleanup(func() { s.Close() })
	region, _, err := control.Bootstrap(t.Context(), s, control.FirstStart{Region: "us-east-1", PublicPool: netip.MustParsePrefix("198.18.0.0/24"), Rand: rand.Reader, Now: time.Now().UTC()})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Update(t.Context(), func(tx *store.Tx) error {
		for n, img := range []cloud.Image{
			{Public: true, State: cloud.ImageAvailable}, {State: cloud.ImagePending}, {State: cloud.ImageAvailable, Type: cloud.ImageKernel},
			{State: cloud.ImageAvailable, Volumes: []cloud.ImageVolume{{Device: cloud.RootDevice, Snapshot: "snap-1"}}},
			{State: cloud.ImageAvailable, Hardware: cloud.Hardware{Content: cloud.ContentDisk}},
		} {
			img.ID, img.Account = cloud.ImageID("ami-0000000000000000"+string(rune('1'+n))), region.Root
			store.Put(tx, store.Images, &img)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	service := nacre.New(nacre.Config{Store: s, Nodes: &node{}, Logger: slog.New(slog.DiscardHandler)})
	for what, c := range map[string]struct {
		account          cloud.AccountID
		id, format, code string
		says             string
	}{
		"no id":                {region.Root, "image", "", "InvalidParameterValue", "no image's id"},
		"unknown":              {region.Root, "ami-00000000000000009", "", "ResourceNotFoundException", "no image"},
		"another's":            {stranger, "ami-00000000000000002", "", "ResourceNotFoundException", "no image"},
		"another's, public":    {stranger, "ami-00000000000000001", "", "AccessDeniedException", "owner"},
		"pending":              {region.Root, "ami-00000000000000002", "", "ConflictException", "pending"},
		"a kernel":             {region.Root, "ami-00000000000000003", "", "ConflictException", "kernel"},
		"a snapshot's":         {region.Root, "ami-00000000000000004", "", "ConflictException", "snap-1"},
		"layers, as a disk":    {region.Root, "ami-00000000000000001", "raw", "InvalidParameterValue", "oci"},
		"a disk, as layers":    {region.Root, "ami-00000000000000005", "oci", "InvalidParameterValue", "qcow2"},
		"with no server there": {region.Root, "ami-00000000000000001", "", "Unavailable", "No server"},
	} {
		if _, err := service.ExportImage(t.Context(), c.account, c.id, c.format); awsapi.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
