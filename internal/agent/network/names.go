package network

import (
	"crypto/sha256"
	"encoding/hex"
	"net"
	"path/filepath"

	"github.com/nacre-cloud/nacre/internal/cloud"
)

// Links have 15 characters at most. Those on the host carry the cloud's mark; those in a VPC's namespace
// are alone there.
const uplink = "uplink" // a VPC's end of its way out

// hostUplink is the host's end of a VPC's way out.
func (n *Network) hostUplink(id cloud.VPCID) string {
	sum := sha256.Sum256([]byte(id))
	return n.hostPrefix() + hex.EncodeToString(sum[:3])
}

func (n *Network) hostPrefix() string { return "nu" + n.cfg.CloudID + "-" }

// linkOf is an interface's end in its VPC's namespace.
func linkOf(id cloud.InterfaceID) string {
	s := string(id)
	return "e" + s[max(0, len(s)-14):]
}

// macFor derives a locally administered address from a name, so that both ends of a link know it without asking.
func macFor(name string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(name))
	return net.HardwareAddr{0x06, sum[0], sum[1], sum[2], sum[3], sum[4]}
}

func (n *Network) vpcFile(id cloud.VPCID) string {
	return filepath.Join(n.cfg.RunDir, "vpc", string(id))
}

func (n *Network) namespaceFiles(id cloud.InstanceID) Namespaces {
	return Namespaces{User: filepath.Join(n.cfg.RunDir, "user", string(id)), Net: filepath.Join(n.cfg.RunDir, "net", string(id))}
}

func (n *Network) recordFile(id cloud.InterfaceID) string {
	return filepath.Join(n.cfg.StateDir, "interfaces", string(id)+".json")
}
