// Package awsapi is the AWS wire: request signatures, protocol codecs, errors, filters, pagination and
// the dispatch of calls to typed handlers, with the client's side of the same.
//
// It promises that no handler sees a request that isn't signed by a known key, that is larger than
// MaxBody, or that carries a parameter which the model doesn't have or the handler doesn't
// honour; and that every answer is well-formed for the protocol, whatever the handler does.
// It never looks at the cloud's state: what a call means is the services' business.
//
// Sources: AWS's "Signature Version 4" and "EC2 Query API" documentation; the protocols' rules are those
// of the public API models (see gen).
package awsapi
