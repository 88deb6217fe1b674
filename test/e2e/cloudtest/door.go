package cloudtest

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"

	"github.com/nacre-cloud/nacre/internal/awsapi/gen"
	"github.com/nacre-cloud/nacre/internal/awsapi/wiretest"
)

// Door is an endpoint for clients that aren't Go's, such as the AWS CLI, boto3 and Terraform: it passes their calls on as
// they are signed, and fails the test when an answer doesn't keep to AWS's model. It is there until the test ends.
func (c *Cloud) Door() string {
	c.t.Helper()
	target, err := url.Parse(c.Endpoint)
	if err != nil {
		c.t.Fatal(err)
	}
	door := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // it is signed
		},
		Transport: wiretest.Transport(c.t, http.DefaultTransport, gen.Services()...),
	})
	c.t.Cleanup(door.Close)
	return door.URL
}
