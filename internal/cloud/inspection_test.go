package cloud_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// fill sets every field of a value to something.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0))
		fill(v.Index(1))
	case reflect.Struct:
		for n := range v.NumField() {
			fill(v.Field(n))
		}
	case reflect.String:
		v.SetString("0x1")
	case reflect.Int64:
		v.SetInt(7)
	case reflect.Float64:
		v.SetFloat(1.5)
	case reflect.Bool:
		v.SetBool(true)
	default:
		panic(v.Type().String())
	}
}

// hostFacts names the fields that are marked as the operator's, and whether all of them are empty.
func hostFacts(v reflect.Value, path string, f func(path string, empty bool)) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			hostFacts(v.Elem(), path, f)
		}
	case reflect.Slice:
		for n := range v.Len() {
			hostFacts(v.Index(n), path, f)
		}
	case reflect.Struct:
		for n := range v.NumField() {
			field := v.Type().Field(n)
			if field.Tag.Get("host") != "" {
				f(path+"."+field.Name, v.Field(n).IsZero())
				continue
			}
			hostFacts(v.Field(n), path+"."+field.Name, f)
		}
	}
}

func TestWhatIsTheOperatorsIsTakenOutOfAnInspection(t *testing.T) {
	var all cloud.Inspection
	fill(reflect.ValueOf(&all).Elem())
	before, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	mine := func(cloud.InstanceID) bool { return false }
	known := func(string) bool { return false }
	got := all.WithoutHost(mine, known)
	found := map[string]bool{}
	hostFacts(reflect.ValueOf(got), "", func(path string, empty bool) {
		found[path] = true
		if !empty {
			t.Errorf("%s is left", path)
		}
	})
	for _, path := range []string{".Footprint", ".VM.Processors.Thread", ".VM.Memory.SharedWith", ".Translation.Pages.HostPhysical", ".Confinement.Namespaces.Inode", ".Processes.HostPID"} {
		if !found[path] {
			t.Errorf("%s is not the operator's", path)
		}
	}
	if l := got.Root.Layers[0]; l.Images != nil || l.SharedWith != nil || l.Size == 0 {
		t.Errorf("others' images and instances: %+v", l)
	}
	if p := got.Translation.Pages[0]; p.Physical == "" || len(p.Levels) != 2 || p.Levels[0].Entry == "" {
		t.Errorf("what is the guest's own is gone: %+v", p)
	}
	if after, _ := json.Marshal(all); string(after) != string(before) {
		t.Error("what was given has changed")
	}
	kept := all.WithoutHost(func(cloud.InstanceID) bool { return true }, func(string) bool { return true })
	if !reflect.DeepEqual(kept.Root, all.Root) {
		t.Errorf("%+v", kept.Root)
	}
	if text, _ := json.Marshal(got); strings.Contains(string(text), "Host") {
		t.Errorf("what is not told is named: %s", text)
	}
}

func TestAnAddressIsHexadecimal(t *testing.T) {
	for text, want := range map[cloud.HexAddress]uint64{"0xffffffff81000000": 0xffffffff81000000, "ffff": 0xffff, "0X1f": 0x1f, "0x7fff_ffff": 0x7fffffff} {
		if got, err := text.Value(); err != nil || got != want {
			t.Errorf("%s: %x, %v", text, got, err)
		}
	}
	for _, text := range []cloud.HexAddress{"", "0x", "main", "-1", "0x1ffffffffffffffff", "0x 1"} {
		if v, err := text.Value(); err == nil {
			t.Errorf("%q is %x", text, v)
		}
	}
	if got := cloud.HexAddressOf(0xabc); got != "0xabc" {
		t.Error(got)
	}
}

func FuzzAddresses(f *testing.F) {
	f.Add("0xffffffff81000000")
	f.Fuzz(func(t *testing.T, text string) {
		v, err := cloud.HexAddress(text).Value()
		if err != nil {
			return
		}
		if again, err := cloud.HexAddressOf(v).Value(); err != nil || again != v {
			t.Errorf("%q is %x and comes back as %x, %v", text, v, again, err)
		}
	})
}
