// Package nacre is the shapes of nacre's own service: what a cloud is asked that AWS has no words for. They are written by hand, one file
// an action or a few that belong together, and travel as AWS JSON 1.1 with the same signatures as every other call.
package nacre

import "github.com/nacre-cloud/nacre/internal/awsapi"

// Service is nacre's own: signatures are scoped to "nacre", targets are Nacre_20261101.ACTION.
var Service = awsapi.NewService("nacre", "2026-11-01", "Nacre_20261101", map[string]awsapi.Exception{
	"AccessDeniedException":     {Status: 400, Message: "message"},
	"ConflictException":         {Status: 409, Message: "message"},
	"ResourceNotFoundException": {Status: 404, Message: "message"},
	"ValidationException":       {Status: 400, Message: "message"},
})

// Client calls the service.
type Client struct{ *awsapi.Client }
