package main

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
)

// json tells whether the service speaks AWS JSON: one name a member, and errors that the model lists.
func (g *generator) json() bool { return g.model.Metadata.Protocol == "json" }

// jsonTag carries what the JSON codec needs.
func (g *generator) jsonTag(member string, r *reference, required bool) string {
	s := g.model.Shapes[r.Shape]
	name := r.LocationName
	if name == "" {
		name = member
	}
	tags := []string{fmt.Sprintf(`json:%q`, name)}
	// An enumeration is that of the innermost values.
	innermost, of := r.Shape, s
	for of.Type == "list" || of.Type == "map" {
		next := of.Member
		if of.Type == "map" {
			if next = of.Value; len(g.model.Shapes[of.Key.Shape].Enum) > 0 {
				tags = append(tags, fmt.Sprintf(`keys:%q`, of.Key.Shape))
			}
		}
		innermost, of = next.Shape, g.model.Shapes[next.Shape]
	}
	if len(of.Enum) > 0 {
		tags = append(tags, fmt.Sprintf(`enum:%q`, innermost))
	}
	if of.Type == "timestamp" && (of.TimestampFormat == "iso8601" || r.TimestampFormat == "iso8601") {
		tags = append(tags, `time:"iso8601"`)
	}
	return strings.Join(append(tags, constraints(s, r, required)...), " ")
}

// writeExceptions writes the table of the service's errors.
func (g *generator) writeExceptions(b *bytes.Buffer) {
	b.WriteString("\n// exceptions are the model's errors, by their codes.\nvar exceptions = map[string]awsapi.Exception{\n")
	for _, name := range sortedKeys(g.model.Shapes) {
		s := g.model.Shapes[name]
		if !s.Exception {
			continue
		}
		status := s.Error.HTTPStatusCode
		switch {
		case status != 0:
		case s.Fault:
			status = http.StatusInternalServerError
		default:
			status = http.StatusBadRequest
		}
		code, message := s.Error.Code, ""
		if code == "" {
			code = name
		}
		for _, member := range sortedKeys(s.Members) {
			if strings.EqualFold(member, "message") {
				message = member
			}
		}
		fmt.Fprintf(b, "\t%q: {Status: %d, Message: %q},\n", code, status, message)
	}
	b.WriteString("}\n")
}
