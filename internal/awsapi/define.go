package awsapi

import "reflect"

// NewService returns a service whose shapes are written by hand: nacre's own. Calls name their actions as prefix.Action; name is what
// their signatures are scoped to. Define adds the actions.
func NewService(name, version, prefix string, exceptions map[string]Exception) *Service {
	return &Service{Name: name, Version: version, Protocol: "json", JSONVersion: "1.1", TargetPrefix: prefix,
		Shapes: map[string]Shapes{}, Enums: map[string][]string{}, Exceptions: exceptions}
}

// Define adds an action to a service of NewService, while the program starts. The fields of Req and Res are as generated ones are: a pointer, a list, a
// map or a blob each, with the tags that modelgen writes. It panics where they aren't, and when the action is there already.
func Define[Req, Res any](s *Service, name string) Action[Req, Res] {
	if _, ok := s.Shapes[name]; ok {
		panic("awsapi: " + s.Name + " has the action " + name + " already")
	}
	a := Action[Req, Res]{Service: s, Name: name}
	s.Actions = append(s.Actions, name)
	s.Shapes[name] = Shapes{Request: reflect.TypeFor[Req](), Result: reflect.TypeFor[Res]()}
	for _, t := range []reflect.Type{reflect.TypeFor[Req](), reflect.TypeFor[Res]()} {
		checkShape(t, map[reflect.Type]bool{})
	}
	return a
}

// checkShape panics unless a structure written by hand is one that the codecs can take.
func checkShape(t reflect.Type, seen map[reflect.Type]bool) {
	if seen[t] {
		return
	}
	seen[t] = true
	p := planOf(t)
	for i := range p.fields {
		f := &p.fields[i]
		if f.form == "" || !f.pointer && f.kind != kindList && f.kind != kindMap && f.kind != kindBlob {
			panic("awsapi: " + t.String() + "." + f.name + " must have a json tag, and be a pointer, a list, a map or a blob")
		}
		inner := f.elemType
		for k := kindOf(inner); k == kindList || k == kindMap; k = kindOf(inner) {
			inner = inner.Elem()
		}
		if kindOf(inner) == kindStruct {
			checkShape(inner, seen)
		}
	}
}
