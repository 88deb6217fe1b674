// Package version says which build of nacre this is. It never decides anything by it.
package version

// Version is set by the linker; "dev" in a build without make.
var Version = "dev"
