package ec2_test

import (
	"strings"
	"testing"

	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func TestAnImageOfTheOwnRegistryIsImportedByTheDigestThatItsTagMeant(t *testing.T) {
	w := newWorld(t)
	digest := "sha256:" + strings.Repeat("d", 64)
	err := w.store.Update(t.Context(), func(tx *store.Tx) error {
		for _, account := range []cloud.AccountID{w.key.Account, "999999999999"} {
			name := cloud.RepositoryName("team/app")
			if account != w.key.Account {
				name = "foreign"
			}
			store.Put(tx, store.Repositories, &cloud.Repository{Account: account, Name: name})
			store.Put(tx, store.RepositoryImages, &cloud.RepositoryImage{Account: account, Repository: name, Digest: digest})
			store.Put(tx, store.RepositoryTags, &cloud.RepositoryTag{Account: account, Repository: name, Tag: "latest", Digest: digest})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(w.url, "http://")
	for reference, want := range map[string]string{
		"team/app":                 "registry:team/app:latest@" + digest,
		"team/app:latest":          "registry:team/app:latest@" + digest,
		"team/app@" + digest:       "registry:team/app@" + digest,
		"team/app:other@" + digest: "registry:team/app@" + digest,
		"team/app:none":            "",
		"nobodys:latest":           "",
		"foreign:latest":           "",
		"team/app@sha256:1":        "",
	} {
		out, err := w.ImportImage(t.Context(), wholeDisk("of "+strings.NewReplacer("@", " ", ":", " ").Replace(reference), func(in *sdk.ImportImageInput) {
			url := "docker://" + host + "/" + reference
			in.DiskContainers[0].Url = &url
		}))
		if want == "" {
			if codeOf(err) != "InvalidParameterValue" {
				t.Errorf("%s: %v", reference, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", reference, err)
			continue
		}
		if task, _ := store.Get(w.store.View(), store.ImportTasks, cloud.ImportTaskID(*out.ImportTaskId)); task.Source != want {
			t.Errorf("%s: the node is told %s", reference, task.Source)
		}
	}
}
