package store

import (
	"fmt"
	"net/url"
	"strings"
)

// root is where the store's keys begin in etcd. An object's key is root, its table's name,
// a slash and its key. The number changes only with the meaning of stored objects.
const root = "/nacre/v1/"

// JoinKey makes one key of several parts, such that different parts always make different
// keys, whatever bytes the parts hold.
func JoinKey(parts ...string) string {
	escaped := make([]string, len(parts))
	for i, part := range parts {
		escaped[i] = url.PathEscape(part)
	}
	return strings.Join(escaped, "/")
}

// SplitKey takes a key of JoinKey apart.
func SplitKey(key string) ([]string, error) {
	parts := strings.Split(key, "/")
	for i, part := range parts {
		plain, err := url.PathUnescape(part)
		if err != nil {
			return nil, fmt.Errorf("take key %q apart: %w", key, err)
		}
		parts[i] = plain
	}
	return parts, nil
}
