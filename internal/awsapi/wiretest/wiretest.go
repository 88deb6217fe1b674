// Package wiretest checks what a server of AWS's API answers against AWS's own model, so that every test that makes a call
// is a test of the answer's form too.
//
// A success must be an element for each member and no other, of the shape's type, with lists' items under the model's name,
// enumerations within their values and times in AWS's form. An error must have a code that AWS knows. A request id must be in
// both. What the values mean is not checked: that is the tests' own matter.
package wiretest

import (
	"bytes"
	_ "embed"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/nacre-cloud/nacre/internal/awsapi"
)

//go:embed codes.txt
var codeList string

var codes = func() map[string]bool {
	known := map[string]bool{}
	for line := range strings.Lines(codeList) {
		line, _, _ = strings.Cut(line, "#")
		for _, code := range strings.Fields(line) {
			known[code] = true
		}
	}
	return known
}()

// KnownCode tells whether AWS answers errors with this code.
func KnownCode(code string) bool { return codes[code] }

// Call is one request and its answer.
type Call struct {
	Service *awsapi.Service // nil when the request named none
	Action  string
	Status  int
	Header  http.Header
	Body    []byte
}

var requestID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// Check lists what is wrong with an answer; nothing when all is right.
func Check(c Call) []string {
	var problems []string
	fault := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if c.Service != nil && c.Service.Protocol == restProtocol {
		return checkREST(c)
	}
	if c.Service != nil && c.Service.Protocol == "json" || c.Service == nil && strings.HasPrefix(c.Header.Get("Content-Type"), jsonType) {
		return checkJSON(c)
	}
	if got := c.Header.Get("Content-Type"); got != "text/xml;charset=UTF-8" {
		fault("the content type is %q", got)
	}
	doc, err := parse(c.Body)
	if err != nil {
		return append(problems, fmt.Sprintf("the answer is no XML: %v", err))
	}
	var id string
	if c.Status == http.StatusOK {
		id = checkResult(c, doc, fault)
	} else {
		id = checkError(c, doc, fault)
	}
	if !requestID.MatchString(id) {
		fault("the request id is %q", id)
	}
	if header := c.Header.Get("X-Amzn-Requestid"); header != id {
		fault("the request id is %q in the header and %q in the body", header, id)
	}
	return problems
}

func checkResult(c Call, doc *element, fault func(string, ...any)) (id string) {
	shapes, ok := reflectShapes(c)
	if !ok {
		fault("an action without generated shapes answered success; is internal/awsapi/gen up to date?")
		return ""
	}
	if doc.name != c.Action+"Response" || doc.space != c.Service.Namespace {
		fault("the document is %s in %q", doc.name, doc.space)
	}
	result := doc
	if c.Service.Protocol == "ec2" {
		id, _ = doc.only("requestId")
		if shapes.NoResult {
			if text, ok := doc.only("return"); !ok || text != "true" {
				fault("there is no <return>true</return>")
			}
		}
	} else {
		if metadata := doc.take("ResponseMetadata"); len(metadata) == 1 {
			id, _ = metadata[0].only("RequestId")
		}
		inner := doc.take(c.Action + "Result")
		if len(inner) != 1 || len(doc.children) > 0 {
			fault("there is not just one %sResult", c.Action)
			return id
		}
		result = inner[0]
	}
	j := judge{service: c.Service}
	j.structure(result, shapes.Result, c.Action)
	for _, p := range j.problems {
		fault("%s", p)
	}
	return id
}

func reflectShapes(c Call) (awsapi.Shapes, bool) {
	if c.Service == nil {
		return awsapi.Shapes{}, false
	}
	s, ok := c.Service.Shapes[c.Action]
	return s, ok && s.Result.Kind() == reflect.Struct
}

func checkError(c Call, doc *element, fault func(string, ...any)) (id string) {
	var inner []*element
	if c.Service != nil && c.Service.Protocol == "query" {
		id, _ = doc.only("RequestId")
		inner = doc.take("Error")
		if doc.name != "ErrorResponse" {
			fault("the error's document is %s", doc.name)
		}
	} else {
		id, _ = doc.only("RequestID")
		if list := doc.take("Errors"); len(list) == 1 {
			inner = list[0].take("Error")
		}
		if doc.name != "Response" {
			fault("the error's document is %s", doc.name)
		}
	}
	if len(inner) != 1 || len(doc.children) > 0 {
		fault("the error's document doesn't hold just one error")
		return id
	}
	code, _ := inner[0].only("Code")
	message, _ := inner[0].only("Message")
	if strings.TrimSpace(message) == "" {
		fault("the error %s says nothing", code)
	}
	if !KnownCode(code) {
		fault("the error code %q is none of AWS's; one that AWS documents belongs into internal/awsapi/wiretest/codes.txt", code)
	}
	if c.Status < 400 {
		fault("an error is answered with status %d", c.Status)
	}
	return id
}

// Handler passes calls on, and fails the test when an answer isn't as the model has it.
func Handler(t testing.TB, next http.Handler, services ...*awsapi.Service) http.Handler {
	tell := telling(t)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body []byte
		if r.ContentLength <= awsapi.MaxBody { // the server refuses others before it reads them
			var err error
			body, err = io.ReadAll(io.LimitReader(r.Body, awsapi.MaxBody))
			rest := io.Reader(r.Body)
			if err != nil {
				rest = failing{err}
			}
			r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body), rest))
		}
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, r)
		report(tell, r, body, answer.Code, answer.Header(), answer.Body.Bytes(), services)
		for name, values := range answer.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(answer.Code)
		w.Write(answer.Body.Bytes())
	})
}

// failing ends a body as the client's did.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	return 0, io.EOF
}

// Transport makes calls through base, and fails the test when an answer isn't as the model has it.
func Transport(t testing.TB, base http.RoundTripper, services ...*awsapi.Service) http.RoundTripper {
	return transport{telling(t), base, services}
}

type transport struct {
	tell     func(string)
	base     http.RoundTripper
	services []*awsapi.Service
}

// RoundTrip implements http.RoundTripper.
func (c transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path != "/" && r.URL.Path != "" && restService(r, c.services) == nil {
		return c.base.RoundTrip(r)
	}
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		r.Body.Close()
		r = r.Clone(r.Context())
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	res, err := c.base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(res.Body)
	res.Body.Close()
	res.Body = io.NopCloser(io.MultiReader(bytes.NewReader(text), failing{err}))
	if err == nil {
		report(c.tell, r, body, res.StatusCode, res.Header, text, c.services)
	}
	return res, nil
}

// telling fails the test once for each fault: the same answer may come a thousand times.
func telling(t testing.TB) func(string) {
	var told sync.Map
	return func(fault string) {
		if _, again := told.LoadOrStore(fault, true); !again {
			t.Error(fault)
		}
	}
}

func report(tell func(string), r *http.Request, request []byte, status int, header http.Header, body []byte, services []*awsapi.Service) {
	call := Call{Status: status, Header: header, Body: body}
	form, _ := url.ParseQuery(string(request) + "&" + r.URL.RawQuery)
	call.Action = form.Get("Action")
	if target := r.Header.Get("X-Amz-Target"); target != "" {
		call.Action = target[strings.LastIndexByte(target, '.')+1:]
	}
	for _, s := range services {
		if scope := "/" + s.Name + "/aws4_request"; scoped(r, s) || strings.Contains(form.Get("X-Amz-Credential"), scope) {
			call.Service = s
		}
	}
	if s := restService(r, services); s != nil {
		call.Action, _, _ = s.ActionAt(r.Method, r.URL.EscapedPath())
	}
	for _, problem := range Check(call) {
		tell(fmt.Sprintf("the answer to %s: %s", call.Action, problem))
	}
}
