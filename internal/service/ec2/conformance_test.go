package ec2_test

import (
	"net/http"
	"strings"
	"testing"

	gen "github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
)

// codeIn is an answer's error code, "success" when there is none.
func codeIn(status int, text string) string {
	if status == http.StatusOK {
		return "success"
	}
	return between(text, "<Code>", "</Code>")
}

// said is an answer's error code and message.
func said(status int, text string) string {
	if status == http.StatusOK {
		return "success"
	}
	return codeIn(status, text) + " (" + between(text, "<Message>", "</Message>") + ")"
}

func between(text, open, end string) string {
	_, rest, _ := strings.Cut(text, open)
	inner, _, _ := strings.Cut(rest, end)
	return inner
}

// Every variant of every request that AWS's model lets one think of is honoured, or refused with one of AWS's codes: the stage's
// door fails the test on any other code, on an internal error, and on an answer that isn't as the model has it. A dry
// run says what the call will, and changes nothing.
func TestEveryVariantOfEveryRequestIsHonouredOrRefused(t *testing.T) {
	asked := 0
	for _, action := range newStage(t).built() {
		t.Run(action, func(t *testing.T) {
			s := newStage(t)
			variants := s.variants(action)
			plain := with(variants[0].form, "DryRun", "true")
			for _, v := range variants {
				asked++
				before := s.revision()
				dry := ""
				if s.hasDryRun(action) && len(v.form["DryRun"]) == 0 {
					dry = codeIn(s.ask(with(v.form, "DryRun", "true")))
					if s.revision() != before {
						t.Errorf("%s: its dry run changed the store", v.about)
					}
				}
				status, text := s.ask(v.form)
				code := codeIn(status, text)
				switch {
				case v.want != "" && code != v.want:
					t.Errorf("%s: %s, want %s", v.about, said(status, text), v.want)
				case code == "success" && dry != "" && dry != "DryRunOperation", code != "success" && dry != "" && dry != code:
					t.Errorf("%s: %s, but its dry run answers %s", v.about, said(status, text), dry)
				case code != "success" && s.revision() != before:
					t.Errorf("%s: it was refused with %s and changed the store", v.about, code)
				}
				if s.revision() != before && (!s.hasDryRun(action) || codeIn(s.ask(plain)) != "DryRunOperation") {
					// The next variant wants the resources that it is about, and room for its own.
					s = newStage(t)
				}
			}
		})
	}
	if asked < 5000 {
		t.Errorf("only %d requests were made", asked)
	}
}

func (s *stage) hasDryRun(action string) bool {
	_, ok := gen.Service.Shapes[action].Request.FieldByName("DryRun")
	return ok
}

func TestEveryStageIsTheSame(t *testing.T) {
	one, other := newStage(t), newStage(t)
	for name, value := range one.props {
		if strings.HasSuffix(name, "Id") && name != "requestId" && !strings.HasSuffix(name, ".requestId") && other.props[name] != value {
			t.Errorf("%s is %s in one stage and %s in the next", name, value, other.props[name])
		}
	}
}

// A stage on which an action can't succeed tests its refusals only. Whoever adds an action may give it what it needs in extras.
func TestAlmostEveryActionSucceedsOnTheStage(t *testing.T) {
	var lame []string
	for _, action := range newStage(t).built() {
		s := newStage(t)
		form := s.form(action)
		if status, text := s.ask(form); status != http.StatusOK {
			lame = append(lame, action)
			t.Logf("%v: %s", form, said(status, text))
		}
	}
	if len(lame) > 20 {
		t.Errorf("the plain requests of %d actions don't succeed: %v", len(lame), lame)
	}
}
