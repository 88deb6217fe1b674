package cloud

// ImageMakeup is what an image of layers is made of, on a server that has it.
type ImageMakeup struct {
	Digest string
	Layers []LayerContent // the lowest first
}

// LayerContent is a layer of an image and what it adds to those below.
type LayerContent struct {
	Digest      string // of its unpacked content
	Size        int64  // bytes on the server, unpacked
	Files       int64  // regular ones
	Directories int64
	Others      int64        // links, pipes
	Deleted     int64        // files and directories of the layers below that it hides
	Largest     []FileSize   `json:",omitempty"`
	Images      []string     `json:",omitempty"` // that stand on it: digests, as the node knows them; ids for callers
	Instances   []InstanceID `json:",omitempty"` // of those images on the server
}

// FileSize is a file and its bytes.
type FileSize struct {
	Path string
	Size int64
}

// ImageUse is where a server's bytes of images and of what is made of them are. No byte counts twice: the parts add up to what all take together.
type ImageUse struct {
	Content int64 // manifests, layers as they came, whole disks, kernels
	Layers  int64 // unpacked
	Written int64 // by containers, over these
	Disks   int64 // made of layers, for virtual machines
	Frozen  int64 // templates' disks, and those of virtual machines from before their roots were volumes
	Volumes int64 // volumes and snapshots, roots among them, save for what they share with the disks above
	Images  []ImageBytes
}

// Total is all of it.
func (u *ImageUse) Total() int64 {
	return u.Content + u.Layers + u.Written + u.Disks + u.Frozen + u.Volumes
}

// ImageBytes is what an image takes, in Content, Layers and Disks.
type ImageBytes struct {
	Image  string // its digest, as the node knows it; its id for callers
	Own    int64  // that no other image needs
	Shared int64  // that others need too
}
