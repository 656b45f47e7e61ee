//go:build clients

package clienttest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// mounted returns a directory on the mount of a stamp: a container of its own.
// With DIR set it is a directory there, on whatever that is.
func mounted(t *testing.T, container string) string {
	t.Helper()
	root := os.Getenv("DIR")
	if root == "" {
		root = startMounted(t)
	}
	dir := filepath.Join(root, container)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("DIR") != "" {
		t.Cleanup(func() { os.RemoveAll(dir) })
	}
	return dir
}

func TestMountCopiesTheGoSource(t *testing.T) {
	need(t, "cp", "rsync", "tar", "diff")
	source := goSource(t)
	dir := mounted(t, "trees")
	work := bigDir(t)
	p := program{t: t}

	// A tree with what the Go source has none of.
	odd := filepath.Join(work, "odd")
	p.run("mkdir", "-p", odd+"/empty", odd+"/deep/er/and/deeper")
	p.run("bash", "-ec", `cd "$1"; ln -s deep/er link; ln -s /nowhere dangling; echo x > 'ünï cödé & <tag>?'
		printf meow > mode; chmod 4751 mode; chmod 1777 empty; touch -d 2001-02-03T04:05:06.789 mode deep
		setfattr -n user.colour -v red mode; truncate -s 3M sparse; printf end >> sparse`, "-", odd)

	p.run("cp", "-a", source, dir+"/cp")
	p.run("cp", "-a", odd, dir+"/cp/odd")
	sameTree(t, odd, dir+"/cp/odd")
	p.run("rsync", "-aHX", source+"/", dir+"/rsync/")
	p.run("rsync", "-aHX", odd+"/", dir+"/odd/")
	if out := p.run("rsync", "-aHX", "--checksum", "--itemize-changes", odd+"/", dir+"/odd/"); out != "" {
		t.Errorf("a second rsync of the odd tree had to change:\n%s", out)
	}
	if out := p.run("rsync", "-aHX", "--checksum", "--itemize-changes", source+"/", dir+"/rsync/"); out != "" {
		t.Errorf("a second rsync had to change:\n%s", tailOf(out))
	}
	archive := filepath.Join(work, "source.tar")
	p.run("tar", "-cf", archive, "-C", filepath.Dir(source), filepath.Base(source))
	p.run("mkdir", dir+"/tar")
	p.run("tar", "-xf", archive, "-C", dir+"/tar")
	p.run("tar", "-df", archive, "-C", dir+"/tar")

	back := filepath.Join(work, "back")
	p.run("cp", "-a", dir+"/rsync", back)
	sameTree(t, source, back)
	p.run("rm", "-r", dir+"/cp", dir+"/rsync", dir+"/odd", dir+"/tar")
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("after rm -r: %v %v", left, err)
	}
}

func TestMountHoldsAGitRepository(t *testing.T) {
	need(t, "git")
	dir := mounted(t, "git")
	work := bigDir(t)
	p := program{t: t, env: []string{"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@t", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@t"}}
	// A repository to clone: the Go compiler's sources in a few commits.
	origin := filepath.Join(work, "origin")
	p.run("git", "init", "-q", "-b", "main", origin)
	p.dir = origin
	for _, part := range []string{"cmd/compile", "cmd/link", "runtime"} {
		p.run("mkdir", "-p", filepath.Dir(part))
		p.run("cp", "-r", filepath.Join(goSource(t), part), filepath.Dir(part))
		p.run("git", "add", ".")
		p.run("git", "commit", "-q", "-m", part)
	}
	p.dir = dir
	p.run("git", "clone", "-q", "--no-local", origin, "clone")
	p.dir = filepath.Join(dir, "clone")
	p.run("git", "fsck", "--full", "--strict")
	if out := p.run("git", "status", "--porcelain"); out != "" {
		t.Errorf("a fresh clone is not clean:\n%s", tailOf(out))
	}
	p.run("git", "checkout", "-q", "-b", "branch", "HEAD~2")
	p.run("git", "mv", "cmd/compile/doc.go", "doc.go")
	p.run("bash", "-ec", "echo // more >> doc.go && git add -A && git commit -q -m moved && git tag one")
	p.run("git", "merge", "-q", "-m", "merged", "main")
	p.run("git", "gc", "-q", "--aggressive", "--prune=now")
	p.run("git", "fsck", "--full", "--strict")
	p.run("git", "push", "-q", "origin", "branch")
	if out := p.run("git", "status", "--porcelain"); out != "" {
		t.Errorf("after merge and gc:\n%s", tailOf(out))
	}
}

func TestMountHoldsAResticRepository(t *testing.T) {
	need(t, "restic", "diff")
	resticRound(t, filepath.Join(mounted(t, "restic"), "repository"), nil)
}

func TestMountHoldsABorgRepository(t *testing.T) {
	need(t, "borg", "diff")
	source := goSource(t)
	work := bigDir(t)
	repository := filepath.Join(mounted(t, "borg"), "repository")
	p := program{t: t, dir: work, env: []string{"BORG_PASSPHRASE=meow", "BORG_BASE_DIR=" + filepath.Join(work, "base"),
		"BORG_REPO=" + repository, "BORG_RELOCATED_REPO_ACCESS_IS_OK=yes"}}
	p.run("borg", "init", "--encryption=repokey-blake2")
	p.run("borg", "create", "::one", filepath.Join(source, "cmd"))
	p.run("borg", "create", "::two", source)
	p.run("borg", "check", "--verify-data")
	p.run("mkdir", "back")
	p.dir = filepath.Join(work, "back")
	p.run("borg", "extract", "::two")
	sameTree(t, source, filepath.Join(work, "back", source))
	p.run("borg", "delete", "::one")
	p.run("borg", "compact")
	p.run("borg", "check", "--verify-data")
}

// Ten thousand transactions with the rollback journal, each with its syncs,
// would take minutes of syncing on some disks: most are inserted in
// transactions of ten, and a thousand one by one.
func TestMountHoldsAnSQLiteDatabase(t *testing.T) {
	need(t, "sqlite3")
	file := filepath.Join(mounted(t, "sqlite"), "test.db")
	p := program{t: t, dir: bigDir(t)}
	var script strings.Builder
	script.WriteString("create table t(id integer primary key, v text not null);\ncreate index i on t(v);\n")
	const insert = "insert into t(v) values(hex(randomblob(50)));\n"
	script.WriteString(strings.Repeat(insert, 1000))
	for range 900 {
		script.WriteString("begin;\n" + strings.Repeat(insert, 10) + "commit;\n")
	}
	sql := filepath.Join(p.dir, "script.sql")
	if err := os.WriteFile(sql, []byte(script.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	p.run("sqlite3", "-bail", file, ".read "+sql)
	got := p.run("sqlite3", file, "pragma integrity_check; select count(*) from t; pragma journal_mode;")
	if got != "ok\n10000\ndelete\n" {
		t.Errorf("integrity, rows, journal mode: %q", got)
	}
	p.run("sqlite3", file, "delete from t where id % 3; vacuum;")
	if got := p.run("sqlite3", file, "pragma integrity_check; select count(*) from t;"); got != "ok\n3333\n" {
		t.Errorf("after delete and vacuum: %q", got)
	}
}

func TestMountPassesFioVerify(t *testing.T) {
	need(t, "fio")
	dir := mounted(t, "fio")
	p := program{t: t, dir: bigDir(t)}
	size := "256m"
	if short() {
		size = "64m"
	}
	common := []string{"--directory=" + dir, "--size=" + size, "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--output-format=terse"}
	for _, job := range [][]string{
		{"--name=random4k", "--rw=randwrite", "--bs=4k", "--fsync=64"},
		{"--name=mixed", "--rw=randwrite", "--bsrange=512-128k", "--bs_unaligned", "--ioengine=psync", "--end_fsync=1"},
		{"--name=two", "--rw=randwrite", "--bs=16k", "--numjobs=2", "--size=32m", "--fdatasync=16"},
		{"--name=sequential", "--rw=write", "--bs=1m", "--end_fsync=1"},
	} {
		p.run("fio", append(common[:len(common):len(common)], job...)...)
	}
}
