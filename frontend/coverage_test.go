package frontend_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stamp/frontend"
	"stamp/frontend/blob"
	"stamp/frontend/queue"
	"stamp/frontend/table"
)

// The table of operations in the documentation says what the code does, and
// names tests that exist.
func TestCoverageDocument(t *testing.T) {
	document, err := os.ReadFile("../docs/rest-coverage.md")
	if err != nil {
		t.Fatal(err)
	}
	type row struct{ status, test string }
	rows := map[string]row{}
	for line := range strings.Lines(string(document)) {
		cells := strings.Split(line, "|")
		if len(cells) == 6 {
			rows[strings.TrimSpace(cells[1])] = row{strings.TrimSpace(cells[3]), strings.Trim(strings.TrimSpace(cells[4]), "`")}
		}
	}
	tests := testNames(t)
	operations := append(blob.New(blob.Options{}).All(), queue.New().All()...)
	operations = append(operations, table.New().All()...)
	for _, op := range operations {
		want := "not yet"
		if op.Serve != nil {
			want = "yes"
		}
		got, ok := rows[op.Name]
		delete(rows, op.Name)
		switch {
		case !ok:
			t.Errorf("%s is not in the document", op.Name)
		case got.status != want:
			t.Errorf("%s: the document says %q, the code %q", op.Name, got.status, want)
		case !tests[got.test]:
			t.Errorf("%s: there is no test %q", op.Name, got.test)
		}
	}
	for name, r := range rows {
		if r.status == "yes" || r.status == "not yet" {
			t.Errorf("the document has %s, the code has not", name)
		}
	}
}

var _ = []frontend.Service{(*blob.Operations)(nil), (*queue.Operations)(nil), (*table.Operations)(nil)}

func testNames(t *testing.T) map[string]bool {
	names := map[string]bool{}
	for _, pattern := range []string{"*_test.go", "*/*_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			source, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(source)) {
				if rest, ok := strings.CutPrefix(line, "func Test"); ok {
					name, _, _ := strings.Cut(rest, "(")
					names["Test"+name] = true
				}
			}
		}
	}
	return names
}
