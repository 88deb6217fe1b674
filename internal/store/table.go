package store

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Table is a set of objects of type T, each under a key that the object itself tells.
// Tables are package variables, declared with newTable.
type Table[K ~string, T any] struct{ schema *schema }

// Name is the table's name, as it appears in Change.Table and in etcd's keys.
func (t Table[K, T]) Name() string { return t.schema.name }

func (t Table[K, T]) tableSchema() *schema { return t.schema }

// AnyTable is a Table of any type, for choosing what to watch.
type AnyTable interface {
	Name() string
	tableSchema() *schema
}

// schema is a table with its types erased, so that one piece of code keeps all tables.
// Objects appear in it as *T.
type schema struct {
	name    string
	ordinal int    // its place in schemas, and in a View's tables
	prefix  string // of its keys in etcd
	decode  func([]byte) (any, error)
	encode  func(any) ([]byte, error)
	clone   func(any) any
	keyOf   func(any) string
	indexes []func(any) []string // from an object to the values it is found by
}

// schemas lists all tables in the order of their declaration.
var schemas []*schema

var schemaByName = map[string]*schema{}

// newTable declares a table. Its name must never change, and be given to no other table
// later: it is part of the keys on disk.
func newTable[K ~string, T any](name string, key func(*T) K) Table[K, T] {
	if name == "" || strings.Contains(name, "/") || schemaByName[name] != nil {
		panic(fmt.Sprintf("store: bad or repeated table name %q", name))
	}
	copier := newCopier[T]()
	s := &schema{
		name:    name,
		ordinal: len(schemas),
		prefix:  root + name + "/",
		decode: func(data []byte) (any, error) {
			obj := new(T)
			if err := json.Unmarshal(data, obj); err != nil {
				return nil, err
			}
			return obj, nil
		},
		encode: func(obj any) ([]byte, error) { return json.Marshal(obj) },
		clone:  func(obj any) any { return copier(obj.(*T)) },
		keyOf:  func(obj any) string { return string(key(obj.(*T))) },
	}
	schemas = append(schemas, s)
	schemaByName[name] = s
	return Table[K, T]{s}
}

// marker is the key that every transaction that writes to the table puts. Its revision is
// the table's: comparing it catches every object added, changed or removed, in constant
// time. No object has it, as objects' keys aren't empty.
func (s *schema) marker() string { return s.prefix }

// splitStored finds table and key of a key in etcd; ok is false for keys that no table
// here has, such as those of a later version.
func splitStored(stored string) (s *schema, key string, ok bool) {
	rest, found := strings.CutPrefix(stored, root)
	if !found {
		return nil, "", false
	}
	name, key, found := strings.Cut(rest, "/")
	s = schemaByName[name]
	return s, key, found && s != nil
}

// Index finds objects of a table by values of type I.
type Index[K ~string, I ~string, T any] struct {
	schema  *schema
	ordinal int
}

// newIndex declares an index by the values that values returns for an object; empty values
// are left out, so that "not attached" is not a value to be found.
func newIndex[K ~string, I ~string, T any](t Table[K, T], values func(*T) []I) Index[K, I, T] {
	s := t.schema
	s.indexes = append(s.indexes, func(obj any) []string {
		var out []string
		for _, v := range values(obj.(*T)) {
			if v != "" {
				out = append(out, string(v))
			}
		}
		return out
	})
	return Index[K, I, T]{s, len(s.indexes) - 1}
}

// newIndexOf is newIndex by one value.
func newIndexOf[K ~string, I ~string, T any](t Table[K, T], value func(*T) I) Index[K, I, T] {
	return newIndex(t, func(obj *T) []I { return []I{value(obj)} })
}
