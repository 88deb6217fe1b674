// Package coverage writes docs/api-coverage.md: which of AWS's actions are built, which are refused by design and
// why, and which parameters of the built ones are not honoured.
//
// It reads the models' lists of actions and the registry that the server answers from, so that the page says what is,
// and not what somebody remembered to write. Only the reasons of refusals are kept by hand.
package coverage

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen"
	"github.com/nacre-cloud/nacre/internal/service/billing"
	"github.com/nacre-cloud/nacre/internal/service/ebs"
	"github.com/nacre-cloud/nacre/internal/service/ec2"
	"github.com/nacre-cloud/nacre/internal/service/ecr"
	"github.com/nacre-cloud/nacre/internal/service/instanceconnect"
	"github.com/nacre-cloud/nacre/internal/service/nacre"
	"github.com/nacre-cloud/nacre/internal/service/sts"
)

//go:generate go run ./generate ../../../docs/api-coverage.md

const introduction = `# What of AWS's API is built

Made by ` + "`make generate`" + ` from AWS's models and from the actions that the server answers; not to be edited.

Every action is **built**, **refused** by design for the reason that its chapter gives, or **not yet** built. An
action that isn't built answers UnsupportedOperation (UnknownOperationException where the service speaks JSON), with the reason if it is refused. A built action refuses each parameter that it doesn't honour, by its name, when a
request gives it; the tables list those, and a name stands for all parameters below it.
`

// Page is the whole page.
func Page() []byte {
	registry := awsapi.NewRegistry(gen.Services()...)
	ec2.New(ec2.Config{}).Register(registry)
	ebs.New(ebs.Config{}).Register(registry)
	sts.Register(registry)
	instanceconnect.New(instanceconnect.Config{}).Register(registry)
	nacre.New(nacre.Config{}).Register(registry)
	billing.New(nil).Register(registry)
	ecr.New(ecr.Config{}).Register(registry)
	built := map[string]awsapi.Coverage{}
	for _, c := range registry.Coverage() {
		built[c.Service+"/"+c.Action] = c
	}
	var b bytes.Buffer
	b.WriteString(introduction)
	for _, service := range gen.Services() {
		if c := chapters[service.Name]; len(service.Actions) > 0 {
			writeService(&b, c.title, service, c.groups, built)
		}
	}
	return b.Bytes()
}

func writeService(b *bytes.Buffer, title string, service *awsapi.Service, groups []group, built map[string]awsapi.Coverage) {
	fmt.Fprintf(b, "\n## %s\n", title)
	chapters := make([][]string, len(groups))
	for _, action := range service.Actions {
		at := slices.IndexFunc(groups, func(g group) bool { return g.match.MatchString(action) })
		if at < 0 {
			panic("coverage: no chapter takes the action " + action)
		}
		chapters[at] = append(chapters[at], action)
	}
	order := make([]int, 0, len(groups))
	for i := range groups {
		if len(chapters[i]) > 0 {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return strings.Compare(groups[a].title, groups[b].title) })
	for _, i := range order {
		writeChapter(b, service, groups[i], chapters[i], built)
	}
}

func writeChapter(b *bytes.Buffer, service *awsapi.Service, g group, actions []string, built map[string]awsapi.Coverage) {
	fmt.Fprintf(b, "\n### %s\n\n", g.title)
	if g.refused != "" {
		fmt.Fprintf(b, "Refused: %s.\n\n", g.refused)
	}
	b.WriteString("| action | state | not honoured |\n| --- | --- | --- |\n")
	for _, action := range actions {
		c, ok := built[service.Name+"/"+action]
		switch {
		case ok:
			fmt.Fprintf(b, "| %s | built | %s |\n", action, strings.Join(topmost(c.NotHonoured), ", "))
		case g.refused != "":
			fmt.Fprintf(b, "| %s | refused | |\n", action)
		default:
			fmt.Fprintf(b, "| %s | not yet | |\n", action)
		}
	}
}

// topmost leaves out the paths that lie below another one of the list.
func topmost(paths []string) []string {
	var top []string
	for _, p := range paths {
		if !slices.ContainsFunc(paths, func(above string) bool { return strings.HasPrefix(p, above+".") }) {
			top = append(top, p)
		}
	}
	return top
}
