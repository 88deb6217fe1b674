package ec2

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strconv"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerLaunchTemplates(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionCreateLaunchTemplate, s.createLaunchTemplate, awsapi.Honours(append(templateHonours("LaunchTemplateData."), "ClientToken", "LaunchTemplateName", "TagSpecifications",
		"VersionDescription")...))
	awsapi.Handle(r, ec2.ActionCreateLaunchTemplateVersion, s.createLaunchTemplateVersion, awsapi.Honours(append(templateHonours("LaunchTemplateData."), "ClientToken", "LaunchTemplateId",
		"LaunchTemplateName", "SourceVersion", "VersionDescription", "ResolveAlias")...))
	awsapi.Handle(r, ec2.ActionModifyLaunchTemplate, s.modifyLaunchTemplate, awsapi.Honours("ClientToken", "LaunchTemplateId", "LaunchTemplateName", "DefaultVersion"))
	awsapi.Handle(r, ec2.ActionDeleteLaunchTemplate, s.deleteLaunchTemplate, awsapi.Honours("LaunchTemplateId", "LaunchTemplateName"))
	awsapi.Handle(r, ec2.ActionDeleteLaunchTemplateVersions, s.deleteLaunchTemplateVersions, awsapi.Honours("LaunchTemplateId", "LaunchTemplateName", "Versions"))
	awsapi.Handle(r, ec2.ActionDescribeLaunchTemplates, s.describeLaunchTemplates, awsapi.Honours("LaunchTemplateIds", "LaunchTemplateNames", "Filters", "MaxResults", "NextToken"))
	awsapi.Handle(r, ec2.ActionDescribeLaunchTemplateVersions, s.describeLaunchTemplateVersions, awsapi.Honours("LaunchTemplateId", "LaunchTemplateName", "Versions", "MinVersion",
		"MaxVersion", "ResolveAlias", "Filters", "MaxResults", "NextToken"))
	awsapi.Handle(r, ec2.ActionGetLaunchTemplateData, s.getLaunchTemplateData, awsapi.Honours("InstanceId"))
}

// templateName is what EC2 allows in a launch template's name.
var templateName = regexp.MustCompile(`^[a-zA-Z0-9().\-/_]{3,128}$`)

// claimTemplate is the kind of the claims of launch templates' names.
const claimTemplate = "launch-template"

func templateMissing(id string) error {
	return awsapi.Errorf("InvalidLaunchTemplateId.NotFound", "The specified launch template, with template ID %s, does not exist.", id)
}

func templateNameMissing(name string) error {
	return awsapi.Errorf("InvalidLaunchTemplateName.NotFoundException", "The specified launch template, with template name %s, does not exist.", name)
}

// findTemplate finds an account's launch template by exactly one of its id and its name.
func findTemplate(r store.Reader, account cloud.AccountID, id, name *string) (*cloud.LaunchTemplate, error) {
	switch {
	case deref(id) != "" && deref(name) != "":
		return nil, awsapi.InvalidCombination("The parameters LaunchTemplateId and LaunchTemplateName cannot be used together")
	case deref(id) != "":
		if !cloud.ValidID[cloud.LaunchTemplateID](*id) {
			return nil, awsapi.Errorf("InvalidLaunchTemplateId.Malformed", "Invalid launch template ID format: '%s'", *id)
		}
		t, ok := store.Get(r, store.LaunchTemplates, cloud.LaunchTemplateID(*id))
		if !ok || t.Account != account {
			return nil, templateMissing(*id)
		}
		return t, nil
	case deref(name) != "":
		claim, ok := store.Get(r, store.Claims, store.NameClaim(claimTemplate, account, *name))
		if !ok {
			return nil, templateNameMissing(*name)
		}
		t, ok := store.Get(r, store.LaunchTemplates, cloud.LaunchTemplateID(claim.Owner))
		if !ok {
			return nil, templateNameMissing(*name)
		}
		return t, nil
	}
	return nil, awsapi.Errorf("MissingParameter", "Either LaunchTemplateId or LaunchTemplateName must be specified")
}

// versionNumber reads a version as clients name it: a number, $Default, $Latest, or nothing for the default one.
func versionNumber(t *cloud.LaunchTemplate, version string) (int, error) {
	switch version {
	case "", "$Default":
		return t.Default, nil
	case "$Latest":
		return t.Latest, nil
	}
	n, err := strconv.Atoi(version)
	if err != nil || n < 1 {
		return 0, awsapi.InvalidParameterValue("Invalid launch template version: '%s'. It must be a number, $Default or $Latest.", version)
	}
	return n, nil
}

func versionMissing(t *cloud.LaunchTemplate, n int) error {
	return awsapi.Errorf("InvalidLaunchTemplateId.VersionNotFound", "Could not find the specified version %d for the launch template with ID %s.", n, t.ID)
}

func findVersion(r store.Reader, t *cloud.LaunchTemplate, version string) (*cloud.LaunchTemplateVersion, error) {
	n, err := versionNumber(t, version)
	if err != nil {
		return nil, err
	}
	v, ok := store.Get(r, store.LaunchTemplateVersions, store.VersionKey(t.ID, n))
	if !ok {
		return nil, versionMissing(t, n)
	}
	return v, nil
}

func (s *Service) createLaunchTemplate(ctx context.Context, call *awsapi.Call, req *ec2.CreateLaunchTemplateRequest) (*ec2.CreateLaunchTemplateResult, error) {
	name := deref(req.LaunchTemplateName)
	if !templateName.MatchString(name) {
		return nil, awsapi.Errorf("InvalidLaunchTemplateName.MalformedException", "A launch template name must be between 3 and 128 characters, and may contain letters, numbers, and the following characters: - ( ) . / _.")
	}
	tags, err := tagsFor(req.TagSpecifications, "launch-template")
	if err != nil {
		return nil, err
	}
	data, err := templateDocument(req.LaunchTemplateData)
	if err != nil {
		return nil, err
	}
	text, warning, err := settleTemplate(data)
	if err != nil {
		return nil, err
	}
	hash, id := awsapi.RequestHash(req), newID[cloud.LaunchTemplateID](s)
	var made *cloud.LaunchTemplate
	err = s.update(ctx, call, func(tx *store.Tx) error {
		done, err := once(tx, call, "CreateLaunchTemplate", deref(req.ClientToken), hash, string(id))
		if err != nil {
			return err
		}
		if done != "" {
			made, err = findTemplate(tx, call.Account, &done, nil)
			return err
		}
		if len(store.ListBy(tx.View(), store.LaunchTemplatesByAccount, call.Account)) >= cloud.MaxLaunchTemplates {
			return awsapi.Errorf("LaunchTemplateLimitExceeded", "An account has %d launch templates at most.", cloud.MaxLaunchTemplates)
		}
		err = store.Insert(tx, store.Claims, &store.Claim{Key: store.NameClaim(claimTemplate, call.Account, name), Owner: string(id)})
		if errors.Is(err, store.ErrExists) {
			return awsapi.Errorf("InvalidLaunchTemplateName.AlreadyExistsException", "Launch template name already in use.")
		}
		if err != nil {
			return err
		}
		made = &cloud.LaunchTemplate{ID: id, Account: call.Account, Name: name, Default: 1, Latest: 1, Last: 1, CreatedBy: call.ARN, Tags: tags["launch-template"], Created: call.Now}
		store.Put(tx, store.LaunchTemplates, made)
		store.Put(tx, store.LaunchTemplateVersions, &cloud.LaunchTemplateVersion{Template: id, Account: call.Account, Number: 1, Description: deref(req.VersionDescription),
			Data: text, CreatedBy: call.ARN, Created: call.Now})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &ec2.CreateLaunchTemplateResult{LaunchTemplate: templateShape(made), Warning: warning}, nil
}

func templateShape(t *cloud.LaunchTemplate) *ec2.LaunchTemplate {
	out := &ec2.LaunchTemplate{LaunchTemplateId: text(t.ID), LaunchTemplateName: &t.Name, CreateTime: &t.Created, CreatedBy: &t.CreatedBy,
		DefaultVersionNumber: new(int64(t.Default)), LatestVersionNumber: new(int64(t.Latest))}
	if len(t.Tags) > 0 {
		out.Tags = tagList(t.Tags)
	}
	return out
}

func (s *Service) modifyLaunchTemplate(ctx context.Context, call *awsapi.Call, req *ec2.ModifyLaunchTemplateRequest) (*ec2.ModifyLaunchTemplateResult, error) {
	hash := awsapi.RequestHash(req)
	var changed *cloud.LaunchTemplate
	err := s.update(ctx, call, func(tx *store.Tx) error {
		t, err := findTemplate(tx, call.Account, req.LaunchTemplateId, req.LaunchTemplateName)
		if err != nil {
			return err
		}
		changed = t
		if done, err := once(tx, call, "ModifyLaunchTemplate", deref(req.ClientToken), hash, string(t.ID)); done != "" || err != nil {
			return err
		}
		if deref(req.DefaultVersion) == "" {
			return awsapi.MissingParameter("SetDefaultVersion")
		}
		v, err := findVersion(tx, t, *req.DefaultVersion)
		if err != nil {
			return err
		}
		t.Default = v.Number
		store.Put(tx, store.LaunchTemplates, t)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &ec2.ModifyLaunchTemplateResult{LaunchTemplate: templateShape(changed)}, nil
}

func (s *Service) deleteLaunchTemplate(ctx context.Context, call *awsapi.Call, req *ec2.DeleteLaunchTemplateRequest) (*ec2.DeleteLaunchTemplateResult, error) {
	var gone *cloud.LaunchTemplate
	err := s.update(ctx, call, func(tx *store.Tx) error {
		t, err := findTemplate(tx, call.Account, req.LaunchTemplateId, req.LaunchTemplateName)
		if err != nil {
			return err
		}
		gone = t
		for _, v := range store.ListBy(tx, store.LaunchTemplateVersionsByTemplate, t.ID) {
			store.Delete(tx, store.LaunchTemplateVersions, store.VersionKey(t.ID, v.Number))
		}
		store.Delete(tx, store.Claims, store.NameClaim(claimTemplate, t.Account, t.Name))
		store.Delete(tx, store.LaunchTemplates, t.ID)
		return nil
	})
	if err != nil {
		return nil, err
	}
	shape := templateShape(gone)
	shape.Tags = nil
	return &ec2.DeleteLaunchTemplateResult{LaunchTemplate: shape}, nil
}

func (s *Service) describeLaunchTemplates(_ context.Context, call *awsapi.Call, req *ec2.DescribeLaunchTemplatesRequest) (*ec2.DescribeLaunchTemplatesResult, error) {
	if err := pageBounds(req.MaxResults, 1, 200, nil, ""); err != nil {
		return nil, err
	}
	type T = *cloud.LaunchTemplate
	view := s.store.View()
	list := slices.Clone(store.ListBy(view, store.LaunchTemplatesByAccount, call.Account))
	if len(req.LaunchTemplateIds)+len(req.LaunchTemplateNames) > 0 {
		found := map[cloud.LaunchTemplateID]bool{}
		for _, id := range req.LaunchTemplateIds {
			t, err := findTemplate(view, call.Account, &id, nil)
			if err != nil {
				return nil, err
			}
			found[t.ID] = true
		}
		for _, name := range req.LaunchTemplateNames {
			t, err := findTemplate(view, call.Account, nil, &name)
			if err != nil {
				return nil, awsapi.Errorf("InvalidLaunchTemplateName.NotFoundException", "At least one of the launch templates specified in the request does not exist.")
			}
			found[t.ID] = true
		}
		list = slices.DeleteFunc(list, func(t T) bool { return !found[t.ID] })
	}
	set := awsapi.FilterSet[T]{Tags: func(t T) map[string]string { return t.Tags }, Values: map[string]func(T) []string{
		"create-time": one(func(t T) string { return timeText(t.Created) }), "launch-template-name": one(func(t T) string { return t.Name }),
	}}
	pass, err := set.Compile(filters(req.Filters))
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(t T) bool { return !pass(t) })
	page, err := awsapi.Paginate(list, func(t T) string { return string(t.ID) }, req.MaxResults, req.NextToken, []any{req.Filters, req.LaunchTemplateIds, req.LaunchTemplateNames})
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeLaunchTemplatesResult{NextToken: page.Next, LaunchTemplates: []ec2.LaunchTemplate{}}
	for _, t := range page.Items {
		out.LaunchTemplates = append(out.LaunchTemplates, *templateShape(t))
	}
	return out, nil
}
