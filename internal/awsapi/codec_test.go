package awsapi

import (
	"bytes"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

// sample has every kind of member that the generated shapes have.
type sample struct {
	Name  *string    `form:"Name" xml:"name"`
	Kind  *string    `form:"Kind" xml:"kind" enum:"Kind"`
	Count *int64     `form:"Count" xml:"count" min:"1" max:"9"`
	On    *bool      `form:"On" xml:"on"`
	Share *float64   `form:"Share" xml:"share"`
	At    *time.Time `form:"At" xml:"at"`
	Data  []byte     `form:"Data" xml:"data"`
	Words []string   `form:"Word" xml:"wordSet" item:"item"`
	Inner *sample    `form:"Inner" xml:"inner"`
	List  []sample   `form:"List" xml:"listSet" item:"item"`
}

var sampleService = &Service{Name: "x", Version: "1", Protocol: "ec2", Namespace: "http://x/", Enums: map[string][]string{"Kind": {"a", "b"}}}

func fullSample() *sample {
	return &sample{Name: new("é<&>\"'\n"), Kind: new("a"), Count: new(int64(3)), On: new(false), Share: new(0.5),
		At: new(time.Date(2026, 1, 2, 3, 4, 5, 6_000_000, time.UTC)), Data: []byte{0, 255}, Words: []string{"x", ""},
		Inner: &sample{Count: new(int64(9))}, List: []sample{{Name: new("one")}, {Words: []string{"two"}}}}
}

func TestFormsComeBackAsTheyWent(t *testing.T) {
	for _, protocol := range []string{"ec2", "query"} {
		s := *sampleService
		s.Protocol = protocol
		got := &sample{}
		if err := decodeForm(&s, encodeForm(&s, "Do", fullSample()), got); err != nil {
			t.Fatal(err)
		}
		if want := fullSample(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", protocol, got, want)
		}
	}
}

func TestAValueAloneIsAListOfOne(t *testing.T) {
	got := &sample{}
	if err := decodeForm(sampleService, url.Values{"Word": {"x"}}, got); err != nil || !reflect.DeepEqual(got.Words, []string{"x"}) {
		t.Errorf("%+v, %v", got, err)
	}
	if err := decodeForm(sampleService, url.Values{"List": {"x"}}, &sample{}); err == nil {
		t.Error("a value alone is a list of structures")
	}
	if err := decodeForm(sampleService, url.Values{"Word": {"x"}, "Word.1": {"y"}}, &sample{}); err == nil {
		t.Error("a list is given twice")
	}
}

func TestXMLComesBackAsItWent(t *testing.T) {
	for _, protocol := range []string{"ec2", "query"} {
		s := *sampleService
		s.Protocol = protocol
		got := &sample{}
		if err := decodeResult(&s, "Do", bytes.NewReader(appendResult(nil, &s, "Do", false, "id", fullSample())), got); err != nil {
			t.Fatal(err)
		}
		if want := fullSample(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", protocol, got, want)
		}
	}
}

func TestEmptyAndAbsentListsDiffer(t *testing.T) {
	text := string(appendResult(nil, sampleService, "Do", false, "id", &sample{Words: []string{}}))
	if !strings.Contains(text, "<wordSet/>") || strings.Contains(text, "listSet") {
		t.Error(text)
	}
}

func FuzzForms(f *testing.F) {
	f.Add(encodeForm(sampleService, "Do", fullSample()).Encode())
	f.Add("List.1.List.2.Word.1=x&Inner.Inner.Count=10")
	f.Fuzz(func(t *testing.T, body string) {
		form, err := url.ParseQuery(body)
		if err != nil {
			return
		}
		got := &sample{}
		if err := decodeForm(sampleService, form, got); err != nil {
			return
		}
		again := &sample{}
		if err := decodeForm(sampleService, encodeForm(sampleService, "Do", got), again); err != nil {
			t.Errorf("what was decoded from %q does not encode to something decodable: %v", body, err)
		}
	})
}

func FuzzXML(f *testing.F) {
	f.Add(appendResult(nil, sampleService, "Do", false, "id", fullSample()))
	f.Add([]byte("<a><b></a>"))
	f.Fuzz(func(t *testing.T, doc []byte) {
		decodeResult(sampleService, "Do", bytes.NewReader(doc), &sample{})
		decodeError(bytes.NewReader(doc), 500)
	})
}

func FuzzXMLTextIsWellFormed(f *testing.F) {
	f.Add("a\x00b\xff<&\u2028")
	f.Fuzz(func(t *testing.T, text string) {
		got := &sample{}
		doc := appendResult(nil, sampleService, "Do", false, "id", &sample{Name: &text})
		if err := decodeResult(sampleService, "Do", bytes.NewReader(doc), got); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	})
}

func FuzzSignatures(f *testing.F) {
	f.Add("AWS4-HMAC-SHA256 Credential=K/20260101/us-east-1/ec2/aws4_request, SignedHeaders=host;x-amz-date, Signature=00", "20260101T000000Z", "")
	f.Add("", "", "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=K/20260101/r/s/aws4_request&X-Amz-Date=20260101T000000Z&X-Amz-SignedHeaders=host&X-Amz-Signature=0&X-Amz-Expires=9")
	f.Fuzz(func(t *testing.T, auth, date, query string) {
		r := httptest.NewRequest("POST", "/", nil)
		r.URL.RawQuery = query
		r.Header.Set("Authorization", auth)
		r.Header.Set("X-Amz-Date", date)
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		s, err := parseSignature(r, q)
		if err != nil {
			return
		}
		if err := verify(r, q, s, "secret", s.region, emptyHash, s.at); err == nil {
			t.Errorf("%q, %q, %q is taken for signed", auth, date, query)
		}
	})
}

func TestTheGeneratedCodeIsWhatTheModelsGive(t *testing.T) {
	directives, err := os.ReadFile("gen/gen.go")
	if err != nil {
		t.Fatal(err)
	}
	made := regexp.MustCompile(`(?m)^//go:generate go run ../modelgen -service (\S+) -version (\S+) -out (\S+)$`).FindAllStringSubmatch(string(directives), -1)
	if len(made) < 3 {
		t.Fatalf("gen.go makes only %v", made)
	}
	for _, m := range made {
		service, version, have, out := m[1], m[2], filepath.Join("gen", m[3]), t.TempDir()
		list, err := os.ReadFile(filepath.Join(have, "actions.txt"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(out, "actions.txt"), list, 0o600); err != nil {
			t.Fatal(err)
		}
		if text, err := exec.Command("go", "run", "./modelgen", "-service", service, "-version", version, "-out", out).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		for _, file := range []string{"shapes_gen.go", "actions_gen.go"} {
			a, err := os.ReadFile(filepath.Join(have, file))
			if err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(filepath.Join(out, file))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(a, b) {
				t.Errorf("%s/%s is not what `go generate ./...` makes", service, file)
			}
		}
	}
}
