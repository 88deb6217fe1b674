package awsapi

import (
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
)

// element is a parsed XML element.
type element struct {
	name     string
	text     string
	children []*element
}

func (e *element) child(name string) *element {
	for _, c := range e.children {
		if c.name == name {
			return c
		}
	}
	return nil
}

// parseXML reads one document.
func parseXML(r io.Reader) (*element, error) {
	dec := xml.NewDecoder(r)
	root := &element{}
	stack := []*element{root}
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read the answer's XML: %w", err)
		}
		top := stack[len(stack)-1]
		switch t := tok.(type) {
		case xml.StartElement:
			if len(stack) > 64 {
				return nil, errors.New("read the answer's XML: it is nested more than 64 deep")
			}
			e := &element{name: t.Name.Local}
			top.children = append(top.children, e)
			stack = append(stack, e)
		case xml.EndElement:
			stack = stack[:len(stack)-1]
		case xml.CharData:
			top.text += string(t)
		}
	}
	if len(root.children) != 1 {
		return nil, errors.New("read the answer's XML: it holds no document")
	}
	return root.children[0], nil
}

// decodeResult fills a generated result from an answer.
func decodeResult(s *Service, action string, r io.Reader, dst any) error {
	doc, err := parseXML(r)
	if err != nil {
		return err
	}
	if s.Protocol == "query" {
		if doc = doc.child(action + "Result"); doc == nil {
			return nil
		}
	}
	return decodeElement(doc, reflect.ValueOf(dst).Elem())
}

// decodeError reads an error of either protocol.
func decodeError(r io.Reader, status int) *Error {
	e := &Error{Code: "Unknown", Message: fmt.Sprintf("HTTP status %d without an AWS error", status), Status: status}
	doc, err := parseXML(r)
	if err != nil {
		return e
	}
	inner := doc.child("Error")
	if list := doc.child("Errors"); list != nil {
		inner = list.child("Error")
	}
	if inner == nil {
		return e
	}
	if c := inner.child("Code"); c != nil {
		e.Code = c.text
	}
	if m := inner.child("Message"); m != nil {
		e.Message = m.text
	}
	for _, name := range []string{"RequestID", "RequestId"} {
		if id := doc.child(name); id != nil {
			e.RequestID = id.text
		}
	}
	return e
}

func decodeElement(e *element, v reflect.Value) error {
	p := planOf(v.Type())
	for _, c := range e.children {
		at, ok := p.byXML[c.name]
		if !ok {
			continue // requestId, and what a newer server adds
		}
		f := &p.fields[at]
		fv := v.Field(f.index)
		switch f.kind {
		case kindStruct:
			fv.Set(reflect.New(f.elemType))
			if err := decodeElement(c, fv.Elem()); err != nil {
				return err
			}
		case kindList:
			items := c.children
			if f.flat {
				items = []*element{c}
			}
			list := fv
			if list.IsNil() {
				list = reflect.MakeSlice(fv.Type(), 0, len(items))
			}
			for _, item := range items {
				elem := reflect.New(f.elemType).Elem()
				var err error
				if f.elem == kindStruct {
					err = decodeElement(item, elem)
				} else {
					err = decodeScalar(item, f.elem, elem)
				}
				if err != nil {
					return err
				}
				list = reflect.Append(list, elem)
			}
			fv.Set(list)
		case kindBlob:
			if err := decodeScalar(c, f.kind, fv); err != nil {
				return err
			}
		default:
			ptr := reflect.New(f.elemType)
			if err := decodeScalar(c, f.kind, ptr.Elem()); err != nil {
				return err
			}
			fv.Set(ptr)
		}
	}
	return nil
}

func decodeScalar(e *element, k kind, v reflect.Value) error {
	text := e.text
	if k != kindString {
		text = strings.TrimSpace(text)
	}
	var err error
	switch k {
	case kindInt:
		var i int64
		i, err = strconv.ParseInt(text, 10, 64)
		v.SetInt(i)
	case kindBool:
		v.SetBool(text == "true")
	case kindFloat:
		var x float64
		x, err = strconv.ParseFloat(text, 64)
		v.SetFloat(x)
	case kindTime:
		t, perr := parseTime(text)
		v.Set(reflect.ValueOf(t))
		err = perr
	case kindBlob:
		var b []byte
		b, err = base64.StdEncoding.DecodeString(text)
		v.SetBytes(b)
	default:
		v.SetString(text)
	}
	if err != nil {
		return fmt.Errorf("read %q in the answer's <%s>: %w", shorten(text), e.name, err)
	}
	return nil
}
