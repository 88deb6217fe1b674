package store

import (
	"fmt"
	"reflect"
)

// newCopier returns a function that copies objects of type T so deeply that a change of the
// copy is never seen in the original. It panics for types that can't be copied so or
// don't survive the way through JSON; all tables are declared at start-up.
//
// Structs without exported fields (time.Time, netip.Addr) are values that nobody can
// change through a copy; they are copied as they are.
func newCopier[T any]() func(*T) *T {
	t := reflect.TypeFor[T]()
	deep := copierOf(t, t.String(), map[reflect.Type]bool{})
	return func(src *T) *T {
		dst := new(T)
		*dst = *src
		if deep != nil {
			deep(reflect.ValueOf(dst).Elem())
		}
		return dst
	}
}

// copierOf returns what makes a shallow copy of a value of type t deep, in place; nil if
// a shallow copy is deep.
func copierOf(t reflect.Type, path string, within map[reflect.Type]bool) func(reflect.Value) {
	if within[t] {
		panic(fmt.Sprintf("store: %s: recursive type %s", path, t))
	}
	within[t] = true
	defer delete(within, t)

	switch t.Kind() {
	case reflect.Struct:
		return structCopier(t, path, within)
	case reflect.Slice:
		elem := copierOf(t.Elem(), path+"[]", within)
		return func(v reflect.Value) {
			if v.IsNil() {
				return
			}
			fresh := reflect.MakeSlice(t, v.Len(), v.Len())
			reflect.Copy(fresh, v)
			if elem != nil {
				for i := range fresh.Len() {
					elem(fresh.Index(i))
				}
			}
			v.Set(fresh)
		}
	case reflect.Map:
		if copierOf(t.Key(), path+"[key]", within) != nil {
			panic(fmt.Sprintf("store: %s: map keys of type %s hold references", path, t.Key()))
		}
		elem := copierOf(t.Elem(), path+"[]", within)
		return func(v reflect.Value) {
			if v.IsNil() {
				return
			}
			fresh := reflect.MakeMapWithSize(t, v.Len())
			for it := v.MapRange(); it.Next(); {
				value := it.Value()
				if elem != nil {
					own := reflect.New(t.Elem()).Elem()
					own.Set(value)
					elem(own)
					value = own
				}
				fresh.SetMapIndex(it.Key(), value)
			}
			v.Set(fresh)
		}
	case reflect.Pointer:
		elem := copierOf(t.Elem(), "*"+path, within)
		return func(v reflect.Value) {
			if v.IsNil() {
				return
			}
			fresh := reflect.New(t.Elem())
			fresh.Elem().Set(v.Elem())
			if elem != nil {
				elem(fresh.Elem())
			}
			v.Set(fresh)
		}
	case reflect.Array:
		elem := copierOf(t.Elem(), path+"[]", within)
		if elem == nil {
			return nil
		}
		return func(v reflect.Value) {
			for i := range v.Len() {
				elem(v.Index(i))
			}
		}
	case reflect.Interface, reflect.Chan, reflect.Func, reflect.UnsafePointer, reflect.Uintptr:
		panic(fmt.Sprintf("store: %s: type %s can't be stored", path, t))
	}
	return nil
}

func structCopier(t reflect.Type, path string, within map[reflect.Type]bool) func(reflect.Value) {
	type field struct {
		index int
		deep  func(reflect.Value)
	}
	var fields []field
	exported := 0
	for i := range t.NumField() {
		if f := t.Field(i); f.IsExported() {
			exported++
			if deep := copierOf(f.Type, path+"."+f.Name, within); deep != nil {
				fields = append(fields, field{i, deep})
			}
		}
	}
	if exported != 0 && exported != t.NumField() {
		panic(fmt.Sprintf("store: %s: type %s has fields that JSON would lose", path, t))
	}
	if fields == nil {
		return nil
	}
	return func(v reflect.Value) {
		for _, f := range fields {
			f.deep(v.Field(f.index))
		}
	}
}
