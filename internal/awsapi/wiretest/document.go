package wiretest

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// element is one of an answer's XML elements.
type element struct {
	name     string
	space    string // the namespace
	own      []string
	text     string
	children []*element
}

func parse(body []byte) (*element, error) {
	dec := xml.NewDecoder(bytes.NewReader(body))
	root := &element{}
	stack := []*element{root}
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		top := stack[len(stack)-1]
		switch t := tok.(type) {
		case xml.StartElement:
			e := &element{name: t.Name.Local, space: t.Name.Space}
			for _, a := range t.Attr {
				if a.Name.Local != "xmlns" {
					e.own = append(e.own, a.Name.Local)
				}
			}
			top.children = append(top.children, e)
			stack = append(stack, e)
		case xml.EndElement:
			stack = stack[:len(stack)-1]
		case xml.CharData:
			top.text += string(t)
		}
	}
	if len(root.children) != 1 {
		return nil, fmt.Errorf("it holds %d documents", len(root.children))
	}
	return root.children[0], nil
}

// take removes and returns the children of a name.
func (e *element) take(name string) (taken []*element) {
	var rest []*element
	for _, c := range e.children {
		if c.name == name {
			taken = append(taken, c)
		} else {
			rest = append(rest, c)
		}
	}
	e.children = rest
	return taken
}

// only returns the text of the one child of a name; ok is false when there is none, or several.
func (e *element) only(name string) (text string, ok bool) {
	list := e.take(name)
	if len(list) != 1 || len(list[0].children) > 0 {
		return "", false
	}
	return list[0].text, true
}

func (e *element) names() string {
	var names []string
	for _, c := range e.children {
		names = append(names, c.name)
	}
	return strings.Join(names, ", ")
}
