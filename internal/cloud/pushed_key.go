package cloud

import "time"

// PushedKeyFor is how long a pushed key lets in, as EC2 Instance Connect has it.
const PushedKeyFor = time.Minute

// PushedKey is a public SSH key that its instance's owner has let in to the instance's consoles for a minute. Sessions that began in time go on.
type PushedKey struct {
	Instance InstanceID
	Account  AccountID
	Key      string // in authorized_keys form, without a comment
	Expires  time.Time
}

// ConsoleHostKey is the key by which SSH clients know the endpoint's consoles.
type ConsoleHostKey struct {
	PEM []byte // private
}
