package network

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ruleset is the content of one nftables table, as data. What a VPC should have is compiled into one; what leads
// from the one that the kernel has to the next is a transaction.
type ruleset struct {
	chains map[string]chain
	sets   map[string]set

	family
	// Where packets go that the sender's side, or the receiver's, refuses: compile's own note, no content.
	refuseOut, refuseIn string
}

type chain struct {
	base  string // type, hook, priority and policy; "" for a chain that is only jumped to
	rules []string
}

// set is a set, or a map when its elements have values.
type set struct {
	kind     string // "set" or "map"
	typ      string // such as "type ifname : verdict"
	elements map[string]string
}

func newRuleset(f family) *ruleset {
	return &ruleset{chains: map[string]chain{}, sets: map[string]set{}, family: f}
}

func (r *ruleset) chain(name, base string, rules ...string) { r.chains[name] = chain{base, rules} }

func (r *ruleset) set(kind, name, typ string) {
	r.sets[name] = set{kind, typ, map[string]string{}}
}

// element puts an element into a declared set or map; value is "" for sets.
func (r *ruleset) element(set, key, value string) { r.sets[set].elements[key] = value }

// elementsPerLine keeps the lines of a transaction readable in an error message.
const elementsPerLine = 64

// whole is the transaction that makes the table from nothing, whatever there was.
func (r *ruleset) whole() string {
	return fmt.Sprintf("add table %[1]s\ndelete table %[1]s\nadd table %[1]s\n", r.table) + r.from(newRuleset(r.family))
}

// from is the transaction that leads from old to r, "" when they are equal. Its order is what the kernel asks for: what
// is referred to comes before what refers to it, and goes after it.
func (r *ruleset) from(old *ruleset) string {
	table := r.table
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(r.sets)) {
		if s := r.sets[name]; old.sets[name].kind == "" {
			fmt.Fprintf(&b, "add %s %s %s { %s; }\n", s.kind, table, name, s.typ)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.chains)) {
		if _, had := old.chains[name]; had {
			continue
		}
		if base := r.chains[name].base; base != "" {
			fmt.Fprintf(&b, "add chain %s %s { %s; }\n", table, name, base)
		} else {
			fmt.Fprintf(&b, "add chain %s %s\n", table, name)
		}
	}
	gone := slices.Sorted(maps.Keys(old.chains))
	gone = slices.DeleteFunc(gone, func(name string) bool { _, kept := r.chains[name]; return kept })
	for _, name := range gone {
		fmt.Fprintf(&b, "flush chain %s %s\n", table, name)
	}
	for _, name := range slices.Sorted(maps.Keys(r.chains)) {
		had, rules := old.chains[name].rules, r.chains[name].rules
		if slices.Equal(had, rules) {
			continue
		}
		if len(had) > 0 {
			fmt.Fprintf(&b, "flush chain %s %s\n", table, name)
		}
		for _, rule := range rules {
			fmt.Fprintf(&b, "add rule %s %s %s\n", table, name, rule)
		}
	}
	var unused []string
	for _, name := range slices.Sorted(maps.Keys(old.sets)) {
		if _, kept := r.sets[name]; !kept {
			unused = append(unused, name)
			writeElements(&b, "delete", table, name, old.sets[name].elements, nil)
			continue
		}
		writeElements(&b, "delete", table, name, old.sets[name].elements, r.sets[name].elements)
	}
	for _, name := range slices.Sorted(maps.Keys(r.sets)) {
		writeElements(&b, "add", table, name, r.sets[name].elements, old.sets[name].elements)
	}
	for _, name := range gone {
		fmt.Fprintf(&b, "delete chain %s %s\n", table, name)
	}
	for _, name := range unused {
		fmt.Fprintf(&b, "delete %s %s %s\n", old.sets[name].kind, table, name)
	}
	return b.String()
}

// writeElements adds or deletes the elements that are in one set and not, or with another value, in the other.
func writeElements(b *strings.Builder, verb, table, name string, in, notIn map[string]string) {
	var list []string
	for key, value := range in {
		if other, ok := notIn[key]; ok && other == value {
			continue
		}
		if value != "" {
			key += " : " + value
		}
		list = append(list, key)
	}
	slices.Sort(list)
	for part := range slices.Chunk(list, elementsPerLine) {
		fmt.Fprintf(b, "%s element %s %s { %s }\n", verb, table, name, strings.Join(part, ", "))
	}
}
