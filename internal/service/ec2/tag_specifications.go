package ec2

import (
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
)

// tagsFor takes the tags of each kind of resource out of a call's tag specifications. Kinds that the call
// doesn't make are refused.
func tagsFor(specs []ec2.TagSpecification, allowed ...string) (map[string]cloud.Tags, error) {
	out := map[string]cloud.Tags{}
	for _, spec := range specs {
		kind := deref(spec.ResourceType)
		switch {
		case kind == "":
			return nil, awsapi.InvalidParameterValue("Tag specification must have a resource type")
		case !slices.Contains(allowed, kind):
			return nil, awsapi.InvalidParameterValue("'%s' is not a valid taggable resource type for this operation.", kind)
		case out[kind] != nil:
			return nil, awsapi.InvalidParameterValue("The same resource type may not be specified more than once in tag specifications")
		}
		tags, err := tagsOf(spec.Tags)
		if err != nil {
			return nil, err
		}
		out[kind] = tags
	}
	return out, nil
}

// tagsOf validates a list of tags.
func tagsOf(list []ec2.Tag) (cloud.Tags, error) {
	tags := cloud.Tags{}
	for _, t := range list {
		key, value := deref(t.Key), deref(t.Value)
		if err := validTag(key, value); err != nil {
			return nil, err
		}
		if _, ok := tags[key]; ok {
			return nil, awsapi.InvalidParameterValue("Duplicate tag key '%s' specified.", key)
		}
		tags[key] = value
	}
	if len(tags) > cloud.MaxTagsPerResource {
		return nil, tooManyTags()
	}
	return tags, nil
}

func tooManyTags() error {
	return awsapi.Errorf("TagLimitExceeded", "More than %d tags specified", cloud.MaxTagsPerResource)
}

func validTag(key, value string) error {
	switch {
	case key == "":
		return awsapi.InvalidParameterValue("Tag key cannot be empty")
	case !utf8.ValidString(key) || !utf8.ValidString(value):
		return awsapi.InvalidParameterValue("Tags must be valid UTF-8")
	case utf8.RuneCountInString(key) > cloud.MaxTagKeyLength:
		return awsapi.InvalidParameterValue("Tag key exceeds the maximum length of %d characters", cloud.MaxTagKeyLength)
	case utf8.RuneCountInString(value) > cloud.MaxTagValueLength:
		return awsapi.InvalidParameterValue("Tag value exceeds the maximum length of %d characters", cloud.MaxTagValueLength)
	case systemTag(key):
		return awsapi.InvalidParameterValue("Tag keys starting with 'aws:' are reserved for internal use")
	}
	return nil
}

// tagList is tags as EC2 sends them, by key; empty, not absent, when there are none.
func tagList(tags cloud.Tags) []ec2.Tag {
	out := make([]ec2.Tag, 0, len(tags))
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		out = append(out, ec2.Tag{Key: &key, Value: new(tags[key])})
	}
	return out
}

// systemTag tells whether a tag is the cloud's own: users see it and can't change it.
func systemTag(key string) bool { return strings.HasPrefix(strings.ToLower(key), "aws:") }

// userTags is tags without the cloud's own.
func userTags(tags cloud.Tags) cloud.Tags {
	out := maps.Clone(tags)
	maps.DeleteFunc(out, func(key, _ string) bool { return systemTag(key) })
	return out
}

// withTags is tags with more.
func withTags(tags, more cloud.Tags) cloud.Tags {
	if len(more) == 0 {
		return tags
	}
	out := maps.Clone(tags)
	if out == nil {
		out = cloud.Tags{}
	}
	maps.Copy(out, more)
	return out
}
