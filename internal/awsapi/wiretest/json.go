package wiretest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
)

const jsonType = "application/x-amz-json-"

// jsonCodes are the errors that any of AWS's JSON services may answer, beside those that its model lists.
var jsonCodes = strings.Fields(`AccessDeniedException IncompleteSignatureException InternalFailure InvalidNextTokenException InvalidSignatureException
	MissingAuthenticationTokenException RequestEntityTooLargeException SerializationException ServiceUnavailable ThrottlingException
	UnknownOperationException UnrecognizedClientException UnsupportedOperationException ValidationException`)

// checkJSON is Check for the services that speak AWS JSON.
func checkJSON(c Call) []string {
	var problems []string
	fault := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	want := jsonType + "1.1"
	if c.Service != nil {
		want = jsonType + c.Service.JSONVersion
	}
	if got := c.Header.Get("Content-Type"); got != want {
		fault("the content type is %q", got)
	}
	if id := c.Header.Get("X-Amzn-Requestid"); !requestID.MatchString(id) {
		fault("the request id is %q", id)
	}
	var doc any
	dec := json.NewDecoder(bytes.NewReader(c.Body))
	dec.UseNumber()
	if err := dec.Decode(&doc); err != nil {
		return append(problems, fmt.Sprintf("the answer is no JSON: %v", err))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		fault("something follows the document")
	}
	members, ok := doc.(map[string]any)
	switch {
	case !ok:
		fault("the document is %T", doc)
	case c.Status != http.StatusOK:
		checkJSONError(c, members, fault)
	default:
		shapes, ok := reflectShapes(c)
		if !ok {
			fault("an action without shapes answered success; is internal/awsapi/gen up to date?")
			break
		}
		j := judge{service: c.Service}
		j.jsonStructure(members, shapes.Result, c.Action)
		problems = append(problems, j.problems...)
	}
	return problems
}

func checkJSONError(c Call, members map[string]any, fault func(string, ...any)) {
	code, _ := members["__type"].(string)
	var x awsapi.Exception
	known := slices.Contains(jsonCodes, code)
	if c.Service != nil {
		if its, ok := c.Service.Exceptions[code]; ok {
			x, known = its, true
		}
	}
	if !known {
		fault("the error code %q is none of the service's", code)
	}
	member := x.Message
	if member == "" {
		member = "message"
	}
	if text, _ := members[member].(string); strings.TrimSpace(text) == "" {
		fault("the error %s says nothing in its member %s", code, member)
	}
	if c.Status < 400 || x.Status != 0 && c.Status != x.Status {
		fault("the error %s is answered with status %d", code, c.Status)
	}
}

func (j *judge) jsonStructure(members map[string]any, t reflect.Type, path string) {
	for name, value := range members {
		at := path + "." + name
		f, ok := jsonMember(t, name)
		switch {
		case !ok:
			j.fault(at, "the model's %s has no such member", t.Name())
		case value == nil:
			j.fault(at, "it is null")
		default:
			j.jsonValue(value, f.Type, f, at)
		}
	}
	for i := range t.NumField() {
		if f := t.Field(i); f.Tag.Get("required") != "" && members[f.Tag.Get("json")] == nil {
			j.fault(path+"."+f.Tag.Get("json"), "it is required and isn't there")
		}
	}
}

func jsonMember(t reflect.Type, name string) (reflect.StructField, bool) {
	for i := range t.NumField() {
		if f := t.Field(i); f.Tag.Get("json") == name {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

func (j *judge) jsonValue(value any, t reflect.Type, f reflect.StructField, path string) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	wrong := func() { j.fault(path, "%T is no %s", value, t) }
	switch {
	case t == timeType:
		j.jsonTime(value, f.Tag.Get("time"), path)
	case t.Kind() == reflect.Struct:
		if members, ok := value.(map[string]any); ok {
			j.jsonStructure(members, t, path)
		} else {
			wrong()
		}
	case t.Kind() == reflect.Map:
		entries, ok := value.(map[string]any)
		if !ok {
			wrong()
		}
		for key, inner := range entries {
			j.jsonValue(inner, t.Elem(), f, path+"."+key)
		}
	case t == blobType:
		text, ok := value.(string)
		if _, err := base64.StdEncoding.DecodeString(text); !ok || err != nil {
			wrong()
		}
	case t.Kind() == reflect.Slice:
		list, ok := value.([]any)
		if !ok {
			wrong()
		}
		for n, inner := range list {
			j.jsonValue(inner, t.Elem(), f, path+"["+strconv.Itoa(n)+"]")
		}
	case t.Kind() == reflect.Int64:
		number, ok := value.(json.Number)
		if _, err := number.Int64(); !ok || err != nil {
			wrong()
		}
	case t.Kind() == reflect.Float64:
		if _, ok := value.(json.Number); !ok && value != "NaN" && value != "Infinity" && value != "-Infinity" {
			wrong()
		}
	case t.Kind() == reflect.Bool:
		if _, ok := value.(bool); !ok {
			wrong()
		}
	default:
		text, ok := value.(string)
		if !ok {
			wrong()
		} else if name := f.Tag.Get("enum"); name != "" && !slices.Contains(j.service.Enums[name], text) && !slices.Contains(beside[name], text) {
			j.fault(path, "%q is no value of the enumeration %s", text, name)
		}
	}
}

func (j *judge) jsonTime(value any, form, path string) {
	if form == "iso8601" {
		if text, _ := value.(string); !timestamp.MatchString(text) {
			j.fault(path, "%v is no time in AWS's form", value)
		}
		return
	}
	number, ok := value.(json.Number)
	if seconds, err := number.Float64(); !ok || err != nil || seconds < -62167219200 || seconds > 253402300799 {
		j.fault(path, "%v is no time in seconds since 1970", value)
	}
}
