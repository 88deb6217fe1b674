package cloud

import "time"

// KeyPair is the public half of an SSH key; the private half is never kept.
type KeyPair struct {
	ID          KeyPairID
	Account     AccountID
	Name        string
	Type        string // "rsa" or "ed25519"
	PublicKey   string // authorized_keys form
	Fingerprint string // as EC2 computes it for the key's type and origin
	Tags        Tags
	Created     time.Time
}
