package cloud

import (
	"net/netip"
	"time"
)

// Region is what the first start of a control plane settles for good.
type Region struct {
	Name    string    // such as "us-east-1"
	Zones   []Zone    // at least one
	Created time.Time // UTC

	// CloudID is 6 lower-case hexadecimal digits that mark everything this cloud makes on a
	// host (namespaces, links, filter tables, control groups), so that several clouds
	// share a server without meeting.
	CloudID string

	// PublicPool is the range that public addresses are drawn from, such as "198.18.0.0/20".
	PublicPool string

	// IPv6Pool is the /40 of unique local addresses that VPCs get their IPv6 ranges from. It was drawn for this cloud.
	IPv6Pool netip.Prefix

	// VolumeKey is the id of the master key by which volumes are encrypted, in the form of a KMS key's; "" before the first start that made one.
	VolumeKey string

	// Root is the account of the operator. Only it may name files and recipes on nodes.
	Root AccountID
}

// Zone is a set of nodes that fail together.
type Zone struct {
	Name string // such as "us-east-1a"
	ID   string // such as "use1-az1"
}

// Account is a tenant.
type Account struct {
	ID      AccountID
	Name    string
	Created time.Time
}

// AccessKey signs requests in the name of an account's root user.
type AccessKey struct {
	ID      AccessKeyID
	Secret  string
	Account AccountID
	Created time.Time
}

// ClientToken remembers an idempotent call for 24 hours: the same token with the same
// parameters gets the same answer, with others IdempotentParameterMismatch.
type ClientToken struct {
	Account AccountID
	Action  string
	Token   string
	// Request is a hash of all the call's other parameters.
	Request string
	// Resource is the identifier of what the first call made (a reservation, an allocation, …).
	Resource string
	Created  time.Time
}

// KMSARN is the name of something that KMS would have, such as "alias/aws/ebs".
func (r *Region) KMSARN(account AccountID, what string) string {
	return "arn:aws:kms:" + r.Name + ":" + string(account) + ":" + what
}

// VolumeKeyARN is the name of the key by which an account's volumes are encrypted.
func (r *Region) VolumeKeyARN(account AccountID) string {
	return r.KMSARN(account, "key/"+r.VolumeKey)
}
