//go:build clients

package clienttest

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"stamp/appliance"
)

// bigBlob is the size of the SDKs' big blob.
func bigBlob() int64 {
	if short() {
		return 128<<20 + 12345
	}
	return 1 << 30
}

func TestJavaScriptSDK(t *testing.T) {
	need(t, "node", "npm")
	dir := installJS(t)
	p := start(t)
	out := program{t: t, dir: dir}.run("node", "blob.mjs", p.Endpoint(), string(appliance.DevAccount), appliance.DevKey,
		strconv.FormatInt(bigBlob(), 10))
	t.Logf("%s", out)
}

// installJS installs the SDK, as the lock file has it, into a cache outside of
// the repository, once for each state of testdata/js.
func installJS(t *testing.T) string {
	t.Helper()
	tools := os.Getenv("STAMP_TOOLS")
	if tools == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		tools = filepath.Join(cache, "stamp-tools")
	}
	files := map[string][]byte{}
	sum := sha256.New()
	for _, name := range []string{"package.json", "package-lock.json", "blob.mjs"} {
		p, err := os.ReadFile(filepath.Join("testdata", "js", name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = p
		if name != "blob.mjs" {
			sum.Write(p)
		}
	}
	dir := filepath.Join(tools, fmt.Sprintf("js-%x", sum.Sum(nil)[:6]))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, p := range files {
		if err := os.WriteFile(filepath.Join(dir, name), p, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules", ".package-lock.json")); err != nil {
		program{t: t, dir: dir}.run("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")
	}
	return dir
}
