package awsapi

import (
	"encoding/base64"
	"net/url"
	"reflect"
	"strconv"
	"time"
)

// encodeForm writes a generated request as a form, by the service's protocol.
func encodeForm(s *Service, action string, src any) url.Values {
	form := url.Values{"Action": {action}, "Version": {s.Version}}
	encodeStruct(s, form, reflect.ValueOf(src).Elem(), "")
	return form
}

func encodeStruct(s *Service, form url.Values, v reflect.Value, path string) {
	p := planOf(v.Type())
	for i := range p.fields {
		f := &p.fields[i]
		fv := v.Field(f.index)
		name := join(path, f.form)
		switch {
		case f.kind == kindBlob:
			if fv.Len() > 0 {
				form.Set(name, base64.StdEncoding.EncodeToString(fv.Bytes()))
			}
		case f.kind == kindList:
			if s.Protocol == "query" && !f.flat {
				name = join(name, f.item)
			}
			for n := range fv.Len() {
				elem, at := fv.Index(n), join(name, strconv.Itoa(n+1))
				if f.elem == kindStruct {
					encodeStruct(s, form, elem, at)
				} else {
					form.Set(at, scalarText(elem, f.elem))
				}
			}
		case fv.IsNil():
		case f.kind == kindStruct:
			encodeStruct(s, form, fv.Elem(), name)
		default:
			form.Set(name, scalarText(fv.Elem(), f.kind))
		}
	}
}

// xmlTime is how EC2 writes timestamps.
const xmlTime = "2006-01-02T15:04:05.000Z"

func scalarText(v reflect.Value, k kind) string {
	switch k {
	case kindInt:
		return strconv.FormatInt(v.Int(), 10)
	case kindBool:
		return strconv.FormatBool(v.Bool())
	case kindFloat:
		return strconv.FormatFloat(v.Float(), 'g', -1, 64)
	case kindTime:
		return v.Interface().(time.Time).UTC().Format(xmlTime)
	}
	return v.String()
}
