package ec2_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func TestMetadataDefaultsOfTheAccountAreUsedAtLaunch(t *testing.T) {
	w := newWorld(t)
	choose := func(in sdk.ModifyInstanceMetadataDefaultsInput) {
		t.Helper()
		if out, err := w.ModifyInstanceMetadataDefaults(t.Context(), &in); err != nil || !*out.Return {
			t.Fatal(out, err)
		}
	}
	choose(sdk.ModifyInstanceMetadataDefaultsInput{HttpTokens: types.MetadataDefaultHttpTokensStateRequired, HttpPutResponseHopLimit: aws.Int32(3), InstanceMetadataTags: "enabled"})
	got, err := w.GetInstanceMetadataDefaults(t.Context(), &sdk.GetInstanceMetadataDefaultsInput{})
	if err != nil || got.AccountLevel.HttpTokens != "required" || *got.AccountLevel.HttpPutResponseHopLimit != 3 || got.AccountLevel.HttpEndpoint != "" {
		t.Fatal(got.AccountLevel, err)
	}
	if m := w.launch()[0].MetadataOptions; m.HttpTokens != "required" || *m.HttpPutResponseHopLimit != 3 || m.InstanceMetadataTags != "enabled" || m.HttpEndpoint != "enabled" {
		t.Errorf("launched with %+v", m)
	}
	own := func(in *order) {
		in.MetadataOptions = &types.InstanceMetadataOptionsRequest{HttpTokens: "optional", HttpPutResponseHopLimit: aws.Int32(1)}
	}
	if m := w.launch(own)[0].MetadataOptions; m.HttpTokens != "optional" || *m.HttpPutResponseHopLimit != 1 || m.InstanceMetadataTags != "enabled" {
		t.Errorf("the call's own options gave %+v", m)
	}
	choose(sdk.ModifyInstanceMetadataDefaultsInput{HttpTokens: types.MetadataDefaultHttpTokensStateNoPreference, HttpPutResponseHopLimit: aws.Int32(-1)})
	if m := w.launch()[0].MetadataOptions; m.HttpTokens != "optional" || *m.HttpPutResponseHopLimit != 1 {
		t.Errorf("without preference: %+v", m)
	}
	if others, err := w.stranger.GetInstanceMetadataDefaults(t.Context(), &sdk.GetInstanceMetadataDefaultsInput{}); err != nil || others.AccountLevel.InstanceMetadataTags != "" {
		t.Errorf("another account has %+v, %v", others.AccountLevel, err)
	}
	_, err = w.ModifyInstanceMetadataDefaults(t.Context(), &sdk.ModifyInstanceMetadataDefaultsInput{HttpPutResponseHopLimit: aws.Int32(65)})
	refused(t, err, "InvalidParameterValue")
}

func TestTagsThatMetadataCannotShowAreRefused(t *testing.T) {
	w := newWorld(t)
	shown := func(in *order) {
		in.MetadataOptions = &types.InstanceMetadataOptionsRequest{InstanceMetadataTags: "enabled"}
	}
	_, err := w.run(shown, tagged("a/b", "c"))
	refused(t, err, "InvalidParameterValue", "'a/b' is not a valid tag key")
	id := w.running(shown)
	slash := []types.Tag{{Key: aws.String("a b"), Value: aws.String("c")}}
	_, err = w.CreateTags(t.Context(), &sdk.CreateTagsInput{Resources: []string{id}, Tags: slash})
	refused(t, err, "InvalidParameterValue", "a b")
	hidden := w.running()
	if _, err := w.CreateTags(t.Context(), &sdk.CreateTagsInput{Resources: []string{hidden}, Tags: slash}); err != nil {
		t.Error(err)
	}
	_, err = w.ModifyInstanceMetadataOptions(t.Context(), &sdk.ModifyInstanceMetadataOptionsInput{InstanceId: &hidden, InstanceMetadataTags: "enabled"})
	refused(t, err, "InvalidParameterValue", "a b")
}

func TestCreditSpecificationsAreKeptByInstanceAndByFamily(t *testing.T) {
	w := newWorld(t)
	with := func(credits string) func(*order) {
		return func(in *order) { in.CreditSpecification = &types.CreditSpecificationRequest{CpuCredits: &credits} }
	}
	usual, standard, steady := w.running(), w.running(with("standard")), w.running(ofType("m5.large"))
	of := func(ids ...string) map[string]string {
		t.Helper()
		out, err := w.DescribeInstanceCreditSpecifications(t.Context(), &sdk.DescribeInstanceCreditSpecificationsInput{InstanceIds: ids})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, c := range out.InstanceCreditSpecifications {
			got[*c.InstanceId] = *c.CpuCredits
		}
		return got
	}
	if got := of(); len(got) != 1 || got[usual] != "unlimited" {
		t.Errorf("unlimited are %v", got)
	}
	if got := of(usual, standard); got[standard] != "standard" {
		t.Errorf("asked for by id: %v", got)
	}
	_, err := w.DescribeInstanceCreditSpecifications(t.Context(), &sdk.DescribeInstanceCreditSpecificationsInput{InstanceIds: []string{steady}})
	refused(t, err, "InstanceCreditSpecification.NotSupported", steady)
	out, err := w.ModifyInstanceCreditSpecification(t.Context(), &sdk.ModifyInstanceCreditSpecificationInput{InstanceCreditSpecifications: []types.InstanceCreditSpecificationRequest{
		{InstanceId: &usual, CpuCredits: aws.String("standard")}, {InstanceId: &steady, CpuCredits: aws.String("standard")}, {InstanceId: aws.String("i-00000000000000000"), CpuCredits: aws.String("standard")}}})
	if err != nil || len(out.SuccessfulInstanceCreditSpecifications) != 1 || len(out.UnsuccessfulInstanceCreditSpecifications) != 2 ||
		out.UnsuccessfulInstanceCreditSpecifications[1].Error.Code != "InvalidInstanceID.NotFound" {
		t.Fatal(out, err)
	}
	if got := of(usual); got[usual] != "standard" {
		t.Errorf("changed to %v", got)
	}
	if _, err := w.ModifyDefaultCreditSpecification(t.Context(), &sdk.ModifyDefaultCreditSpecificationInput{InstanceFamily: "t3", CpuCredits: aws.String("standard")}); err != nil {
		t.Fatal(err)
	}
	family, err := w.GetDefaultCreditSpecification(t.Context(), &sdk.GetDefaultCreditSpecificationInput{InstanceFamily: "t3"})
	if err != nil || *family.InstanceFamilyCreditSpecification.CpuCredits != "standard" {
		t.Error(family, err)
	}
	if i := w.running(); of(i)[i] != "standard" {
		t.Error("the account's choice is not taken")
	}
	for _, c := range []struct {
		code   string
		change []func(*order)
	}{{"InvalidParameterCombination", []func(*order){with("standard"), ofType("m5.large")}}, {"InvalidParameterValue", []func(*order){with("infinite")}}} {
		_, err := w.run(c.change...)
		refused(t, err, c.code)
	}
}

func TestTheSerialConsolesFlagIsTheAccounts(t *testing.T) {
	w := newWorld(t)
	status := func() bool {
		t.Helper()
		out, err := w.GetSerialConsoleAccessStatus(t.Context(), &sdk.GetSerialConsoleAccessStatusInput{})
		if err != nil {
			t.Fatal(err)
		}
		return *out.SerialConsoleAccessEnabled
	}
	if status() {
		t.Error("enabled from the start")
	}
	if _, err := w.EnableSerialConsoleAccess(t.Context(), &sdk.EnableSerialConsoleAccessInput{}); err != nil || !status() {
		t.Error("not enabled", err)
	}
	_, err := w.DisableSerialConsoleAccess(t.Context(), &sdk.DisableSerialConsoleAccessInput{DryRun: aws.Bool(true)})
	refused(t, err, "DryRunOperation")
	if _, err := w.DisableSerialConsoleAccess(t.Context(), &sdk.DisableSerialConsoleAccessInput{}); err != nil || status() {
		t.Error("not disabled", err)
	}
}

func TestRunningInstancesAreMonitoredReportedAndKept(t *testing.T) {
	w := newWorld(t)
	id := w.running()
	on, err := w.MonitorInstances(t.Context(), &sdk.MonitorInstancesInput{InstanceIds: []string{id}})
	if err != nil || on.InstanceMonitorings[0].Monitoring.State != "pending" || w.instance(id).Monitoring.State != "enabled" {
		t.Error(on, err)
	}
	off, err := w.UnmonitorInstances(t.Context(), &sdk.UnmonitorInstancesInput{InstanceIds: []string{id}})
	if err != nil || off.InstanceMonitorings[0].Monitoring.State != "disabling" || w.instance(id).Monitoring.State != "disabled" {
		t.Error(off, err)
	}
	report := &sdk.ReportInstanceStatusInput{Instances: []string{id}, Status: types.ReportStatusTypeImpaired, ReasonCodes: []types.ReportInstanceReasonCodes{"unresponsive"}}
	if _, err := w.ReportInstanceStatus(t.Context(), report); err != nil {
		t.Error(err)
	}
	report.Instances = []string{"i-00000000000000000"}
	_, err = w.ReportInstanceStatus(t.Context(), report)
	refused(t, err, "InvalidInstanceID.NotFound")
	kept, err := w.ModifyInstanceMaintenanceOptions(t.Context(), &sdk.ModifyInstanceMaintenanceOptionsInput{InstanceId: &id, AutoRecovery: "disabled"})
	if err != nil || kept.AutoRecovery != "disabled" || w.instance(id).MaintenanceOptions.AutoRecovery != "disabled" || len(w.found("maintenance-options.auto-recovery", "disabled")) != 1 {
		t.Error(kept, err)
	}
	password, err := w.GetPasswordData(t.Context(), &sdk.GetPasswordDataInput{InstanceId: &id})
	if err != nil || *password.PasswordData != "" || *password.InstanceId != id || password.Timestamp == nil {
		t.Error(password, err)
	}
}
