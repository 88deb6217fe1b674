package wiretest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/nacre-cloud/nacre/internal/awsapi"
)

const restProtocol = "rest-json"

// restService is the REST service that a call is scoped to, nil for none.
func restService(r *http.Request, services []*awsapi.Service) *awsapi.Service {
	for _, s := range services {
		if s.Protocol == restProtocol && scoped(r, s) {
			return s
		}
	}
	return nil
}

// scoped tells whether a call's signature is for a service.
func scoped(r *http.Request, s *awsapi.Service) bool {
	scope := "/" + s.Name + "/aws4_request"
	return strings.Contains(r.Header.Get("Authorization"), scope) || strings.Contains(r.URL.Query().Get("X-Amz-Credential"), scope)
}

// checkREST is Check for the services that speak REST with JSON.
func checkREST(c Call) []string {
	var problems []string
	fault := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if id := c.Header.Get("X-Amzn-Requestid"); !requestID.MatchString(id) {
		fault("the request id is %q", id)
	}
	if c.Status >= 300 {
		var members map[string]any
		if err := json.Unmarshal(c.Body, &members); err != nil {
			return append(problems, fmt.Sprintf("the error is no JSON: %v", err))
		}
		checkJSONError(c, members, fault)
		if got := c.Header.Get("X-Amzn-Errortype"); got != members["__type"] {
			fault("the error is %v in the document and %q in the header", members["__type"], got)
		}
		if reason, ok := members["Reason"].(string); ok && !slices.ContainsFunc(reasons, func(r string) bool { return r == reason }) {
			fault("the reason %q is none of AWS's", reason)
		}
		return problems
	}
	shapes, ok := reflectShapes(c)
	if !ok {
		return append(problems, "an action without generated shapes answered success; is internal/awsapi/gen up to date?")
	}
	if want := c.Service.Routes[c.Action].Status; c.Status != max(want, http.StatusOK) {
		fault("it is answered with status %d", c.Status)
	}
	j := judge{service: c.Service}
	document := c.Header.Get("Content-Type") == "application/json"
	for i := range shapes.Result.NumField() {
		f := shapes.Result.Field(i)
		name := f.Tag.Get("json")
		text := c.Header.Get(name)
		switch {
		case f.Tag.Get("in") == "payload":
			document = false
			if got := c.Header.Get("Content-Type"); got != "application/octet-stream" {
				fault("the content type of bytes is %q", got)
			}
		case f.Tag.Get("in") == "header" && text != "" && f.Type.Elem().Kind() == reflect.Int64:
			if _, err := strconv.ParseInt(text, 10, 64); err != nil {
				j.fault(name, "%v", err)
			}
		case f.Tag.Get("in") == "header" && text != "":
			j.jsonValue(text, f.Type, f, name)
		}
	}
	if document {
		var members map[string]any
		dec := json.NewDecoder(strings.NewReader(string(c.Body)))
		dec.UseNumber()
		if err := dec.Decode(&members); err != nil {
			return append(problems, fmt.Sprintf("the answer is no JSON: %v", err))
		}
		j.jsonStructure(members, shapes.Result, c.Action)
	}
	return append(problems, j.problems...)
}

// reasons are what the model of the EBS direct API lists as Reason of its errors.
var reasons = strings.Fields(`UNAUTHORIZED_ACCOUNT DEPENDENCY_ACCESS_DENIED ACCOUNT_THROTTLED DEPENDENCY_REQUEST_THROTTLED RESOURCE_LEVEL_THROTTLE SNAPSHOT_NOT_FOUND
	GRANT_NOT_FOUND DEPENDENCY_RESOURCE_NOT_FOUND IMAGE_NOT_FOUND DEPENDENCY_SERVICE_QUOTA_EXCEEDED INVALID_CUSTOMER_KEY INVALID_PAGE_TOKEN INVALID_BLOCK_TOKEN
	INVALID_GRANT_TOKEN INVALID_SNAPSHOT_ID UNRELATED_SNAPSHOTS INVALID_BLOCK INVALID_CONTENT_ENCODING INVALID_TAG INVALID_DEPENDENCY_REQUEST INVALID_PARAMETER_VALUE
	INVALID_VOLUME_SIZE CONFLICTING_BLOCK_UPDATE INVALID_IMAGE_ID WRITE_REQUEST_TIMEOUT`)
