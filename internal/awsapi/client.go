package awsapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Client signs and sends calls to one endpoint.
type Client struct {
	Endpoint  string // such as "http://127.0.0.1:6421"
	Region    string
	AccessKey string
	Secret    string
	HTTP      *http.Client // nil means http.DefaultClient
}

const (
	attempts     = 4
	firstPause   = 50 * time.Millisecond
	maxErrorBody = 1 << 20
)

// Invoke makes a call. Failures of the server and of the connection are tried again a few times, as AWS's
// SDKs do; calls that must not happen twice carry a client token.
func Invoke[Req, Res any](ctx context.Context, c *Client, a Action[Req, Res], in *Req) (*Res, error) {
	out := protocolFor(a.Service).call(a.Service, a.Name, in)
	var err error
	for n, pause := 0, firstPause; n < attempts; n, pause = n+1, 3*pause {
		if n > 0 {
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		res := new(Res)
		var again bool
		if again, err = c.once(ctx, a.Service, a.Name, out, res); err == nil {
			return res, nil
		}
		if !again {
			break
		}
	}
	return nil, err
}

// once sends a call. again says that another try may help.
func (c *Client) once(ctx context.Context, s *Service, action string, out outbound, res any) (again bool, err error) {
	resp, err := c.post(ctx, s, out)
	if err != nil {
		return ctx.Err() == nil, fmt.Errorf("%s: %w", action, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		e := protocolFor(s).decodeError(io.LimitReader(resp.Body, maxErrorBody), resp.StatusCode)
		if e.RequestID == "" {
			e.RequestID = resp.Header.Get("X-Amzn-Requestid")
		}
		return e.Status >= 500 && e.Code != "InsufficientInstanceCapacity", e
	}
	if err := protocolFor(s).decodeResult(s, action, resp, res); err != nil {
		return false, fmt.Errorf("%s: %w", action, err)
	}
	return false, nil
}

func (c *Client) post(ctx context.Context, s *Service, out outbound) (*http.Response, error) {
	method, path := out.method, out.path
	if path == "" {
		method, path = http.MethodPost, "/"
	}
	return c.send(ctx, method, path, s.Name, out.header, bytes.NewReader(out.body), int64(len(out.body)), hashOf(out.body))
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Put sends size bytes to a path of the endpoint, signed for a service by their SHA-256.
func (c *Client) Put(ctx context.Context, path, service string, body io.Reader, size int64, sha256Hex string) error {
	resp, err := c.send(ctx, http.MethodPut, path, service, http.Header{"Content-Type": {"application/octet-stream"}}, body, size, sha256Hex)
	if err != nil {
		return fmt.Errorf("send %d bytes to %s: %w", size, path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return decodeError(io.LimitReader(resp.Body, maxErrorBody), resp.StatusCode)
	}
	return nil
}

// Get reads a path of the endpoint, signed for a service by the SHA-256 of nothing. What is read is the caller's to close.
func (c *Client) Get(ctx context.Context, path, service, emptyHex string) (io.ReadCloser, error) {
	resp, err := c.send(ctx, http.MethodGet, path, service, nil, nil, 0, emptyHex)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return nil, decodeError(io.LimitReader(resp.Body, maxErrorBody), resp.StatusCode)
	}
	return resp.Body, nil
}

func (c *Client) send(ctx context.Context, method, path, service string, header http.Header, body io.Reader, size int64, hash string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.Endpoint, "/")+path, body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = size
	maps.Copy(req.Header, header)
	req.Header.Set("X-Amz-Content-Sha256", hash)
	err = v4.NewSigner().SignHTTP(ctx, aws.Credentials{AccessKeyID: c.AccessKey, SecretAccessKey: c.Secret}, req, hash, service, c.Region, time.Now())
	if err != nil {
		return nil, fmt.Errorf("sign the request: %w", err)
	}
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	return client.Do(req)
}

// CodeOf is the AWS code of an error, "" when it has none.
func CodeOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// Measure makes a call once and reads the answer without decoding it. It returns the answer's length.
func Measure[Req, Res any](ctx context.Context, c *Client, a Action[Req, Res], in *Req) (int64, error) {
	resp, err := c.post(ctx, a.Service, protocolFor(a.Service).call(a.Service, a.Name, in))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", a.Name, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return 0, protocolFor(a.Service).decodeError(io.LimitReader(resp.Body, maxErrorBody), resp.StatusCode)
	}
	return io.Copy(io.Discard, resp.Body)
}
