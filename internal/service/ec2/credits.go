package ec2

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/nacre-cloud/nacre/internal/awsapi"
	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/cloud"
	"github.com/nacre-cloud/nacre/internal/store"
)

func (s *Service) registerCredits(r *awsapi.Registry) {
	awsapi.Handle(r, ec2.ActionDescribeInstanceCreditSpecifications, s.describeInstanceCreditSpecifications, awsapi.Honours("Filters", "InstanceIds", "MaxResults", "NextToken"))
	awsapi.Handle(r, ec2.ActionModifyInstanceCreditSpecification, s.modifyInstanceCreditSpecification, awsapi.Honours("ClientToken", "InstanceCreditSpecifications"))
	awsapi.Handle(r, ec2.ActionGetDefaultCreditSpecification, s.getDefaultCreditSpecification, awsapi.Honours("InstanceFamily"))
	awsapi.Handle(r, ec2.ActionModifyDefaultCreditSpecification, s.modifyDefaultCreditSpecification, awsapi.Honours("InstanceFamily", "CpuCredits"))
}

func validCredits(c string) error {
	if c != cloud.CreditsStandard && c != cloud.CreditsUnlimited {
		return awsapi.InvalidParameterValue("Invalid value '%s' for CpuCredits. Valid values are standard and unlimited.", c)
	}
	return nil
}

// burstable tells whether a type has credits; a type that isn't served any more has none.
func burstable(t cloud.InstanceType) bool {
	size, ok := cloud.LookupInstanceType(t)
	return ok && size.Burstable()
}

// creditsOf is an instance's credit option, "" for one whose type has none.
func creditsOf(i *cloud.Instance) string {
	switch {
	case !burstable(i.Type):
		return ""
	case i.Credits != "":
		return i.Credits
	}
	return cloud.DefaultCredits(i.Type.Family())
}

// chooseCredits takes a launch's credit option from the call, and else from the account.
func (l *launch) chooseCredits(r store.Reader) error {
	i := &l.template
	if l.req.CreditSpecification != nil {
		i.Credits = deref(l.req.CreditSpecification.CpuCredits)
		if err := validCredits(i.Credits); err != nil {
			return err
		}
		if !l.size.Burstable() {
			return awsapi.InvalidCombination("The instance type '%s' does not support a credit specification.", l.size.Name)
		}
		return nil
	}
	if l.size.Burstable() {
		i.Credits = settingsOf(r, l.call.Account).CreditsFor(l.size.Name.Family())
	}
	return nil
}

func creditsNotSupported(id string) *awsapi.Error {
	return awsapi.Errorf("InstanceCreditSpecification.NotSupported", "The instance '%s' is not of a burstable performance type: it has no credit specification.", id)
}

// describeInstanceCreditSpecifications shows the instances that are asked for, and else, as EC2 does, those that are
// unlimited.
func (s *Service) describeInstanceCreditSpecifications(_ context.Context, call *awsapi.Call, req *ec2.DescribeInstanceCreditSpecificationsRequest) (*ec2.DescribeInstanceCreditSpecificationsResult, error) {
	if err := pageBounds(req.MaxResults, 5, 1000, req.InstanceIds, "instanceIds"); err != nil {
		return nil, err
	}
	list, err := selected(s.store.View(), call.Account, req.InstanceIds)
	if err != nil {
		return nil, err
	}
	pass, err := awsapi.FilterSet[*cloud.Instance]{Values: map[string]func(*cloud.Instance) []string{
		"instance-id": func(i *cloud.Instance) []string { return []string{string(i.ID)} },
	}}.Compile(filters(req.Filters))
	if err != nil {
		return nil, err
	}
	for _, i := range list {
		if len(req.InstanceIds) > 0 && creditsOf(i) == "" {
			return nil, creditsNotSupported(string(i.ID))
		}
	}
	list = slices.DeleteFunc(slices.Clone(list), func(i *cloud.Instance) bool {
		return len(req.InstanceIds) == 0 && creditsOf(i) != cloud.CreditsUnlimited || !pass(i)
	})
	page, err := awsapi.Paginate(list, func(i *cloud.Instance) string { return string(i.ID) }, req.MaxResults, req.NextToken, req.Filters)
	if err != nil {
		return nil, err
	}
	out := &ec2.DescribeInstanceCreditSpecificationsResult{NextToken: page.Next, InstanceCreditSpecifications: []ec2.InstanceCreditSpecification{}}
	for _, i := range page.Items {
		out.InstanceCreditSpecifications = append(out.InstanceCreditSpecifications, ec2.InstanceCreditSpecification{InstanceId: text(i.ID), CpuCredits: new(creditsOf(i))})
	}
	return out, nil
}

func (s *Service) modifyInstanceCreditSpecification(ctx context.Context, call *awsapi.Call, req *ec2.ModifyInstanceCreditSpecificationRequest) (*ec2.ModifyInstanceCreditSpecificationResult, error) {
	seen := map[string]bool{}
	for _, spec := range req.InstanceCreditSpecifications {
		if err := validCredits(deref(spec.CpuCredits)); err != nil {
			return nil, err
		}
		if id := deref(spec.InstanceId); seen[id] {
			return nil, awsapi.Errorf("InvalidInstanceCreditSpecification.DuplicateInstanceId", "The instance '%s' is given twice.", id)
		}
		seen[deref(spec.InstanceId)] = true
	}
	hash := awsapi.RequestHash(req)
	out := &ec2.ModifyInstanceCreditSpecificationResult{}
	err := s.update(ctx, call, func(tx *store.Tx) error {
		out.SuccessfulInstanceCreditSpecifications = []ec2.SuccessfulInstanceCreditSpecificationItem{}
		out.UnsuccessfulInstanceCreditSpecifications = []ec2.UnsuccessfulInstanceCreditSpecificationItem{}
		token := deref(req.ClientToken)
		done, err := replay(tx, call, "ModifyInstanceCreditSpecification", token, hash)
		if err != nil {
			return err
		}
		if done != "" { // another call may have set something else since: a retry only gets its answer again
			return json.Unmarshal([]byte(done), out)
		}
		for _, spec := range req.InstanceCreditSpecifications {
			err := setCredits(tx, call.Account, deref(spec.InstanceId), *spec.CpuCredits)
			var refusal *awsapi.Error
			switch {
			case errors.As(err, &refusal):
				out.UnsuccessfulInstanceCreditSpecifications = append(out.UnsuccessfulInstanceCreditSpecifications, ec2.UnsuccessfulInstanceCreditSpecificationItem{
					InstanceId: spec.InstanceId, Error: &ec2.UnsuccessfulInstanceCreditSpecificationItemError{Code: &refusal.Code, Message: &refusal.Message}})
			case err != nil:
				return err
			default:
				out.SuccessfulInstanceCreditSpecifications = append(out.SuccessfulInstanceCreditSpecifications, ec2.SuccessfulInstanceCreditSpecificationItem{InstanceId: spec.InstanceId})
			}
		}
		if token == "" {
			return nil
		}
		answer, err := json.Marshal(out)
		if err != nil {
			return err
		}
		remember(tx, call, "ModifyInstanceCreditSpecification", token, hash, string(answer))
		return nil
	})
	return out, err
}

func setCredits(tx *store.Tx, account cloud.AccountID, id, credits string) error {
	i, err := lookup(tx, store.Instances, ownerOfInstance, kindInstance, account, id)
	if err != nil {
		return err
	}
	if creditsOf(i) == "" {
		return creditsNotSupported(id)
	}
	if i.State != cloud.StateRunning && i.State != cloud.StateStopped {
		return wrongState(i, "given another credit specification")
	}
	i.Credits = credits
	store.Put(tx, store.Instances, i)
	return nil
}

func familyShape(family, credits string) *ec2.InstanceFamilyCreditSpecification {
	return &ec2.InstanceFamilyCreditSpecification{InstanceFamily: &family, CpuCredits: &credits}
}

func (s *Service) getDefaultCreditSpecification(_ context.Context, call *awsapi.Call, req *ec2.GetDefaultCreditSpecificationRequest) (*ec2.GetDefaultCreditSpecificationResult, error) {
	family := deref(req.InstanceFamily)
	return &ec2.GetDefaultCreditSpecificationResult{InstanceFamilyCreditSpecification: familyShape(family, settingsOf(s.store.View(), call.Account).CreditsFor(family))}, nil
}

func (s *Service) modifyDefaultCreditSpecification(ctx context.Context, call *awsapi.Call, req *ec2.ModifyDefaultCreditSpecificationRequest) (*ec2.ModifyDefaultCreditSpecificationResult, error) {
	family, credits := deref(req.InstanceFamily), deref(req.CpuCredits)
	if err := validCredits(credits); err != nil {
		return nil, err
	}
	err := s.changeSettings(ctx, call, func(chosen *cloud.AccountSettings) {
		if chosen.Credits == nil {
			chosen.Credits = map[string]string{}
		}
		chosen.Credits[family] = credits
	})
	return &ec2.ModifyDefaultCreditSpecificationResult{InstanceFamilyCreditSpecification: familyShape(family, credits)}, err
}
