package ec2_test

import (
	"maps"
	"net/url"
	"reflect"
	"strconv"
	"strings"

	gen "github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
)

// variant is one request of those that AWS's model lets one think of.
type variant struct {
	about string // the member and what is done to it
	path  string // the member
	form  url.Values
	want  string // the one error code that is right; empty when any answer but a failure is
}

// deepest bounds how many structures a variant goes down: recursive shapes have no end, and the fourth level of launch
// template data says nothing that the third doesn't.
const deepest = 3

// variants are requests of an action in which one member at a time is left out, empty, of each value of its enumeration, at and past its
// bounds, of another type, and a list of none, one and many.
func (s *stage) variants(action string) []variant {
	v := variations{stage: s, base: s.form(action)}
	v.add("as it should be", v.base, "")
	v.add("with a parameter that doesn't exist", with(v.base, "Bogus", "1"), "UnknownParameter")
	twice := maps.Clone(v.base)
	twice["DryRun"] = []string{"true", "false"}
	v.add("with a parameter given twice", twice, "InvalidParameterValue")
	v.structure(gen.Service.Shapes[action].Request, "", nil, 0)
	return v.list
}

type variations struct {
	stage *stage
	base  url.Values
	list  []variant
}

func (v *variations) add(about string, form url.Values, want string) {
	path, _, _ := strings.Cut(about, " ")
	path, _, _ = strings.Cut(path, "=")
	v.list = append(v.list, variant{about, path, form, want})
}

func with(form url.Values, pairs ...string) url.Values {
	out := maps.Clone(form)
	for i := 0; i < len(pairs); i += 2 {
		out[pairs[i]] = []string{pairs[i+1]}
	}
	return out
}

// without drops a member and all below it.
func without(form url.Values, path string) url.Values {
	out := maps.Clone(form)
	maps.DeleteFunc(out, func(name string, _ []string) bool { return name == path || strings.HasPrefix(name, path+".") })
	return out
}

// structure varies each member of a structure at a path. siblings are the required members of the structures on the way.
func (v *variations) structure(t reflect.Type, path string, siblings url.Values, depth int) {
	if depth > deepest {
		return
	}
	required := v.stage.required(t, path)
	for i := range t.NumField() {
		f := t.Field(i)
		at := path + f.Tag.Get("form")
		around := maps.Clone(v.base)
		if path != "" {
			maps.Copy(around, siblings)
			maps.Copy(around, required)
		}
		rest := without(around, at)
		if f.Tag.Get("required") != "" {
			if len(rest) > 1 || path == "" { // the structure itself must be there
				v.add(at+" left out", rest, "MissingParameter")
			}
			if path != "" && len(without(required, at)) == 0 {
				v.list = v.list[:len(v.list)-1]
			}
		}
		given := maps.Clone(rest)
		maps.Copy(given, v.stage.fill(f, at))
		v.add(at+" given", given, "")
		v.member(f, at, rest, maps.Clone(siblings), required, depth)
	}
}

func (v *variations) member(f reflect.StructField, at string, rest, siblings, required url.Values, depth int) {
	t := f.Type
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	one := at
	if t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8 {
		one, t = at+".1", t.Elem()
		v.lists(f, t, at, rest)
	}
	if t.Kind() == reflect.Struct && t != timeType {
		v.add(at+" as a value", with(rest, one, "value"), "InvalidParameterValue")
		if siblings == nil {
			siblings = url.Values{}
		}
		maps.Copy(siblings, required)
		v.structure(t, one+".", without(siblings, at), depth+1)
		return
	}
	v.add(at+" with a member", with(rest, one+".Member", "1"), "UnknownParameter")
	switch {
	case f.Tag.Get("enum") != "":
		for _, value := range sample(gen.Service.Enums[f.Tag.Get("enum")]) {
			v.add(at+"="+value, with(rest, one, value), "")
		}
		v.add(at+" out of its enumeration", with(rest, one, "no such value"), "InvalidParameterValue")
	case t == timeType:
		v.add(at+" as no time", with(rest, one, "tomorrow"), "InvalidParameterValue")
		v.add(at+" long ago", with(rest, one, "0001-01-01T00:00:00Z"), "")
	case t.Kind() == reflect.Slice:
		v.add(at+" as no base64", with(rest, one, "%%%"), "InvalidParameterValue")
		v.add(at+" empty", with(rest, one, ""), "")
	case t.Kind() == reflect.Bool:
		v.add(at+" false", with(rest, one, "false"), "")
		v.add(at+" neither true nor false", with(rest, one, "maybe"), "InvalidParameterValue")
	case t.Kind() == reflect.Int64, t.Kind() == reflect.Float64:
		v.add(at+" as no number", with(rest, one, "many"), "InvalidParameterValue")
		v.add(at+" empty", with(rest, one, ""), "InvalidParameterValue")
		for _, value := range []string{"-1", "0", "1", "65536", "2147483647"} {
			v.add(at+"="+value, with(rest, one, value), "")
		}
		v.add(at+" beyond all numbers", with(rest, one, "99999999999999999999"), "")
		if one == at {
			v.bounds(f, at, rest, func(n int) string { return strconv.Itoa(n) })
		}
	default:
		for name, value := range map[string]string{"empty": "", "long": strings.Repeat("x", 70_000), "strange": "\x00<é&\"\u202e\xff"} {
			v.add(at+" "+name, with(rest, one, value), "")
		}
		if one == at {
			v.bounds(f, at, rest, func(n int) string { return strings.Repeat("x", n) })
		}
	}
}

// bounds gives a member values at and past the least and the greatest that the model allows.
func (v *variations) bounds(f reflect.StructField, at string, rest url.Values, of func(int) string) {
	if text := f.Tag.Get("min"); text != "" {
		low, _ := strconv.Atoi(text)
		v.add(at+" at its least", with(rest, at, of(low)), "")
		if low > 0 {
			v.add(at+" below its least", with(rest, at, of(low-1)), "InvalidParameterValue")
		}
	}
	if text := f.Tag.Get("max"); text != "" {
		high, _ := strconv.Atoi(text)
		v.add(at+" at its most", with(rest, at, of(high)), "")
		v.add(at+" above its most", with(rest, at, of(high+1)), "InvalidParameterValue")
	}
}

func (v *variations) lists(f reflect.StructField, elem reflect.Type, at string, rest url.Values) {
	v.add(at+" as an empty list", with(rest, at, ""), "")
	alone := "InvalidParameterValue"
	if elem.Kind() != reflect.Struct || elem == timeType {
		alone = "" // a list of one
	}
	v.add(at+" as a value", with(rest, at, "value"), alone)
	v.add(at+" with an entry that has no number", with(rest, at+".first", "value"), "InvalidParameterValue")
	v.add(at+" with an entry beyond all limits", with(rest, at+".100000", "value"), "InvalidParameterValue")
	one := v.stage.fill(f, at)
	many := maps.Clone(rest)
	for n := range 5 {
		for name, values := range one {
			many[strings.Replace(name, at+".1", at+"."+strconv.Itoa(n+1), 1)] = values
		}
	}
	v.add(at+" five times the same", many, "")
	for text, past := range map[string]int{f.Tag.Get("max"): 1} {
		high, _ := strconv.Atoi(text)
		if high == 0 || high > 400 {
			continue
		}
		more := maps.Clone(rest)
		for n := range high + past {
			for name, values := range one {
				more[strings.Replace(name, at+".1", at+"."+strconv.Itoa(n+1), 1)] = values
			}
		}
		v.add(at+" longer than its most", more, "InvalidParameterValue")
	}
}

// sample is all of a list, or a few of a long one.
func sample(values []string) []string {
	if len(values) <= 30 {
		return values
	}
	var few []string
	for i := 0; i < len(values); i += len(values) / 10 {
		few = append(few, values[i])
	}
	return few
}
