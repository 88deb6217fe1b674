package cloud

import "time"

// FlowLog records the flows of what it is for: an interface, or all interfaces of a subnet or VPC.
type FlowLog struct {
	ID      FlowLogID
	Account AccountID
	VPC     VPCID
	// Exactly one of these is set, or, for the whole VPC, none.
	Subnet    SubnetID
	Interface InterfaceID

	Traffic     FlowTraffic
	Destination string // the ARN, FlowLogBucket and, behind a slash, Prefix
	Prefix      string // of the files, a clean relative path; "" for none
	// Interval is how long flows are added up into one line, in seconds: 60 or 600.
	Interval int
	Tags     Tags
	Created  time.Time
}

// FlowTraffic says which flows are recorded.
type FlowTraffic string

const (
	FlowsAccepted FlowTraffic = "ACCEPT"
	FlowsRejected FlowTraffic = "REJECT"
	FlowsAll      FlowTraffic = "ALL"
)

// FlowLogBucket names the directory "flow-logs" of each node's data directory in the form in which clients give a bucket.
const FlowLogBucket = "arn:aws:s3:::nacre-flow-logs"

// FlowLogFormat is the line that is written: EC2's default format, version 2.
const FlowLogFormat = "${version} ${account-id} ${interface-id} ${srcaddr} ${dstaddr} ${srcport} ${dstport} ${protocol} ${packets} ${bytes} ${start} ${end} ${action} ${log-status}"

// Resource is the id of what the log is for.
func (f *FlowLog) Resource() string {
	switch {
	case f.Interface != "":
		return string(f.Interface)
	case f.Subnet != "":
		return string(f.Subnet)
	}
	return string(f.VPC)
}
