package awsapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of a decoded document, beside MaxBody.
const (
	maxJSONDepth  = 32      // nested structures, lists and maps
	maxJSONValues = 100_000 // values of any kind
)

// decodeJSON fills a generated request from a call's document. An empty body is an empty document. AWS ignores members that its model
// lacks; here they are refused as members that aren't honoured are, unless they are null: a newer client's wish must not vanish.
func decodeJSON(s *Service, body []byte, dst any) error {
	return decodeDocument(&jsonDecoder{service: s, strict: true}, body, dst)
}

// decodeJSONAnswer fills a generated result. It takes what a newer server adds for nothing.
func decodeJSONAnswer(s *Service, body []byte, dst any) error {
	return decodeDocument(&jsonDecoder{service: s}, body, dst)
}

func decodeDocument(d *jsonDecoder, body []byte, dst any) error {
	v := reflect.ValueOf(dst).Elem()
	if len(bytes.TrimSpace(body)) == 0 {
		body = []byte("{}")
	}
	if !utf8.Valid(body) {
		return serialization("The document is not UTF-8.")
	}
	d.dec = json.NewDecoder(bytes.NewReader(body))
	d.dec.UseNumber()
	tok, err := d.token()
	if err != nil {
		return err
	}
	if err := d.value(tok, v, nil, "", 0); err != nil {
		return err
	}
	if _, err := d.dec.Token(); !errors.Is(err, io.EOF) {
		return serialization("Something follows the document.")
	}
	return nil
}

type jsonDecoder struct {
	service *Service
	strict  bool // hold the document against limits, enumerations, bounds and what is required
	dec     *json.Decoder
	values  int
}

func serialization(format string, args ...any) *Error {
	return Errorf("SerializationException", format, args...)
}

// constraint says what is wrong with a value, in the words of AWS's JSON services.
func constraint(shown, path, must string) *Error {
	return Errorf("ValidationException", "1 validation error detected: Value %s at '%s' failed to satisfy constraint: Member must %s", shown, shorten(path), must)
}

func (d *jsonDecoder) token() (json.Token, error) {
	tok, err := d.dec.Token()
	if err != nil {
		return nil, serialization("The document is not well-formed JSON at byte %d.", d.dec.InputOffset())
	}
	if d.values++; d.strict && d.values > maxJSONValues {
		return nil, serialization("The document has more than %d values.", maxJSONValues)
	}
	return tok, nil
}

// value decodes one value, whose first token has been read and isn't null. f is the member that it is, or is in.
func (d *jsonDecoder) value(tok json.Token, v reflect.Value, f *field, path string, depth int) error {
	if depth > maxJSONDepth {
		return serialization("The document is nested more than %d deep at %s.", maxJSONDepth, shorten(path))
	}
	switch k := kindOf(v.Type()); k {
	case kindStruct:
		if tok != json.Delim('{') {
			return wrongKind(path, "a structure", tok)
		}
		return d.structure(v, path, depth)
	case kindList:
		if tok != json.Delim('[') {
			return wrongKind(path, "a list", tok)
		}
		return d.list(v, f, path, depth)
	case kindMap:
		if tok != json.Delim('{') {
			return wrongKind(path, "a map", tok)
		}
		return d.entries(v, f, path, depth)
	default:
		return d.scalar(tok, k, v, f, path)
	}
}

func wrongKind(path, want string, tok json.Token) *Error {
	got := "null"
	switch t := tok.(type) {
	case json.Delim:
		if got = "a structure"; t == '[' {
			got = "a list"
		}
	case string:
		got = "a string"
	case json.Number:
		got = "a number"
	case bool:
		got = "true or false"
	}
	if path == "" {
		return serialization("The document must be %s, not %s.", want, got)
	}
	return serialization("The member %s must be %s, not %s.", shorten(path), want, got)
}

// key reads the name of the next member; once tells that it was there before.
func (d *jsonDecoder) key(seen map[string]bool, path string) (string, error) {
	tok, err := d.token()
	if err != nil {
		return "", err
	}
	name, ok := tok.(string)
	if !ok {
		return "", serialization("The document is not well-formed JSON at byte %d.", d.dec.InputOffset())
	}
	if seen[name] {
		return "", serialization("The member %s is given more than once.", shorten(join(path, name)))
	}
	seen[name] = true
	return name, nil
}

func (d *jsonDecoder) structure(v reflect.Value, path string, depth int) error {
	p := planOf(v.Type())
	seen := map[string]bool{}
	for d.dec.More() {
		name, err := d.key(seen, path)
		if err != nil {
			return err
		}
		at := join(path, name)
		tok, err := d.token()
		if err != nil {
			return err
		}
		i, known := p.byForm[name]
		known = known && p.fields[i].in == ""
		switch {
		case !known:
			if d.strict && tok != nil && name != "__type" {
				return Errorf("UnsupportedOperationException", "The member %s is not known to this cloud.", shorten(at))
			}
			if err := d.skip(tok); err != nil {
				return err
			}
			continue
		case tok == nil:
			continue
		}
		f := &p.fields[i]
		fv := v.Field(f.index)
		if f.pointer {
			fv.Set(reflect.New(f.elemType))
			fv = fv.Elem()
		}
		if err := d.value(tok, fv, f, at, depth+1); err != nil {
			return err
		}
	}
	if _, err := d.token(); err != nil {
		return err
	}
	return d.complete(v, p, path)
}

// complete finds what is required and isn't there.
func (d *jsonDecoder) complete(v reflect.Value, p *plan, path string) error {
	for i := range p.fields {
		if f := &p.fields[i]; d.strict && f.required && v.Field(f.index).IsNil() {
			return constraint("null", join(path, f.form), "not be null")
		}
	}
	return nil
}

func (d *jsonDecoder) list(v reflect.Value, f *field, path string, depth int) error {
	list := reflect.MakeSlice(v.Type(), 0, 0)
	for n := 0; d.dec.More(); n++ {
		tok, err := d.token()
		if err != nil {
			return err
		}
		at := path + "[" + strconv.Itoa(n) + "]"
		if tok == nil {
			return constraint("null", at, "not be null")
		}
		elem := reflect.New(v.Type().Elem()).Elem()
		if err := d.value(tok, elem, f, at, depth+1); err != nil {
			return err
		}
		list = reflect.Append(list, elem)
	}
	if _, err := d.token(); err != nil {
		return err
	}
	v.Set(list)
	return d.length(list.Len(), f.kind == kindList, f, path, "a list")
}

func (d *jsonDecoder) entries(v reflect.Value, f *field, path string, depth int) error {
	m := reflect.MakeMap(v.Type())
	seen := map[string]bool{}
	for d.dec.More() {
		name, err := d.key(seen, path)
		if err != nil {
			return err
		}
		tok, err := d.token()
		if err != nil {
			return err
		}
		at := join(path, name)
		if tok == nil {
			return constraint("null", at, "not be null")
		}
		if d.strict && f.keys != "" && !slices.Contains(d.service.Enums[f.keys], name) {
			return constraint("'"+shorten(name)+"'", path, "have keys of the set: ["+strings.Join(d.service.Enums[f.keys], ", ")+"]")
		}
		elem := reflect.New(v.Type().Elem()).Elem()
		if err := d.value(tok, elem, f, at, depth+1); err != nil {
			return err
		}
		m.SetMapIndex(reflect.ValueOf(name).Convert(v.Type().Key()), elem)
	}
	if _, err := d.token(); err != nil {
		return err
	}
	v.Set(m)
	return d.length(m.Len(), f.kind == kindMap, f, path, "a map")
}

// length holds a length against the member's bounds, where they are the member's own and not those of what holds it.
func (d *jsonDecoder) length(n int, own bool, f *field, path, shown string) error {
	switch {
	case !d.strict || !own || !f.bounded:
	case float64(n) < f.min:
		return constraint(shown, path, "have length greater than or equal to "+bound(f.min))
	case float64(n) > f.max:
		return constraint(shown, path, "have length less than or equal to "+bound(f.max))
	}
	return nil
}

func (d *jsonDecoder) scalar(tok json.Token, k kind, v reflect.Value, f *field, path string) error {
	text, isText := tok.(string)
	number, isNumber := tok.(json.Number)
	shown := "'" + shorten(text) + "'"
	switch k {
	case kindString:
		if !isText {
			return wrongKind(path, "a string", tok)
		}
		if d.strict && f.enum != "" && !slices.Contains(d.service.Enums[f.enum], text) {
			return constraint(shown, path, "satisfy enum value set: ["+strings.Join(d.service.Enums[f.enum], ", ")+"]")
		}
		v.SetString(text)
		return d.length(utf8.RuneCountInString(text), f.kind == kindString, f, path, shown)
	case kindInt:
		i, err := strconv.ParseInt(string(number), 10, 64)
		if !isNumber || err != nil || d.strict && (i < math.MinInt32 || i > 1<<53) {
			return wrongKind(path, "a whole number", tok)
		}
		v.SetInt(i)
		return d.within(float64(i), k, f, path)
	case kindBool:
		b, ok := tok.(bool)
		if !ok {
			return wrongKind(path, "true or false", tok)
		}
		v.SetBool(b)
	case kindFloat:
		x, err := strconv.ParseFloat(string(number), 64)
		if !d.strict && isText {
			x, err, isNumber = notANumber(text)
		}
		if !isNumber || err != nil {
			return wrongKind(path, "a number", tok)
		}
		v.SetFloat(x)
		return d.within(x, k, f, path)
	case kindTime:
		t, ok := jsonTime(tok, f.iso)
		if !ok {
			return wrongKind(path, "a time", tok)
		}
		v.Set(reflect.ValueOf(t))
	case kindBlob:
		if !isText {
			return wrongKind(path, "a string of base64", tok)
		}
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return serialization("The member %s is not base64.", shorten(path))
		}
		v.SetBytes(b)
		return d.length(len(b), f.kind == kindBlob, f, path, "a blob")
	}
	return nil
}

func (d *jsonDecoder) within(x float64, k kind, f *field, path string) error {
	switch {
	case !d.strict || f.kind != k || !f.bounded:
	case x < f.min:
		return constraint("'"+bound(x)+"'", path, "have value greater than or equal to "+bound(f.min))
	case x > f.max:
		return constraint("'"+bound(x)+"'", path, "have value less than or equal to "+bound(f.max))
	}
	return nil
}

// notANumber reads AWS's words for what JSON has no number for.
func notANumber(text string) (float64, error, bool) {
	switch text {
	case "NaN":
		return math.NaN(), nil, true
	case "Infinity":
		return math.Inf(1), nil, true
	case "-Infinity":
		return math.Inf(-1), nil, true
	}
	return 0, fmt.Errorf("%q is no number", text), false
}

// jsonTime reads seconds since 1970, to the millisecond and within the years 0 to 9999, or ISO 8601's form where the model says so.
func jsonTime(tok json.Token, iso bool) (time.Time, bool) {
	if iso {
		text, ok := tok.(string)
		t, err := parseTime(text)
		return t, ok && err == nil
	}
	number, ok := tok.(json.Number)
	x, err := strconv.ParseFloat(string(number), 64)
	if !ok || err != nil || x < -62167219200 || x > 253402300799 {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(math.Round(x * 1000))).UTC(), true
}

// skip reads the rest of a value whose first token has been read.
func (d *jsonDecoder) skip(tok json.Token) error {
	for open := 0; ; {
		if delim, ok := tok.(json.Delim); ok {
			if delim == '{' || delim == '[' {
				open++
			} else {
				open--
			}
		}
		if open == 0 {
			return nil
		}
		var err error
		if tok, err = d.token(); err != nil {
			return err
		}
	}
}
