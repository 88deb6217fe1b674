package cloud

// Tags are a resource's labels, key to value.
type Tags map[string]string

// Limits of AWS on tags.
const (
	MaxTagsPerResource = 50
	MaxTagKeyLength    = 128 // Unicode characters
	MaxTagValueLength  = 256 // Unicode characters
)
