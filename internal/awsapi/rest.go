package awsapi

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
)

// restJSON is AWS's name of the protocol in which method and path tell the action.
const restJSON = "rest-json"

// Route is how an action of a REST service is called.
type Route struct {
	Method string
	Path   string // with labels in braces, such as "/snapshots/{snapshotId}/blocks"
	Status int    // of a success
	// UnsignedBody lets a call's signature leave its body out.
	UnsignedBody bool
}

// where a member of a REST service's shape is, by its tag `in`; "" is a member of the document.
const (
	inPath    = "uri"
	inQuery   = "querystring"
	inHeader  = "header"
	inPayload = "payload" // it is the body
)

// ActionAt finds the action of a REST service that a method and a path call, and the path's labels.
func (s *Service) ActionAt(method, path string) (action string, labels map[string]string, ok bool) {
	for name, r := range s.Routes {
		if r.Method != method {
			continue
		}
		if labels, ok := r.match(path); ok {
			return name, labels, true
		}
	}
	return "", nil, false
}

// match holds an escaped path against a route's. No two routes of a service match one path: labels stand where no other has a word.
func (r Route) match(path string) (map[string]string, bool) {
	want, got := strings.Split(r.Path, "/"), strings.Split(path, "/")
	if len(want) != len(got) {
		return nil, false
	}
	labels := map[string]string{}
	for i, w := range want {
		name, isLabel := strings.CutPrefix(w, "{")
		if !isLabel {
			if w != got[i] {
				return nil, false
			}
			continue
		}
		value, err := url.PathUnescape(got[i])
		if err != nil || value == "" {
			return nil, false
		}
		labels[strings.TrimSuffix(name, "}")] = value
	}
	return labels, true
}

// restProtocol is AWS's REST with JSON: the action in method and path, parameters there, in the query string, in headers and in a document or a
// body of bytes; results alike.
type restProtocol struct{ jsonProtocol }

func (restProtocol) contentType(*Service) string { return "application/json" }

func (restProtocol) route(s *Service, r *http.Request, query url.Values, body []byte) (string, parameters, error) {
	action, labels, ok := s.ActionAt(r.Method, r.URL.EscapedPath())
	if !ok {
		return "", nil, Errorf("UnknownOperationException", "The service '%s' has nothing at %s %s.", s.Name, shorten(r.Method), shorten(r.URL.Path))
	}
	return action, restParameters{labels, query, r.Header, body}, nil
}

// head writes what of a result is in the answer's head, and tells its status.
func (restProtocol) head(h *handler, result any, header http.Header) int {
	v := reflect.ValueOf(result).Elem()
	p := planOf(v.Type())
	for i := range p.fields {
		f := &p.fields[i]
		switch fv := v.Field(f.index); {
		case f.in == inPayload:
			header.Set("Content-Type", "application/octet-stream")
		case f.in == inHeader && !fv.IsNil():
			header.Set(f.form, restText(fv.Elem()))
		}
	}
	if status := h.service.Routes[h.action].Status; status != 0 {
		return status
	}
	return http.StatusOK
}

// restText is a scalar as paths, query strings and headers have it.
func restText(v reflect.Value) string { return fmt.Sprint(v.Interface()) }

func (p restProtocol) appendResult(b []byte, h *handler, id string, result any) []byte {
	if body := payload(reflect.ValueOf(result).Elem()); body.IsValid() {
		return append(b, body.Bytes()...)
	}
	return p.jsonProtocol.appendResult(b, h, id, result)
}

// payload is the member that is the body; not valid where there is none.
func payload(v reflect.Value) reflect.Value {
	p := planOf(v.Type())
	for i := range p.fields {
		if f := &p.fields[i]; f.in == inPayload {
			return v.Field(f.index)
		}
	}
	return reflect.Value{}
}

func (p restProtocol) encodeError(s *Service, id string, e *Error) []byte {
	b := p.jsonProtocol.encodeError(s, id, e)
	if e.Reason == "" {
		return b
	}
	b = append(b[:len(b)-1], `,"Reason":`...)
	return append(appendJSONString(b, e.Reason), '}')
}

func (p restProtocol) call(s *Service, action string, in any) outbound {
	route := s.Routes[action]
	out := outbound{method: route.Method, path: route.Path, header: http.Header{"Content-Type": {p.contentType(s)}}}
	v := reflect.ValueOf(in).Elem()
	query := url.Values{}
	plan := planOf(v.Type())
	document := false
	for i := range plan.fields {
		f := &plan.fields[i]
		fv := v.Field(f.index)
		document = document || f.in == ""
		switch {
		case fv.IsNil():
		case f.in == inPath:
			out.path = strings.ReplaceAll(out.path, "{"+f.form+"}", url.PathEscape(restText(fv.Elem())))
		case f.in == inQuery:
			query.Set(f.form, restText(fv.Elem()))
		case f.in == inHeader:
			out.header.Set(f.form, restText(fv.Elem()))
		case f.in == inPayload:
			out.header.Set("Content-Type", "application/octet-stream")
			out.body = fv.Bytes()
		}
	}
	if len(query) > 0 {
		out.path += "?" + query.Encode()
	}
	if document {
		out.body = appendJSONStruct(nil, v)
	}
	return out
}

func (restProtocol) decodeResult(s *Service, _ string, resp *http.Response, dst any) error {
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	return restParameters{header: resp.Header, body: body}.fill(&jsonDecoder{service: s}, dst)
}

// restParameters are those of a call, by where they were.
type restParameters struct {
	labels map[string]string
	query  url.Values
	header http.Header
	body   []byte
}

func (in restParameters) decode(s *Service, dst any) error {
	known := map[string]bool{}
	p := planOf(reflect.TypeOf(dst).Elem())
	for i := range p.fields {
		if f := &p.fields[i]; f.in == inQuery {
			known[f.form] = true
		}
	}
	for name, values := range in.query {
		switch {
		case !known[name] && !strings.HasPrefix(name, "X-Amz-"):
			return Errorf("UnsupportedOperationException", "The parameter %s is not known to this cloud.", shorten(name))
		case len(values) > 1:
			return serialization("The parameter %s is given more than once.", shorten(name))
		}
	}
	return in.fill(&jsonDecoder{service: s, strict: true}, dst)
}

// fill decodes what is outside the document, then the document.
func (in restParameters) fill(d *jsonDecoder, dst any) error {
	v := reflect.ValueOf(dst).Elem()
	p := planOf(v.Type())
	bytes := false
	for i := range p.fields {
		f := &p.fields[i]
		text := ""
		switch f.in {
		case inPath:
			text = in.labels[f.form]
		case inQuery:
			text = in.query.Get(f.form)
		case inHeader:
			text = in.header.Get(f.form)
		case inPayload:
			bytes = true
			if len(in.body) > 0 {
				v.Field(f.index).SetBytes(in.body)
			}
			if err := d.length(len(in.body), true, f, f.form, "a blob"); err != nil {
				return err
			}
		}
		if text == "" {
			continue
		}
		value := reflect.New(f.elemType)
		if err := d.scalar(restToken(f.kind, text), f.kind, value.Elem(), f, f.form); err != nil {
			return err
		}
		v.Field(f.index).Set(value)
	}
	if !bytes {
		return decodeDocument(d, in.body, dst)
	}
	return d.complete(v, p, "")
}

// restToken is a text as the document would have had it.
func restToken(k kind, text string) json.Token {
	switch k {
	case kindInt, kindFloat:
		return json.Number(text)
	case kindBool:
		if b, err := strconv.ParseBool(text); err == nil {
			return b
		}
	}
	return text
}
