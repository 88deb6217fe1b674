package ebs

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

// Tokens hold a number and a code that only this region makes: nobody reads a block, or goes on with a list, that he was not told of. A block's number is when its
// token ends; a page's, where the list goes on. The code is over what the token is for, too, so that none is of use elsewhere.

// tokenLife is how long a block's token is good for; it is EBS's.
const tokenLife = 7 * 24 * time.Hour

const (
	tokenVersion = 1
	codeSize     = 16
	keySize      = 32
)

// key is what tokens are signed with: the region's, made by whoever needs it first.
func (s *Service) key(ctx context.Context) ([]byte, error) {
	if kept, ok := store.BlockTokenKey(s.store.View()); ok {
		return kept.Key, nil
	}
	made := make([]byte, keySize)
	if _, err := io.ReadFull(s.cfg.Rand, made); err != nil {
		return nil, fmt.Errorf("make the key of blocks' tokens: %w", err)
	}
	key := made
	err := s.store.Update(ctx, func(tx *store.Tx) error {
		key = made
		if kept, ok := store.BlockTokenKey(tx); ok {
			key = kept.Key
			return nil
		}
		store.Put(tx, store.BlockTokenKeys, &cloud.BlockTokenKey{Key: made})
		return nil
	})
	return key, err
}

// token signs a number for a purpose.
func token(key []byte, number int64, purpose ...string) string {
	b := binary.BigEndian.AppendUint64([]byte{tokenVersion}, uint64(number))
	return base64.StdEncoding.EncodeToString(append(b, code(key, b, purpose)...))
}

func code(key, b []byte, purpose []string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(b)
	io.WriteString(h, strings.Join(purpose, "/"))
	return h.Sum(nil)[:codeSize]
}

// opened is the number of a token; ok is false when it is none, or is for something else.
func opened(key []byte, text string, purpose ...string) (number int64, ok bool) {
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(b) != 9+codeSize || b[0] != tokenVersion || !hmac.Equal(code(key, b[:9], purpose), b[9:]) {
		return 0, false
	}
	return int64(binary.BigEndian.Uint64(b[1:])), true
}

// blockToken lets its holder read a block until it ends.
func blockToken(key []byte, account cloud.AccountID, id cloud.SnapshotID, index int64, ends time.Time) *string {
	return new(token(key, ends.Unix(), "block", string(account), string(id), fmt.Sprint(index)))
}
