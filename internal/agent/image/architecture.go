package image

import (
	"fmt"
	"runtime"
	"strings"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// native is this server's architecture, in OCI's word, which is Debian's too. Outside of this package EC2's are used.
const native = runtime.GOARCH

// ec2Words are the architectures of virtual machines: OCI's words to EC2's.
var ec2Words = map[string]string{"amd64": "x86_64", "arm64": "arm64"}

func ec2Architecture(oci string) string {
	if word, ok := ec2Words[oci]; ok {
		return word
	}
	return oci
}

// ociArchitecture is OCI's word for EC2's; "" stands for this server's.
func ociArchitecture(ec2 string) (string, error) {
	if ec2 == "" {
		return native, nil
	}
	for oci, word := range ec2Words {
		if word == ec2 {
			return oci, nil
		}
	}
	return "", invalid("no machine is of the architecture %q; there are x86_64 and arm64", ec2)
}

// platform matches what is for an architecture.
func platform(architecture string) platforms.MatchComparer {
	return platforms.Only(platforms.Normalize(ocispec.Platform{OS: "linux", Architecture: architecture}))
}

// cutArchitecture divides a recipe like "debian-12-arm64" into what is baked and for which architecture: this server's, where
// it names none.
func cutArchitecture(recipe string) (base, architecture string) {
	for oci := range ec2Words {
		if base, ok := strings.CutSuffix(recipe, "-"+oci); ok {
			return base, oci
		}
	}
	return recipe, native
}

// runsHere refuses to make containers of another architecture's programs.
func runsHere(img Image) error {
	if img.Architecture != ec2Architecture(native) {
		return fmt.Errorf("the image %s is for %s and this server is %s: virtual machines run it, containers can't", img.Digest, img.Architecture, ec2Architecture(native))
	}
	return nil
}
