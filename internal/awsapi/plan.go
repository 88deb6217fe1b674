package awsapi

import (
	"fmt"
	"reflect"
	"strconv"
	"sync"
	"time"
)

// kind is a shape's form, as the codecs tell them apart.
type kind int

const (
	kindStruct kind = iota
	kindList
	kindString
	kindInt
	kindBool
	kindFloat
	kindTime
	kindBlob
	kindMap
)

// plan is what the codecs know of a generated structure, worked out once a type.
type plan struct {
	fields []field
	byForm map[string]int
	byXML  map[string]int
}

type field struct {
	index    int
	name     string // the Go field's
	form     string // the member's name in forms, and in documents of JSON
	xml      string
	item     string // the name of a list's items in XML
	flat     bool
	required bool
	enum     string
	keys     string // the enumeration of a map's keys
	iso      bool   // a time that JSON has in ISO 8601's form, not in seconds
	token    bool
	in       string // where a REST service has it, see rest.go
	min, max float64
	bounded  bool
	kind     kind
	pointer  bool
	elem     kind         // of a list's items, or a map's values
	elemType reflect.Type // of those, or of the structure or value
}

var plans sync.Map // reflect.Type to *plan

// planOf returns the plan of a generated structure.
func planOf(t reflect.Type) *plan {
	if p, ok := plans.Load(t); ok {
		return p.(*plan)
	}
	p := &plan{byForm: map[string]int{}, byXML: map[string]int{}}
	for i := range t.NumField() {
		sf := t.Field(i)
		f := field{index: i, name: sf.Name, form: sf.Tag.Get("form"), xml: sf.Tag.Get("xml"), item: sf.Tag.Get("item"),
			flat: sf.Tag.Get("flat") != "", required: sf.Tag.Get("required") != "", enum: sf.Tag.Get("enum"), token: sf.Tag.Get("token") != "",
			in: sf.Tag.Get("in"), keys: sf.Tag.Get("keys"), iso: sf.Tag.Get("time") == "iso8601"}
		if f.form == "" {
			f.form = sf.Tag.Get("json")
		}
		ft := sf.Type
		if ft.Kind() == reflect.Pointer {
			f.pointer, ft = true, ft.Elem()
		}
		f.kind = kindOf(ft)
		f.elemType = ft
		if f.kind == kindList || f.kind == kindMap {
			f.elemType = ft.Elem()
			f.elem = kindOf(f.elemType)
		}
		if lo, hi := sf.Tag.Get("min"), sf.Tag.Get("max"); lo != "" || hi != "" {
			f.bounded = true
			f.min, _ = strconv.ParseFloat(lo, 64)
			f.max = 1 << 53
			if hi != "" {
				f.max, _ = strconv.ParseFloat(hi, 64)
			}
		}
		p.byForm[f.form] = len(p.fields)
		p.byXML[f.xml] = len(p.fields)
		p.fields = append(p.fields, f)
	}
	actual, _ := plans.LoadOrStore(t, p)
	return actual.(*plan)
}

var timeType = reflect.TypeFor[time.Time]()

func kindOf(t reflect.Type) kind {
	switch {
	case t == timeType:
		return kindTime
	case t.Kind() == reflect.Struct:
		return kindStruct
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8:
		return kindBlob
	case t.Kind() == reflect.Slice:
		return kindList
	case t.Kind() == reflect.Map && t.Key().Kind() == reflect.String:
		return kindMap
	case t.Kind() == reflect.String:
		return kindString
	case t.Kind() == reflect.Int64:
		return kindInt
	case t.Kind() == reflect.Bool:
		return kindBool
	case t.Kind() == reflect.Float64:
		return kindFloat
	}
	panic(fmt.Sprintf("awsapi: a generated shape holds the type %s, which no codec knows", t))
}
