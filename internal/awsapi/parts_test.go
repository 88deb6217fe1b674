package awsapi_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
)

func sha256Hex(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func TestWildcards(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"running", "running", true}, {"run*", "running", true}, {"*ing", "running", true}, {"r?nning", "running", true},
		{"*", "", true}, {"", "", true}, {"?", "", false}, {"run", "running", false}, {"R*", "running", false},
		{`a\*b`, "a*b", true}, {`a\*b`, "axb", false}, {`\\`, `\`, true}, {"a**b", "ab", true}, {"*a*b*c", "xaybzc", true}, {"*a*b*c", "xaybzd", false},
	} {
		if got := awsapi.MatchWildcard(c.pattern, c.text); got != c.want {
			t.Errorf("%q on %q: %v", c.pattern, c.text, got)
		}
	}
}

func FuzzWildcards(f *testing.F) {
	f.Add("a*b?c\\*", "aXbYc*")
	f.Fuzz(func(t *testing.T, pattern, text string) {
		awsapi.MatchWildcard(pattern, text)
		if !awsapi.MatchWildcard("*", text) {
			t.Errorf("* does not match %q", text)
		}
	})
}

func TestFilters(t *testing.T) {
	type thing struct {
		name string
		tags map[string]string
	}
	set := awsapi.FilterSet[thing]{
		Values: map[string]func(thing) []string{"name": func(x thing) []string { return []string{x.name} }},
		Tags:   func(x thing) map[string]string { return x.tags },
	}
	a, b := thing{"a", map[string]string{"env": "prod"}}, thing{"b", nil}
	for name, c := range map[string]struct {
		filters []awsapi.Filter
		a, b    bool
	}{
		"none":          {nil, true, true},
		"one value":     {[]awsapi.Filter{{Name: "name", Values: []string{"a"}}}, true, false},
		"two values":    {[]awsapi.Filter{{Name: "name", Values: []string{"a", "b"}}}, true, true},
		"two filters":   {[]awsapi.Filter{{Name: "name", Values: []string{"*"}}, {Name: "tag:env", Values: []string{"p*"}}}, true, false},
		"tag key":       {[]awsapi.Filter{{Name: "tag-key", Values: []string{"env"}}}, true, false},
		"another value": {[]awsapi.Filter{{Name: "tag:env", Values: []string{"test"}}}, false, false},
	} {
		test, err := set.Compile(c.filters)
		if err != nil || test(a) != c.a || test(b) != c.b {
			t.Errorf("%s: error %v", name, err)
		}
	}
	for name, bad := range map[string][]awsapi.Filter{
		"unknown": {{Name: "color", Values: []string{"x"}}}, "unnamed": {{Values: []string{"x"}}}, "empty": {{Name: "name"}},
		"too many": {{Name: "name", Values: make([]string, 201)}},
	} {
		if _, err := set.Compile(bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestPagesNeitherRepeatNorHideWhenTheListChanges(t *testing.T) {
	list := func(n ...int) (s []string) {
		for _, i := range n {
			s = append(s, fmt.Sprintf("%03d", i))
		}
		return s
	}
	key := func(s string) string { return s }
	two := int64(2)
	first, err := awsapi.Paginate(list(1, 2, 3, 4, 5), key, &two, nil, "q")
	if err != nil || len(first.Items) != 2 || first.Next == nil {
		t.Fatalf("%+v, %v", first, err)
	}
	second, err := awsapi.Paginate(list(0, 1, 4, 5, 6), key, &two, first.Next, "q")
	if err != nil || fmt.Sprint(second.Items) != "[004 005]" {
		t.Errorf("%+v, %v", second, err)
	}
	last, err := awsapi.Paginate(list(0, 1, 4, 5, 6), key, &two, second.Next, "q")
	if err != nil || fmt.Sprint(last.Items) != "[006]" || last.Next != nil {
		t.Errorf("%+v, %v", last, err)
	}
	if _, err := awsapi.Paginate(list(1), key, &two, first.Next, "another question"); awsapi.CodeOf(err) != "InvalidNextToken" {
		t.Errorf("a token of another question: %v", err)
	}
}

func FuzzPageTokens(f *testing.F) {
	f.Add("eyJhIjoiMSIsIm8iOiJ4In0")
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := awsapi.Paginate([]string{"a"}, func(s string) string { return s }, nil, &token, "q"); err == nil && token != "" {
			return // a valid token, guessed
		}
	})
}

func TestARequestsHashLeavesItsTokenOut(t *testing.T) {
	a := &ec2.RunInstancesRequest{ImageId: new("ami-1"), ClientToken: new("a")}
	b := &ec2.RunInstancesRequest{ImageId: new("ami-1"), ClientToken: new("b"), DryRun: new(false)}
	c := &ec2.RunInstancesRequest{ImageId: new("ami-2"), ClientToken: new("a")}
	if awsapi.RequestHash(a) != awsapi.RequestHash(b) || awsapi.RequestHash(a) == awsapi.RequestHash(c) {
		t.Error("the hash is of the wrong things")
	}
}
