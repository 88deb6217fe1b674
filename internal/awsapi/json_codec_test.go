package awsapi

import (
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

// jsonSample has every kind of member that shapes of JSON services have.
type jsonSample struct {
	Name   *string               `json:"Name" min:"1" max:"4"`
	Kind   *string               `json:"kind" enum:"Kind"`
	Count  *int64                `json:"Count" min:"1" max:"9"`
	On     *bool                 `json:"On"`
	Share  *float64              `json:"Share" min:"0" max:"1"`
	At     *time.Time            `json:"At"`
	Day    *time.Time            `json:"Day" time:"iso8601"`
	Data   []byte                `json:"Data" max:"3"`
	Words  []string              `json:"Words" max:"2"`
	Table  [][]string            `json:"Table"`
	Labels map[string]string     `json:"Labels" keys:"Kind"`
	Groups map[string][]string   `json:"Groups"`
	Inner  *jsonSample           `json:"Inner"`
	List   []jsonSample          `json:"List"`
	ByName map[string]jsonSample `json:"ByName"`
	Must   *jsonMust             `json:"Must"`
}

type jsonMust struct {
	ID *string `json:"Id" required:"true"`
}

var jsonSampleService = &Service{Name: "x", Protocol: "json", JSONVersion: "1.1", TargetPrefix: "X", Enums: map[string][]string{"Kind": {"a", "b"}}}

func fullJSONSample() *jsonSample {
	return &jsonSample{Name: new("é\"\n"), Kind: new("a"), Count: new(int64(3)), On: new(false), Share: new(0.5),
		At: new(time.Date(2026, 1, 2, 3, 4, 5, 6_000_000, time.UTC)), Day: new(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)),
		Data: []byte{0, 255}, Words: []string{}, Table: [][]string{{"x", ""}, {}}, Labels: map[string]string{"a": "1", "b": ""},
		Groups: map[string][]string{"g": {"h"}}, Inner: &jsonSample{Count: new(int64(9))}, List: []jsonSample{{Name: new("one")}, {}},
		ByName: map[string]jsonSample{"n": {On: new(true)}}, Must: &jsonMust{ID: new("i")}}
}

func TestDocumentsComeBackAsTheyWent(t *testing.T) {
	text := appendJSONStruct(nil, reflect.ValueOf(fullJSONSample()).Elem())
	if !json.Valid(text) || !strings.Contains(string(text), `"At":1767323045.006`) || !strings.Contains(string(text), `"Day":"2026-01-02T03:04:05.000Z"`) {
		t.Errorf("it is written %s", text)
	}
	for name, decode := range map[string]func(*Service, []byte, any) error{"a request": decodeJSON, "an answer": decodeJSONAnswer} {
		got := &jsonSample{}
		if err := decode(jsonSampleService, text, got); err != nil {
			t.Fatal(err)
		}
		if want := fullJSONSample(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}

func TestDocumentsMeanWhatAWSsClientsMean(t *testing.T) {
	for text, want := range map[string]jsonSample{
		"":                            {},
		" \n":                         {},
		`{}`:                          {},
		`{"__type":"x#Y","New":null}`: {},
		`{"Name":null,"Inner":null,"Words":null}`: {},
		`{"At":1.7672256E9}`:                      {At: new(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))},
		`{"At":-1}`:                               {At: new(time.Date(1969, 12, 31, 23, 59, 59, 0, time.UTC))},
		`{"Name":"\ud83d\ude00"}`:                 {Name: new("😀")},
		`{"Words":[]}`:                            {Words: []string{}},
	} {
		got := jsonSample{}
		if err := decodeJSON(jsonSampleService, []byte(text), &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestDocumentsThatAreWrongAreRefusedByTheMembersName(t *testing.T) {
	deep := strings.Repeat(`{"Inner":`, 40) + "{}" + strings.Repeat("}", 40)
	for text, want := range map[string][2]string{
		`{`:                          {"SerializationException", "well-formed"},
		`{"Name" "x"}`:               {"SerializationException", "well-formed"},
		`{"Words":["a" "b"]}`:        {"SerializationException", "well-formed"},
		`{} {}`:                      {"SerializationException", "follows"},
		`[]`:                         {"SerializationException", "structure"},
		`null`:                       {"SerializationException", "structure"},
		"{\"Name\":\"\xff\"}":        {"SerializationException", "UTF-8"},
		deep:                         {"SerializationException", "nested"},
		`{"Name":1}`:                 {"SerializationException", "Name must be a string, not a number"},
		`{"Count":"1"}`:              {"SerializationException", "Count must be a whole number, not a string"},
		`{"Count":1.5}`:              {"SerializationException", "Count"},
		`{"Count":1e30}`:             {"SerializationException", "Count"},
		`{"On":"true"}`:              {"SerializationException", "On must be true or false"},
		`{"Share":"NaN"}`:            {"SerializationException", "Share"},
		`{"At":"2026-01-01"}`:        {"SerializationException", "At must be a time"},
		`{"At":1e300}`:               {"SerializationException", "At"},
		`{"Day":"soon"}`:             {"SerializationException", "Day"},
		`{"Data":"%"}`:               {"SerializationException", "Data is not base64"},
		`{"Words":{}}`:               {"SerializationException", "Words must be a list, not a structure"},
		`{"Labels":[]}`:              {"SerializationException", "Labels must be a map, not a list"},
		`{"Inner":{"Name":[]}}`:      {"SerializationException", "Inner.Name must be a string, not a list"},
		`{"List":[{"On":3}]}`:        {"SerializationException", "List[0].On"},
		`{"On":true,"On":true}`:      {"SerializationException", "On is given more than once"},
		`{"Groups":{"a":[],"a":[]}}`: {"SerializationException", "Groups.a is given more than once"},
		`{"name":"x"}`:               {"UnsupportedOperationException", "name is not known"},
		`{"Inner":{"New":[1]}}`:      {"UnsupportedOperationException", "Inner.New is not known"},
		`{"kind":"c"}`:               {"ValidationException", "enum value set: [a, b]"},
		`{"Labels":{"c":""}}`:        {"ValidationException", "Labels"},
		`{"Name":""}`:                {"ValidationException", "length greater than or equal to 1"},
		`{"Name":"éééés"}`:           {"ValidationException", "length less than or equal to 4"},
		`{"Words":["","",""]}`:       {"ValidationException", "less than or equal to 2"},
		`{"Words":[null]}`:           {"ValidationException", "Words[0]"},
		`{"Data":"AAAAAAAA"}`:        {"ValidationException", "Data"},
		`{"Count":0}`:                {"ValidationException", "value greater than or equal to 1"},
		`{"Share":1.5}`:              {"ValidationException", "value less than or equal to 1"},
		`{"Must":{}}`:                {"ValidationException", "'Must.Id' failed to satisfy constraint: Member must not be null"},
		`{"Must":{"Id":null}}`:       {"ValidationException", "Must.Id"},
	} {
		err := decodeJSON(jsonSampleService, []byte(text), &jsonSample{})
		var e *Error
		if !errors.As(err, &e) || e.Code != want[0] || !strings.Contains(e.Message, want[1]) {
			t.Errorf("%.60s: %v, want %s with %q", text, err, want[0], want[1])
		}
	}
	many := `{"Table":[[` + strings.Repeat(`"",`, maxJSONValues) + `""]]}`
	if err := decodeJSON(jsonSampleService, []byte(many), &jsonSample{}); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a document of too many values: %v", err)
	}
}

func TestAnswersMayHoldWhatThisClientDoesNotKnow(t *testing.T) {
	got := &jsonSample{}
	err := decodeJSONAnswer(jsonSampleService, []byte(`{"New":{"a":[1,{"b":2}]},"kind":"z","Name":"longer","Share":"Infinity","Must":{}}`), got)
	if err != nil || *got.Kind != "z" || *got.Name != "longer" || !math.IsInf(*got.Share, 1) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestErrorsOfEveryFormAreRead(t *testing.T) {
	for text, want := range map[string]Error{
		`{"__type":"com.amazon#XException","message":"m"}`: {Code: "XException", Message: "m"},
		`{"__type":"XException:http://x/","Message":"m"}`:  {Code: "XException", Message: "m"},
		`{"code":"X"}`: {Code: "X"},
		`<html>`:       {Code: "Unknown", Message: "HTTP status 502 without an AWS error"},
		`{}`:           {Code: "Unknown", Message: "HTTP status 502 without an AWS error"},
	} {
		if got := decodeJSONError(strings.NewReader(text), 502); got.Code != want.Code || got.Message != want.Message || got.Status != 502 {
			t.Errorf("%s: %+v", text, got)
		}
	}
}

func FuzzDocuments(f *testing.F) {
	f.Add(string(appendJSONStruct(nil, reflect.ValueOf(fullJSONSample()).Elem())))
	f.Add(`{"Inner":{"List":[{"Must":{"Id":"x"}}]},"At":1e9}`)
	f.Add(`{"__type":[{}],"Name":"\u0000\ud800"}`)
	f.Fuzz(func(t *testing.T, text string) {
		got := &jsonSample{}
		if err := decodeJSON(jsonSampleService, []byte(text), got); err != nil {
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("%q is refused with %v, which is no answer of AWS's", text, err)
			}
			return
		}
		again := &jsonSample{}
		written := appendJSONStruct(nil, reflect.ValueOf(got).Elem())
		if err := decodeJSON(jsonSampleService, written, again); err != nil || !reflect.DeepEqual(got, again) {
			t.Errorf("%q comes back as %s: %v", text, written, err)
		}
	})
}

func FuzzStringsInDocuments(f *testing.F) {
	f.Add("a\"\\\n\x00\x7f\xff\u2028😀")
	f.Fuzz(func(t *testing.T, s string) {
		var got string
		if err := json.Unmarshal(appendJSONString(nil, s), &got); err != nil || got != string([]rune(s)) { // each byte that isn't UTF-8 is U+FFFD
			t.Errorf("%q comes back as %q: %v", s, got, err)
		}
	})
}
