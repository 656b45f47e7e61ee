//go:build clients

package clienttest

import (
	"path/filepath"
	"strings"
	"testing"

	"stamp/appliance"
	"stamp/appliance/stamptest"
)

// rcloneEnv configures a remote "stamp:" without a file.
func rcloneEnv(p *stamptest.Process) []string {
	return []string{
		"RCLONE_CONFIG=/dev/null",
		"RCLONE_CONFIG_STAMP_TYPE=azureblob",
		"RCLONE_CONFIG_STAMP_USE_EMULATOR=true",
		"RCLONE_CONFIG_STAMP_ACCOUNT=" + string(appliance.DevAccount),
		"RCLONE_CONFIG_STAMP_KEY=" + appliance.DevKey,
		"RCLONE_CONFIG_STAMP_ENDPOINT=" + p.Endpoint(),
	}
}

func TestRcloneCopiesTheGoSource(t *testing.T) {
	need(t, "rclone", "diff")
	source := goSource(t)
	p := start(t)
	back := filepath.Join(bigDir(t), "back")
	r := program{t: t, env: rcloneEnv(p)}
	r.run("rclone", "mkdir", "stamp:source")
	r.run("rclone", "copy", "--transfers", "16", "--checkers", "16", source, "stamp:source/go")
	r.run("rclone", "check", "--download", "--transfers", "8", source, "stamp:source/go")
	r.run("rclone", "copy", "--transfers", "16", "stamp:source/go", back)
	sameTree(t, source, back)

	// A second copy finds nothing to do, by size and time.
	if _, diag, err := r.try("rclone", "copy", "-v", source, "stamp:source/go"); err != nil || strings.Contains(diag, "Copied (") {
		t.Errorf("second copy: %v\n%s", err, tailOf(diag))
	}
	r.run("rclone", "delete", "stamp:source/go/cmd")
	if left := r.run("rclone", "lsf", "-R", "--files-only", "stamp:source/go/cmd"); left != "" {
		t.Errorf("after delete there are still %.300s", left)
	}
	r.run("rclone", "sync", "--transfers", "16", source, "stamp:source/go")
	r.run("rclone", "check", "--one-way", source, "stamp:source/go")
	r.run("rclone", "purge", "stamp:source")
}
