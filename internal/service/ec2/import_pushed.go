package ec2

import (
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/registry"
)

// pushed names an image of the registry at the endpoint.
type pushed struct {
	repository string
	reference  registry.Reference
}

// pushedImage reads a source such as docker://ENDPOINT/NAME:TAG, which is own when the client reached this cloud by that name: the
// image is in the caller's repository, and nothing is fetched. No tag is "latest".
func pushedImage(call *awsapi.Call, source string) (p pushed, own bool, err error) {
	rest, ok := strings.CutPrefix(source, "docker://"+call.Host+"/")
	if call.Host == "" || !ok || !registrySource.MatchString(source) {
		return p, false, nil
	}
	name, word, found := strings.Cut(rest, "@")
	if !found {
		if name, word, found = strings.Cut(rest, ":"); !found {
			word = "latest"
		}
	}
	name, _, _ = strings.Cut(name, ":") // a tag beside a digest says nothing
	if p.reference, err = registry.ParseReference(word); err != nil {
		return p, true, awsapi.InvalidParameterValue("DiskContainer.1.Url: %v", err)
	}
	p.repository = name
	return p, true, nil
}

// source is what the import task has for it: what was named, and the digest that it meant then.
func (p pushed) source(digest string) string {
	tag := ""
	if p.reference.Tag != "" {
		tag = ":" + p.reference.Tag
	}
	return "registry:" + p.repository + tag + "@" + digest
}
