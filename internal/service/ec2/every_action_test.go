package ec2_test

import (
	"encoding/xml"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	gen "github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// honours tells whether an action acts on one of its parameters.
func honours(action, field string) bool {
	if _, ok := gen.Service.Shapes[action].Request.FieldByName(field); !ok {
		return false
	}
	return !slices.Contains(refusedParameters()[action], field)
}

var refusedParameters = sync.OnceValue(func() map[string][]string {
	refused := map[string][]string{}
	for _, c := range coverageOfEC2() {
		refused[c.Action] = c.NotHonoured
	}
	return refused
})

// as asks as the owner of another access key.
func (s *stage) as(id cloud.AccessKeyID, form url.Values) (int, string) {
	mine := s.key
	defer func() { s.key = mine }()
	key, _ := store.Get(s.store.View(), store.AccessKeys, id)
	s.key = *key
	return s.ask(form)
}

// listed are the entries of the list that an answer is about, each as its XML.
func listed(t testing.TB, text string) (list []string, next string) {
	t.Helper()
	var doc struct {
		Members []struct {
			XMLName xml.Name
			Text    string `xml:",chardata"`
			Items   []struct {
				Inner string `xml:",innerxml"`
			} `xml:"item"`
		} `xml:",any"`
	}
	if err := xml.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	for _, m := range doc.Members {
		if m.XMLName.Local == "nextToken" {
			next = m.Text
		}
		for _, item := range m.Items {
			list = append(list, item.Inner)
		}
	}
	return list, next
}

// list asks for a list; ok is false when the stage has not what the question needs.
func (s *stage) list(form url.Values) (list []string, ok bool) {
	s.t.Helper()
	status, text := s.ask(form)
	if status != http.StatusOK {
		return nil, false
	}
	list, _ = listed(s.t, text)
	return list, true
}

func TestAClientTokenMakesARetryTheSameCall(t *testing.T) {
	tried := 0
	for _, action := range newStage(t).built() {
		if !honours(action, "ClientToken") {
			continue
		}
		t.Run(action, func(t *testing.T) {
			s := newStage(t)
			plain := s.form(action)
			form := with(plain, "ClientToken", "a-token")
			if status, _ := s.ask(with(form, "DryRun", "true")); status == http.StatusOK {
				t.Errorf("a dry run succeeds")
			}
			status, first := s.ask(form)
			if status != http.StatusOK {
				t.Skipf("the stage has not what it needs: %s", said(status, first))
			}
			tried++
			after := s.revision()
			status, again := s.ask(form)
			if status != http.StatusOK || lasting(again) != lasting(first) {
				t.Errorf("the retry answers\n%s\nand the call\n%s", again, first)
			}
			if s.revision() != after {
				t.Error("the retry changed the store")
			}
			for _, v := range s.variants(action) {
				changed := with(v.form, "ClientToken", "a-token")
				if maps.EqualFunc(changed, form, slices.Equal) || v.form.Has("ClientToken") || v.form.Has("DryRun") {
					continue
				}
				if code := codeIn(s.ask(with(v.form, "DryRun", "true"))); code != "DryRunOperation" {
					continue
				}
				if code := codeIn(s.ask(changed)); code != "IdempotentParameterMismatch" {
					t.Errorf("%s, with the token of another call: %s", v.about, code)
				}
				if s.revision() != after {
					t.Fatalf("%s changed the store", v.about)
				}
			}
		})
	}
	if tried < 4 {
		t.Errorf("only %d actions with tokens were tried", tried)
	}
}

// passing are what may have changed between a call and its retry.
var passing = regexp.MustCompile(`<(requestId|status|state)>[^<]*</`)

func lasting(text string) string { return passing.ReplaceAllString(text, "") }

// more makes one more of each kind of resource.
func (s *stage) more() {
	for _, action := range s.built() {
		if makes(action) && action != "RunInstances" {
			s.ask(s.form(action))
		}
	}
}

func TestPagesAreTheWholeListInPieces(t *testing.T) {
	s := newStage(t)
	for range 6 {
		s.more()
	}
	several := 0
	for _, action := range s.built() {
		if !honours(action, "MaxResults") || !honours(action, "NextToken") {
			continue
		}
		t.Run(action, func(t *testing.T) {
			form := s.form(action)
			whole, ok := s.list(form)
			if !ok {
				t.Skip("the stage has not what it needs")
			}
			size := pageSize(action)
			var pages []string
			count := 0
			for token := ""; ; count++ {
				ask := with(form, "MaxResults", fmt.Sprint(size))
				if token != "" {
					ask = with(ask, "NextToken", token)
				}
				status, text := s.ask(ask)
				if status != http.StatusOK {
					t.Skipf("it can't be paged: %s", said(status, text))
				}
				var page []string
				page, token = listed(t, text)
				if len(page) > size {
					t.Errorf("a page of %d has %d entries", size, len(page))
				}
				pages = append(pages, page...)
				if token == "" {
					break
				}
				if code := codeIn(s.ask(with(form, "MaxResults", fmt.Sprint(size), "NextToken", token+"x"))); code != "InvalidNextToken" && code != "InvalidParameterValue" {
					t.Errorf("a token that was never given: %s", code)
				}
			}
			if count > 0 {
				several++
			}
			if !slices.Equal(pages, whole) {
				t.Errorf("the pages hold %d entries, and they are not the list's %d:\n%v\n%v", len(pages), len(whole), pages, whole)
			}
		})
	}
	if several < 5 {
		t.Errorf("only %d lists had several pages", several)
	}
}

var anID = regexp.MustCompile(`>([a-z]+(?:-[a-z]+)*-[0-9a-f]{17})<`)

func TestPagesHoldOnceWhatWasThereWhenMoreComesMeanwhile(t *testing.T) {
	s := newStage(t)
	for range 6 {
		s.more()
	}
	several := 0
	for _, action := range s.built() {
		if !honours(action, "MaxResults") || !honours(action, "NextToken") {
			continue
		}
		form := with(s.form(action), "MaxResults", fmt.Sprint(pageSize(action)))
		whole, ok := s.list(s.form(action))
		if !ok || len(whole) <= pageSize(action) {
			continue
		}
		seen := map[string]int{}
		for token := ""; ; {
			ask := form
			if token != "" {
				ask = with(form, "NextToken", token)
			}
			status, text := s.ask(ask)
			if status != http.StatusOK {
				t.Errorf("%s: %s", action, said(status, text))
				break
			}
			var page []string
			page, token = listed(t, text)
			for _, item := range page {
				if m := anID.FindStringSubmatch(item); m != nil {
					seen[m[1]]++
				}
			}
			if token == "" {
				break
			}
			s.more()
		}
		for _, item := range whole {
			if m := anID.FindStringSubmatch(item); m != nil && len(whole) == len(slices.Compact(idsIn(whole))) && seen[m[1]] != 1 {
				t.Errorf("%s: %s is on %d pages", action, m[1], seen[m[1]])
			}
		}
		several++
	}
	if several < 5 {
		t.Errorf("only %d lists had several pages", several)
	}
}

// idsIn is the first id of each item, sorted.
func idsIn(items []string) (ids []string) {
	for _, item := range items {
		if m := anID.FindStringSubmatch(item); m != nil {
			ids = append(ids, m[1])
		}
	}
	slices.Sort(ids)
	return ids
}

// pageSize is the smallest page that an action gives.
func pageSize(action string) int {
	f, _ := gen.Service.Shapes[action].Request.FieldByName("MaxResults")
	size := 5
	fmt.Sscan(f.Tag.Get("min"), &size)
	return max(size, 1)
}

func TestAFilterThatDoesNotExistIsRefused(t *testing.T) {
	s := newStage(t)
	tried := 0
	for _, action := range s.built() {
		if f, ok := gen.Service.Shapes[action].Request.FieldByName("Filters"); !ok || !honours(action, "Filters") || f.Tag.Get("form") != "Filter" {
			continue
		}
		if _, ok := s.list(s.form(action)); !ok {
			continue
		}
		tried++
		status, text := s.ask(with(s.form(action), "Filter.1.Name", "no-such-filter", "Filter.1.Value.1", "x"))
		if got := said(status, text); got != "InvalidParameterValue (The filter &apos;no-such-filter&apos; is invalid)" {
			t.Errorf("%s: %s", action, got)
		}
	}
	if tried < 15 {
		t.Errorf("only %d actions with filters were tried", tried)
	}
}

// What a filter finds by a value, it finds by a wildcard that the value matches, and not by one that it doesn't.
func TestFiltersTakeWildcards(t *testing.T) {
	s := newStage(t)
	tried := 0
	documented := documentedFilters(t)
	for _, action := range s.built() {
		form := s.form(action)
		if len(documented[action]) == 0 || !honours(action, "Filters") {
			continue
		}
		whole, _ := s.list(form)
		for _, name := range documented[action] {
			element := camel(name)
			own := regexp.MustCompile(`^(?:\s*<(\w+)>[^<]*</\w+>)*?\s*<` + element + `>([^<&*?\\]{4,})</`)
			for _, item := range whole {
				m := own.FindStringSubmatch(item)
				if m == nil {
					continue
				}
				tried++
				value := m[2]
				by := func(pattern string) []string {
					list, ok := s.list(with(form, "Filter.1.Name", name, "Filter.1.Value.1", pattern))
					if !ok {
						t.Errorf("%s: %s=%s is refused", action, name, pattern)
					}
					return list
				}
				exact := by(value)
				if !slices.Contains(exact, item) {
					t.Errorf("%s: %s=%s doesn't find what has it", action, name, value)
				}
				for _, pattern := range []string{value[:len(value)-3] + "*", value[:1] + "?" + value[2:], "*" + value[2:], value[:2] + "*" + value[len(value)-1:]} {
					found := by(pattern)
					if slices.ContainsFunc(exact, func(e string) bool { return !slices.Contains(found, e) }) {
						t.Errorf("%s: %s=%s finds less than %s", action, name, pattern, value)
					}
				}
				if found := by(value + "?*"); slices.Contains(found, item) {
					t.Errorf("%s: %s=%s?* finds what has only %s", action, name, value, value)
				}
				break
			}
		}
	}
	if tried < 40 {
		t.Errorf("only %d filters were tried", tried)
	}
}

// camel is the name of the element that a filter is usually about: vpc-id is about vpcId.
func camel(filter string) string {
	words := strings.Split(filter, "-")
	for i := range words[1:] {
		if w := words[i+1]; w != "" {
			words[i+1] = strings.ToUpper(w[:1]) + w[1:]
		}
	}
	return regexp.QuoteMeta(strings.Join(words, ""))
}

var idForm = regexp.MustCompile(`^([a-z]+(?:-[a-z]+)*-)[0-9a-f]{17}$`)

// Every parameter that is an id tells an id of another form from one that doesn't exist, and another account's from neither.
func TestIDsOfTheWrongFormAndOfNothingAreToldApart(t *testing.T) {
	tried := 0
	for _, action := range newStage(t).built() {
		s := newStage(t)
		form := s.form(action)
		if status, _ := s.ask(with(form, "DryRun", "true")); status != http.StatusPreconditionFailed && s.hasDryRun(action) {
			continue
		}
		request := gen.Service.Shapes[action].Request
		for i := range request.NumField() {
			f := request.Field(i)
			if !honours(action, f.Name) {
				continue
			}
			filled := s.fill(f, f.Tag.Get("form"))
			path, kind := "", ""
			for name, values := range filled {
				if m := idForm.FindStringSubmatch(values[0]); m != nil && len(filled) == 1 {
					path, kind = name, m[1]
				}
			}
			if path == "" || strings.Count(path, ".") > 1 || f.Name == "ResourceIds" || f.Name == "Resources" {
				continue
			}
			around := without(form, f.Tag.Get("form"))
			if code := codeIn(s.ask(with(around, path, filled.Get(path), "DryRun", "true"))); code != "DryRunOperation" {
				continue // the parameter doesn't go with the others
			}
			tried++
			status, text := s.ask(with(around, path, "nothing-like-it"))
			if code := codeIn(status, text); !strings.HasSuffix(code, "Malformed") && known[action+"."+f.Name] == "" {
				t.Errorf("%s, %s malformed: %s", action, path, said(status, text))
			}
			status, absent := s.ask(with(around, path, kind+"00000000000000000"))
			if code := codeIn(status, absent); !strings.HasSuffix(code, "NotFound") && known[action+"."+f.Name] == "" {
				t.Errorf("%s, %s of nothing: %s", action, path, said(status, absent))
			}
			if f.Name == "ImageId" || f.Name == "ImageIds" {
				continue // the stage's is public
			}
			alien := with(form, path, filled.Get(path))
			code := codeIn(s.as("AKIASTRANGERSTRANGER", alien))
			if code == "success" && known[action+"."+f.Name] == "" {
				t.Errorf("%s, %s of another account: success", action, path)
			}
		}
	}
	if tried < 40 {
		t.Errorf("only %d parameters were tried", tried)
	}
}

// known are parameters for which EC2 has no two codes, or none at all, with the reason.
var known = map[string]string{
	"CancelImportTask.ImportTaskId":          "a task that doesn't exist has the code InvalidConversionTaskId",
	"DescribeImportImageTasks.ImportTaskIds": "a task that doesn't exist has the code InvalidConversionTaskId",
	"DeleteFlowLogs.FlowLogIds":              "what could not be deleted is a list in the answer",
	"DescribeFlowLogs.FlowLogIds":            "EC2 has only InvalidFlowLogId.NotFound",
	"DeleteKeyPair.KeyPairId":                "deleting a key pair that isn't there succeeds",
	"DescribeKeyPairs.KeyPairIds":            "EC2 has only InvalidKeyPair.NotFound",
}
