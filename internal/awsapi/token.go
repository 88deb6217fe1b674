package awsapi

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"reflect"
)

// RequestHash is a hash of a generated request without its client token and DryRun: two calls with the
// same token must have the same.
func RequestHash(req any) string {
	v := reflect.ValueOf(req).Elem()
	c := reflect.New(v.Type()).Elem()
	c.Set(v)
	for i := range v.NumField() {
		sf := v.Type().Field(i)
		if sf.Tag.Get("token") != "" || sf.Name == "ClientToken" || sf.Name == "DryRun" {
			c.Field(i).SetZero()
		}
	}
	b, err := json.Marshal(c.Interface())
	if err != nil {
		panic("awsapi: a generated request has no JSON form: " + err.Error())
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// IdempotentParameterMismatch is the answer to a client token that was used with other parameters.
func IdempotentParameterMismatch() *Error {
	return Errorf("IdempotentParameterMismatch", "The client token was used before with other parameters; use a new one.")
}
