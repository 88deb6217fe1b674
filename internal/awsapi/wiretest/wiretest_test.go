package wiretest_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2"
	"github.com/nacre-cloud/nacre/internal/awsapi/wiretest"
)

const id = "3c7e0f9a-0b1c-4d2e-8f3a-112233445566"

func answer(action string, status int, body string) wiretest.Call {
	return wiretest.Call{Service: ec2.Service, Action: action, Status: status, Body: []byte(body),
		Header: http.Header{"Content-Type": {"text/xml;charset=UTF-8"}, "X-Amzn-Requestid": {id}}}
}

func result(action, inner string) wiretest.Call {
	return answer(action, http.StatusOK, `<`+action+`Response xmlns="`+ec2.Service.Namespace+`"><requestId>`+id+`</requestId>`+inner+`</`+action+`Response>`)
}

func failure(code, message string) wiretest.Call {
	return answer("DescribeVpcs", http.StatusBadRequest, `<Response><Errors><Error><Code>`+code+`</Code><Message>`+message+`</Message></Error></Errors><RequestID>`+id+`</RequestID></Response>`)
}

func TestAnswersThatKeepToTheModelPass(t *testing.T) {
	for name, call := range map[string]wiretest.Call{
		"a list":    result("DescribeVpcs", `<vpcSet><item><vpcId>vpc-1</vpcId><isDefault>true</isDefault><tagSet/></item></vpcSet>`),
		"no result": result("DeleteSecurityGroup", `<return>true</return>`),
		"a time":    result("GetConsoleOutput", `<timestamp>2026-01-02T03:04:05.000Z</timestamp>`),
		"an error":  failure("InvalidVpcID.NotFound", "The vpc ID 'vpc-1' does not exist"),
	} {
		if problems := wiretest.Check(call); len(problems) > 0 {
			t.Errorf("%s: %v", name, problems)
		}
	}
}

func TestAnswersThatDontKeepToTheModelAreNamed(t *testing.T) {
	foreign := result("DescribeVpcs", "")
	foreign.Header.Set("X-Amzn-Requestid", "another")
	for _, test := range []struct {
		call wiretest.Call
		says string
	}{
		{result("DescribeVpcs", `<vpcs/>`), "no such member"},
		{result("DescribeVpcs", `<vpcSet><member><vpcId>vpc-1</vpcId></member></vpcSet>`), "not item"},
		{result("DescribeVpcs", `<vpcSet><item><isDefault>yes</isDefault></item></vpcSet>`), "neither true nor false"},
		{result("DescribeVpcs", `<vpcSet><item><state>gone</state></item></vpcSet>`), "VpcState"},
		{result("DescribeVpcs", `<vpcSet><item>vpc-1</item></vpcSet>`), "holds the text"},
		{result("DescribeVpcs", `<vpcSet/><vpcSet/>`), "twice"},
		{result("GetConsoleOutput", `<timestamp>2026-01-02T03:04:05Z</timestamp>`), "no time in AWS's form"},
		{result("DescribeInstances", `<reservationSet><item><instancesSet><item><amiLaunchIndex>one</amiLaunchIndex></item></instancesSet></item></reservationSet>`), "amiLaunchIndex"},
		{result("DeleteSecurityGroup", ``), "<return>"},
		{result("Dream", ``), "without generated shapes"},
		{answer("DescribeVpcs", http.StatusOK, `<DescribeVpcsResponse xmlns="`+ec2.Service.Namespace+`"/>`), "request id"},
		{answer("DescribeVpcs", http.StatusOK, `<Describe`), "no XML"},
		{foreign, "in the header"},
		{failure("InternalError", "An internal error has occurred"), "InternalError"},
		{failure("MadeUp", "so"), "MadeUp"},
		{failure("InvalidVpcID.NotFound", " "), "says nothing"},
	} {
		problems := strings.Join(wiretest.Check(test.call), "; ")
		if !strings.Contains(problems, test.says) {
			t.Errorf("%s\nis judged %q, which doesn't say %q", test.call.Body, problems, test.says)
		}
	}
}
