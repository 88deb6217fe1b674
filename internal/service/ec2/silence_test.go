package ec2_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// moments are what differs between two runs of the same call.
var moments = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)

// outcome is all that a call has led to: its answer and the whole store, without what a clock has written.
func (s *stage) outcome(answer string) string {
	var b strings.Builder
	b.WriteString(lasting(answer))
	s.store.View().Each(func(table, key string, obj any) {
		if table == "client-tokens" { // holds a hash of the whole request
			return
		}
		text, err := json.Marshal(obj)
		if err != nil {
			s.t.Fatal(err)
		}
		fmt.Fprintf(&b, "\n%s %s %s", table, key, text)
	})
	return moments.ReplaceAllString(b.String(), "T")
}

// Two values of a parameter, both taken and both without any difference to the answer and to the store, are a parameter that is
// accepted and ignored. One value alone may be the one that means "as it is".
func TestNoParameterIsAcceptedAndIgnored(t *testing.T) {
	tried := 0
	for _, action := range newStage(t).built() {
		fresh := newStage(t)
		if strings.HasPrefix(action, "Describe") || strings.HasPrefix(action, "Get") || !fresh.hasDryRun(action) {
			continue // what they answer hangs on what there is
		}
		variants := fresh.variants(action)
		plain := variants[0].form
		s := newStage(t)
		status, text := s.ask(plain)
		if status != http.StatusOK {
			continue
		}
		outcome := s.outcome(text)
		difference, accepted := map[string]bool{}, map[string][]string{}
		for _, v := range variants[1:] {
			key, value := added(plain, v)
			if key == "" || value == "" || key == "DryRun" || key == "ClientToken" || difference[key] || slices.Contains(accepted[key], value) {
				continue
			}
			if codeIn(fresh.ask(with(v.form, "DryRun", "true"))) != "DryRunOperation" {
				continue
			}
			s := newStage(t)
			if status, text = s.ask(v.form); status != http.StatusOK {
				continue
			}
			tried++
			accepted[key] = append(accepted[key], value)
			difference[key] = s.outcome(text) != outcome
		}
		for key, values := range accepted {
			if len(values) > 1 && !difference[key] && indifferent[action+"."+key] == "" {
				t.Errorf("%s takes %s, be it %.40q, and nothing is different: refuse it, or say in indifferent why that is right", action, key, values)
			}
		}
	}
	if tried < 150 {
		t.Errorf("only %d parameters were tried", tried)
	}
}

// The same for what only asks: the answer is different for one of the values at least.
func TestNoParameterOfAQuestionIsAcceptedAndIgnored(t *testing.T) {
	s := newStage(t)
	tried := 0
	for _, action := range s.built() {
		if !strings.HasPrefix(action, "Describe") && !strings.HasPrefix(action, "Get") {
			continue
		}
		variants := s.variants(action)
		plain := variants[0].form
		status, answer := s.ask(plain)
		if status != http.StatusOK {
			continue
		}
		difference, accepted := map[string]bool{}, map[string][]string{}
		for _, v := range variants[1:] {
			key, value := added(plain, v)
			if key == "" || value == "" || key == "DryRun" || key == "MaxResults" || key == "NextToken" || strings.HasPrefix(key, "Filter.") ||
				difference[key] || slices.Contains(accepted[key], value) {
				continue // pages and filters have tests of their own
			}
			status, text := s.ask(v.form)
			if status != http.StatusOK {
				continue
			}
			tried++
			accepted[key] = append(accepted[key], value)
			difference[key] = lasting(text) != lasting(answer)
		}
		for key, values := range accepted {
			if len(values) > 1 && !difference[key] && indifferent[action+"."+key] == "" {
				t.Errorf("%s takes %s, be it %.40q, and answers the same: refuse it, or say in indifferent why that is right", action, key, values)
			}
		}
	}
	if tried < 60 {
		t.Errorf("only %d parameters were tried", tried)
	}
}

// added is the one parameter that a variant has and the plain request hasn't.
func added(plain url.Values, v variant) (key, value string) {
	for name := range v.form {
		if !plain.Has(name) {
			if key != "" {
				return "", ""
			}
			key = name
		}
	}
	if key == "" || len(v.form) != len(plain)+1 {
		return "", ""
	}
	return key, v.form.Get(key)
}

// indifferent are parameters that make no difference on the stage, with the reason.
var indifferent = map[string]string{
	"AssociateAddress.AllowReassociation":                                "the address is free",
	"CopyImage.CopyImageTags":                                            "the image has no tags",
	"CreateSnapshots.InstanceSpecification.ExcludeBootVolume":            "the instance is a container, whose root is no device",
	"CreateLaunchTemplateVersion.ResolveAlias":                           "the image has no alias",
	"DeleteTags.Tag.1.Key":                                               "there is no tag of that name",
	"DescribeAvailabilityZones.AllAvailabilityZones":                     "every zone is one of the account's",
	"DescribeImages.IncludeDeprecated":                                   "an image's owner sees it in any case",
	"DescribeImages.IncludeDisabled":                                     "no image on the stage is disabled",
	"DescribeLaunchTemplateVersions.ResolveAlias":                        "the image has no alias",
	"DescribeSnapshots.Owner.1":                                          "an account sees its own snapshots, and the one on the stage is its",
	"DescribeRegions.AllRegions":                                         "every region is one of the account's",
	"GetConsoleOutput.Latest":                                            "the output is always the latest",
	"DetachNetworkInterface.Force":                                       "the instance is there to let go",
	"ImportImage.DiskContainer.1.Description":                            "the task's own description comes first",
	"ReportInstanceStatus.Description":                                   "a report goes into the log, and EC2 shows it nowhere either",
	"ReportInstanceStatus.EndTime":                                       "a report goes into the log, and EC2 shows it nowhere either",
	"ReportInstanceStatus.StartTime":                                     "a report goes into the log, and EC2 shows it nowhere either",
	"RevokeSecurityGroupEgress.IpPermissions.1.FromPort":                 "a rule for all protocols has no ports",
	"RevokeSecurityGroupEgress.IpPermissions.1.ToPort":                   "a rule for all protocols has no ports",
	"UpdateSecurityGroupRuleDescriptionsEgress.IpPermissions.1.FromPort": "a rule for all protocols has no ports",
	"UpdateSecurityGroupRuleDescriptionsEgress.IpPermissions.1.ToPort":   "a rule for all protocols has no ports",
}
