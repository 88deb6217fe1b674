package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/nacre-cloud/nacre/test/e2e/cloudtest"
)

func TestPrometheusReadsACloudsHealthWhereTheOperatorSaysAndNowhereElse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	l.Close()
	c := cloudtest.New(t)
	c.Up("--metrics-listen", at)
	if _, err := c.EC2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{}); err != nil {
		t.Fatal(err)
	}
	read := func(url string) (int, string, error) {
		res, err := http.Get(url)
		if err != nil {
			return 0, "", err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		return res.StatusCode, string(body), err
	}
	// A call is counted after its answer has gone out, and the node connects by itself.
	c.WaitFor(20*time.Second, "the call, the node and etcd's own metrics in a scrape", func() error {
		_, body, err := read("http://" + at + "/metrics")
		if err != nil {
			return err
		}
		for _, line := range []string{`nacre_api_answers_total{action="DescribeInstances",code="OK",service="ec2"} 1`, "nacre_nodes_connected 1",
			`nacre_reconcile_duration_seconds_count{outcome="done"} `, "etcd_disk_wal_fsync_duration_seconds_count "} {
			if !strings.Contains(body, "\n"+line) {
				return fmt.Errorf("the scrape lacks %s", line)
			}
		}
		return nil
	})
	if status, body, err := read(c.Endpoint + "/metrics"); err != nil || status != http.StatusBadRequest || strings.Contains(body, "nacre_") {
		t.Errorf("the API's endpoint answers %d %q, %v to who asks there for metrics", status, body, err)
	}
	if status, _, err := read("http://" + at + "/"); err != nil || status != http.StatusNotFound {
		t.Errorf("beside /metrics there is something at the metrics' address: %d, %v", status, err)
	}
}
