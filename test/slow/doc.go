// Package slow holds the tests that boot whole operating systems, minutes each on a server without virtualization: `make test-slow`.
package slow
