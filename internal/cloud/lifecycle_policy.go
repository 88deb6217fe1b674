package cloud

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
)

// LifecyclePolicy says which images of a repository expire.
type LifecyclePolicy struct {
	Rules []LifecycleRule `json:"rules"`
}

// LifecycleRule is one reason to expire.
type LifecycleRule struct {
	Priority    int                `json:"rulePriority"`
	Description string             `json:"description,omitempty"`
	Selection   LifecycleSelection `json:"selection"`
	Action      LifecycleAction    `json:"action"`
}

// LifecycleSelection says which images a rule is about, and what makes one expire.
type LifecycleSelection struct {
	TagStatus   string   `json:"tagStatus"`                // tagged, untagged or any
	TagPrefixes []string `json:"tagPrefixList,omitempty"`  // the image has a tag with each
	TagPatterns []string `json:"tagPatternList,omitempty"` // the image has a tag that matches each; * is any characters
	CountType   string   `json:"countType"`                // imageCountMoreThan or sinceImagePushed
	CountUnit   string   `json:"countUnit,omitempty"`      // days, of sinceImagePushed
	CountNumber int      `json:"countNumber"`
}

// LifecycleAction is what becomes of the selected: they expire.
type LifecycleAction struct {
	Type string `json:"type"`
}

const (
	maxLifecycleRules    = 50
	maxLifecyclePatterns = 100 // of a rule
	maxLifecycleWord     = 255 // characters of a prefix or pattern
	maxWildcards         = 4   // of a pattern
)

// ParseLifecyclePolicy reads a policy's text, of MaxLifecyclePolicy bytes at most. What it can't mean is an error that says what.
func ParseLifecyclePolicy(text string) (LifecyclePolicy, error) {
	var p LifecyclePolicy
	if len(text) > MaxLifecyclePolicy {
		return p, fmt.Errorf("the policy has %d bytes; %d at most", len(text), MaxLifecyclePolicy)
	}
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return p, fmt.Errorf("the policy is no lifecycle policy: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return p, errors.New("something follows the policy")
	}
	if len(p.Rules) == 0 || len(p.Rules) > maxLifecycleRules {
		return p, fmt.Errorf("the policy has %d rules; 1 to %d are accepted", len(p.Rules), maxLifecycleRules)
	}
	seen := map[int]bool{}
	for n := range p.Rules {
		r := &p.Rules[n]
		if err := r.check(); err != nil {
			return p, fmt.Errorf("rule %d: %w", n+1, err)
		}
		if seen[r.Priority] {
			return p, fmt.Errorf("rule %d: another one has the priority %d", n+1, r.Priority)
		}
		seen[r.Priority] = true
	}
	slices.SortFunc(p.Rules, func(a, b LifecycleRule) int { return a.Priority - b.Priority })
	for n, r := range p.Rules {
		if r.Selection.TagStatus == "any" && n != len(p.Rules)-1 {
			return p, fmt.Errorf("the rule of priority %d takes any image and must come last, with the highest number", r.Priority)
		}
	}
	return p, nil
}

func (r *LifecycleRule) check() error {
	s := &r.Selection
	words := slices.Concat(s.TagPrefixes, s.TagPatterns)
	switch {
	case r.Priority < 1:
		return fmt.Errorf("rulePriority %d: it is 1 or more", r.Priority)
	case r.Action.Type != "expire":
		return fmt.Errorf("the action %q: expire is the only one", r.Action.Type)
	case !slices.Contains([]string{"tagged", "untagged", "any"}, s.TagStatus):
		return fmt.Errorf("tagStatus %q: it is tagged, untagged or any", s.TagStatus)
	case s.TagStatus != "tagged" && len(words) > 0:
		return errors.New("tagPrefixList and tagPatternList are for the tagStatus tagged")
	case s.TagStatus == "tagged" && (len(s.TagPrefixes) == 0) == (len(s.TagPatterns) == 0):
		return errors.New("the tagStatus tagged needs either tagPrefixList or tagPatternList")
	case len(words) > maxLifecyclePatterns:
		return fmt.Errorf("%d prefixes or patterns; %d at most", len(words), maxLifecyclePatterns)
	case s.CountNumber < 1:
		return fmt.Errorf("countNumber %d: it is 1 or more", s.CountNumber)
	case s.CountType == "imageCountMoreThan" && s.CountUnit != "":
		return errors.New("countUnit is for the countType sinceImagePushed")
	case s.CountType == "sinceImagePushed" && s.CountUnit != "days":
		return fmt.Errorf("countUnit %q: it is days", s.CountUnit)
	case s.CountType == "sinceImagePushed" && s.CountNumber > 100_000:
		return fmt.Errorf("countNumber %d: 100000 days at most", s.CountNumber)
	case s.CountType != "imageCountMoreThan" && s.CountType != "sinceImagePushed":
		return fmt.Errorf("countType %q: it is imageCountMoreThan or sinceImagePushed", s.CountType)
	}
	for _, w := range words {
		if w == "" || len(w) > maxLifecycleWord {
			return fmt.Errorf("a prefix or pattern of %d characters; 1 to %d are accepted", len(w), maxLifecycleWord)
		}
	}
	for _, w := range s.TagPatterns {
		if strings.Count(w, "*") > maxWildcards {
			return fmt.Errorf("the pattern %q has more than %d wildcards", w, maxWildcards)
		}
	}
	return nil
}

// LifecycleImage is what a policy needs to know of an image.
type LifecycleImage struct {
	Digest string
	Tags   []string
	Pushed time.Time
	Listed bool // in an index of the repository, which keeps it
}

// Expiry is an image that a policy lets expire, and the priority of the rule that does.
type Expiry struct {
	Digest string
	Rule   int
}

// Expire tells which images a policy lets expire at a time, by rule and age. An image that a rule is about is no later rule's
// to expire; it is still counted there. Images that an index lists expire after the index.
func (p LifecyclePolicy) Expire(images []LifecycleImage, now time.Time) []Expiry {
	youngest := slices.Clone(images)
	slices.SortFunc(youngest, func(a, b LifecycleImage) int {
		if c := b.Pushed.Compare(a.Pushed); c != 0 {
			return c
		}
		return strings.Compare(a.Digest, b.Digest)
	})
	taken := map[string]bool{}
	var out []Expiry
	for _, r := range p.Rules {
		n := 0
		var about []string
		for _, img := range youngest {
			if !r.Selection.about(img.Tags) {
				continue
			}
			n++
			about = append(about, img.Digest)
			due := n > r.Selection.CountNumber
			if r.Selection.CountType == "sinceImagePushed" {
				due = now.Sub(img.Pushed) > time.Duration(r.Selection.CountNumber)*24*time.Hour
			}
			if due && !taken[img.Digest] && !img.Listed {
				out = append(out, Expiry{Digest: img.Digest, Rule: r.Priority})
			}
		}
		for _, d := range about {
			taken[d] = true
		}
	}
	return out
}

// about tells whether a rule is about an image with these tags.
func (s LifecycleSelection) about(tags []string) bool {
	switch s.TagStatus {
	case "any":
		return true
	case "untagged":
		return len(tags) == 0
	}
	for _, prefix := range s.TagPrefixes {
		if !slices.ContainsFunc(tags, func(t string) bool { return strings.HasPrefix(t, prefix) }) {
			return false
		}
	}
	for _, pattern := range s.TagPatterns {
		if !slices.ContainsFunc(tags, func(t string) bool { return wildcard(pattern, t) }) {
			return false
		}
	}
	return len(tags) > 0
}

// wildcard matches text against a pattern in which * stands for any characters, and everything else for itself.
func wildcard(pattern, text string) bool {
	quoted := strings.NewReplacer(`\`, `\\`, "?", `\?`, "[", `\[`).Replace(pattern)
	ok, err := path.Match(quoted, text) // tags have no slashes
	return ok && err == nil
}
