// Package access is SSH for instances whose image runs no SSH server: the agent answers port 22 in their
// place, with what a user of OpenSSH expects of a server.
//
// It promises that only a key that the instance's launch or its users named gets in, that whatever
// a client starts runs inside the instance with the user's own rights and nothing more, that
// forwarded connections begin and end inside the instance's network, and that a connection's end hangs up
// what ran on it. Serve returns when everything that it began has ended.
//
// It never asks for a password, never trusts a path inside the instance's root file system,
// never opens a connection from the host's network and never forwards an agent, a display or a
// Unix socket.
package access
