package ec2_test

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

type templateData = types.RequestLaunchTemplateData

// template makes a launch template that must come to be, and returns its id.
func (w *world) template(name string, data *templateData) string {
	w.t.Helper()
	out, err := w.CreateLaunchTemplate(w.t.Context(), &sdk.CreateLaunchTemplateInput{LaunchTemplateName: &name, LaunchTemplateData: data})
	if err != nil {
		w.t.Fatal(err)
	}
	return *out.LaunchTemplate.LaunchTemplateId
}

// version adds a version to a launch template.
func (w *world) version(id string, data *templateData, source string) *types.LaunchTemplateVersion {
	w.t.Helper()
	in := &sdk.CreateLaunchTemplateVersionInput{LaunchTemplateId: &id, LaunchTemplateData: data}
	if source != "" {
		in.SourceVersion = &source
	}
	out, err := w.CreateLaunchTemplateVersion(w.t.Context(), in)
	if err != nil {
		w.t.Fatal(err)
	}
	return out.LaunchTemplateVersion
}

func (w *world) versions(id string, versions ...string) []types.LaunchTemplateVersion {
	w.t.Helper()
	out, err := w.DescribeLaunchTemplateVersions(w.t.Context(), &sdk.DescribeLaunchTemplateVersionsInput{LaunchTemplateId: &id, Versions: versions})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.LaunchTemplateVersions
}

func from(template, version string) func(*order) {
	return func(in *order) {
		in.ImageId = nil
		in.LaunchTemplate = &types.LaunchTemplateSpecification{LaunchTemplateId: &template}
		if version != "" {
			in.LaunchTemplate.Version = &version
		}
	}
}

func TestALaunchTemplateIsReadBackAsItWasGiven(t *testing.T) {
	w := newWorld(t)
	group := w.group("web")
	out, err := w.CreateLaunchTemplate(t.Context(), &sdk.CreateLaunchTemplateInput{LaunchTemplateName: aws.String("web"), VersionDescription: aws.String("the first"),
		TagSpecifications: []types.TagSpecification{tagSpec("launch-template", "team", "blue")},
		LaunchTemplateData: &templateData{ImageId: &w.image, InstanceType: "t3.small", UserData: aws.String(base64.StdEncoding.EncodeToString([]byte("#!/bin/sh"))),
			MetadataOptions:   &types.LaunchTemplateInstanceMetadataOptionsRequest{HttpTokens: "required", HttpPutResponseHopLimit: aws.Int32(2)},
			NetworkInterfaces: []types.LaunchTemplateInstanceNetworkInterfaceSpecificationRequest{{DeviceIndex: aws.Int32(0), Groups: []string{group}}},
			TagSpecifications: []types.LaunchTemplateTagSpecificationRequest{{ResourceType: "instance", Tags: []types.Tag{{Key: aws.String("a"), Value: aws.String("b")}}}}}})
	if err != nil || out.Warning != nil {
		t.Fatal(out, err)
	}
	if lt := out.LaunchTemplate; *lt.LaunchTemplateName != "web" || *lt.DefaultVersionNumber != 1 || *lt.LatestVersionNumber != 1 || *lt.Tags[0].Value != "blue" || !strings.HasPrefix(*lt.LaunchTemplateId, "lt-") {
		t.Errorf("made %+v", lt)
	}
	v := w.versions(*out.LaunchTemplate.LaunchTemplateId)[0]
	d := v.LaunchTemplateData
	if *v.VersionDescription != "the first" || !*v.DefaultVersion || *d.ImageId != w.image || d.InstanceType != "t3.small" || *d.MetadataOptions.HttpPutResponseHopLimit != 2 ||
		d.NetworkInterfaces[0].Groups[0] != group || *d.NetworkInterfaces[0].DeviceIndex != 0 || *d.TagSpecifications[0].Tags[0].Key != "a" || d.KeyName != nil || d.Monitoring != nil || d.SecurityGroupIds != nil {
		t.Errorf("read back %+v", d)
	}
	found, err := w.DescribeLaunchTemplates(t.Context(), &sdk.DescribeLaunchTemplatesInput{Filters: filterList("tag:team", "b*", "launch-template-name", "web")})
	if err != nil || len(found.LaunchTemplates) != 1 {
		t.Error(found, err)
	}
	tags, err := w.DescribeTags(t.Context(), &sdk.DescribeTagsInput{Filters: filterList("resource-type", "launch-template")})
	if err != nil || len(tags.Tags) != 1 {
		t.Error(tags, err)
	}
}

func TestVersionsInheritFromTheirSourceAndAreNeverNumberedAgain(t *testing.T) {
	w := newWorld(t)
	id := w.template("web", &templateData{ImageId: &w.image, InstanceType: "t3.small", Monitoring: &types.LaunchTemplatesMonitoringRequest{Enabled: aws.Bool(true)}})
	v2 := w.version(id, &templateData{InstanceType: "t3.nano"}, "1")
	if d := v2.LaunchTemplateData; *v2.VersionNumber != 2 || *d.ImageId != w.image || d.InstanceType != "t3.nano" || !*d.Monitoring.Enabled || *v2.DefaultVersion {
		t.Errorf("from version 1: %+v", v2)
	}
	v3 := w.version(id, &templateData{InstanceType: "t3.micro"}, "")
	if d := v3.LaunchTemplateData; d.ImageId != nil || d.Monitoring != nil {
		t.Errorf("from nothing: %+v", d)
	}
	if list := w.versions(id); len(list) != 3 || *list[0].VersionNumber != 3 {
		t.Errorf("%d versions, not newest first", len(list))
	}
	if list := w.versions(id, "$Latest", "$Default", "3"); len(list) != 2 {
		t.Errorf("$Latest, $Default and 3 are %d versions", len(list))
	}
	if _, err := w.ModifyLaunchTemplate(t.Context(), &sdk.ModifyLaunchTemplateInput{LaunchTemplateId: &id, DefaultVersion: aws.String("2")}); err != nil {
		t.Fatal(err)
	}
	gone, err := w.DeleteLaunchTemplateVersions(t.Context(), &sdk.DeleteLaunchTemplateVersionsInput{LaunchTemplateId: &id, Versions: []string{"1", "2", "3", "9"}})
	if err != nil || len(gone.SuccessfullyDeletedLaunchTemplateVersions) != 2 || len(gone.UnsuccessfullyDeletedLaunchTemplateVersions) != 2 {
		t.Fatal(gone, err)
	}
	if u := gone.UnsuccessfullyDeletedLaunchTemplateVersions; u[1].ResponseError.Code != types.LaunchTemplateErrorCodeLaunchTemplateVersionDoesNotExist || *u[0].VersionNumber != 2 {
		t.Errorf("refused %+v", u)
	}
	if v := w.version(id, &templateData{InstanceType: "t3.nano"}, ""); *v.VersionNumber != 4 {
		t.Errorf("the next version is %d", *v.VersionNumber)
	}
	all, err := w.DescribeLaunchTemplateVersions(t.Context(), &sdk.DescribeLaunchTemplateVersionsInput{Versions: []string{"$Default"}})
	if err != nil || len(all.LaunchTemplateVersions) != 1 || *all.LaunchTemplateVersions[0].VersionNumber != 2 {
		t.Error(all, err)
	}
}

func TestALaunchTakesFromItsTemplateWhatTheCallDoesNotSay(t *testing.T) {
	w := newWorld(t)
	id := w.template("web", &templateData{ImageId: &w.image, InstanceType: "t3.small", MetadataOptions: &types.LaunchTemplateInstanceMetadataOptionsRequest{HttpTokens: "required", HttpPutResponseHopLimit: aws.Int32(3)},
		TagSpecifications: []types.LaunchTemplateTagSpecificationRequest{{ResourceType: "instance", Tags: []types.Tag{{Key: aws.String("a"), Value: aws.String("template")}, {Key: aws.String("b"), Value: aws.String("template")}}}}})
	w.version(id, &templateData{InstanceType: "t3.nano"}, "1")
	i := w.instance(w.running(from(id, ""), tagged("b", "call"), func(in *order) {
		in.MetadataOptions = &types.InstanceMetadataOptionsRequest{HttpPutResponseHopLimit: aws.Int32(5)}
	}))
	tags := map[string]string{}
	for _, tag := range i.Tags {
		tags[*tag.Key] = *tag.Value
	}
	if i.InstanceType != "t3.small" || i.MetadataOptions.HttpTokens != "required" || *i.MetadataOptions.HttpPutResponseHopLimit != 5 {
		t.Errorf("launched %+v", i)
	}
	if len(tags) != 4 || tags["a"] != "template" || tags["b"] != "call" || tags["aws:ec2launchtemplate:id"] != id || tags["aws:ec2launchtemplate:version"] != "1" {
		t.Errorf("tagged %v", tags)
	}
	if i := w.launch(from(id, "$Latest"))[0]; i.InstanceType != "t3.nano" {
		t.Errorf("$Latest launched a %s", i.InstanceType)
	}
	if i := w.launch(from(id, "2"), ofType("t3.micro"))[0]; i.InstanceType != "t3.micro" {
		t.Errorf("the call's own type is not taken: %s", i.InstanceType)
	}
	if _, err := w.DeleteTags(t.Context(), &sdk.DeleteTagsInput{Resources: []string{*i.InstanceId}}); err != nil {
		t.Fatal(err)
	}
	if left := w.instance(*i.InstanceId).Tags; len(left) != 2 {
		t.Errorf("deleting all tags leaves %d", len(left))
	}
	_, err := w.DeleteTags(t.Context(), &sdk.DeleteTagsInput{Resources: []string{*i.InstanceId}, Tags: []types.Tag{{Key: aws.String("aws:ec2launchtemplate:id")}}})
	refused(t, err, "InvalidParameterValue", "reserved")
}

func TestARetriedLaunchIsAnsweredWhenItsTemplateIsGone(t *testing.T) {
	w := newWorld(t)
	id := w.template("web", &templateData{ImageId: &w.image})
	token := func(in *order) { in.ClientToken = aws.String("again") }
	first := w.launch(from(id, ""), token)
	if _, err := w.DeleteLaunchTemplate(t.Context(), &sdk.DeleteLaunchTemplateInput{LaunchTemplateId: &id}); err != nil {
		t.Fatal(err)
	}
	if second := w.launch(from(id, ""), token); *second[0].InstanceId != *first[0].InstanceId {
		t.Error("the retry launched once more")
	}
	_, err := w.run(from(id, ""))
	refused(t, err, "InvalidLaunchTemplateId.NotFound", id)
	if again := w.template("web", &templateData{ImageId: &w.image}); again == id {
		t.Error("the id is used again")
	}
}

func TestATemplateThatCannotBeLaunchedSaysSo(t *testing.T) {
	w := newWorld(t)
	data := &templateData{ImageId: &w.image, BlockDeviceMappings: []types.LaunchTemplateBlockDeviceMappingRequest{{DeviceName: aws.String("/dev/sdz"), Ebs: &types.LaunchTemplateEbsBlockDeviceRequest{VolumeSize: aws.Int32(1)}}},
		IamInstanceProfile: &types.LaunchTemplateIamInstanceProfileSpecificationRequest{Name: aws.String("x")}}
	out, err := w.CreateLaunchTemplate(t.Context(), &sdk.CreateLaunchTemplateInput{LaunchTemplateName: aws.String("web"), LaunchTemplateData: data})
	if err != nil || out.Warning == nil || !strings.Contains(*out.Warning.Errors[len(out.Warning.Errors)-1].Message, "IamInstanceProfile") {
		t.Fatal(out, err)
	}
	w.unchanged(func() {
		_, err = w.run(from(*out.LaunchTemplate.LaunchTemplateId, ""))
		refused(t, err, "UnsupportedOperation", "version 1")
		_, err = w.CreateLaunchTemplate(t.Context(), &sdk.CreateLaunchTemplateInput{LaunchTemplateName: aws.String("gpu"), LaunchTemplateData: &templateData{LicenseSpecifications: []types.LaunchTemplateLicenseConfigurationRequest{{LicenseConfigurationArn: aws.String("arn:aws:x")}}}})
		refused(t, err, "UnsupportedOperation", "LaunchTemplateData.LicenseSpecification")
	})
}

func TestLaunchTemplatesAreRefusedInEC2sWords(t *testing.T) {
	w := newWorld(t)
	id := w.template("web", &templateData{ImageId: &w.image})
	nobody := "lt-00000000000000000"
	w.unchanged(func() {
		create := func(name string, data *templateData) error {
			_, err := w.CreateLaunchTemplate(t.Context(), &sdk.CreateLaunchTemplateInput{LaunchTemplateName: &name, LaunchTemplateData: data})
			return err
		}
		refused(t, create("web", &templateData{ImageId: &w.image}), "InvalidLaunchTemplateName.AlreadyExistsException")
		refused(t, create("a b c", &templateData{ImageId: &w.image}), "InvalidLaunchTemplateName.MalformedException")
		refused(t, create("data", &templateData{UserData: aws.String("%")}), "InvalidUserData.Malformed")
		describe := func(in sdk.DescribeLaunchTemplateVersionsInput) error {
			_, err := w.DescribeLaunchTemplateVersions(t.Context(), &in)
			return err
		}
		refused(t, describe(sdk.DescribeLaunchTemplateVersionsInput{LaunchTemplateId: &nobody}), "InvalidLaunchTemplateId.NotFound")
		refused(t, describe(sdk.DescribeLaunchTemplateVersionsInput{LaunchTemplateId: aws.String("lt-x")}), "InvalidLaunchTemplateId.Malformed")
		refused(t, describe(sdk.DescribeLaunchTemplateVersionsInput{LaunchTemplateName: aws.String("nobody")}), "InvalidLaunchTemplateName.NotFoundException")
		refused(t, describe(sdk.DescribeLaunchTemplateVersionsInput{LaunchTemplateId: &id, Versions: []string{"2"}}), "InvalidLaunchTemplateId.VersionNotFound")
		refused(t, describe(sdk.DescribeLaunchTemplateVersionsInput{}), "MissingParameter")
		_, err := w.stranger.DescribeLaunchTemplates(t.Context(), &sdk.DescribeLaunchTemplatesInput{LaunchTemplateIds: []string{id}})
		refused(t, err, "InvalidLaunchTemplateId.NotFound")
		_, err = w.ModifyLaunchTemplate(t.Context(), &sdk.ModifyLaunchTemplateInput{LaunchTemplateId: &id, DefaultVersion: aws.String("7")})
		refused(t, err, "InvalidLaunchTemplateId.VersionNotFound")
		_, err = w.run(from(id, "two"))
		refused(t, err, "InvalidParameterValue", "two")
		_, err = w.CreateLaunchTemplate(t.Context(), &sdk.CreateLaunchTemplateInput{DryRun: aws.Bool(true), LaunchTemplateName: aws.String("dry"), LaunchTemplateData: &templateData{ImageId: &w.image}})
		refused(t, err, "DryRunOperation")
	})
}

func TestAnInstanceTellsHowToLaunchOneMore(t *testing.T) {
	w := newWorld(t)
	i := w.running(ofType("t3.small"), tagged("a", "b"), func(in *order) { in.UserData = aws.String("aGk=") })
	out, err := w.GetLaunchTemplateData(t.Context(), &sdk.GetLaunchTemplateDataInput{InstanceId: &i})
	if err != nil {
		t.Fatal(err)
	}
	d := out.LaunchTemplateData
	if *d.ImageId != w.image || d.InstanceType != "t3.small" || *d.UserData != "aGk=" || *d.TagSpecifications[0].Tags[0].Value != "b" || len(d.NetworkInterfaces) != 1 {
		t.Errorf("told %+v", d)
	}
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	var again templateData
	if err := json.Unmarshal(text, &again); err != nil {
		t.Fatal(err)
	}
	twin := w.launch(from(w.template("twin", &again), ""))[0]
	if first := w.instance(i); twin.InstanceType != first.InstanceType || *twin.SubnetId != *first.SubnetId || *twin.SecurityGroups[0].GroupId != *first.SecurityGroups[0].GroupId {
		t.Errorf("one more is %+v", twin)
	}
}

func TestInstanceTypesAreFoundByWhatTheyHave(t *testing.T) {
	w := newWorld(t)
	status, text := w.ask(url.Values{"Action": {"GetInstanceTypesFromInstanceRequirements"}, "ArchitectureType.1": {"x86_64"}, "VirtualizationType.1": {"hvm"},
		"InstanceRequirements.VCpuCount.Min": {"2"}, "InstanceRequirements.VCpuCount.Max": {"2"}, "InstanceRequirements.MemoryMiB.Min": {"4096"}})
	for name, want := range map[string]bool{"c5.large": true, "m5.large": true, "r5.large": false, "t3.medium": false, "c5.xlarge": false} {
		if strings.Contains(text, "<instanceType>"+name+"<") != want {
			t.Errorf("%d, %s: %v is not so in %s", status, name, want, text)
		}
	}
}
