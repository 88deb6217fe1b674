package awsapi

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	algorithm     = "AWS4-HMAC-SHA256"
	amzDate       = "20060102T150405Z"
	maxSkew       = 15 * time.Minute
	maxPresign    = 7 * 24 * time.Hour
	emptyHash     = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	unsignedBody  = "UNSIGNED-PAYLOAD"
	maxAuthHeader = 8 << 10
)

// ErrNoKey is what a KeyLookup returns for a key that doesn't exist.
var ErrNoKey = errors.New("no such access key")

// KeyLookup finds an access key's secret and whose it is.
type KeyLookup func(ctx context.Context, id cloud.AccessKeyID) (secret string, who Identity, err error)

// signature is a request's claim to be signed, before it is checked.
type signature struct {
	key           string
	date          string // of the scope, 8 digits
	region        string
	service       string
	signedHeaders []string
	value         string
	at            time.Time
	expires       time.Duration // of a presigned URL, 0 otherwise
	presigned     bool
	bodyHash      string // as declared, "" if it isn't
}

// parseSignature finds the signature in a request's headers or its query string. It reads nothing else.
func parseSignature(r *http.Request, query url.Values) (signature, error) {
	if query.Get("X-Amz-Algorithm") != "" || query.Get("X-Amz-Signature") != "" {
		return parsePresigned(query)
	}
	return parseAuthorization(r.Header)
}

func parseAuthorization(h http.Header) (signature, error) {
	var s signature
	header := h.Get("Authorization")
	if header == "" {
		return s, Errorf("MissingAuthenticationToken", "Request is missing Authentication Token")
	}
	rest, ok := strings.CutPrefix(header, algorithm)
	if !ok || len(header) > maxAuthHeader {
		return s, Errorf("IncompleteSignature", "The Authorization header does not begin with %s", algorithm)
	}
	fields := map[string]string{}
	for part := range strings.SplitSeq(rest, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok || value == "" {
			return s, Errorf("IncompleteSignature", "'%s' is not a key=value pair in the Authorization header", shorten(strings.TrimSpace(part)))
		}
		fields[name] = value
	}
	for _, name := range []string{"Credential", "SignedHeaders", "Signature"} {
		if fields[name] == "" {
			return s, Errorf("IncompleteSignature", "Authorization header requires '%s' parameter", name)
		}
	}
	if err := s.scope(fields["Credential"]); err != nil {
		return s, err
	}
	s.signedHeaders = strings.Split(fields["SignedHeaders"], ";")
	s.value = fields["Signature"]
	s.bodyHash = h.Get("X-Amz-Content-Sha256")
	date := h.Get("X-Amz-Date")
	if date == "" {
		return s, Errorf("IncompleteSignature", "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header")
	}
	return s, s.time(date)
}

func parsePresigned(q url.Values) (signature, error) {
	s := signature{presigned: true, value: q.Get("X-Amz-Signature")}
	for _, name := range []string{"X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-SignedHeaders", "X-Amz-Signature"} {
		if len(q[name]) != 1 || q.Get(name) == "" {
			return s, Errorf("IncompleteSignature", "The query string requires the parameter '%s' once", name)
		}
	}
	if q.Get("X-Amz-Algorithm") != algorithm {
		return s, Errorf("IncompleteSignature", "X-Amz-Algorithm must be %s", algorithm)
	}
	if err := s.scope(q.Get("X-Amz-Credential")); err != nil {
		return s, err
	}
	s.signedHeaders = strings.Split(q.Get("X-Amz-SignedHeaders"), ";")
	s.expires = maxSkew
	if text := q.Get("X-Amz-Expires"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || time.Duration(n)*time.Second > maxPresign {
			return s, Errorf("IncompleteSignature", "X-Amz-Expires must be from 1 to %d seconds", int(maxPresign.Seconds()))
		}
		s.expires = time.Duration(n) * time.Second
	}
	return s, s.time(q.Get("X-Amz-Date"))
}

// scope reads KEY/DATE/REGION/SERVICE/aws4_request.
func (s *signature) scope(credential string) error {
	parts := strings.Split(credential, "/")
	if len(parts) != 5 || slices.Contains(parts, "") {
		return Errorf("IncompleteSignature", "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term")
	}
	if parts[4] != "aws4_request" {
		return Errorf("SignatureDoesNotMatch", "Credential should be scoped with a valid terminator: 'aws4_request', not '%s'.", shorten(parts[4]))
	}
	s.key, s.date, s.region, s.service = parts[0], parts[1], parts[2], parts[3]
	return nil
}

func (s *signature) time(text string) error {
	at, err := time.Parse(amzDate, text)
	if err != nil {
		return Errorf("IncompleteSignature", "Date must be in ISO-8601 'basic format'. Got '%s'.", shorten(text))
	}
	if text[:8] != s.date {
		return Errorf("SignatureDoesNotMatch", "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '%s' != '%s'.", shorten(s.date), text[:8])
	}
	s.at = at
	return nil
}

// verify checks a signature. bodyHash is the SHA-256 of the body that arrived, in hexadecimal.
func verify(r *http.Request, query url.Values, s signature, secret, region, bodyHash string, now time.Time) error {
	if s.region != region {
		return Errorf("SignatureDoesNotMatch", "Credential should be scoped to a valid region, not '%s'; this one is '%s'.", shorten(s.region), region)
	}
	switch age := now.Sub(s.at); {
	case age < -maxSkew:
		return Errorf("RequestExpired", "Signature not yet current: %s is still later than %s", s.at.Format(amzDate), now.UTC().Add(maxSkew).Format(amzDate))
	case s.presigned && age > s.expires, !s.presigned && age > maxSkew:
		return Errorf("RequestExpired", "Request has expired: it was signed at %s and it is %s", s.at.Format(amzDate), now.UTC().Format(amzDate))
	}
	if !slices.Contains(s.signedHeaders, "host") {
		return Errorf("SignatureDoesNotMatch", "'Host' must be a 'SignedHeader' in the AWS Authorization.")
	}
	for name := range r.Header {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-amz-") && !s.presigned && !slices.Contains(s.signedHeaders, lower) && lower != "x-amz-content-sha256" {
			return Errorf("SignatureDoesNotMatch", "'%s' must be a 'SignedHeader' in the AWS Authorization.", lower)
		}
	}
	want := sign(secret, s, canonicalRequest(r, query, s, bodyHash))
	if !hmac.Equal([]byte(want), []byte(s.value)) {
		return Errorf("SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details.")
	}
	return nil
}

// canonicalRequest is Signature Version 4's, "Create a canonical request".
func canonicalRequest(r *http.Request, query url.Values, s signature, bodyHash string) string {
	var b strings.Builder
	path := r.URL.EscapedPath()
	if path == "" {
		path = "/"
	}
	// Every service but S3 signs the path encoded once more than it is sent.
	segments := strings.Split(path, "/")
	for i := range segments {
		segments[i] = escape(segments[i])
	}
	path = strings.Join(segments, "/")
	b.WriteString(r.Method + "\n" + path + "\n" + canonicalQuery(query, s.presigned) + "\n")
	for _, name := range s.signedHeaders {
		b.WriteString(name + ":")
		switch name {
		case "host":
			b.WriteString(r.Host)
		case "content-length":
			b.WriteString(strconv.FormatInt(r.ContentLength, 10))
		default:
			for i, v := range r.Header.Values(name) {
				if i > 0 {
					b.WriteByte(',')
				}
				b.WriteString(strings.Join(strings.Fields(v), " "))
			}
		}
		b.WriteByte('\n')
	}
	b.WriteString("\n" + strings.Join(s.signedHeaders, ";") + "\n" + bodyHash)
	return b.String()
}

func canonicalQuery(q url.Values, presigned bool) string {
	var pairs []string
	for name, values := range q {
		if presigned && name == "X-Amz-Signature" {
			continue
		}
		for _, v := range values {
			pairs = append(pairs, escape(name)+"="+escape(v))
		}
	}
	slices.Sort(pairs)
	return strings.Join(pairs, "&")
}

// escape is RFC 3986's percent-encoding, which Signature Version 4 wants.
func escape(s string) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.' || c == '~' {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hexDigits[c>>4], hexDigits[c&15]})
		}
	}
	return b.String()
}

func sign(secret string, s signature, canonical string) string {
	mac := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	hash := sha256.Sum256([]byte(canonical))
	toSign := algorithm + "\n" + s.at.Format(amzDate) + "\n" + s.date + "/" + s.region + "/" + s.service + "/aws4_request\n" + hex.EncodeToString(hash[:])
	key := mac([]byte("AWS4"+secret), s.date)
	for _, part := range []string{s.region, s.service, "aws4_request"} {
		key = mac(key, part)
	}
	return hex.EncodeToString(mac(key, toSign))
}
