package cloud

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

var lifecycleNow = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// aged is an image that was pushed some days ago.
func aged(name string, days int, tags ...string) LifecycleImage {
	return LifecycleImage{Digest: name, Tags: tags, Pushed: lifecycleNow.AddDate(0, 0, -days)}
}

func rule(priority int, selection string) string {
	return fmt.Sprintf(`{"rulePriority":%d,"selection":{%s},"action":{"type":"expire"}}`, priority, selection)
}

func TestImagesExpireByTheRuleThatIsAboutThem(t *testing.T) {
	listed := aged("child", 90)
	listed.Listed = true
	images := []LifecycleImage{aged("new", 0, "prod-3"), aged("mid", 10, "prod-2", "stable"), aged("old", 40, "prod-1"), aged("dev", 20, "dev-1"), aged("bare", 30), listed}
	for name, c := range map[string]struct {
		rules []string
		want  []string
	}{
		"the oldest of a prefix go first":             {[]string{rule(1, `"tagStatus":"tagged","tagPrefixList":["prod"],"countType":"imageCountMoreThan","countNumber":2`)}, []string{"old/1"}},
		"all prefixes must be there":                  {[]string{rule(1, `"tagStatus":"tagged","tagPrefixList":["prod","stable"],"countType":"sinceImagePushed","countUnit":"days","countNumber":5`)}, []string{"mid/1"}},
		"patterns have wildcards":                     {[]string{rule(1, `"tagStatus":"tagged","tagPatternList":["*v-1"],"countType":"sinceImagePushed","countUnit":"days","countNumber":5`)}, []string{"dev/1"}},
		"the untagged go by age, never from an index": {[]string{rule(1, `"tagStatus":"untagged","countType":"sinceImagePushed","countUnit":"days","countNumber":14`)}, []string{"bare/1"}},
		"a first rule keeps what it is about from a later one, which counts it all the same": {[]string{
			rule(10, `"tagStatus":"any","countType":"imageCountMoreThan","countNumber":1`),
			rule(1, `"tagStatus":"tagged","tagPrefixList":["prod"],"countType":"imageCountMoreThan","countNumber":5`)}, []string{"dev/10", "bare/10"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := ParseLifecyclePolicy(`{"rules":[` + strings.Join(c.rules, ",") + `]}`)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range p.Expire(images, lifecycleNow) {
				got = append(got, fmt.Sprintf("%s/%d", e.Digest, e.Rule))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("expire %v, want %v", got, c.want)
			}
		})
	}
}

func TestPoliciesThatCantBeMeantAreRefused(t *testing.T) {
	fine := `"tagStatus":"any","countType":"imageCountMoreThan","countNumber":1`
	for _, text := range []string{"", "{}", `{"rules":[]}`, `{"rules":[` + rule(1, fine) + `],"more":1}`, `{"rules":[` + rule(1, fine) + `]} {}`,
		`{"rules":[` + rule(0, fine) + `]}`, `{"rules":[` + rule(1, fine) + `,` + rule(1, fine) + `]}`,
		`{"rules":[` + rule(1, fine) + `,` + rule(2, `"tagStatus":"untagged","countType":"imageCountMoreThan","countNumber":1`) + `]}`,
		`{"rules":[` + rule(1, `"tagStatus":"tagged","countType":"imageCountMoreThan","countNumber":1`) + `]}`,
		`{"rules":[` + rule(1, `"tagStatus":"untagged","tagPrefixList":["a"],"countType":"imageCountMoreThan","countNumber":1`) + `]}`,
		`{"rules":[` + rule(1, `"tagStatus":"any","countType":"sinceImagePushed","countNumber":1`) + `]}`,
		`{"rules":[` + rule(1, `"tagStatus":"any","countType":"sinceImagePulled","countUnit":"days","countNumber":1`) + `]}`,
		`{"rules":[` + rule(1, `"tagStatus":"any","countType":"imageCountMoreThan","countNumber":0`) + `]}`,
		`{"rules":[` + strings.Replace(rule(1, fine), "expire", "archive", 1) + `]}`,
		`{"rules":[` + rule(1, fine) + strings.Repeat(" ", MaxLifecyclePolicy) + `]}`} {
		if p, err := ParseLifecyclePolicy(text); err == nil {
			t.Errorf("%.200s is taken as %+v", text, p)
		}
	}
}

func FuzzLifecyclePolicies(f *testing.F) {
	f.Add(`{"rules":[`+rule(1, `"tagStatus":"tagged","tagPatternList":["a*\\[?"],"countType":"imageCountMoreThan","countNumber":1`)+`]}`, "tag", 3)
	f.Fuzz(func(t *testing.T, text, tag string, days int) {
		p, err := ParseLifecyclePolicy(text)
		if err != nil {
			return
		}
		images := []LifecycleImage{aged("a", days%1000, tag), aged("b", 1), {Digest: "c", Listed: true}}
		seen := map[string]bool{}
		for _, e := range p.Expire(images, lifecycleNow) {
			if seen[e.Digest] || e.Digest == "c" {
				t.Errorf("%s expires twice, or from an index", e.Digest)
			}
			seen[e.Digest] = true
		}
	})
}
