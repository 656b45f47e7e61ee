package stamp_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// layers are the top folders, bottom to top. A package may import packages of
// its own layer and of layers before it in this list, never of later ones.
var layers = []string{"", "extentstore", "partition", "geo", "frontend", "fuse", "systemd", "appliance", "cmd"}

// harnesses are packages that exist for tests, with what lies below them. They
// may import upwards, and no product package may import one.
var harnesses = []string{"streamtest", "partitiontest", "geotest", "stamptest", "clienttest", "crashtest", "racktest", "bench"}

// noHTTP are the layers that hold storage and know nothing of HTTP.
var noHTTP = []string{"", "extentstore", "partition"}

func TestImportsPointDown(t *testing.T) {
	seen := 0
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if base := d.Name(); name != "." && (strings.HasPrefix(base, ".") || base == "testdata" || base == "bin" || base == "node_modules") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		seen++
		for _, spec := range f.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if msg := violation(path.Dir(filepath.ToSlash(name)), imported); msg != "" {
				t.Errorf("%s imports %q: %s", name, imported, msg)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 4 {
		t.Fatalf("looked at %d files: is the test running in the root of the module?", seen)
	}
}

func TestViolation(t *testing.T) {
	for _, tc := range []struct {
		dir, imported string
		ok            bool
	}{
		{"extentstore/node", "stamp/extentstore", true},
		{"extentstore/node", "stamp", true},
		{"extentstore/node", "stamp/partition/blob", false},
		{"partition/blob", "stamp/extentstore/stream", true},
		{"partition/blob", "stamp/frontend", false},
		{"partition/blob", "net/http", false},
		{"partition/blob", "net/http/httptest", false},
		{"frontend/blob", "net/http", true},
		{"fuse", "stamp/frontend/file", true},
		{"frontend/file", "stamp/fuse", false},
		{"appliance", "stamp/fuse", true},
		{"appliance", "stamp/cmd/stamp", false},
		{"appliance", "stamp/appliance/stamptest", false},
		{"appliance/crashtest", "stamp/appliance/stamptest", true},
		{"cmd/stamp", "stamp/appliance", true},
		{"cmd/stamp", "stamp/appliance/bench", true},
		{".", "stamp/extentstore", false},
		{".", "github.com/google/uuid", false},
		{".", "time", true},
		{"extentstore/streamtest", "stamp/extentstore/node", true},
	} {
		if msg := violation(tc.dir, tc.imported); (msg == "") != tc.ok {
			t.Errorf("violation(%q, %q) = %q, want ok %v", tc.dir, tc.imported, msg, tc.ok)
		}
	}
}

// violation says what is wrong with an import by a package in dir, or "".
func violation(dir, imported string) string {
	if dir == "." {
		dir = ""
	}
	if isHarness(dir) {
		return ""
	}
	from := layerOf(dir)
	if from < 0 {
		return "folder " + dir + " is in no layer: add it to layers in layers_test.go"
	}
	if imported == "net/http" || strings.HasPrefix(imported, "net/http/") {
		for _, layer := range noHTTP {
			if layers[from] == layer {
				return "a storage package must not know HTTP"
			}
		}
	}
	if imported != "stamp" && !strings.HasPrefix(imported, "stamp/") {
		if dir == "" && strings.Contains(strings.Split(imported, "/")[0], ".") {
			return "the root package imports the standard library alone"
		}
		return ""
	}
	to := strings.TrimPrefix(strings.TrimPrefix(imported, "stamp"), "/")
	if isHarness(to) && !(layers[from] == "cmd" && path.Base(to) == "bench") {
		return "product code must not import a test harness"
	}
	switch n := layerOf(to); {
	case n < 0:
		return "the imported folder is in no layer"
	case n > from:
		return "layer " + layers[n] + " stands above " + layers[from]
	}
	return ""
}

// layerOf is the index in layers of the layer that a folder belongs to, or -1.
func layerOf(dir string) int {
	top, _, _ := strings.Cut(dir, "/")
	for i, layer := range layers {
		if layer == top {
			return i
		}
	}
	return -1
}

func isHarness(dir string) bool {
	for _, name := range strings.Split(dir, "/") {
		if slices.Contains(harnesses, name) {
			return true
		}
	}
	return false
}
