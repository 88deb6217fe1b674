package registry

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

const (
	// TokenUser is the name that goes with a token where a name is asked for.
	TokenUser = "AWS"
	// TokenFor is how long a token lets in.
	TokenFor = 12 * time.Hour
	// LinkFor is how long the address of a layer's download works.
	LinkFor = time.Hour

	tokenForm = "nacre1"
	maxToken  = 1024
)

// ErrToken reports a token that lets nobody in: malformed, expired, or of a key that is gone.
var ErrToken = errors.New("the token is not valid, or expired: get another with `aws ecr get-login-password`")

// NewToken makes a password for an access key until a time. With a scope, such as what a download is of, it is good for that alone. Nothing remembers it: it is signed with the
// key's secret, and ends with the key.
func NewToken(key cloud.AccessKey, until time.Time, scope string) string {
	body := strings.Join([]string{tokenForm, base64.RawURLEncoding.EncodeToString([]byte(key.ID)), strconv.FormatInt(until.Unix(), 10), base64.RawURLEncoding.EncodeToString([]byte(scope))}, ".")
	return body + "." + hex.EncodeToString(signToken(key.Secret, body))
}

func signToken(secret, body string) []byte {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte("nacre registry token\n" + body))
	return mac.Sum(nil)
}

// parsedToken is a token before anything of it is believed.
type parsedToken struct {
	key   cloud.AccessKeyID
	until int64
	scope string
	body  string
	mac   []byte
}

func parseToken(text string) (t parsedToken, err error) {
	parts := strings.Split(text, ".")
	if len(text) > maxToken || len(parts) != 5 || parts[0] != tokenForm {
		return t, ErrToken
	}
	key, errKey := base64.RawURLEncoding.DecodeString(parts[1])
	until, errUntil := strconv.ParseInt(parts[2], 10, 64)
	scope, errScope := base64.RawURLEncoding.DecodeString(parts[3])
	mac, errMAC := hex.DecodeString(parts[4])
	if errors.Join(errKey, errUntil, errScope, errMAC) != nil {
		return t, ErrToken
	}
	return parsedToken{cloud.AccessKeyID(key), until, string(scope), strings.TrimSuffix(text, "."+parts[4]), mac}, nil
}

// Account tells whom a token lets in, for a scope.
func (r *Registry) Account(token, scope string) (cloud.AccountID, error) {
	t, err := parseToken(token)
	if err != nil {
		return "", err
	}
	key, ok := store.Get(r.cfg.Store.View(), store.AccessKeys, t.key)
	if !ok || t.scope != scope || !hmac.Equal(t.mac, signToken(key.Secret, t.body)) || r.cfg.Now().Unix() >= t.until {
		return "", ErrToken
	}
	return key.Account, nil
}

// DownloadScope is the scope of a token that lets a blob be downloaded.
func DownloadScope(repository, digest string) string { return "download " + repository + "@" + digest }
