package awsapi

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Exception is what a model says of one of a service's errors.
type Exception struct {
	Status  int    // HTTP
	Message string // the name of the member that holds the message
}

// jsonWords are the codes of AWS's JSON services for what the other protocols name differently.
var jsonWords = map[string]string{
	"AuthFailure":                 "UnrecognizedClientException",
	"IncompleteBody":              "SerializationException",
	"IncompleteSignature":         "IncompleteSignatureException",
	"InternalError":               "InternalFailure",
	"InvalidAction":               "UnknownOperationException",
	"InvalidClientTokenId":        "UnrecognizedClientException",
	"InvalidNextToken":            "InvalidNextTokenException",
	"InvalidParameterCombination": "ValidationException",
	"InvalidParameterValue":       "ValidationException",
	"MissingAction":               "UnknownOperationException",
	"MissingAuthenticationToken":  "MissingAuthenticationTokenException",
	"MissingParameter":            "ValidationException",
	"RequestEntityTooLarge":       "RequestEntityTooLargeException",
	"RequestExpired":              "InvalidSignatureException",
	"SignatureDoesNotMatch":       "InvalidSignatureException",
	"Unavailable":                 "ServiceUnavailable",
	"UnauthorizedOperation":       "AccessDeniedException",
	"UnsupportedOperation":        "UnsupportedOperationException",
}

// inJSONsWords gives an error the code and the status that it has in AWS's JSON services. Bad credentials are answered 400 there,
// as DynamoDB documents it.
func inJSONsWords(s *Service, e *Error) *Error {
	said := *e
	if code, ok := jsonWords[e.Code]; ok {
		said.Code = code
		if said.Status < 500 && said.Status != http.StatusRequestEntityTooLarge {
			said.Status = http.StatusBadRequest
		}
	}
	if s != nil {
		if x, ok := s.Exceptions[said.Code]; ok && x.Status != 0 {
			said.Status = x.Status
		}
	}
	return &said
}

// decodeJSONError reads an error's document.
func decodeJSONError(r io.Reader, status int) *Error {
	e := &Error{Code: "Unknown", Message: fmt.Sprintf("HTTP status %d without an AWS error", status), Status: status}
	var doc struct {
		Type    string `json:"__type"`
		Code    string `json:"code"`
		Message string `json:"message"` // whatever its case
	}
	if err := json.NewDecoder(r).Decode(&doc); err != nil {
		return e
	}
	code := doc.Type
	if code == "" {
		code = doc.Code
	}
	if i := strings.LastIndexByte(code, '#'); i >= 0 {
		code = code[i+1:]
	}
	code, _, _ = strings.Cut(code, ":")
	if code != "" {
		e.Code, e.Message = code, doc.Message
	}
	return e
}
