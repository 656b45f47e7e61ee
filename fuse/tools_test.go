package fuse_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tool runs a program and fails the test with its output if it fails.
func tool(t testing.TB, dir, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "GIT_CONFIG_NOSYSTEM=1", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b", "RESTIC_PASSWORD=x", "BORG_BASE_DIR="+t.TempDir(), "RESTIC_CACHE_DIR="+t.TempDir())
	start := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		tail := string(out)
		if len(tail) > 4000 {
			tail = "..." + tail[len(tail)-4000:]
		}
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, tail)
	}
	t.Logf("%s: %v", name, time.Since(start).Round(time.Millisecond))
	return string(out)
}

// smallTree is a few hundred files with all that a flat container can hold.
func smallTree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	tool(t, dir, "cp", "-a", "/usr/local/go/src/fmt", "/usr/local/go/src/encoding", "/usr/local/go/src/os", ".")
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(filepath.Join(dir, "empty"), 0o711))
	must(os.WriteFile(filepath.Join(dir, "naïve ☃ name"), []byte("x"), 0o600))
	must(os.WriteFile(filepath.Join(dir, "nothing"), nil, 0o444))
	must(os.Symlink("fmt/print.go", filepath.Join(dir, "link")))
	must(os.Symlink("/nowhere/at/all", filepath.Join(dir, "dangling")))
	must(os.Chown(filepath.Join(dir, "nothing"), 1234, 5678))
	return dir
}

func TestTreeRoundTrip(t *testing.T) {
	s := mount(t)
	src := smallTree(t)
	tool(t, "/", "cp", "-a", src, s.path("copy"))
	tool(t, "/", "diff", "-r", "--no-dereference", src, s.path("copy"))
	out := tool(t, "/", "rsync", "-aHXi", "--checksum", "--delete", src+"/", s.path("copy/"))
	if out != "" {
		t.Errorf("rsync found differences after cp -a:\n%s", out)
	}
	tool(t, "/", "rsync", "-aHX", "--checksum", src+"/", s.path("synced/"))
	out = tool(t, "/", "rsync", "-aHXi", "--checksum", "--delete", src+"/", s.path("synced/"))
	if out != "" {
		t.Errorf("rsync found differences after rsync:\n%s", out)
	}
	tar := filepath.Join(t.TempDir(), "a.tar")
	tool(t, src, "tar", "cf", tar, ".")
	if err := os.Mkdir(s.path("untar"), 0o755); err != nil {
		t.Fatal(err)
	}
	tool(t, s.path("untar"), "tar", "xpf", tar)
	tool(t, s.path("untar"), "tar", "df", tar)
	tool(t, s.path("copy"), "tar", "df", tar)
	tool(t, s.dir, "rm", "-rf", "copy", "synced", "untar")
	names, err := os.ReadDir(s.dir)
	if err != nil || len(names) != 0 {
		t.Errorf("after rm -rf: %v, %v", names, err)
	}
}

func TestSqlite(t *testing.T) {
	s := mount(t)
	for _, journal := range []string{"delete", "truncate", "persist", "wal"} {
		sql := "pragma journal_mode=" + journal + "; create table t(a integer primary key, b text);" +
			"with recursive n(i) as (select 1 union all select i+1 from n where i<10000) insert into t select i, hex(randomblob(20)) from n;" +
			"update t set b=hex(randomblob(30)) where a%7=0; delete from t where a%11=0; pragma integrity_check; select count(*) from t;"
		out := tool(t, s.dir, "sqlite3", journal+".db", sql)
		if !strings.Contains(out, "ok\n9091") {
			t.Errorf("journal %s: %q, want ok and 9091 rows", journal, out)
		}
	}
}

func TestSqliteManyCommits(t *testing.T) {
	s := mount(t)
	var sql strings.Builder
	sql.WriteString("create table t(a integer primary key, b text);")
	for range 300 {
		sql.WriteString("insert into t(b) values(hex(randomblob(50)));")
	}
	sql.WriteString("pragma integrity_check; select count(*) from t;")
	script := filepath.Join(t.TempDir(), "x.sql")
	if err := os.WriteFile(script, []byte(sql.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	out := tool(t, s.dir, "sqlite3", "a.db", ".read "+script)
	if !strings.Contains(out, "ok\n300") {
		t.Errorf("%q, want ok and 300", out)
	}
}

func TestGit(t *testing.T) {
	s := mount(t)
	src := smallTree(t)
	tool(t, src, "git", "init", "-q")
	tool(t, src, "git", "add", "-A")
	tool(t, src, "git", "commit", "-qm", "one")
	tool(t, s.dir, "git", "clone", "-q", src, "clone")
	repo := s.path("clone")
	if err := os.WriteFile(filepath.Join(repo, "new"), []byte("new\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tool(t, repo, "git", "add", "-A")
	tool(t, repo, "git", "commit", "-qm", "two")
	tool(t, repo, "git", "gc", "-q")
	tool(t, repo, "git", "fsck", "--full", "--strict")
	if out := tool(t, repo, "git", "status", "--porcelain"); out != "" {
		t.Errorf("git status: %s", out)
	}
	tool(t, s.dir, "git", "clone", "-q", "--bare", "clone", "bare.git")
	tool(t, s.path("bare.git"), "git", "fsck")
}

func TestBackupRepositories(t *testing.T) {
	s := mount(t)
	src := smallTree(t)
	t.Run("restic", func(t *testing.T) {
		repo := s.path("restic")
		tool(t, src, "restic", "-q", "-r", repo, "init")
		tool(t, src, "restic", "-q", "-r", repo, "backup", ".")
		tool(t, src, "restic", "-q", "-r", repo, "check", "--read-data")
		tool(t, src, "restic", "-q", "-r", repo, "restore", "latest", "--target", s.path("restored"))
		tool(t, src, "rsync", "-aHXc", src+"/", s.path("restored/"))
	})
	t.Run("borg", func(t *testing.T) {
		repo := s.path("borg")
		tool(t, src, "borg", "init", "-e", "none", repo)
		tool(t, src, "borg", "create", repo+"::one", ".")
		tool(t, src, "borg", "check", "--verify-data", repo)
	})
}

func TestFio(t *testing.T) {
	s := mount(t)
	tool(t, s.dir, "fio", "--name=v", "--filename=v.dat", "--size=32m", "--rw=randwrite", "--bs=4k", "--ioengine=psync",
		"--verify=crc32c", "--verify_fatal=1", "--fsync=64", "--runtime=20", "--randseed=1")
	tool(t, s.dir, "fio", "--name=m", "--filename=m.dat", "--size=16m", "--rw=randrw", "--bsrange=1k-256k", "--ioengine=psync",
		"--verify=crc32c", "--verify_fatal=1", "--numjobs=1", "--randseed=2")
	tool(t, s.dir, "fio", "--name=d", "--filename=d.dat", "--size=16m", "--rw=randwrite", "--bs=16k", "--ioengine=psync", "--direct=1",
		"--verify=crc32c", "--verify_fatal=1", "--randseed=3")
	tool(t, s.dir, "fio", "--name=p", "--size=8m", "--rw=randwrite", "--bs=4k", "--ioengine=mmap",
		"--verify=crc32c", "--verify_fatal=1", "--numjobs=4", "--randseed=4")
}
