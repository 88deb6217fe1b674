package awsapi

import (
	"reflect"
	"time"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Service is what a model says of a service as a whole.
type Service struct {
	Name      string // in credential scopes, such as "ec2"
	Version   string
	Protocol  string              // "ec2", "query", "json" or "rest-json"
	Namespace string              // of the XML protocols
	Actions   []string            // all of the model
	Shapes    map[string]Shapes   // of the actions that are generated, by name
	Enums     map[string][]string // values by the enumeration's name

	// Of the JSON protocol:
	JSONVersion  string               // "1.0" or "1.1"
	TargetPrefix string               // what stands before the action in X-Amz-Target
	Exceptions   map[string]Exception // also of REST

	// Of the REST protocol, by action:
	Routes map[string]Route
}

// Shapes are an action's generated types.
type Shapes struct {
	Request, Result reflect.Type
	NoResult        bool
}

// Action is one of a service's calls, with the types of its request and result.
type Action[Req, Res any] struct {
	Service  *Service
	Name     string
	NoResult bool // the model has no result: EC2 answers <return>true</return>
}

// Identity is who signed a request.
type Identity struct {
	Account   cloud.AccountID
	AccessKey cloud.AccessKeyID
	ARN       string
	UserID    string
}

// Call is what a handler is told beside the request.
type Call struct {
	Identity
	Region    string
	RequestID string
	Action    string
	DryRun    bool // validate everything, change nothing, and answer DryRunOperation
	SourceIP  string
	Host      string // as the client names the endpoint, with its port
	Now       time.Time
}
