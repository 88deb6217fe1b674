package awsapi

import (
	"encoding/base64"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// appendJSONStruct writes a generated structure. Absent members are left out.
func appendJSONStruct(b []byte, v reflect.Value) []byte {
	b = append(b, '{')
	p := planOf(v.Type())
	first := true
	for i := range p.fields {
		f := &p.fields[i]
		fv := v.Field(f.index)
		if fv.IsNil() || f.in != "" {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(appendJSONString(b, f.form), ':')
		b = appendJSONValue(b, fv, f)
	}
	return append(b, '}')
}

func appendJSONValue(b []byte, v reflect.Value, f *field) []byte {
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	switch kindOf(v.Type()) {
	case kindStruct:
		return appendJSONStruct(b, v)
	case kindList:
		b = append(b, '[')
		for n := range v.Len() {
			if n > 0 {
				b = append(b, ',')
			}
			b = appendJSONValue(b, v.Index(n), f)
		}
		return append(b, ']')
	case kindMap:
		b = append(b, '{')
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for n, key := range keys {
			if n > 0 {
				b = append(b, ',')
			}
			b = append(appendJSONString(b, key.String()), ':')
			b = appendJSONValue(b, v.MapIndex(key), f)
		}
		return append(b, '}')
	case kindInt:
		return strconv.AppendInt(b, v.Int(), 10)
	case kindBool:
		return strconv.AppendBool(b, v.Bool())
	case kindFloat:
		return appendJSONFloat(b, v.Float())
	case kindTime:
		return appendJSONTime(b, v.Interface().(time.Time), f.iso)
	case kindBlob:
		b = append(b, '"')
		b = base64.StdEncoding.AppendEncode(b, v.Bytes())
		return append(b, '"')
	}
	return appendJSONString(b, v.String())
}

// appendJSONFloat writes what JSON has no number for as AWS does, in words.
func appendJSONFloat(b []byte, x float64) []byte {
	switch {
	case math.IsNaN(x):
		return append(b, `"NaN"`...)
	case math.IsInf(x, 1):
		return append(b, `"Infinity"`...)
	case math.IsInf(x, -1):
		return append(b, `"-Infinity"`...)
	}
	return strconv.AppendFloat(b, x, 'g', -1, 64)
}

// appendJSONTime writes a time as seconds since 1970 with at most three decimals, or in ISO 8601's form where the model says so.
func appendJSONTime(b []byte, t time.Time, iso bool) []byte {
	if iso {
		return append(t.UTC().AppendFormat(append(b, '"'), xmlTime), '"')
	}
	ms := t.UnixMilli()
	if ms%1000 == 0 {
		return strconv.AppendInt(b, ms/1000, 10)
	}
	return strconv.AppendFloat(b, float64(ms)/1000, 'f', 3, 64)
}

// appendJSONString quotes a string. What isn't UTF-8 becomes U+FFFD.
func appendJSONString(b []byte, s string) []byte {
	const hexDigits = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(s); {
		r, width := rune(s[i]), 1
		if r >= utf8.RuneSelf {
			r, width = utf8.DecodeRuneInString(s[i:])
		}
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r == '\n':
			b = append(b, '\\', 'n')
		case r < 0x20 || r == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hexDigits[r>>4], hexDigits[r&15])
		case r == utf8.RuneError && width == 1:
			b = append(b, "\uFFFD"...)
		default:
			b = append(b, s[i:i+width]...)
		}
		i += width
	}
	return append(b, '"')
}
