//go:build clients

package clienttest

import (
	"path/filepath"
	"strings"
	"testing"
)

// resticRound puts the Go source tree into a repository in two backups, checks
// every byte of it, and takes it out again.
func resticRound(t *testing.T, repository string, env []string, flags ...string) {
	t.Helper()
	source := goSource(t)
	work := bigDir(t)
	r := program{t: t, env: append([]string{
		"RESTIC_REPOSITORY=" + repository, "RESTIC_PASSWORD=meow", "RESTIC_CACHE_DIR=" + filepath.Join(work, "cache"),
	}, env...)}
	restic := func(args ...string) string { return r.run("restic", append(flags, args...)...) }
	restic("init")
	restic("backup", "--quiet", filepath.Join(source, "cmd"))
	restic("backup", "--quiet", source)
	restic("check", "--read-data")
	restic("restore", "latest", "--target", filepath.Join(work, "back"))
	sameTree(t, source, filepath.Join(work, "back", source))
	restic("forget", "--prune", "--keep-last", "1", "--group-by", "host")
	restic("check", "--read-data")
	if n := strings.Count(restic("snapshots", "--compact"), "\n"); n == 0 {
		t.Error("no snapshot is left")
	}
}

func TestResticOverRclone(t *testing.T) {
	need(t, "restic", "rclone", "diff")
	p := start(t)
	env := rcloneEnv(p)
	program{t: t, env: env}.run("rclone", "mkdir", "stamp:backup")
	resticRound(t, "rclone:stamp:backup/repository", env)
}

// restic's own Azure client knows only https://ACCOUNT.blob.core.windows.net.
func TestResticOverItsAzureBackend(t *testing.T) {
	need(t, "restic", "diff")
	p := start(t)
	proxy := startProxy(t, p)
	resticRound(t, "azure:backup:/", []string{
		"AZURE_ACCOUNT_NAME=" + secondAccount, "AZURE_ACCOUNT_KEY=" + secondKey,
		"HTTPS_PROXY=" + proxy.url, "NO_PROXY=",
	}, "--cacert", proxy.certificate)
}
