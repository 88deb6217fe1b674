// Command generate writes the coverage page to the file that its argument names.
package main

import (
	"fmt"
	"os"

	"github.com/nacre-cloud/nacre/internal/service/coverage"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: generate FILE")
		os.Exit(2)
	}
	if err := os.WriteFile(os.Args[1], coverage.Page(), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}
