package awsapi

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Authenticator checks who signed a request.
type Authenticator struct {
	Region string
	Keys   KeyLookup
	Now    func() time.Time
}

// whole authenticates a call whose whole body has been read. It returns the service that the request is scoped to. unsigned lets the signature leave the body out.
func (a *Authenticator) whole(r *http.Request, query url.Values, body []byte, unsigned bool) (Identity, string, error) {
	s, err := parseSignature(r, query)
	if err != nil {
		return Identity{}, "", err
	}
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	if unsigned && s.bodyHash == unsignedBody {
		hash = unsignedBody
	}
	if s.bodyHash != "" && s.bodyHash != hash {
		return Identity{}, s.service, Errorf("SignatureDoesNotMatch", "The provided X-Amz-Content-SHA256 header does not match what was computed.")
	}
	who, err := a.check(r, query, s, hash)
	return who, s.service, err
}

// Stream authenticates a request by the body hash that it declares and signs, before the body is read.
// The caller must check the body against the returned hash while reading it.
func (a *Authenticator) Stream(r *http.Request, service string) (Identity, string, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return Identity{}, "", InvalidParameterValue("The query string is malformed")
	}
	s, err := parseSignature(r, query)
	if err != nil {
		return Identity{}, "", err
	}
	if s.service != service || len(s.bodyHash) != 2*sha256.Size {
		return Identity{}, "", Errorf("SignatureDoesNotMatch", "This request must be scoped to the service '%s' and sign the SHA-256 of its body.", service)
	}
	who, err := a.check(r, query, s, s.bodyHash)
	return who, s.bodyHash, err
}

func (a *Authenticator) check(r *http.Request, query url.Values, s signature, hash string) (Identity, error) {
	if r.Header.Get("X-Amz-Security-Token") != "" || query.Get("X-Amz-Security-Token") != "" {
		return Identity{}, Errorf("InvalidClientTokenId", "The security token included in the request is invalid.")
	}
	secret, who, err := a.Keys(r.Context(), cloud.AccessKeyID(s.key))
	switch {
	case errors.Is(err, ErrNoKey):
		return Identity{}, Errorf("InvalidClientTokenId", "The AWS access key ID '%s' does not exist.", shorten(s.key))
	case err != nil:
		return Identity{}, fmt.Errorf("look the access key %s up: %w", s.key, err)
	}
	return who, verify(r, query, s, secret, a.Region, hash, a.Now())
}

// inEC2sWords turns a failed authentication into the one code that EC2 has for bad keys and signatures.
func inEC2sWords(e *Error) *Error {
	switch e.Code {
	case "SignatureDoesNotMatch", "InvalidClientTokenId", "IncompleteSignature":
		return Errorf("AuthFailure", "AWS was not able to validate the provided access credentials: %s", e.Message)
	}
	return e
}
