package awsapi

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// MaxBody bounds a call's body, in bytes.
	MaxBody = 1 << 20
	// Slow clients are cut off after these.
	headerTimeout = 10 * time.Second
	readTimeout   = 30 * time.Second
	writeTimeout  = 2 * time.Minute
	idleTimeout   = 2 * time.Minute
	maxHeader     = 64 << 10
)

// Server answers calls. It is an http.Handler for the endpoint's root.
type Server struct {
	Registry *Registry
	Auth     *Authenticator
	Logger   *slog.Logger
	// Observe is told of every call that was answered; nil for nobody. Service and action are "" unless a handler was found, code is "" for success.
	Observe func(service, action, code string, took time.Duration)
}

// NewHTTPServer returns a server with the limits that the API needs against slow clients.
func NewHTTPServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader}
}

// answers are buffers for answers: a list of all instances takes megabytes, and growing to that takes as long as filling it.
var answers = sync.Pool{New: func() any { return new(make([]byte, 0, 4<<10)) }}

// largestKept bounds what a rare huge answer holds back, in bytes.
const largestKept = 16 << 20

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	begin := s.Auth.Now()
	call := &Call{RequestID: newRequestID(), Region: s.Auth.Region, Now: begin.UTC(), SourceIP: sourceIP(r), Host: r.Host}
	service, h, res, err := s.answer(r, call)
	protocol := protocolOf(service, r)
	var body []byte
	status, code := http.StatusOK, ""
	if err != nil {
		e := protocol.words(service, s.errorOf(err, call))
		status, code = e.Status, e.Code
		body = protocol.encodeError(service, call.RequestID, e)
	} else {
		buf := answers.Get().(*[]byte)
		body = protocol.appendResult((*buf)[:0], h, call.RequestID, res)
		defer func() {
			if *buf = body; cap(body) <= largestKept {
				answers.Put(buf)
			}
		}()
	}
	header := w.Header()
	header.Set("Content-Type", protocol.contentType(service))
	header.Set("X-Amzn-Requestid", call.RequestID)
	if p, ok := protocol.(restProtocol); ok {
		if err == nil {
			status = p.head(h, res, header)
		} else {
			header.Set("X-Amzn-Errortype", code)
		}
	}
	header.Set("Content-Length", fmt.Sprint(len(body)))
	if status == http.StatusRequestEntityTooLarge {
		header.Set("Connection", "close")
	}
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil {
		s.Logger.Debug("the client went away", "request", call.RequestID, "error", err)
	}
	took := s.Auth.Now().Sub(begin)
	s.Logger.Info("call", "action", call.Action, "account", call.Account, "request", call.RequestID, "status", status, "code", code,
		"source", call.SourceIP, "took", took)
	if s.Observe == nil {
		return
	}
	if h == nil {
		s.Observe("", "", code, took)
		return
	}
	s.Observe(h.service.Name, h.action, code, took)
}

// answer authenticates and dispatches a request. The service is nil while it isn't known.
func (s *Server) answer(r *http.Request, call *Call) (*Service, *handler, any, error) {
	query, malformed := url.ParseQuery(r.URL.RawQuery)
	rest := s.Registry.restService(r, query)
	if rest == nil && r.URL.Path != "/" && r.URL.Path != "" {
		return nil, nil, nil, Errorf("InvalidAction", "There is nothing at the path %s.", shorten(r.URL.Path))
	}
	if rest == nil && r.Method != http.MethodPost && r.Method != http.MethodGet {
		return nil, nil, nil, Errorf("InvalidAction", "Calls are POST or GET, not %s.", shorten(r.Method))
	}
	body, err := readBody(r)
	if err != nil {
		return nil, nil, nil, err
	}
	if malformed != nil {
		return nil, nil, nil, InvalidParameterValue("The query string is malformed")
	}
	who, scope, denied := s.Auth.whole(r, query, body, rest.leavesBodyUnsigned(r))
	service := s.Registry.services[scope]
	action, in, err := protocolOf(service, r).route(service, r, query, body)
	call.Action = shorten(action)
	if denied != nil {
		return service, nil, nil, denied
	}
	call.Identity = who
	if service == nil {
		return nil, nil, nil, Errorf("UnsupportedOperation", "The service '%s' is not built.", shorten(scope))
	}
	if err != nil {
		return service, nil, nil, err
	}
	h, err := s.Registry.find(service, action)
	if err != nil {
		return service, nil, nil, err
	}
	res, err := s.protect(r.Context(), h, call, in)
	return service, h, res, err
}

// restService is the REST service that a call claims to be scoped to, nil for none: paths and methods are those services' own. Whether the claim is true is
// for the signature to say.
func (r *Registry) restService(req *http.Request, query url.Values) *Service {
	sig, err := parseSignature(req, query)
	if err != nil {
		return nil
	}
	if s := r.services[sig.service]; s != nil && s.Protocol == restJSON {
		return s
	}
	return nil
}

// leavesBodyUnsigned tells whether a call's action lets the body be out of the signature.
func (s *Service) leavesBodyUnsigned(r *http.Request) bool {
	if s == nil {
		return false
	}
	action, _, ok := s.ActionAt(r.Method, r.URL.EscapedPath())
	return ok && s.Routes[action].UnsignedBody
}

func readBody(r *http.Request) ([]byte, error) {
	tooLarge := Errorf("RequestEntityTooLarge", "The request's body is larger than %d bytes.", MaxBody)
	if r.ContentLength > MaxBody {
		return nil, tooLarge
	}
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(r.Body, MaxBody+1))
	if err != nil {
		return nil, Errorf("IncompleteBody", "The request's body ended early.")
	}
	if n > MaxBody {
		return nil, tooLarge
	}
	return b.Bytes(), nil
}

// unavailable is AWS's own sentence about what a region doesn't have: clients look for it, and go on without.
const unavailable = "The functionality you requested is not available in this region. "

// find returns an action's handler.
func (r *Registry) find(service *Service, action string) (*handler, error) {
	if h := r.handlers[service.Name+"/"+action]; h != nil {
		return h, nil
	}
	if slices.Contains(service.Actions, action) {
		if why := r.refusals[service.Name]; why != nil && why(action) != "" {
			return nil, unbuilt(service, unavailable+"The action %s is not supported by this cloud: %s.", action, why(action))
		}
		return nil, unbuilt(service, unavailable+"The action %s is not built.", action)
	}
	return nil, Errorf("InvalidAction", "The action %s is not valid for this web service.", shorten(action))
}

// unbuilt refuses an action as a region of AWS does that lacks it.
func unbuilt(service *Service, format string, args ...any) *Error {
	if service.Protocol == "json" || service.Protocol == restJSON {
		return Errorf("UnknownOperationException", format, args...)
	}
	return Unsupported(format, args...)
}

// protect runs a handler so that a panic is one call's failure only.
func (s *Server) protect(ctx context.Context, h *handler, call *Call, in parameters) (res any, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.Logger.Error("a handler panicked", "action", call.Action, "request", call.RequestID, "panic", p, "stack", string(debug.Stack()))
			err = Errorf("InternalError", "An internal error has occurred")
		}
	}()
	return h.call(ctx, call, in)
}

// errorOf makes an answer of any error. What isn't one of AWS's is logged and not shown.
func (s *Server) errorOf(err error, call *Call) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	s.Logger.Error("a call failed", "action", call.Action, "request", call.RequestID, "error", err)
	return Errorf("InternalError", "An internal error has occurred")
}

func sourceIP(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// newRequestID is a random UUID, as AWS's request ids are.
func newRequestID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return strings.ToLower(fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]))
}

// WriteError answers a request outside the registry with an error, in EC2's form.
func WriteError(w http.ResponseWriter, err error) {
	e := Errorf("InternalError", "An internal error has occurred")
	errors.As(err, &e)
	e = inEC2sWords(e)
	body := encodeError(nil, newRequestID(), e)
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	w.WriteHeader(e.Status)
	w.Write(body)
}
