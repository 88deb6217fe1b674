package wiretest

import (
	"encoding/base64"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nacre-cloud/nacre/internal/awsapi"
)

var (
	timestamp = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`)
	timeType  = reflect.TypeFor[time.Time]()
	blobType  = reflect.TypeFor[[]byte]()
)

// beside are values that AWS sends, and shows in its documentation's examples, though its model lacks them.
var beside = map[string][]string{
	"AttachmentStatus":       {"available"}, // of an internet gateway
	"NetworkInterfaceStatus": {"pending"},   // of one that is being made
}

// judge holds an element against the model's shapes and notes what is wrong.
type judge struct {
	service  *awsapi.Service
	problems []string
}

func (j *judge) fault(path, format string, args ...any) {
	j.problems = append(j.problems, path+": "+fmt.Sprintf(format, args...))
}

// structure checks the members of an element: each one in the shape, once, and of its type.
func (j *judge) structure(e *element, t reflect.Type, path string) {
	if strings.TrimSpace(e.text) != "" {
		j.fault(path, "a structure holds the text %q", e.text)
	}
	seen := map[string]bool{}
	for _, c := range e.children {
		at := path + "." + c.name
		f, ok := memberOf(t, c.name)
		switch {
		case !ok:
			j.fault(at, "the model's %s has no such member", t.Name())
			continue
		case seen[c.name] && f.Tag.Get("flat") == "":
			j.fault(at, "it is there twice")
		case len(c.own) > 0:
			j.fault(at, "it has the attributes %v", c.own)
		case c.space != j.service.Namespace:
			j.fault(at, "its namespace is %q", c.space)
		}
		seen[c.name] = true
		j.member(c, f, at)
	}
}

func memberOf(t reflect.Type, name string) (reflect.StructField, bool) {
	for i := range t.NumField() {
		if f := t.Field(i); f.Tag.Get("xml") == name {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

func (j *judge) member(e *element, f reflect.StructField, path string) {
	t := f.Type
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Slice || t == blobType {
		j.value(e, t, f, path)
		return
	}
	if f.Tag.Get("flat") != "" {
		j.value(e, t.Elem(), f, path)
		return
	}
	if strings.TrimSpace(e.text) != "" {
		j.fault(path, "a list holds the text %q", e.text)
	}
	item := f.Tag.Get("item")
	for n, c := range e.children {
		if c.name != item {
			j.fault(path, "its element %d is named %s, not %s", n, c.name, item)
			continue
		}
		j.value(c, t.Elem(), f, path+"["+strconv.Itoa(n)+"]")
	}
}

func (j *judge) value(e *element, t reflect.Type, f reflect.StructField, path string) {
	if t.Kind() == reflect.Struct && t != timeType {
		j.structure(e, t, path)
		return
	}
	if len(e.children) > 0 {
		j.fault(path, "a single value holds the elements %s", e.names())
		return
	}
	var err error
	switch {
	case t == timeType:
		if !timestamp.MatchString(e.text) {
			j.fault(path, "%q is no time in AWS's form", e.text)
			return
		}
		_, err = time.Parse("2006-01-02T15:04:05.000Z", e.text)
	case t == blobType:
		_, err = base64.StdEncoding.DecodeString(e.text)
	case t.Kind() == reflect.Int64:
		_, err = strconv.ParseInt(e.text, 10, 64)
	case t.Kind() == reflect.Float64:
		_, err = strconv.ParseFloat(e.text, 64)
	case t.Kind() == reflect.Bool:
		if e.text != "true" && e.text != "false" {
			j.fault(path, "%q is neither true nor false", e.text)
		}
	case f.Tag.Get("enum") != "":
		if name := f.Tag.Get("enum"); !slices.Contains(j.service.Enums[name], e.text) && !slices.Contains(beside[name], e.text) {
			j.fault(path, "%q is no value of the enumeration %s", e.text, f.Tag.Get("enum"))
		}
	}
	if err != nil {
		j.fault(path, "%v", err)
	}
}
