package metadata

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// service is one with one instance, whose options a test may change.
type service struct {
	t   *testing.T
	i   *cloud.Instance
	now time.Time
	s   *Server
}

func newService(t *testing.T) *service {
	x := &service{t: t, now: noon, i: &cloud.Instance{ID: "i-1", Image: "ami-1", Type: "t3.micro", Zone: "us-east-1a", Metadata: cloud.DefaultMetadataOptions(),
		PublicKey: "ssh-ed25519 AAAA", KeyName: "k", UserData: []byte("#!/bin/sh\n"), Tags: cloud.Tags{"Name": "web"}}}
	nic := cloud.Interface{ID: "eni-1", MAC: "0a:00:ac:1f:00:05", PrivateIP: netip.MustParseAddr("172.31.0.5"), Publics: []cloud.PublicAddress{{Private: netip.MustParseAddr("172.31.0.5"), Public: netip.MustParseAddr("198.18.0.5")}}, Groups: []cloud.SecurityGroupID{"sg-1", "sg-2"}}
	x.s = &Server{Secret: []byte("secret"), Now: func() time.Time { return x.now }, Logger: slog.New(slog.DiscardHandler), Lookup: func(a netip.Addr) (Instance, bool) {
		return Instance{Instance: x.i, Interfaces: []cloud.Interface{nic}, GroupNames: map[cloud.SecurityGroupID]string{"sg-1": "default", "sg-2": "web"}, Region: "us-east-1", ZoneID: "use1-az1"}, a == nic.PrivateIP
	}}
	return x
}

func (x *service) do(method, path, from string, headers ...string) (int, string) {
	x.t.Helper()
	r := httptest.NewRequest(method, path, nil)
	r.RemoteAddr = from + ":40000"
	for n := 0; n+1 < len(headers); n += 2 {
		r.Header.Set(headers[n], headers[n+1])
	}
	w := httptest.NewRecorder()
	x.s.ServeHTTP(w, r)
	b, _ := io.ReadAll(w.Result().Body)
	return w.Code, string(b)
}

const home = "172.31.0.5"

func TestTheTreeIsAsEC2sClientsExpectIt(t *testing.T) {
	x := newService(t)
	for path, want := range map[string]string{
		"/latest/meta-data/instance-id": "i-1", "/latest/meta-data/instance-id/": "i-1", "/2021-07-15/meta-data/local-ipv4": home,
		"/latest/meta-data/public-ipv4": "198.18.0.5", "/latest/meta-data/hostname": "ip-172-31-0-5.ec2.internal",
		"/latest/meta-data/public-hostname": "ec2-198-18-0-5.compute-1.amazonaws.com", "/latest/meta-data/security-groups": "default\nweb",
		"/latest/meta-data/public-keys/0/openssh-key": "ssh-ed25519 AAAA k", "/latest/meta-data/placement/region": "us-east-1",
		"/latest/meta-data/network/interfaces/macs/": "0a:00:ac:1f:00:05/", "/latest/meta-data/network/interfaces/macs/0a:00:ac:1f:00:05/interface-id": "eni-1",
		"/latest/meta-data/network/interfaces/macs/0a:00:ac:1f:00:05/ipv4-associations/198.18.0.5": home, "/latest/user-data": "#!/bin/sh\n",
		"/latest/meta-data/public-keys/": "0=k", "/latest/": "dynamic\nmeta-data\nuser-data",
	} {
		if status, body := x.do("GET", path, home); status != 200 || body != want {
			t.Errorf("%s: %d %q, want %q", path, status, body, want)
		}
	}
	if _, body := x.do("GET", "/latest/meta-data/", home); !strings.Contains(body, "placement/\n") || strings.Contains(body, "tags") {
		t.Errorf("the listing: %q", body)
	}
	if _, body := x.do("GET", "/latest/dynamic/instance-identity/document", home); !strings.Contains(body, `"instanceId": "i-1"`) {
		t.Errorf("the document: %q", body)
	}
	for _, path := range []string{"/latest/meta-data/nothing", "/nonsense/meta-data", "/latest/meta-data/iam/", "/latest/meta-data/tags/instance/Name"} {
		if status, _ := x.do("GET", path, home); status != 404 {
			t.Errorf("%s: %d", path, status)
		}
	}
	x.i.Metadata.InstanceTags = true
	if _, body := x.do("GET", "/latest/meta-data/tags/instance/Name", home); body != "web" {
		t.Errorf("the tag: %q", body)
	}
}

func TestAnInterfacesAddressesAreAllListed(t *testing.T) {
	addr := netip.MustParseAddr
	i := Instance{Instance: &cloud.Instance{ID: "i-1"}, Region: "us-east-1", GroupNames: map[cloud.SecurityGroupID]string{"sg-1": "web", "sg-2": "db"},
		Interfaces: []cloud.Interface{{MAC: "0a:01", PrivateIP: addr("10.0.0.4"), Groups: []cloud.SecurityGroupID{"sg-1"}},
			{MAC: "0a:02", DeviceIndex: 1, PrivateIP: addr("10.0.1.4"), Secondary: []netip.Addr{addr("10.0.1.5"), addr("10.0.1.6")}, IPv6: []netip.Addr{addr("fd00::4"), addr("fd00::5")},
				Groups: []cloud.SecurityGroupID{"sg-2"}, Publics: []cloud.PublicAddress{{Private: addr("10.0.1.6"), Public: addr("198.18.0.6")}, {Private: addr("10.0.1.4"), Public: addr("198.18.0.7")}}}}}
	x := newService(t)
	x.s.Lookup = func(netip.Addr) (Instance, bool) { return i, true }
	x.i = i.Instance
	const second = "/latest/meta-data/network/interfaces/macs/0a:02/"
	for path, want := range map[string]string{
		"/latest/meta-data/network/interfaces/macs/": "0a:01/\n0a:02/", "/latest/meta-data/security-groups": "web", second + "security-groups": "db",
		second + "device-number": "1", second + "local-ipv4s": "10.0.1.4\n10.0.1.5\n10.0.1.6", second + "ipv6s": "fd00::4\nfd00::5",
		second + "public-ipv4s": "198.18.0.7\n198.18.0.6", second + "ipv4-associations/198.18.0.6": "10.0.1.6",
	} {
		if status, body := x.do("GET", path, home); status != 200 || body != want {
			t.Errorf("%s: %d %q, want %q", path, status, body, want)
		}
	}
}

func TestNobodyElseIsAnswered(t *testing.T) {
	x := newService(t)
	if status, _ := x.do("GET", "/latest/meta-data/instance-id", "172.31.0.6", "X-Forwarded-For", home); status != 404 {
		t.Errorf("a stranger is answered %d", status)
	}
	x.i.Metadata.Disabled = true
	if status, _ := x.do("GET", "/latest/meta-data/instance-id", home); status != 403 {
		t.Errorf("a disabled service answers %d", status)
	}
}

func TestTokens(t *testing.T) {
	x := newService(t)
	x.i.Metadata.TokensRequired = true
	get := func(token string) int {
		status, _ := x.do("GET", "/latest/meta-data/instance-id", home, tokenHeader, token)
		return status
	}
	status, token := x.do("PUT", "/latest/api/token", home, ttlHeader, "60")
	if status != 200 || get(token) != 200 {
		t.Fatalf("a good token: %d, then %d", status, get(token))
	}
	for name, bad := range map[string]string{"none": "", "changed": "B" + token[1:], "cut": token[:20], "noise": "%%%"} {
		if got := get(bad); got != 401 {
			t.Errorf("%s: %d", name, got)
		}
	}
	x.i.ID = "i-2"
	if got := get(token); got != 401 {
		t.Errorf("another instance's token: %d", got)
	}
	x.i.ID, x.now = "i-1", noon.Add(61*time.Second)
	if got := get(token); got != 401 {
		t.Errorf("an expired token: %d", got)
	}
	for _, c := range []struct {
		headers []string
		want    int
	}{{nil, 400}, {[]string{ttlHeader, "0"}, 400}, {[]string{ttlHeader, "21601"}, 400}, {[]string{ttlHeader, "x"}, 400}, {[]string{ttlHeader, "60", "X-Forwarded-For", "1.2.3.4"}, 403}} {
		if status, _ := x.do("PUT", "/latest/api/token", home, c.headers...); status != c.want {
			t.Errorf("%v: %d, want %d", c.headers, status, c.want)
		}
	}
	x.i.Metadata.TokensRequired = false
	if got := get("nonsense"); got != 401 {
		t.Errorf("a bad token where none is needed: %d", got)
	}
	if status, _ := x.do(http.MethodDelete, "/latest/meta-data/", home); status != 405 {
		t.Errorf("DELETE: %d", status)
	}
}

func FuzzPaths(f *testing.F) {
	f.Add("/latest/meta-data//placement/../..")
	i := Instance{Instance: &cloud.Instance{}, Region: "r"}
	f.Fuzz(func(t *testing.T, path string) {
		if status, _, body := answer(i, path); status != 200 && body != nil {
			t.Errorf("%q: %d with a body", path, status)
		}
	})
}

func FuzzTokens(f *testing.F) {
	s := &Server{Secret: []byte("s"), Now: func() time.Time { return noon }}
	f.Add(s.newToken("i-2", noon.Add(time.Hour)))
	f.Fuzz(func(t *testing.T, token string) {
		if s.validToken("i-1", token) {
			t.Errorf("%q is taken for a token", token)
		}
	})
}

func TestAVirtualMachineReadsWhatItWasStartedWith(t *testing.T) {
	x := newService(t)
	if code, _ := x.do("GET", "/latest/meta-data/kernel-id", home); code != http.StatusNotFound {
		t.Errorf("a container's kernel answers %d", code)
	}
	x.i.Hardware = cloud.Hardware{Kernel: "aki-1", Ramdisk: "ari-1"}
	for path, want := range map[string]string{"kernel-id": "aki-1", "ramdisk-id": "ari-1"} {
		if code, got := x.do("GET", "/latest/meta-data/"+path, home); code != http.StatusOK || got != want {
			t.Errorf("%s is %d %q", path, code, got)
		}
	}
}
