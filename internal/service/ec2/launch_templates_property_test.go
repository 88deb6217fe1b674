package ec2_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/nacre-cloud/nacre/internal/store"
)

// Random changes of a launch template's versions never diverge from a model of EC2's rules: numbers rise and never come
// again, the default one stays, and the latest is the highest that there is.
func TestRandomChangesOfALaunchTemplateKeepToTheRules(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t)
	id := w.template("web", &templateData{ImageId: &w.image})
	alive, standard, last := map[int]bool{1: true}, 1, 1
	for range 150 {
		n := 1 + rnd.IntN(last+1) // one past the last, too
		text := strconv.Itoa(n)
		switch rnd.IntN(3) {
		case 0:
			last++
			alive[last] = true
			if v := w.version(id, &templateData{KeyName: aws.String(fmt.Sprint("key-", last))}, "$Latest"); int(*v.VersionNumber) != last {
				t.Fatalf("version %d is numbered %d", last, *v.VersionNumber)
			}
		case 1:
			_, err := w.ModifyLaunchTemplate(t.Context(), &sdk.ModifyLaunchTemplateInput{LaunchTemplateId: &id, DefaultVersion: &text})
			if (err == nil) != alive[n] {
				t.Fatalf("making %d of %v the default: %v", n, alive, err)
			}
			if err == nil {
				standard = n
			}
		case 2:
			out, err := w.DeleteLaunchTemplateVersions(t.Context(), &sdk.DeleteLaunchTemplateVersionsInput{LaunchTemplateId: &id, Versions: []string{text}})
			if err != nil {
				t.Fatal(err)
			}
			if gone := len(out.SuccessfullyDeletedLaunchTemplateVersions) == 1; gone != (alive[n] && n != standard) {
				t.Fatalf("deleting %d of %v with the default %d: %+v", n, alive, standard, out)
			} else if gone {
				delete(alive, n)
			}
		}
		described, err := w.DescribeLaunchTemplates(t.Context(), &sdk.DescribeLaunchTemplatesInput{LaunchTemplateIds: []string{id}})
		if err != nil {
			t.Fatal(err)
		}
		if lt := described.LaunchTemplates[0]; int(*lt.DefaultVersionNumber) != standard || int(*lt.LatestVersionNumber) != slices.Max(slices.Collect(maps.Keys(alive))) {
			t.Fatalf("of %v with the default %d it shows %d and %d", alive, standard, *lt.DefaultVersionNumber, *lt.LatestVersionNumber)
		}
	}
	var numbers []int
	for _, v := range w.versions(id) {
		numbers = append(numbers, int(*v.VersionNumber))
		if k := v.LaunchTemplateData.KeyName; *v.LaunchTemplateData.ImageId != w.image || *v.VersionNumber > 1 && *k != fmt.Sprint("key-", *v.VersionNumber) {
			t.Errorf("version %d holds %+v", *v.VersionNumber, v.LaunchTemplateData)
		}
	}
	if want := slices.Sorted(maps.Keys(alive)); !slices.IsSorted(want) || len(numbers) != len(want) {
		t.Errorf("%v are left, want %v", numbers, want)
	}
	if _, err := w.DeleteLaunchTemplate(t.Context(), &sdk.DeleteLaunchTemplateInput{LaunchTemplateId: &id}); err != nil {
		t.Fatal(err)
	}
	if left := len(store.List(w.store.View(), store.LaunchTemplateVersions)); left != 0 {
		t.Errorf("%d versions outlive their template", left)
	}
}

func TestVersionsMadeAtOnceHaveNumbersOfTheirOwn(t *testing.T) {
	w := newWorld(t)
	id := w.template("web", &templateData{ImageId: &w.image})
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			if _, err := w.CreateLaunchTemplateVersion(t.Context(), &sdk.CreateLaunchTemplateVersionInput{LaunchTemplateId: &id, LaunchTemplateData: &templateData{ImageId: &w.image}}); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if list := w.versions(id); len(list) != 21 || *list[0].VersionNumber != 21 {
		t.Errorf("%d versions, up to %d", len(list), *list[0].VersionNumber)
	}
}
