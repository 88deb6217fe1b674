package cloud

import (
	"encoding/hex"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// Typed identifiers: one can't be passed where another belongs. Each looks as AWS's does,
// a prefix and 17 lower-case hexadecimal digits.
type (
	InstanceID          string
	ReservationID       string
	ImageID             string
	ImportTaskID        string
	VPCID               string
	SubnetID            string
	InternetGatewayID   string
	RouteTableID        string
	RouteAssociationID  string
	NetworkACLID        string
	ACLAssociationID    string
	FlowLogID           string
	DHCPOptionsID       string
	SecurityGroupID     string
	SecurityGroupRuleID string
	InterfaceID         string
	AttachmentID        string
	AllocationID        string
	AssociationID       string
	KeyPairID           string
	VPCRangeID          string
	SubnetRangeID       string
	EgressGatewayID     string
	NATGatewayID        string
	PeeringID           string
	PrefixListID        string
	VPCEndpointID       string
	SubnetReservationID string
	LaunchTemplateID    string
	FleetID             string
	PlacementGroupID    string
	VolumeID            string
	SnapshotID          string

	// AccountID is a tenant: 12 decimal digits.
	AccountID string
	// NodeID names a server that runs instances: "node-" and 17 hexadecimal digits.
	NodeID string
	// AccessKeyID names a signing key: "AKIA" and 16 of the base-32 alphabet.
	AccessKeyID string
)

// idDigits is how many hexadecimal digits follow an identifier's prefix.
const idDigits = 17

// ID is every type of identifier that is a prefix and hexadecimal digits.
type ID interface {
	InstanceID | ReservationID | ImageID | ImportTaskID | VPCID | SubnetID | InternetGatewayID |
		RouteTableID | RouteAssociationID | NetworkACLID | ACLAssociationID | FlowLogID | DHCPOptionsID | SecurityGroupID |
		SecurityGroupRuleID | InterfaceID | AttachmentID | AllocationID | AssociationID | KeyPairID | NodeID |
		LaunchTemplateID | FleetID | PlacementGroupID | VolumeID | SnapshotID |
		VPCRangeID | SubnetRangeID | EgressGatewayID | NATGatewayID | PeeringID | PrefixListID |
		VPCEndpointID | SubnetReservationID
}

// Prefix returns what identifiers of type T start with, such as "i-".
func Prefix[T ID]() string {
	var id T
	switch any(id).(type) {
	case InstanceID:
		return "i-"
	case ReservationID:
		return "r-"
	case ImageID:
		return "ami-"
	case ImportTaskID:
		return "import-ami-"
	case VPCID:
		return "vpc-"
	case SubnetID:
		return "subnet-"
	case InternetGatewayID:
		return "igw-"
	case RouteTableID:
		return "rtb-"
	case RouteAssociationID:
		return "rtbassoc-"
	case NetworkACLID:
		return "acl-"
	case ACLAssociationID:
		return "aclassoc-"
	case FlowLogID:
		return "fl-"
	case DHCPOptionsID:
		return "dopt-"
	case SecurityGroupID:
		return "sg-"
	case SecurityGroupRuleID:
		return "sgr-"
	case InterfaceID:
		return "eni-"
	case AttachmentID:
		return "eni-attach-"
	case AllocationID:
		return "eipalloc-"
	case AssociationID:
		return "eipassoc-"
	case KeyPairID:
		return "key-"
	case VPCRangeID:
		return "vpc-cidr-assoc-"
	case SubnetRangeID:
		return "subnet-cidr-assoc-"
	case EgressGatewayID:
		return "eigw-"
	case NATGatewayID:
		return "nat-"
	case PeeringID:
		return "pcx-"
	case PrefixListID:
		return "pl-"
	case VPCEndpointID:
		return "vpce-"
	case SubnetReservationID:
		return "scr-"
	case LaunchTemplateID:
		return "lt-"
	case FleetID:
		return "fleet-"
	case PlacementGroupID:
		return "pg-"
	case VolumeID:
		return "vol-"
	case SnapshotID:
		return "snap-"
	case NodeID:
		return "node-"
	}
	panic("cloud: identifier type without a prefix")
}

// NewID draws an identifier of type T from rand, which must not run dry
// (crypto/rand.Reader outside simulations).
func NewID[T ID](rand io.Reader) T {
	var raw [9]byte
	if _, err := io.ReadFull(rand, raw[:]); err != nil {
		panic(fmt.Sprintf("cloud: draw an identifier: %v", err))
	}
	digits := hex.EncodeToString(raw[:])[:idDigits]
	if isUUID[T]() {
		var more [8]byte
		if _, err := io.ReadFull(rand, more[:]); err != nil {
			panic(fmt.Sprintf("cloud: draw an identifier: %v", err))
		}
		digits = (digits + hex.EncodeToString(more[:]))[:32]
		digits = digits[:8] + "-" + digits[8:12] + "-" + digits[12:16] + "-" + digits[16:20] + "-" + digits[20:]
	}
	return T(Prefix[T]() + digits)
}

// isUUID tells whether identifiers of type T end in the five groups of a UUID, as those of EC2's fleets do.
func isUUID[T ID]() bool {
	var id T
	_, fleet := any(id).(FleetID)
	return fleet
}

var uuidTail = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

var hexTail = regexp.MustCompile(`^([0-9a-f]{8}|[0-9a-f]{17})$`)

// ValidID tells whether s has the form of an identifier of type T. The 8-digit form of
// older AWS resources is accepted as well formed; nacre never makes one. Kernels and RAM disks
// are images too.
func ValidID[T ID](s string) bool {
	tail, ok := strings.CutPrefix(s, Prefix[T]())
	var id T
	if _, image := any(id).(ImageID); image {
		for _, file := range []string{kernelPrefix, ramdiskPrefix} {
			if cut, is := strings.CutPrefix(s, file); is {
				tail, ok = cut, true
			}
		}
	}
	if isUUID[T]() {
		return ok && uuidTail.MatchString(tail)
	}
	return ok && hexTail.MatchString(tail)
}
