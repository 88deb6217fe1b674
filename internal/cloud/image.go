package cloud

import "time"

// ImageState is EC2's image state.
type ImageState string

const (
	ImagePending      ImageState = "pending" // its content is being made
	ImageAvailable    ImageState = "available"
	ImageFailed       ImageState = "failed" // its content could not be made
	ImageDeregistered ImageState = "deregistered"
	ImageDisabled     ImageState = "disabled" // its owner has taken it out of use; its content stays
)

// Image is an AMI: a name, attributes, and the digest of an OCI image or a disk; or a kernel or RAM disk.
type Image struct {
	ID           ImageID
	Account      AccountID
	Name         string // 3 to 128 characters, unique in the account
	Description  string
	Type         ImageType // "" is ImageMachine
	Digest       string    // of what Hardware.Content says, an OCI manifest as a rule: "sha256:…"
	Isolation    Isolation // of its instances; "" is IsolationContainer
	Hardware     Hardware  // of its virtual machines; Content is set for kernels and RAM disks too
	Location     string    // where it came from, such as "docker.io/library/nginx:1.27"
	Architecture string    // "x86_64" or "arm64"
	State        ImageState
	// System is an image whose machines are servers (init, users, packages), not one application.
	System  bool
	SizeMiB int64 // of the unpacked layers, rounded up
	Public  bool
	Launch  []AccountID // other accounts that may launch it
	Tags    Tags
	Created time.Time
	// LastLaunched is coarse: EC2 reports it with a day's delay.
	LastLaunched time.Time
	Source       ImageID   // the one that it is a copy of, "" for none
	DeprecateAt  time.Time // from then on only its owner finds it unasked; zero for never
	Protection   ImageProtection
	TokensOnly   bool // ImdsSupport=v2.0: launches that don't say get metadata with tokens only
	// Volumes are those that its instances are launched with: with one at RootDevice, that is their root, and Digest is only what tells of
	// the system on it; without, the root is laid over Digest's content.
	Volumes []ImageVolume `json:",omitempty"`
	Maker   InstanceID    `json:",omitempty"` // whose disks it was made of, "" for none
	Failure string        `json:",omitempty"` // of ImageFailed
}

// Kind is the image's type, "machine" when it says nothing.
func (i *Image) Kind() ImageType {
	if i.Type == "" {
		return ImageMachine
	}
	return i.Type
}

// VM tells whether the image's instances are virtual machines.
func (i *Image) VM() bool { return i.Isolation == IsolationVM }

// Root is the volume that instances of the image have as their root, nil when that is laid over its content.
func (i *Image) Root() *ImageVolume {
	for n := range i.Volumes {
		if i.Volumes[n].Device == RootDevice {
			return &i.Volumes[n]
		}
	}
	return nil
}

// ImageProtection keeps an image from being deregistered.
type ImageProtection struct {
	Enabled  bool
	Cooldown bool      // it goes on for a day after it is disabled
	Until    time.Time // the end of that day, once it has begun
}

// ImportState is the state of an image import.
type ImportState string

const (
	ImportActive    ImportState = "active"
	ImportCompleted ImportState = "completed"
	ImportDeleting  ImportState = "deleting" // cancel was asked for
	ImportDeleted   ImportState = "deleted"
	ImportFailed    ImportState = "failed" // shown by EC2 as deleted with a status message
)

// OfDisk tells whether a task can only be one of a whole disk.
func (t *ImportTask) OfDisk() bool {
	return t.Format != "" || t.Firmware != FirmwareNone || t.Devices != DevicesVirtio
}

// ImportTask makes an AMI out of an archive, a whole disk, a registry's image or a recipe.
type ImportTask struct {
	ID      ImportTaskID
	Account AccountID
	// Source is where the bytes come from: "upload:sha256:…" (a file sent to the
	// endpoint), "docker://REGISTRY/NAME:TAG", "bake:RECIPE", or "build:" and the name, with a Build.
	Source       string
	Name         string // of the AMI to register
	Description  string
	Architecture string // wanted, "" for the node's; of the AMI, when it is there
	// Of an upload that is a whole disk: what it must be ("raw", "qcow2", "vmdk", "vdi"), what its machines start with and what they see. What isn't
	// said is found out by looking. Any of them makes an archive unacceptable.
	Format   string   `json:",omitempty"`
	Firmware Firmware `json:",omitempty"`
	Devices  Devices  `json:",omitempty"`
	Build    *Build   `json:",omitempty"`
	Tags     Tags     // of the AMI
	TaskTags Tags
	Node     NodeID

	State    ImportState
	Progress int    // 0 to 100
	Message  string // what is being done, or why it failed
	Image    ImageID
	Created  time.Time
	Ended    time.Time
}
