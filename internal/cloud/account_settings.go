package cloud

// AccountSettings are what an account has chosen for all that it will launch; an account that has chosen nothing has none.
type AccountSettings struct {
	Account  AccountID
	Metadata MetadataDefaults
	// Credits are the CPU credit options of new instances, by family; see DefaultCredits for those that are missing.
	Credits map[string]string
	// SerialConsole says that the serial consoles of the account's instances may be used.
	SerialConsole bool
	// EncryptVolumes says that volumes, and copies of snapshots, are encrypted though a call doesn't ask for it.
	EncryptVolumes bool
}

// MetadataDefaults are metadata options for launches that don't say; "" and 0 are no preference.
type MetadataDefaults struct {
	Tokens       string // "optional" or "required"
	Endpoint     string // "enabled" or "disabled"
	InstanceTags string // "enabled" or "disabled"
	HopLimit     int    // 1 to 64
}

// Options are EC2's metadata options with the account's choices over them.
func (d MetadataDefaults) Options() MetadataOptions {
	m := DefaultMetadataOptions()
	m.TokensRequired = d.Tokens == "required"
	m.Disabled = d.Endpoint == "disabled"
	m.InstanceTags = d.InstanceTags == "enabled"
	if d.HopLimit > 0 {
		m.HopLimit = d.HopLimit
	}
	return m
}

// The CPU credit options of burstable sizes.
const (
	CreditsStandard  = "standard"
	CreditsUnlimited = "unlimited"
)

// DefaultCredits is EC2's credit option of a family for an account that has chosen none.
func DefaultCredits(family string) string {
	if family == "t2" {
		return CreditsStandard
	}
	return CreditsUnlimited
}

// CreditsFor is the credit option of a new instance of a family.
func (s AccountSettings) CreditsFor(family string) string {
	if c := s.Credits[family]; c != "" {
		return c
	}
	return DefaultCredits(family)
}
