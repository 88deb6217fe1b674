package ec2

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) createLaunchTemplateVersion(ctx context.Context, call *awsapi.Call, req *ec2.CreateLaunchTemplateVersionRequest) (*ec2.CreateLaunchTemplateVersionResult, error) {
	fresh, err := templateDocument(req.LaunchTemplateData)
	if err != nil {
		return nil, err
	}
	hash := awsapi.RequestHash(req)
	out := &ec2.CreateLaunchTemplateVersionResult{}
	err = s.update(ctx, call, func(tx *store.Tx) error {
		t, err := findTemplate(tx, call.Account, req.LaunchTemplateId, req.LaunchTemplateName)
		if err != nil {
			return err
		}
		done, err := once(tx, call, "CreateLaunchTemplateVersion", deref(req.ClientToken), hash, fmt.Sprint(t.Last+1))
		if err != nil {
			return err
		}
		if done != "" {
			v, err := findVersion(tx, t, done)
			if err != nil {
				return err
			}
			out.LaunchTemplateVersion, err = versionShape(t, v)
			return err
		}
		if len(store.ListBy(tx.View(), store.LaunchTemplateVersionsByTemplate, t.ID)) >= cloud.MaxLaunchTemplateVersions {
			return awsapi.Errorf("LaunchTemplateVersionLimitExceeded", "A launch template has %d versions at most.", cloud.MaxLaunchTemplateVersions)
		}
		data := fresh
		if source := deref(req.SourceVersion); source != "" {
			from, err := findVersion(tx, t, source)
			if err != nil {
				return err
			}
			base, err := parseDocument(from.Data)
			if err != nil {
				return err
			}
			data = overlaid(base, fresh)
		}
		var text string
		if text, out.Warning, err = settleTemplate(data); err != nil {
			return err
		}
		t.Last++
		t.Latest = t.Last
		v := &cloud.LaunchTemplateVersion{Template: t.ID, Account: t.Account, Number: t.Last, Description: deref(req.VersionDescription), Data: text, CreatedBy: call.ARN, Created: call.Now}
		store.Put(tx, store.LaunchTemplateVersions, v)
		store.Put(tx, store.LaunchTemplates, t)
		out.LaunchTemplateVersion, err = versionShape(t, v)
		return err
	})
	return out, err
}

func versionShape(t *cloud.LaunchTemplate, v *cloud.LaunchTemplateVersion) (*ec2.LaunchTemplateVersion, error) {
	data, err := decodeDocument[ec2.ResponseLaunchTemplateData](v.Data)
	if err != nil {
		return nil, err
	}
	return &ec2.LaunchTemplateVersion{LaunchTemplateId: text(t.ID), LaunchTemplateName: &t.Name, VersionNumber: new(int64(v.Number)), VersionDescription: optional(v.Description),
		CreateTime: &v.Created, CreatedBy: &v.CreatedBy, DefaultVersion: new(v.Number == t.Default), LaunchTemplateData: data}, nil
}

// maxVersionsPerCall is EC2's limit for deleting.
const maxVersionsPerCall = 200

func (s *Service) deleteLaunchTemplateVersions(ctx context.Context, call *awsapi.Call, req *ec2.DeleteLaunchTemplateVersionsRequest) (*ec2.DeleteLaunchTemplateVersionsResult, error) {
	if len(req.Versions) > maxVersionsPerCall {
		return nil, awsapi.InvalidParameterValue("%d launch template versions can be deleted in one call", maxVersionsPerCall)
	}
	out := &ec2.DeleteLaunchTemplateVersionsResult{}
	err := s.update(ctx, call, func(tx *store.Tx) error {
		out.SuccessfullyDeletedLaunchTemplateVersions = []ec2.DeleteLaunchTemplateVersionsResponseSuccessItem{}
		out.UnsuccessfullyDeletedLaunchTemplateVersions = []ec2.DeleteLaunchTemplateVersionsResponseErrorItem{}
		t, err := findTemplate(tx, call.Account, req.LaunchTemplateId, req.LaunchTemplateName)
		if err != nil {
			return err
		}
		for _, version := range req.Versions {
			n, err := versionNumber(t, version)
			if err != nil {
				return err
			}
			code, why := "", ""
			switch {
			case n == t.Default:
				code, why = ec2.LaunchTemplateErrorCodeUnexpectedError, fmt.Sprintf("The default version %d of launch template %s can't be deleted; make another version the default first.", n, t.ID)
			case !store.Delete(tx, store.LaunchTemplateVersions, store.VersionKey(t.ID, n)):
				code, why = ec2.LaunchTemplateErrorCodeLaunchTemplateVersionDoesNotExist, fmt.Sprintf("The launch template version %d of launch template %s does not exist.", n, t.ID)
			}
			if code != "" {
				out.UnsuccessfullyDeletedLaunchTemplateVersions = append(out.UnsuccessfullyDeletedLaunchTemplateVersions, ec2.DeleteLaunchTemplateVersionsResponseErrorItem{
					LaunchTemplateId: text(t.ID), LaunchTemplateName: &t.Name, VersionNumber: new(int64(n)), ResponseError: &ec2.ResponseError{Code: &code, Message: &why}})
				continue
			}
			out.SuccessfullyDeletedLaunchTemplateVersions = append(out.SuccessfullyDeletedLaunchTemplateVersions, ec2.DeleteLaunchTemplateVersionsResponseSuccessItem{
				LaunchTemplateId: text(t.ID), LaunchTemplateName: &t.Name, VersionNumber: new(int64(n))})
		}
		t.Latest = 0
		for _, v := range store.ListBy(tx, store.LaunchTemplateVersionsByTemplate, t.ID) {
			t.Latest = max(t.Latest, v.Number)
		}
		store.Put(tx, store.LaunchTemplates, t)
		return nil
	})
	return out, err
}

// describedVersion is a version with the template that it is of.
type describedVersion struct {
	*cloud.LaunchTemplateVersion
	of   *cloud.LaunchTemplate
	data *ec2.ResponseLaunchTemplateData
}

func (s *Service) describeLaunchTemplateVersions(_ context.Context, call *awsapi.Call, req *ec2.DescribeLaunchTemplateVersionsRequest) (*ec2.DescribeLaunchTemplateVersionsResult, error) {
	if err := pageBounds(req.MaxResults, 1, 200, nil, ""); err != nil {
		return nil, err
	}
	view := s.store.View()
	list, err := versionsAsked(view, call.Account, req)
	if err != nil {
		return nil, err
	}
	for n, v := range list {
		if list[n].data, err = decodeDocument[ec2.ResponseLaunchTemplateData](v.Data); err != nil {
			return nil, err
		}
	}
	pass, err := versionFilters.Compile(filters(req.Filters))
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(v describedVersion) bool { return !pass(v) })
	// Newest first, as EC2 lists them.
	key := func(v describedVersion) string { return fmt.Sprintf("%s %09d", v.of.ID, 1_000_000_000-v.Number) }
	slices.SortFunc(list, func(a, b describedVersion) int { return strings.Compare(key(a), key(b)) })
	page, err := awsapi.Paginate(list, key, req.MaxResults, req.NextToken,
		[]any{req.Filters, req.LaunchTemplateId, req.LaunchTemplateName, req.Versions, req.MinVersion, req.MaxVersion})
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeLaunchTemplateVersionsResult{NextToken: page.Next, LaunchTemplateVersions: []ec2.LaunchTemplateVersion{}}
	for _, v := range page.Items {
		shape, err := versionShape(v.of, v.LaunchTemplateVersion)
		if err != nil {
			return nil, err
		}
		out.LaunchTemplateVersions = append(out.LaunchTemplateVersions, *shape)
	}
	return out, nil
}

// versionsAsked finds the versions that a call names: of one template, or the latest and default ones of all.
func versionsAsked(view *store.View, account cloud.AccountID, req *ec2.DescribeLaunchTemplateVersionsRequest) ([]describedVersion, error) {
	var list []describedVersion
	if deref(req.LaunchTemplateId) == "" && deref(req.LaunchTemplateName) == "" {
		if len(req.Versions) == 0 || slices.ContainsFunc(req.Versions, func(v string) bool { return v != "$Latest" && v != "$Default" }) {
			return nil, awsapi.Errorf("MissingParameter", "A launch template's ID or name must be specified, or the versions $Latest or $Default")
		}
		for _, t := range store.ListBy(view, store.LaunchTemplatesByAccount, account) {
			for _, v := range store.ListBy(view, store.LaunchTemplateVersionsByTemplate, t.ID) {
				if slices.Contains(req.Versions, "$Latest") && v.Number == t.Latest || slices.Contains(req.Versions, "$Default") && v.Number == t.Default {
					list = append(list, describedVersion{LaunchTemplateVersion: v, of: t})
				}
			}
		}
		return list, nil
	}
	t, err := findTemplate(view, account, req.LaunchTemplateId, req.LaunchTemplateName)
	if err != nil {
		return nil, err
	}
	if len(req.Versions) > 0 {
		if deref(req.MinVersion) != "" || deref(req.MaxVersion) != "" {
			return nil, awsapi.InvalidCombination("The parameter LaunchTemplateVersion cannot be used with MinVersion or MaxVersion")
		}
		seen := map[int]bool{}
		for _, version := range req.Versions {
			v, err := findVersion(view, t, version)
			if err != nil {
				return nil, err
			}
			if !seen[v.Number] {
				seen[v.Number] = true
				list = append(list, describedVersion{LaunchTemplateVersion: v, of: t})
			}
		}
		return list, nil
	}
	low, high := 1, t.Last
	for _, bound := range []struct {
		at   *int
		text *string
	}{{&low, req.MinVersion}, {&high, req.MaxVersion}} {
		if deref(bound.text) == "" {
			continue
		}
		if *bound.at, err = versionNumber(t, *bound.text); err != nil {
			return nil, err
		}
	}
	for _, v := range store.ListBy(view, store.LaunchTemplateVersionsByTemplate, t.ID) {
		if v.Number >= low && v.Number <= high {
			list = append(list, describedVersion{LaunchTemplateVersion: v, of: t})
		}
	}
	return list, nil
}

var versionFilters = func() awsapi.FilterSet[describedVersion] {
	type V = describedVersion
	none := func(V) []string { return nil }
	metadata := func(f func(*ec2.LaunchTemplateInstanceMetadataOptions) *string) func(V) []string {
		return one(func(v V) string {
			if v.data.MetadataOptions == nil {
				return ""
			}
			return deref(f(v.data.MetadataOptions))
		})
	}
	return awsapi.FilterSet[V]{Values: map[string]func(V) []string{
		"create-time": one(func(v V) string { return timeText(v.Created) }),
		"ebs-optimized": one(func(v V) string {
			if v.data.EbsOptimized == nil {
				return ""
			}
			return boolText(*v.data.EbsOptimized)
		}),
		"http-endpoint":           metadata(func(m *ec2.LaunchTemplateInstanceMetadataOptions) *string { return m.HttpEndpoint }),
		"http-protocol-ipv4":      metadata(func(m *ec2.LaunchTemplateInstanceMetadataOptions) *string { return m.HttpEndpoint }),
		"http-tokens":             metadata(func(m *ec2.LaunchTemplateInstanceMetadataOptions) *string { return m.HttpTokens }),
		"host-resource-group-arn": none, "kernel-id": one(func(v V) string { return deref(v.data.KernelId) }), "license-configuration-arn": none, "ram-disk-id": one(func(v V) string { return deref(v.data.RamDiskId) }),
		"iam-instance-profile": one(func(v V) string {
			if v.data.IamInstanceProfile == nil {
				return ""
			}
			return deref(v.data.IamInstanceProfile.Arn)
		}),
		"image-id": one(func(v V) string { return deref(v.data.ImageId) }), "instance-type": one(func(v V) string { return deref(v.data.InstanceType) }),
		"is-default-version": one(func(v V) string { return boolText(v.Number == v.of.Default) }),
		"network-card-index": func(v V) (list []string) {
			for _, n := range v.data.NetworkInterfaces {
				if n.NetworkCardIndex != nil {
					list = append(list, strconv.FormatInt(*n.NetworkCardIndex, 10))
				}
			}
			return list
		},
	}}
}()
