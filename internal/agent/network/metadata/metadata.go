// Package metadata is the instance metadata service, versions 1 and 2, as EC2 has it at 169.254.169.254 and, for
// instances that ask for it, at [fd00:ec2::254].
//
// It knows the caller by the address that its connection comes from: inside a VPC no packet carries an address that isn't
// its interface's own. Nothing that a request says changes whose data is answered. Tokens are stateless and bound to
// the instance; they outlive the agent as long as its secret does.
//
// Source: AWS's "Instance metadata" and "Use IMDSv2" documentation.
package metadata

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

const (
	tokenHeader = "X-Aws-Ec2-Metadata-Token"
	ttlHeader   = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
	maxTTL      = 21600 // seconds
	timeout     = 10 * time.Second
	maxHeader   = 16 << 10
)

// versions are the dates that EC2 serves beside "latest"; all mean the same tree.
var versions = []string{"1.0", "2007-01-19", "2007-03-01", "2007-08-29", "2007-10-10", "2007-12-15", "2008-02-01", "2008-09-01", "2009-04-04", "2011-01-01",
	"2011-05-01", "2012-01-12", "2014-02-25", "2014-11-05", "2015-10-20", "2016-04-19", "2016-06-30", "2016-09-02", "2018-03-28", "2018-08-17", "2018-09-24",
	"2019-10-01", "2020-10-27", "2021-01-03", "2021-03-23", "2021-07-15", "2022-09-24", "2024-04-11", "latest"}

// Instance is what the service tells of one.
type Instance struct {
	Instance   *cloud.Instance
	Interfaces []cloud.Interface
	GroupNames map[cloud.SecurityGroupID]string
	VPC        *cloud.VPC
	Subnets    map[cloud.SubnetID]cloud.Subnet
	Region     string
	ZoneID     string
}

// Server answers for the instances that Lookup finds.
type Server struct {
	Lookup func(netip.Addr) (Instance, bool)
	Secret []byte // signs tokens
	Now    func() time.Time
	Logger *slog.Logger

	callers callers
}

type connKey struct{}

// Serve answers on a listener inside a VPC until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{Handler: s, ReadTimeout: timeout, ReadHeaderTimeout: timeout, WriteTimeout: timeout, IdleTimeout: timeout, MaxHeaderBytes: maxHeader,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if x, ok := c.(*counted); ok {
				c = x.Conn
			}
			return context.WithValue(ctx, connKey{}, c)
		},
		ErrorLog: slog.NewLogLogger(s.Logger.Handler(), slog.LevelDebug)}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(bounded{l, s}); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("answer metadata: %w", err)
	}
	return nil
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		plain(w, http.StatusNotFound)
		return
	}
	i, ok := s.Lookup(remote.Addr().Unmap())
	w.Header().Set("Server", "EC2ws")
	switch {
	case !ok:
		plain(w, http.StatusNotFound)
	case !s.callers.ask(i.Instance.ID, s.Now()):
		w.Header().Set("Retry-After", "1")
		plain(w, http.StatusServiceUnavailable)
	case i.Instance.Metadata.Disabled || remote.Addr().Unmap().Is6() && !i.Instance.Metadata.IPv6:
		plain(w, http.StatusForbidden)
	case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token":
		s.token(w, r, i)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		plain(w, http.StatusMethodNotAllowed)
	default:
		s.get(w, r, i)
	}
}

// plain is how EC2 answers what has no answer.
func plain(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\n<html><head><title>%[1]d - %[2]s</title></head><body><h1>%[1]d - %[2]s</h1></body></html>\n", status, http.StatusText(status))
}

// token answers PUT /latest/api/token. Its packets live for as many hops as the instance allows, so that a token doesn't
// leave an instance whose containers forward packets.
func (s *Server) token(w http.ResponseWriter, r *http.Request, i Instance) {
	if r.Header.Get("X-Forwarded-For") != "" {
		plain(w, http.StatusForbidden)
		return
	}
	ttl, err := strconv.Atoi(r.Header.Get(ttlHeader))
	if err != nil || ttl < 1 || ttl > maxTTL {
		plain(w, http.StatusBadRequest)
		return
	}
	if err := limitHops(r.Context(), i.Instance.Metadata.HopLimit); err != nil {
		s.Logger.Error("a token's hop limit can't be set, so it is not sent", "instance", i.Instance.ID, "error", err)
		plain(w, http.StatusInternalServerError)
		return
	}
	w.Header().Set(ttlHeader, strconv.Itoa(ttl))
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Connection", "close") // the connection keeps the hop limit
	fmt.Fprint(w, s.newToken(i.Instance.ID, s.Now().Add(time.Duration(ttl)*time.Second)))
}

func limitHops(ctx context.Context, hops int) error {
	c, ok := ctx.Value(connKey{}).(*net.TCPConn)
	if !ok {
		return nil // not a connection of the packet path's
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	level, option := unix.IPPROTO_IP, unix.IP_TTL
	if c.RemoteAddr().(*net.TCPAddr).IP.To4() == nil {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), level, option, max(hops, 1)) })
	return errors.Join(err, set)
}

// newToken is an expiry and a nonce, signed for one instance.
func (s *Server) newToken(id cloud.InstanceID, until time.Time) string {
	b := make([]byte, 16, 48)
	binary.BigEndian.PutUint64(b, uint64(until.Unix()))
	rand.Read(b[8:])
	return base64.URLEncoding.EncodeToString(append(b, s.sign(id, b)...))
}

func (s *Server) sign(id cloud.InstanceID, b []byte) []byte {
	h := hmac.New(sha256.New, s.Secret)
	h.Write([]byte(id))
	h.Write(b)
	return h.Sum(nil)
}

func (s *Server) validToken(id cloud.InstanceID, token string) bool {
	b, err := base64.URLEncoding.DecodeString(token)
	if err != nil || len(b) != 48 {
		return false
	}
	return hmac.Equal(b[16:], s.sign(id, b[:16])) && s.Now().Unix() < int64(binary.BigEndian.Uint64(b))
}

func (s *Server) get(w http.ResponseWriter, r *http.Request, i Instance) {
	token := r.Header.Get(tokenHeader)
	if token == "" && i.Instance.Metadata.TokensRequired || token != "" && !s.validToken(i.Instance.ID, token) {
		plain(w, http.StatusUnauthorized)
		return
	}
	status, kind, body := answer(i, r.URL.Path)
	if status != http.StatusOK {
		plain(w, status)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method == http.MethodGet {
		w.Write(body)
	}
}

// answer finds what a path means for an instance.
func answer(i Instance, path string) (status int, kind string, body []byte) {
	text := "text/plain"
	trimmed := strings.Trim(path, "/")
	if trimmed == "" {
		return http.StatusOK, text, []byte(strings.Join(versions, "\n"))
	}
	version, rest, _ := strings.Cut(trimmed, "/")
	known := false
	for _, v := range versions {
		known = known || v == version
	}
	if !known {
		return http.StatusNotFound, "", nil
	}
	top, rest, _ := strings.Cut(rest, "/")
	switch top {
	case "":
		list := []string{"dynamic", "meta-data"}
		if len(i.Instance.UserData) > 0 {
			list = append(list, "user-data")
		}
		return http.StatusOK, text, []byte(strings.Join(list, "\n"))
	case "user-data":
		if len(i.Instance.UserData) == 0 || rest != "" {
			return http.StatusNotFound, "", nil
		}
		return http.StatusOK, "application/octet-stream", i.Instance.UserData
	case "dynamic":
		switch rest {
		case "":
			return http.StatusOK, text, []byte("instance-identity/")
		case "instance-identity":
			return http.StatusOK, text, []byte("document")
		case "instance-identity/document":
			return http.StatusOK, text, identityDocument(i)
		}
	case "meta-data":
		if value, ok := tree(i).find(rest); ok {
			return http.StatusOK, text, []byte(value)
		}
	}
	return http.StatusNotFound, "", nil
}

func identityDocument(i Instance) []byte {
	var private any
	if len(i.Interfaces) > 0 {
		private = i.Interfaces[0].PrivateIP.String()
	}
	b, err := json.MarshalIndent(map[string]any{
		"accountId": i.Instance.Account, "architecture": i.Instance.Architecture, "availabilityZone": i.Instance.Zone, "billingProducts": nil,
		"devpayProductCodes": nil, "marketplaceProductCodes": nil, "imageId": i.Instance.Image, "instanceId": i.Instance.ID, "instanceType": i.Instance.Type,
		"kernelId": nil, "pendingTime": i.Instance.LaunchTime.UTC().Format(time.RFC3339), "privateIp": private, "ramdiskId": nil, "region": i.Region, "version": "2017-09-30",
	}, "", "  ")
	if err != nil {
		panic("metadata: the identity document has no JSON form: " + err.Error())
	}
	return b
}

// node is a directory or a value of the tree.
type node struct {
	value    string
	children map[string]*node
}

func (n *node) set(path, value string) {
	for part := range strings.SplitSeq(path, "/") {
		if n.children == nil {
			n.children = map[string]*node{}
		}
		next := n.children[part]
		if next == nil {
			next = &node{}
			n.children[part] = next
		}
		n = next
	}
	n.value = value
}

// find returns a value, or a directory's listing, in which directories end with a slash.
func (n *node) find(path string) (string, bool) {
	if path != "" {
		for part := range strings.SplitSeq(path, "/") {
			if part == "" {
				continue
			}
			if n = n.children[part]; n == nil {
				return "", false
			}
		}
	}
	if n.children == nil {
		return n.value, true
	}
	var list []string
	for name, c := range n.children {
		switch {
		case strings.HasPrefix(c.value, name+"="): // a key pair, listed with its name
			name = c.value
		case c.children != nil:
			name += "/"
		}
		list = append(list, name)
	}
	sort.Strings(list)
	return strings.Join(list, "\n"), true
}
