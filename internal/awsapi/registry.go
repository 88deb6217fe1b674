package awsapi

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strings"
)

// Registry holds the built actions of all services.
type Registry struct {
	services map[string]*Service                   // by name
	handlers map[string]*handler                   // by "service/Action"
	refusals map[string]func(action string) string // by the service's name
}

// NewRegistry returns a registry of services without handlers.
func NewRegistry(services ...*Service) *Registry {
	r := &Registry{services: map[string]*Service{}, handlers: map[string]*handler{}, refusals: map[string]func(string) string{}}
	for _, s := range services {
		r.services[s.Name] = s
	}
	return r
}

// Refuse lets a service's actions that have no handler be refused with a reason: why returns a clause, or "" for an action that
// is only not built yet.
func (r *Registry) Refuse(s *Service, why func(action string) string) { r.refusals[s.Name] = why }

type handler struct {
	service  *Service
	action   string
	noResult bool
	request  reflect.Type
	honoured []string
	call     func(ctx context.Context, c *Call, in parameters) (any, error)
}

// Option says more of a handler.
type Option func(*handler)

// Honours lists the parameters that the handler acts on, by the Go names of the request's fields, with
// dots between: "ImageId", "Placement.AvailabilityZone". A name stands for all below it; list numbers
// are left out. Every other parameter is refused when it is given. Client tokens must be listed too;
// DryRun is always honoured.
func Honours(paths ...string) Option {
	return func(h *handler) { h.honoured = append(h.honoured, paths...) }
}

// Handle registers an action's handler. It panics when Honours names a parameter that the request
// doesn't have, or the action has a handler already.
func Handle[Req, Res any](r *Registry, a Action[Req, Res], fn func(context.Context, *Call, *Req) (*Res, error), options ...Option) {
	h := &handler{service: a.Service, action: a.Name, noResult: a.NoResult, request: reflect.TypeFor[Req]()}
	for _, o := range options {
		o(h)
	}
	known := Parameters(h.request)
	for _, path := range h.honoured {
		if !slices.Contains(known, path) {
			panic(fmt.Sprintf("awsapi: %s has no parameter %s", a.Name, path))
		}
	}
	h.call = func(ctx context.Context, c *Call, in parameters) (any, error) {
		req := new(Req)
		if err := in.decode(a.Service, req); err != nil {
			return nil, err
		}
		if err := h.refuseUnhonoured(reflect.ValueOf(req).Elem()); err != nil {
			return nil, err
		}
		c.DryRun = dryRun(reflect.ValueOf(req).Elem())
		res, err := fn(ctx, c, req)
		if err != nil {
			return nil, err
		}
		if c.DryRun {
			// Handlers that change something answer so themselves, before they do.
			return nil, DryRunOperation()
		}
		if res == nil {
			return nil, errors.New("the handler returned neither a result nor an error")
		}
		return res, nil
	}
	key := a.Service.Name + "/" + a.Name
	if r.handlers[key] != nil {
		panic("awsapi: " + key + " has two handlers")
	}
	r.handlers[key] = h
}

func dryRun(req reflect.Value) bool {
	f := req.FieldByName("DryRun")
	return f.IsValid() && f.Kind() == reflect.Pointer && !f.IsNil() && f.Elem().Kind() == reflect.Bool && f.Elem().Bool()
}

// refuseUnhonoured finds the first parameter that is given and not honoured.
func (h *handler) refuseUnhonoured(req reflect.Value) error {
	var list []string
	h.unhonoured(req, "", "", &list)
	if len(list) == 0 {
		return nil
	}
	return Unsupported("The parameter %s of %s is not supported by this cloud.", list[0], h.action)
}

// Unhonoured lists the parameters of a generated request that are given and that honoured, a list as Honours takes
// it, doesn't name. They are called as in a form.
func Unhonoured(req any, honoured []string) (list []string) {
	h := handler{honoured: honoured}
	h.unhonoured(reflect.ValueOf(req).Elem(), "", "", &list)
	return list
}

func (h *handler) unhonoured(v reflect.Value, path, shown string, list *[]string) {
	p := planOf(v.Type())
	for i := range p.fields {
		f := &p.fields[i]
		fv := v.Field(f.index)
		if fv.IsNil() || path == "" && f.name == "DryRun" {
			continue
		}
		at, show := join(path, f.name), join(shown, f.form)
		switch {
		case slices.Contains(h.honoured, at):
		case !h.honouredBelow(at):
			*list = append(*list, show)
		case f.kind == kindStruct:
			h.unhonoured(fv.Elem(), at, show, list)
		case f.kind == kindList && f.elem == kindStruct:
			for n := range fv.Len() {
				h.unhonoured(fv.Index(n), at, show, list)
			}
		}
	}
}

func (h *handler) honouredBelow(path string) bool {
	return slices.ContainsFunc(h.honoured, func(p string) bool { return strings.HasPrefix(p, path+".") })
}

// Parameters lists all parameters of a generated request by their paths, as Honours takes them.
func Parameters(t reflect.Type) []string {
	var list []string
	above := map[reflect.Type]bool{} // a name that is inside itself stands for all below it
	var walk func(reflect.Type, string)
	walk = func(t reflect.Type, path string) {
		if above[t] {
			return
		}
		above[t] = true
		defer delete(above, t)
		p := planOf(t)
		for i := range p.fields {
			f := &p.fields[i]
			at := join(path, f.name)
			list = append(list, at)
			if f.kind == kindStruct || f.kind == kindList && f.elem == kindStruct {
				walk(f.elemType, at)
			}
		}
	}
	walk(t, "")
	return list
}

// Coverage is what is built of an action.
type Coverage struct {
	Service, Action string
	// NotHonoured are the parameters that are refused.
	NotHonoured []string
}

// Coverage lists the built actions.
func (r *Registry) Coverage() []Coverage {
	var list []Coverage
	for _, h := range r.handlers {
		c := Coverage{Service: h.service.Name, Action: h.action}
		for _, p := range Parameters(h.request) {
			if p != "DryRun" && !h.covers(p) {
				c.NotHonoured = append(c.NotHonoured, p)
			}
		}
		list = append(list, c)
	}
	sort.Slice(list, func(i, j int) bool {
		if list[i].Service != list[j].Service {
			return list[i].Service < list[j].Service
		}
		return list[i].Action < list[j].Action
	})
	return list
}

func (h *handler) covers(path string) bool {
	if h.honouredBelow(path) {
		return true
	}
	return slices.ContainsFunc(h.honoured, func(p string) bool { return p == path || strings.HasPrefix(path, p+".") })
}
