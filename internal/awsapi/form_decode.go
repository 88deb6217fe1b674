package awsapi

import (
	"encoding/base64"
	"math"
	"net/url"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Limits of a decoded form.
const (
	maxFields    = 5000 // parameters in one request
	maxListIndex = 1000 // the largest N of a list parameter Name.N
	maxDepth     = 12   // nested structures and lists
)

// formNode is a form's parameters as the tree that their dotted names are.
type formNode struct {
	value    string
	set      bool
	children map[string]*formNode
}

func formTree(form url.Values, skip func(string) bool) (*formNode, error) {
	root := &formNode{}
	if len(form) > maxFields {
		return nil, InvalidParameterValue("the request has %d parameters; the limit is %d", len(form), maxFields)
	}
	for key, values := range form {
		if skip(key) {
			continue
		}
		n := root
		parts := strings.Split(key, ".")
		if len(parts) > 2*maxDepth {
			return nil, Errorf("UnknownParameter", "The parameter %s is not recognized", shorten(key))
		}
		for _, part := range parts {
			if n.children == nil {
				n.children = map[string]*formNode{}
			}
			next := n.children[part]
			if next == nil {
				next = &formNode{}
				n.children[part] = next
			}
			n = next
		}
		if len(values) > 1 {
			return nil, InvalidParameterValue("The parameter %s is given more than once", shorten(key))
		}
		n.value, n.set = values[0], true
	}
	return root, nil
}

// shorten keeps error messages readable whatever a client sends.
func shorten(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}

// decodeForm fills a generated request from a form, by the service's protocol. It refuses what the
// model doesn't have, values of the wrong type, and values out of their enumeration or bounds.
func decodeForm(s *Service, form url.Values, dst any) error {
	tree, err := formTree(form, func(key string) bool {
		return key == "Action" || key == "Version" || strings.HasPrefix(key, "X-Amz-") || strings.HasPrefix(key, "X-amz-")
	})
	if err != nil {
		return err
	}
	d := formDecoder{service: s}
	return d.structure(tree, reflect.ValueOf(dst).Elem(), "")
}

type formDecoder struct{ service *Service }

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func (d formDecoder) structure(n *formNode, v reflect.Value, path string) error {
	p := planOf(v.Type())
	names := make([]string, 0, len(n.children))
	for name := range n.children {
		names = append(names, name)
	}
	sort.Strings(names) // the same request gets the same error every time
	for _, name := range names {
		at, ok := p.byForm[name]
		if !ok {
			return Errorf("UnknownParameter", "The parameter %s is not recognized", shorten(join(path, name)))
		}
		f := &p.fields[at]
		if err := d.member(n.children[name], f, v.Field(f.index), join(path, name)); err != nil {
			return err
		}
	}
	for i := range p.fields {
		if f := &p.fields[i]; f.required && n.children[f.form] == nil {
			return MissingParameter(join(path, f.form))
		}
	}
	return nil
}

func (d formDecoder) member(n *formNode, f *field, v reflect.Value, path string) error {
	switch f.kind {
	case kindStruct:
		if n.set && n.value != "" {
			return InvalidParameterValue("The parameter %s is a structure, not a value", shorten(path))
		}
		v.Set(reflect.New(f.elemType))
		return d.structure(n, v.Elem(), path)
	case kindList:
		return d.list(n, f, v, path)
	}
	if len(n.children) > 0 {
		return Errorf("UnknownParameter", "The parameter %s takes a single value", shorten(path))
	}
	if f.kind == kindBlob {
		b, err := base64.StdEncoding.DecodeString(n.value)
		if err != nil {
			return InvalidParameterValue("Invalid value for parameter %s: it is not base64", shorten(path))
		}
		v.SetBytes(b)
		return nil
	}
	ptr := reflect.New(f.elemType)
	if err := d.scalar(n.value, f.kind, f, ptr.Elem(), path); err != nil {
		return err
	}
	v.Set(ptr)
	return nil
}

// list reads Name.1, Name.2, …; the query protocol puts "member" in between unless the list is flat.
func (d formDecoder) list(n *formNode, f *field, v reflect.Value, path string) error {
	if n.set {
		if n.value == "" && len(n.children) == 0 { // how clients send an empty list
			v.Set(reflect.MakeSlice(v.Type(), 0, 0))
			return nil
		}
		if d.service.Protocol != "ec2" || f.elem == kindStruct || len(n.children) > 0 {
			return InvalidParameterValue("The parameter %s is a list; give %s.1 and so on", shorten(path), shorten(path))
		}
		n = &formNode{children: map[string]*formNode{"1": {value: n.value, set: true}}} // how libcloud gives a list of one
	}
	if d.service.Protocol == "query" && !f.flat {
		inner := n.children[f.item]
		if inner == nil || len(n.children) != 1 {
			return Errorf("UnknownParameter", "The parameter %s is a list; give %s.%s.1 and so on", shorten(path), shorten(path), f.item)
		}
		n, path = inner, join(path, f.item)
	}
	indices := make([]int, 0, len(n.children))
	for key := range n.children {
		i, err := strconv.Atoi(key)
		if err != nil || i < 0 || i > maxListIndex || strconv.Itoa(i) != key {
			return InvalidParameterValue("The parameter %s.%s is no list entry; entries are numbered 1 to %d", shorten(path), shorten(key), maxListIndex)
		}
		indices = append(indices, i)
	}
	slices.Sort(indices)
	if count := float64(len(indices)); f.bounded && (count < f.min || count > f.max) {
		return InvalidParameterValue("The parameter %s has %d entries; it takes from %s to %s", shorten(path), len(indices), bound(f.min), bound(f.max))
	}
	list := reflect.MakeSlice(v.Type(), len(indices), len(indices))
	for at, i := range indices {
		key := strconv.Itoa(i)
		child, elemPath := n.children[key], join(path, key)
		elem := list.Index(at)
		switch {
		case f.elem == kindStruct:
			if child.set {
				return InvalidParameterValue("The parameter %s is a structure, not a value", shorten(elemPath))
			}
			if err := d.structure(child, elem, elemPath); err != nil {
				return err
			}
		case len(child.children) > 0:
			return Errorf("UnknownParameter", "The parameter %s takes a single value", shorten(elemPath))
		default:
			if err := d.scalar(child.value, f.elem, f, elem, elemPath); err != nil {
				return err
			}
		}
	}
	v.Set(list)
	return nil
}

func (d formDecoder) scalar(text string, k kind, f *field, v reflect.Value, path string) error {
	bad := func(want string) error {
		return InvalidParameterValue("Invalid value '%s' for %s: %s", shorten(text), shorten(path), want)
	}
	switch k {
	case kindString:
		if f.enum != "" && !slices.Contains(d.service.Enums[f.enum], text) {
			return InvalidParameterValue("Invalid value '%s' for %s.", shorten(text), shorten(path))
		}
		if f.bounded && f.kind == kindString && (float64(len(text)) < f.min || float64(len(text)) > f.max) {
			return bad("its length must be from " + bound(f.min) + " to " + bound(f.max))
		}
		v.SetString(text)
	case kindInt:
		i, err := strconv.ParseInt(text, 10, 64)
		if err != nil || i < math.MinInt32 || i > 1<<53 {
			return bad("it must be a whole number")
		}
		if f.bounded && f.kind == kindInt && (float64(i) < f.min || float64(i) > f.max) {
			return bad("it must be from " + bound(f.min) + " to " + bound(f.max))
		}
		v.SetInt(i)
	case kindBool:
		switch strings.ToLower(text) {
		case "true", "1":
			v.SetBool(true)
		case "false", "0":
			v.SetBool(false)
		default:
			return bad("it must be true or false")
		}
	case kindFloat:
		x, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(x) || math.IsInf(x, 0) {
			return bad("it must be a number")
		}
		v.SetFloat(x)
	case kindTime:
		t, err := parseTime(text)
		if err != nil {
			return bad("it must be a time such as 2026-01-02T03:04:05Z")
		}
		v.Set(reflect.ValueOf(t))
	default:
		return bad("it has no form that a list can hold")
	}
	return nil
}

func bound(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }

// timeForms are what AWS accepts and sends for timestamps.
var timeForms = []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04Z", "2006-01-02"}

func parseTime(text string) (time.Time, error) {
	var err error
	for _, form := range timeForms {
		var t time.Time
		if t, err = time.Parse(form, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, err
}
