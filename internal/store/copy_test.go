package store

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

type sample struct {
	Text    string
	List    []string
	Bytes   []byte
	Map     map[string][]int
	Nested  []cloud.SecurityGroupRule
	Pointer *cloud.Instance
	Array   [2][]int
	Addr    netip.Addr
	At      time.Time
	Nothing []int
}

func TestACopySharesNothingThatCanChange(t *testing.T) {
	fresh := func() *sample {
		return &sample{
			Text: "x", List: []string{"a"}, Bytes: []byte{1}, Map: map[string][]int{"k": {1}},
			Nested:  []cloud.SecurityGroupRule{{CIDR: netip.MustParsePrefix("10.0.0.0/8"), Tags: cloud.Tags{"a": "b"}}},
			Pointer: &cloud.Instance{Tags: cloud.Tags{"a": "b"}}, Array: [2][]int{{1}, {2}},
			Addr: netip.MustParseAddr("10.0.0.1"), At: time.Unix(0, 0),
		}
	}
	original := fresh()
	c := newCopier[sample]()(original)
	if !reflect.DeepEqual(original, c) {
		t.Fatalf("the copy differs: %+v, %+v", original, c)
	}
	c.List[0], c.Bytes[0], c.Map["k"][0], c.Map["l"] = "b", 2, 2, nil
	c.Nested[0].Tags["a"], c.Nested[0].FromPort = "c", 9
	c.Pointer.Tags["a"], c.Pointer.Boot = "c", 9
	c.Array[1][0] = 9
	if !reflect.DeepEqual(original, fresh()) {
		t.Errorf("a change of the copy shows in the original: %+v", original)
	}
}

func TestTypesThatCannotBeCopiedOrStoredAreRefused(t *testing.T) {
	for name, declare := range map[string]func(){
		"interface": func() { newCopier[struct{ A any }]() },
		"function":  func() { newCopier[struct{ A []func() }]() },
		"channel":   func() { newCopier[struct{ A map[string]chan int }]() },
		"private":   func() { newCopier[struct{ A, b int }]() },
		"recursive": func() {
			type list struct{ Next *list }
			newCopier[list]()
		},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: accepted", name)
				}
			}()
			declare()
		}()
	}
}
