package awsapi

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
)

// thing is a shape with a member at each place that a REST service has.
type thing struct {
	ID    *string  `json:"thingId" in:"uri" required:"true" max:"8"`
	Place *int64   `json:"place" in:"querystring" min:"0" max:"9"`
	Sum   *string  `json:"x-amz-Sum" in:"header"`
	Words []string `json:"Words"`
	Sure  *bool    `json:"Sure"`
}

type bytesOf struct {
	ID   *string `json:"thingId" in:"uri" required:"true"`
	Size *int64  `json:"x-amz-Size" in:"header"`
	Data []byte  `json:"Data" in:"payload" required:"true"`
}

var restSample = &Service{Name: "things", Protocol: restJSON, Routes: map[string]Route{
	"DoThing": {Method: "POST", Path: "/things/{thingId}", Status: 201},
	"PutData": {Method: "PUT", Path: "/things/{thingId}/data", UnsignedBody: true},
	"AllDone": {Method: "POST", Path: "/done/{thingId}"},
}, Exceptions: map[string]Exception{"ValidationException": {Status: 400, Message: "Message"}}}

func TestARESTCallIsToldByItsPathAndCarriesItsParametersWhereTheModelHasThem(t *testing.T) {
	for _, in := range []any{
		&thing{ID: new("a/b c"), Place: new(int64(3)), Sum: new("x+y="), Words: []string{"one"}, Sure: new(true)},
		&thing{ID: new("%2f")},
		&bytesOf{ID: new("t"), Size: new(int64(3)), Data: []byte{0, '{', 255}},
	} {
		action := map[bool]string{true: "DoThing", false: "PutData"}[reflect.TypeOf(in) == reflect.TypeFor[*thing]()]
		out := restProtocol{}.call(restSample, action, in)
		r := httptest.NewRequest(out.method, out.path, nil)
		r.Header = out.header
		got, p, err := restProtocol{}.route(restSample, r, r.URL.Query(), out.body)
		if err != nil || got != action {
			t.Fatalf("%s is taken for %s: %v", action, got, err)
		}
		back := reflect.New(reflect.TypeOf(in).Elem()).Interface()
		if err := p.decode(restSample, back); err != nil || !reflect.DeepEqual(back, in) {
			t.Errorf("%v: %+v became %+v", err, in, back)
		}
	}
}

func TestARESTAnswerHasItsMembersInHeadersAndBytesInItsBody(t *testing.T) {
	in := &bytesOf{Size: new(int64(3)), Data: []byte{1, 2, 3}}
	header := http.Header{}
	h := &handler{service: restSample, action: "DoThing"}
	if status := (restProtocol{}).head(h, in, header); status != 201 {
		t.Errorf("the status is %d", status)
	}
	resp := &http.Response{Header: header, Body: http.NoBody}
	body := restProtocol{}.appendResult(nil, h, "id", in)
	resp.Body = readCloser{strings.NewReader(string(body))}
	got := &bytesOf{}
	if err := (restProtocol{}).decodeResult(restSample, "PutData", resp, got); err != nil || !reflect.DeepEqual(got, in) || header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("%v: %+v became %+v with %v", err, in, got, header)
	}
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

func TestRESTCallsThatTheModelDoesNotHaveAreRefused(t *testing.T) {
	for _, c := range []struct{ method, target, body, code string }{
		{"POST", "/things", "", "UnknownOperationException"},
		{"POST", "/things/", "", "UnknownOperationException"},
		{"GET", "/things/a", "", "UnknownOperationException"},
		{"POST", "/things/a/b", "", "UnknownOperationException"},
		{"POST", "/things/%zz", "", "UnknownOperationException"},
		{"POST", "/things/a?place=10", "", "ValidationException"},
		{"POST", "/things/a?place=x", "", "SerializationException"},
		{"POST", "/things/a?place=1&place=2", "", "SerializationException"},
		{"POST", "/things/a?other=1", "", "UnsupportedOperationException"},
		{"POST", "/things/ninechars", "", "ValidationException"},
		{"POST", "/things/a", `{"thingId":"b"}`, "UnsupportedOperationException"},
		{"POST", "/things/a", `{"Words":1}`, "SerializationException"},
		{"PUT", "/things/a/data", "", "ValidationException"},
	} {
		path, query, _ := strings.Cut(c.target, "?")
		r := &http.Request{Method: c.method, URL: &url.URL{Path: path, RawPath: path, RawQuery: query}, Header: http.Header{}}
		if path == "/things/%zz" {
			r.URL = &url.URL{Opaque: path}
		}
		action, p, err := restProtocol{}.route(restSample, r, r.URL.Query(), []byte(c.body))
		if err == nil && action == "PutData" {
			err = p.decode(restSample, &bytesOf{})
		} else if err == nil {
			err = p.decode(restSample, &thing{})
		}
		if CodeOf(err) != c.code {
			t.Errorf("%s %s %s: %v, not %s", c.method, c.target, c.body, err, c.code)
		}
	}
}

func TestARESTErrorSaysItsReason(t *testing.T) {
	e := Errorf("ValidationException", "no")
	e.Reason = "INVALID_BLOCK"
	if got := string(restProtocol{}.encodeError(restSample, "id", e)); got != `{"__type":"ValidationException","Message":"no","Reason":"INVALID_BLOCK"}` {
		t.Error(got)
	}
}

func FuzzREST(f *testing.F) {
	f.Add("POST", "/things/a", "place=1", "sum", []byte(`{"Words":["x"]}`))
	f.Add("PUT", "/things/a/data", "", "", []byte{1})
	f.Fuzz(func(t *testing.T, method, path, query, header string, body []byte) {
		r := &http.Request{Method: method, URL: &url.URL{Path: path, RawQuery: query}, Header: http.Header{"X-Amz-Sum": {header}}}
		if _, p, err := (restProtocol{}).route(restSample, r, r.URL.Query(), body); err == nil {
			p.decode(restSample, &thing{})
			p.decode(restSample, &bytesOf{})
		}
	})
}
