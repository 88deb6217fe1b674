// Package conventions holds the tests of what every package of nacre keeps to. It has no code.
package conventions

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/nacre-cloud/nacre/"

// sources calls fn with every Go file of the module that is neither generated nor a test.
func sources(t *testing.T, fn func(pkg, path string)) {
	t.Helper()
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "testdata" || d.Name() == "bin") {
			return fs.SkipDir
		}
		if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			rel, err := filepath.Rel(root, filepath.Dir(path))
			if err != nil {
				return err
			}
			fn(filepath.ToSlash(rel), path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// layerOf ranks the parts: imports point from a higher rank to a lower one.
func layerOf(pkg string) (rank int, side string) {
	switch {
	case strings.HasPrefix(pkg, "internal/cloud"):
		return 0, ""
	case strings.HasPrefix(pkg, "internal/service"):
		return 2, "service"
	case strings.HasPrefix(pkg, "internal/control"):
		return 2, "control"
	case strings.HasPrefix(pkg, "internal/agent/"), pkg == "internal/agent":
		return 2, "agent"
	case strings.HasPrefix(pkg, "cmd/"), strings.HasPrefix(pkg, "test/"):
		return 3, ""
	}
	return 1, ""
}

func TestImportsPointOneWay(t *testing.T) {
	sources(t, func(pkg, path string) {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		rank, side := layerOf(pkg)
		for _, imp := range f.Imports {
			target, ok := strings.CutPrefix(strings.Trim(imp.Path.Value, `"`), module)
			if !ok {
				continue
			}
			to, toSide := layerOf(target)
			switch {
			case to > rank:
				t.Errorf("%s imports %s, which stands above it", path, target)
			case side != "" && toSide != "" && side != toSide:
				t.Errorf("%s imports %s: service, control and agent never import one another", path, target)
			case rank == 0 && to == 0 && !strings.HasPrefix(target, "internal/cloud"):
				t.Errorf("%s imports %s: the domain imports nothing of nacre", path, target)
			}
		}
	})
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	docs := map[string]bool{}
	sources(t, func(pkg, path string) {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		docs[pkg] = docs[pkg] || f.Doc != nil
	})
	for pkg, has := range docs {
		if !has {
			t.Errorf("%s has no package comment", pkg)
		}
	}
}

func TestNoPackageIsCalledForNothing(t *testing.T) {
	sources(t, func(pkg, path string) {
		switch name := filepath.Base(pkg); name {
		case "util", "utils", "common", "helpers", "types", "misc":
			t.Errorf("%s: a package called %s says nothing", path, name)
		}
		if base := filepath.Base(path); base == "utils.go" || base == "types.go" || base == "manager.go" {
			t.Errorf("%s: a file called %s says nothing", path, base)
		}
	})
}
