package awsapi

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"sort"
)

// pageToken is what a NextToken holds: where the next page begins, and of which question it is.
type pageToken struct {
	After string `json:"a"` // the last key of the page before
	Of    string `json:"o"` // a hash of the question
}

// Page is one page of a list.
type Page[T any] struct {
	Items []T
	Next  *string // nil on the last page
}

// Paginate cuts one page out of a list that is sorted by key. Pages are found by key, not by number, so that
// what comes and goes between two calls neither repeats nor hides anything else. question is
// everything that the list depends on: a token of another question is refused. A maxResults of nil or 0
// is no limit.
func Paginate[T any](list []T, key func(T) string, maxResults *int64, nextToken *string, question any) (Page[T], error) {
	of := questionHash(question)
	start := 0
	if nextToken != nil && *nextToken != "" {
		tok, err := parsePageToken(*nextToken)
		if err != nil || tok.Of != of {
			return Page[T]{}, Errorf("InvalidNextToken", "The token is not valid for this request; use the one of its last answer.")
		}
		start = sort.Search(len(list), func(i int) bool { return key(list[i]) > tok.After })
	}
	rest := list[start:]
	if maxResults == nil || *maxResults <= 0 || int64(len(rest)) <= *maxResults {
		return Page[T]{Items: rest}, nil
	}
	items := rest[:*maxResults]
	b, err := json.Marshal(pageToken{After: key(items[len(items)-1]), Of: of})
	if err != nil {
		return Page[T]{}, err
	}
	next := base64.RawURLEncoding.EncodeToString(b)
	return Page[T]{Items: items, Next: &next}, nil
}

func parsePageToken(text string) (pageToken, error) {
	var tok pageToken
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return tok, err
	}
	return tok, json.Unmarshal(b, &tok)
}

func questionHash(question any) string {
	b, err := json.Marshal(question)
	if err != nil {
		panic("awsapi: a page's question has no JSON form: " + err.Error())
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}
