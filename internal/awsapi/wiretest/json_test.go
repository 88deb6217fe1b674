package wiretest_test

import (
	"net/http"
	"strings"
	"testing"

	connect "github.com/nacre-cloud/nacre/internal/awsapi/gen/ec2instanceconnect"
	"github.com/nacre-cloud/nacre/internal/awsapi/wiretest"
)

func document(status int, body string) wiretest.Call {
	return wiretest.Call{Service: connect.Service, Action: "SendSSHPublicKey", Status: status, Body: []byte(body),
		Header: http.Header{"Content-Type": {"application/x-amz-json-1.1"}, "X-Amzn-Requestid": {id}}}
}

func TestJSONAnswersAreHeldAgainstTheModel(t *testing.T) {
	for _, c := range []wiretest.Call{
		document(200, `{"RequestId":"`+id+`","Success":true}`),
		document(200, `{}`),
		document(400, `{"__type":"EC2InstanceNotFoundException","Message":"it isn't there"}`),
		document(400, `{"__type":"ValidationException","message":"it is wrong"}`),
	} {
		if problems := wiretest.Check(c); len(problems) > 0 {
			t.Errorf("%s: %v", c.Body, problems)
		}
	}
	untyped := document(200, `{}`)
	untyped.Header.Set("Content-Type", "text/xml;charset=UTF-8")
	for _, test := range []struct {
		call wiretest.Call
		says string
	}{
		{document(200, `<x/>`), "no JSON"},
		{document(200, `[]`), "the document is"},
		{document(200, `{}{}`), "follows"},
		{document(200, `{"Sucess":true}`), "no such member"},
		{document(200, `{"Success":"true"}`), "string is no bool"},
		{document(200, `{"Success":null}`), "null"},
		{document(400, `{"__type":"NotThereException","message":"x"}`), "none of the service's"},
		{document(400, `{"__type":"EC2InstanceNotFoundException","message":"x"}`), "says nothing in its member Message"},
		{document(500, `{"__type":"EC2InstanceNotFoundException","Message":"x"}`), "status 500"},
		{document(200, `{"__type":"EC2InstanceNotFoundException","Message":"x"}`), "no such member"},
		{untyped, "content type"},
	} {
		if problems := strings.Join(wiretest.Check(test.call), "; "); !strings.Contains(problems, test.says) {
			t.Errorf("%s is found to be %q, not %q", test.call.Body, problems, test.says)
		}
	}
}
