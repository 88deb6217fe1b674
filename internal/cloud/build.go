package cloud

// Build is what an image is built of, in an ImportTask. Secrets' values are not in it.
type Build struct {
	Text    string            // the Containerfile
	Context string            // the digest of the context's archive, as it was uploaded; "" for none
	Args    map[string]string `json:",omitempty"`
	Secrets []string          `json:",omitempty"` // their ids
	Target  string            `json:",omitempty"` // the stage that is the image
	NoCache bool              `json:",omitempty"`
	Replace bool              `json:",omitempty"` // an image of the name gives way when this one is there
	// Bases are the digests behind the images that the text names, those that are AMIs; Pull the other ones, from registries.
	Bases map[string]string `json:",omitempty"`
	Pull  []string          `json:",omitempty"`
}

// LabelSystem is the label by which an OCI image says whether it is an operating system ("true") or one application ("false").
const LabelSystem = "cloud.nacre.system"

// BuildStepState is how far a step of a build is.
type BuildStepState string

// States of steps.
const (
	BuildWaiting BuildStepState = "waiting"
	BuildRunning BuildStepState = "running"
	BuildDone    BuildStepState = "done"
	BuildCached  BuildStepState = "cached" // its layer was there
	BuildFailed  BuildStepState = "failed"
)

// BuildStep is one instruction of a build, and how far it is.
type BuildStep struct {
	Stage  string // its name or number
	Line   int    // of the Containerfile
	Text   string
	State  BuildStepState
	Millis int64 // that it took
}
