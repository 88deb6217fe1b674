package cloud

import (
	"regexp"
	"time"
)

// RepositoryName names a repository in its account, such as "team/app".
type RepositoryName string

// Limits of the registry.
const (
	MaxRepositories    = 10_000 // of an account
	MaxRepositoryName  = 256    // characters
	MaxRepositoryTag   = 128    // characters
	MaxImagesStored    = 20_000 // of a repository
	MaxTagsOfImage     = 1_000
	MaxLifecyclePolicy = 30_720 // bytes
)

var (
	repositoryName = regexp.MustCompile(`^(?:[a-z0-9]+(?:[._-][a-z0-9]+)*/)*[a-z0-9]+(?:[._-][a-z0-9]+)*$`)
	repositoryTag  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// ValidRepositoryName tells whether a name is one: 2 to 256 characters, parts of lower-case letters and digits with single dots, hyphens
// and underscores in between, joined by slashes.
func ValidRepositoryName(name string) bool {
	return len(name) >= 2 && len(name) <= MaxRepositoryName && repositoryName.MatchString(name)
}

// ValidRepositoryTag tells whether a tag is one: 1 to 128 letters, digits, underscores, and after the first of them also dots and hyphens.
func ValidRepositoryTag(tag string) bool { return repositoryTag.MatchString(tag) }

// Repository is a place for images of one name.
type Repository struct {
	Account   AccountID
	Name      RepositoryName
	Immutable bool // a tag that is taken stays with its image
	Tags      Tags // the resource's, not those of images
	Created   time.Time

	Lifecycle string    // the policy's text, "" for none
	Evaluated time.Time // when it was last acted on
	Preview   string    // the text of a policy that is only looked at, "" for none
}

// RepositoryImage is a manifest in a repository: of an image, or an index of several.
type RepositoryImage struct {
	Account      AccountID
	Repository   RepositoryName
	Digest       string   // of the manifest
	MediaType    string   // of the manifest
	ArtifactType string   // what it says that it is; of a plain image its configuration's media type
	ManifestSize int64    // bytes
	Size         int64    // bytes of configuration and layers, compressed as they are
	Layers       []string // digests of configuration and layers that the repository keeps
	Children     []string // digests of the manifests that an index lists
	Subject      string   // digest of the manifest that this one is about, "" for none
	Pushed       time.Time
	Pulled       time.Time // to the day; zero for never
}

// RepositoryTag leads from a tag to an image.
type RepositoryTag struct {
	Account    AccountID
	Repository RepositoryName
	Tag        string
	Digest     string
}

// RepositoryLayer is a blob that a repository keeps: a layer, a configuration, or any file.
type RepositoryLayer struct {
	Account    AccountID
	Repository RepositoryName
	Digest     string
	Size       int64 // bytes
	Pushed     time.Time
}
