package cloud

import "time"

// LaunchTemplate names a series of versions of launch parameters.
type LaunchTemplate struct {
	ID      LaunchTemplateID
	Account AccountID
	Name    string // 3 to 128 characters, unique in the account
	// Default and Latest are numbers of versions that exist; Last is the highest that was ever given, and never is again.
	Default, Latest, Last int
	CreatedBy             string // an ARN
	Tags                  Tags
	Created               time.Time
}

// LaunchTemplateVersion is one set of launch parameters. It never changes.
type LaunchTemplateVersion struct {
	Template    LaunchTemplateID
	Account     AccountID
	Number      int // from 1
	Description string
	// Data is the parameters that were given, a JSON object of EC2's members.
	Data      string
	CreatedBy string // an ARN
	Created   time.Time
}

// Limits of launch templates, EC2's own.
const (
	MaxLaunchTemplates        = 5000 // an account
	MaxLaunchTemplateVersions = 10000
)

// Tags that EC2 puts on what is launched from a template or by a fleet; users can't change them.
const (
	TagLaunchTemplateID      = "aws:ec2launchtemplate:id"
	TagLaunchTemplateVersion = "aws:ec2launchtemplate:version"
	TagFleetID               = "aws:ec2:fleet-id"
)
