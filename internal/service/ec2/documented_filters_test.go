package ec2_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	gen "github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/service/ec2"
)

// documentedFilters reads AWS's documentation for the names of each action's filters.
func documentedFilters(t *testing.T) map[string][]string {
	t.Helper()
	out, err := exec.Command("go", "mod", "download", "-json", "github.com/aws/aws-sdk-go@v1.55.8").Output()
	if err != nil {
		t.Fatalf("fetch AWS's documentation: %v", err)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(module.Dir, "models/apis/ec2/2016-11-15/docs-2.json"))
	if err != nil {
		t.Fatal(err)
	}
	var docs struct {
		Shapes map[string]struct{ Refs map[string]string }
	}
	if err := json.Unmarshal(text, &docs); err != nil {
		t.Fatal(err)
	}
	filters := map[string][]string{}
	item := regexp.MustCompile(`<li>\s*<p>\s*((?:<code>[^<]+</code>(?:\s*\|\s*)?)+)`)
	name := regexp.MustCompile(`<code>([^<]+)</code>`)
	for at, text := range docs.Shapes["FilterList"].Refs {
		action, ok := strings.CutSuffix(at, "Request$Filters")
		if !ok {
			continue
		}
		for _, m := range item.FindAllStringSubmatch(text, -1) {
			for _, n := range name.FindAllStringSubmatch(m[1], -1) {
				filters[action] = append(filters[action], n[1])
			}
		}
	}
	return filters
}

// Every filter that AWS documents for an action of ours is known: a query of another cloud's tools is answered, if with
// nothing, and never refused.
func TestEveryDocumentedFilterIsKnown(t *testing.T) {
	w := newWorld(t)
	built := 0
	for action, names := range documentedFilters(t) {
		if !slices.Contains(w.built(), action) || action == "DescribeFleetInstances" { // which EC2 answers for other types of fleets only
			continue
		}
		built++
		for _, name := range names {
			if name == "tag" { // documented as tag:KEY
				name = "tag:key"
			}
			form := url.Values{"Action": {action}, "Filter.1.Name": {name}, "Filter.1.Value.1": {"x"}}
			switch action {
			case "GetSecurityGroupsForVpc":
				form.Set("VpcId", string(w.subnet().VPC))
			case "GetSubnetCidrReservations":
				form.Set("SubnetId", string(w.subnet().ID))
			case "DescribeLaunchTemplateVersions":
				form.Set("LaunchTemplateVersion.1", "$Latest")
			}
			if status, text := w.ask(form); status != http.StatusOK {
				t.Errorf("%s, filter %s: answered %d: %s", action, name, status, text)
			}
		}
	}
	if built < 15 {
		t.Errorf("only %d actions with filters were found", built)
	}
}

// built lists the actions of the registry under test.
func (w *world) built() []string { return builtActions() }

var builtActions = sync.OnceValue(func() (list []string) {
	for _, c := range coverageOfEC2() {
		list = append(list, c.Action)
	}
	return list
})

var coverageOfEC2 = sync.OnceValue(func() []awsapi.Coverage {
	registry := awsapi.NewRegistry(gen.Service)
	ec2.New(ec2.Config{}).Register(registry)
	return registry.Coverage()
})
