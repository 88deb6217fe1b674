package main

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
)

// json tells whether the service speaks AWS JSON, or REST with JSON: one name a member, and errors that the model lists.
func (g *generator) json() bool { return g.model.Metadata.Protocol == "json" || g.rest() }

// rest tells whether method and path say which action a call means.
func (g *generator) rest() bool { return g.model.Metadata.Protocol == "rest-json" }

// jsonTag carries what the JSON codec needs.
func (g *generator) jsonTag(member string, r *reference, required, payload bool) string {
	s := g.model.Shapes[r.Shape]
	name := r.LocationName
	if name == "" {
		name = member
	}
	tags := []string{fmt.Sprintf(`json:%q`, name)}
	switch {
	case payload && s.Type != "blob":
		panic("modelgen: the payload " + member + " is no blob, which no codec knows yet")
	case payload:
		tags = append(tags, `in:"payload"`)
	case r.Location != "":
		tags = append(tags, fmt.Sprintf(`in:%q`, r.Location))
	}
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

// writeRoutes writes where a REST service's actions are.
func (g *generator) writeRoutes(b *bytes.Buffer) {
	b.WriteString("\n// routes are how the model's actions are called.\nvar routes = map[string]awsapi.Route{\n")
	for _, name := range sortedKeys(g.model.Operations) {
		op := g.model.Operations[name]
		fmt.Fprintf(b, "\t%q: {Method: %q, Path: %q, Status: %d, UnsignedBody: %v},\n", name, op.HTTP.Method, op.HTTP.RequestURI, op.HTTP.ResponseCode, op.AuthType == "v4-unsigned-body")
	}
	b.WriteString("}\n")
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
