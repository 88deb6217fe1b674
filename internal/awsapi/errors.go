package awsapi

import (
	"fmt"
	"net/http"
	"strings"
)

// Error is an answer that says what is wrong, by one of AWS's codes.
type Error struct {
	Code    string
	Message string
	Status  int // HTTP, 400 unless the code has its own
	// Reason is one of those that a REST service's model lists for the code, "" for none.
	Reason string
	// RequestID is set on the client's side.
	RequestID string
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// statuses are the codes that aren't answered 400.
var statuses = map[string]int{
	"AuthFailure":                  http.StatusUnauthorized,
	"MissingAuthenticationToken":   http.StatusForbidden,
	"SignatureDoesNotMatch":        http.StatusForbidden,
	"InvalidClientTokenId":         http.StatusForbidden,
	"OptInRequired":                http.StatusForbidden,
	"UnauthorizedOperation":        http.StatusForbidden,
	"DryRunOperation":              http.StatusPreconditionFailed,
	"RequestEntityTooLarge":        http.StatusRequestEntityTooLarge,
	"InternalError":                http.StatusInternalServerError,
	"InsufficientInstanceCapacity": http.StatusInternalServerError,
	"InsufficientAddressCapacity":  http.StatusInternalServerError,
	"Unavailable":                  http.StatusServiceUnavailable,
}

// Errorf makes an error with a code of AWS's.
func Errorf(code, format string, args ...any) *Error {
	status := statuses[code]
	if status == 0 {
		status = http.StatusBadRequest
	}
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Status: status}
}

// InvalidParameterValue says what is wrong with a parameter's value.
func InvalidParameterValue(format string, args ...any) *Error {
	return Errorf("InvalidParameterValue", format, args...)
}

// MissingParameter names a parameter that the action can't do without.
func MissingParameter(name string) *Error {
	return Errorf("MissingParameter", "The request must contain the parameter %s", name)
}

// InvalidCombination says which parameters don't go together.
func InvalidCombination(format string, args ...any) *Error {
	return Errorf("InvalidParameterCombination", format, args...)
}

// Unsupported refuses what isn't built, naming it.
func Unsupported(format string, args ...any) *Error {
	return Errorf("UnsupportedOperation", format, args...)
}

// NotFound says which ids of a kind don't exist, in EC2's words: code such as
// "InvalidInstanceID.NotFound", kind such as "instance".
func NotFound(code, kind string, ids ...string) *Error {
	if len(ids) == 1 {
		return Errorf(code, "The %s ID '%s' does not exist", kind, ids[0])
	}
	return Errorf(code, "The %s IDs '%s' do not exist", kind, strings.Join(ids, ", "))
}

// Malformed says that an id doesn't have the form of its kind: code such as
// "InvalidInstanceID.Malformed".
func Malformed(code, id string) *Error {
	return Errorf(code, "Invalid id: \"%s\"", id)
}

// DryRunOperation is the answer to a dry run that would have worked.
func DryRunOperation() *Error {
	return Errorf("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
}
