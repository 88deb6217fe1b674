package awsapi

import (
	"encoding/base64"
	"reflect"
	"strconv"
	"time"
	"unicode/utf8"
)

// appendResult writes the whole answer of a call.
func appendResult(b []byte, s *Service, action string, noResult bool, requestID string, result any) []byte {
	b = append(b, `<?xml version="1.0" encoding="UTF-8"?>`+"\n<"...)
	b = append(b, action+`Response xmlns="`+s.Namespace+`">`...)
	if s.Protocol == "ec2" {
		b = appendElement(b, "requestId", requestID)
		if noResult {
			b = append(b, "<return>true</return>"...)
		}
		b = appendStruct(b, reflect.ValueOf(result).Elem())
	} else {
		if !noResult {
			b = append(b, '<')
			b = append(b, action+"Result>"...)
			b = appendStruct(b, reflect.ValueOf(result).Elem())
			b = append(b, "</"+action+"Result>"...)
		}
		b = append(b, "<ResponseMetadata>"...)
		b = appendElement(b, "RequestId", requestID)
		b = append(b, "</ResponseMetadata>"...)
	}
	return append(b, "</"+action+"Response>"...)
}

// encodeError writes an error as the protocol has it.
func encodeError(s *Service, requestID string, e *Error) []byte {
	b := []byte(`<?xml version="1.0" encoding="UTF-8"?>` + "\n")
	if s != nil && s.Protocol == "query" {
		kind := "Sender"
		if e.Status >= 500 {
			kind = "Receiver"
		}
		b = append(b, `<ErrorResponse xmlns="`+s.Namespace+`"><Error>`...)
		b = appendElement(b, "Type", kind)
		b = appendElement(b, "Code", e.Code)
		b = appendElement(b, "Message", e.Message)
		b = append(b, "</Error>"...)
		b = appendElement(b, "RequestId", requestID)
		return append(b, "</ErrorResponse>"...)
	}
	b = append(b, "<Response><Errors><Error>"...)
	b = appendElement(b, "Code", e.Code)
	b = appendElement(b, "Message", e.Message)
	b = append(b, "</Error></Errors>"...)
	b = appendElement(b, "RequestID", requestID)
	return append(b, "</Response>"...)
}

func appendElement(b []byte, name, text string) []byte {
	b = append(b, '<')
	b = append(b, name...)
	b = append(b, '>')
	b = appendText(b, text)
	return appendEnd(b, name)
}

func appendEnd(b []byte, name string) []byte {
	b = append(b, '<', '/')
	b = append(b, name...)
	return append(b, '>')
}

// appendStruct writes a structure's members. Absent members are left out; a list that is empty, but not
// nil, is an empty element, as EC2 sends it.
func appendStruct(b []byte, v reflect.Value) []byte {
	p := planOf(v.Type())
	for i := range p.fields {
		f := &p.fields[i]
		fv := v.Field(f.index)
		if fv.IsNil() {
			continue
		}
		switch f.kind {
		case kindList:
			b = appendList(b, f, fv)
		case kindStruct:
			b = append(b, '<')
			b = append(b, f.xml...)
			b = append(b, '>')
			b = appendStruct(b, fv.Elem())
			b = appendEnd(b, f.xml)
		default:
			if f.pointer {
				fv = fv.Elem()
			}
			b = append(b, '<')
			b = append(b, f.xml...)
			b = append(b, '>')
			b = appendScalar(b, fv, f.kind)
			b = appendEnd(b, f.xml)
		}
	}
	return b
}

func appendList(b []byte, f *field, list reflect.Value) []byte {
	item := f.item
	if f.flat {
		item = f.xml
	} else {
		b = append(b, '<')
		b = append(b, f.xml...)
		if list.Len() == 0 {
			return append(b, '/', '>')
		}
		b = append(b, '>')
	}
	for n := range list.Len() {
		b = append(b, '<')
		b = append(b, item...)
		b = append(b, '>')
		if f.elem == kindStruct {
			b = appendStruct(b, list.Index(n))
		} else {
			b = appendScalar(b, list.Index(n), f.elem)
		}
		b = appendEnd(b, item)
	}
	if !f.flat {
		b = appendEnd(b, f.xml)
	}
	return b
}

func appendScalar(b []byte, v reflect.Value, k kind) []byte {
	switch k {
	case kindInt:
		return strconv.AppendInt(b, v.Int(), 10)
	case kindBool:
		return strconv.AppendBool(b, v.Bool())
	case kindFloat:
		return strconv.AppendFloat(b, v.Float(), 'f', -1, 64)
	case kindTime:
		return v.Interface().(time.Time).UTC().AppendFormat(b, xmlTime)
	case kindBlob:
		return base64.StdEncoding.AppendEncode(b, v.Bytes())
	}
	return appendText(b, v.String())
}

// appendText escapes what XML 1.0 wants escaped, and replaces what it can't hold.
func appendText(b []byte, s string) []byte {
	plain := 0
	for i := 0; i < len(s); {
		r, width := rune(s[i]), 1
		if r >= utf8.RuneSelf {
			r, width = utf8.DecodeRuneInString(s[i:])
		}
		var escape string
		switch {
		case r == '&':
			escape = "&amp;"
		case r == '<':
			escape = "&lt;"
		case r == '>':
			escape = "&gt;"
		case r == '"':
			escape = "&quot;"
		case r == '\'':
			escape = "&apos;"
		case r == '\r':
			escape = "&#13;"
		case r < 0x20 && r != '\t' && r != '\n', r == utf8.RuneError && width == 1, r == 0xfffe, r == 0xffff:
			escape = "\uFFFD"
		}
		if escape != "" {
			b = append(b, s[plain:i]...)
			b = append(b, escape...)
			plain = i + width
		}
		i += width
	}
	return append(b, s[plain:]...)
}
