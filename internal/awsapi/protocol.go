package awsapi

import (
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strings"
)

// protocol is a family of AWS's protocols: how a call says which action it means, and how parameters, results and errors are written.
// The service that a call is scoped to is known before its protocol is asked: some tell actions by method and path, others by a parameter or a header.
type protocol interface {
	// contentType is what answers are declared as.
	contentType(s *Service) string
	// route reads which action a call means, and takes its parameters apart as far as that needs. s may be nil.
	route(s *Service, r *http.Request, query url.Values, body []byte) (action string, in parameters, err error)
	// words says an error in the codes that clients of the protocol know.
	words(s *Service, e *Error) *Error
	appendResult(b []byte, h *handler, requestID string, result any) []byte
	// encodeError writes an error; s is nil while the service isn't known.
	encodeError(s *Service, requestID string, e *Error) []byte

	// The client's side.
	call(s *Service, action string, in any) outbound
	decodeResult(s *Service, action string, resp *http.Response, dst any) error
	decodeError(r io.Reader, status int) *Error
}

// parameters are a call's, not yet held against the model.
type parameters interface {
	// decode fills a generated request. It refuses what the model doesn't have, values of the wrong type, and values out of
	// their enumeration or bounds.
	decode(s *Service, dst any) error
}

// outbound is a call as a client sends it.
type outbound struct {
	method, path string // "" for a POST to /
	header       http.Header
	body         []byte
}

// protocolOf finds how a call is to be answered. While its service isn't known, the call itself has to tell.
func protocolOf(s *Service, r *http.Request) protocol {
	switch {
	case s != nil:
		return protocolFor(s)
	case r.Header.Get(targetHeader) != "":
		return jsonProtocol{}
	}
	return formProtocol{}
}

// protocolFor is how a service is called.
func protocolFor(s *Service) protocol {
	switch s.Protocol {
	case "json":
		return jsonProtocol{}
	case restJSON:
		return restProtocol{}
	}
	return formProtocol{}
}

// formProtocol is that of EC2 and the query protocol beside it: forms in, XML out.
type formProtocol struct{}

func (formProtocol) contentType(*Service) string { return "text/xml;charset=UTF-8" }

func (formProtocol) route(_ *Service, _ *http.Request, query url.Values, body []byte) (string, parameters, error) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return "", nil, InvalidParameterValue("The request's body is not a well-formed form")
	}
	for name, values := range query {
		form[name] = append(form[name], values...)
	}
	if len(form["Action"]) > 1 {
		return form.Get("Action"), nil, InvalidParameterValue("The parameter Action is given more than once")
	}
	if form.Get("Action") == "" {
		return "", nil, Errorf("MissingAction", "The request must contain the parameter Action.")
	}
	return form.Get("Action"), formParameters(form), nil
}

func (formProtocol) words(s *Service, e *Error) *Error {
	if s == nil || s.Name == "ec2" {
		return inEC2sWords(e)
	}
	return e
}

func (formProtocol) appendResult(b []byte, h *handler, requestID string, result any) []byte {
	return appendResult(b, h.service, h.action, h.noResult, requestID, result)
}

func (formProtocol) encodeError(s *Service, requestID string, e *Error) []byte {
	return encodeError(s, requestID, e)
}

func (formProtocol) call(s *Service, action string, in any) outbound {
	return outbound{header: http.Header{"Content-Type": {"application/x-www-form-urlencoded; charset=utf-8"}},
		body: []byte(encodeForm(s, action, in).Encode())}
}

func (formProtocol) decodeResult(s *Service, action string, resp *http.Response, dst any) error {
	return decodeResult(s, action, resp.Body, dst)
}

func (formProtocol) decodeError(r io.Reader, status int) *Error { return decodeError(r, status) }

type formParameters url.Values

func (f formParameters) decode(s *Service, dst any) error { return decodeForm(s, url.Values(f), dst) }

// jsonProtocol is AWS JSON 1.0 and 1.1: the action in a header, documents in and out.
type jsonProtocol struct{}

const targetHeader = "X-Amz-Target"

func (jsonProtocol) contentType(s *Service) string {
	if s != nil && s.JSONVersion == "1.0" {
		return "application/x-amz-json-1.0"
	}
	return "application/x-amz-json-1.1"
}

func (jsonProtocol) route(s *Service, r *http.Request, query url.Values, body []byte) (string, parameters, error) {
	target := r.Header.Get(targetHeader)
	prefix, action, ok := cutTarget(target)
	switch {
	case r.Method != http.MethodPost:
		return action, nil, Errorf("UnknownOperationException", "Calls of this service are POST, not %s.", shorten(r.Method))
	case !ok || len(r.Header.Values(targetHeader)) > 1:
		return "", nil, Errorf("UnknownOperationException", "The request must have one header %s that names the service and the action.", targetHeader)
	case s != nil && prefix != s.TargetPrefix:
		return action, nil, Errorf("UnknownOperationException", "The target '%s' is none of the service '%s', whose targets begin with %s.",
			shorten(target), s.Name, s.TargetPrefix)
	case len(query) > 0:
		return action, nil, Errorf("SerializationException", "Parameters of this service are in the body, not in the query string.")
	}
	return action, document(body), nil
}

// cutTarget parts a target at its last dot.
func cutTarget(target string) (prefix, action string, ok bool) {
	i := strings.LastIndexByte(target, '.')
	if i <= 0 || i == len(target)-1 {
		return "", "", false
	}
	return target[:i], target[i+1:], true
}

func (jsonProtocol) words(s *Service, e *Error) *Error { return inJSONsWords(s, e) }

func (jsonProtocol) appendResult(b []byte, _ *handler, _ string, result any) []byte {
	return appendJSONStruct(b, reflect.ValueOf(result).Elem())
}

func (jsonProtocol) encodeError(s *Service, _ string, e *Error) []byte {
	member := "message"
	if s != nil {
		if x, ok := s.Exceptions[e.Code]; ok && x.Message != "" {
			member = x.Message
		}
	}
	b := appendJSONString([]byte(`{"__type":`), e.Code)
	b = appendJSONString(append(b, ','), member)
	b = appendJSONString(append(b, ':'), e.Message)
	return append(b, '}')
}

func (p jsonProtocol) call(s *Service, action string, in any) outbound {
	return outbound{header: http.Header{"Content-Type": {p.contentType(s)}, targetHeader: {s.TargetPrefix + "." + action}},
		body: appendJSONStruct(nil, reflect.ValueOf(in).Elem())}
}

func (jsonProtocol) decodeResult(s *Service, _ string, resp *http.Response, dst any) error {
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	return decodeJSONAnswer(s, body, dst)
}

func (jsonProtocol) decodeError(r io.Reader, status int) *Error { return decodeJSONError(r, status) }

// document is a call's body of JSON.
type document []byte

func (d document) decode(s *Service, dst any) error { return decodeJSON(s, d, dst) }
