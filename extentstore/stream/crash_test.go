package stream_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"stamp/extentstore"
	"stamp/extentstore/stream"
	"stamp/extentstore/streamtest"
)

const crashDir = "STAMP_TEST_CRASH_DIR"

var crashOptions = streamtest.Options{Nodes: 3, ExtentTarget: 40 << 10, Grace: 100 * time.Millisecond}

// TestKill kills a process that writes, at random moments, and looks for
// everything that it had been told is durable.
func TestKill(t *testing.T) {
	if os.Getenv(crashDir) != "" {
		t.Skip("this is the process to be killed")
	}
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	dir := t.TempDir()
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	for round := range rounds {
		told := runAndKill(t, dir, round, time.Duration(200+rnd.IntN(400))*time.Millisecond)
		opts := crashOptions
		opts.Dir = dir
		t.Run(fmt.Sprint("round=", round), func(t *testing.T) {
			l := streamtest.New(t, opts)
			start := time.Now()
			f := l.Acquire("/a/")
			t.Logf("%d facts, acquired in %v", len(told), time.Since(start))
			verifyTold(t, l, f, told)
			ok(t, l.Manager.Check(limit(t)))
			waitEqual(t, l, f)
		})
	}
}

// A fact is a line that the process printed after it was told.
type fact struct {
	kind   string // "append", "shared", "created", "deleted"
	name   string
	seed   uint64 // number of the append, or seed of its content
	extent uint64
	offset int64
	length int
}

func runAndKill(t *testing.T, dir string, round int, after time.Duration) []fact {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKillChild$", "-test.v")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s", crashDir, dir), fmt.Sprint("STAMP_TEST_CRASH_ROUND=", round))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	ok(t, err)
	ok(t, cmd.Start())
	var told []fact
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var x fact
		if n, _ := fmt.Sscanf(lines.Text(), "FACT %s %s %d %d %d %d.", &x.kind, &x.name, &x.seed, &x.extent, &x.offset, &x.length); n == 6 && bytes.HasSuffix(lines.Bytes(), []byte(".")) {
			if told == nil {
				time.AfterFunc(after, func() { _ = cmd.Process.Kill() }) // it may have ended by itself, which Wait tells
			}
			told = append(told, x)
		} else if bytes.Contains(lines.Bytes(), []byte("FAIL")) {
			t.Errorf("the process that writes failed: %s", lines.Text())
		}
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the process that writes was not killed")
	}
	return told
}

func verifyTold(t *testing.T, l *streamtest.Layer, f *stream.Folder, told []fact) {
	t.Helper()
	last := map[string]uint64{}
	names := map[string]bool{}
	for _, x := range told {
		switch x.kind {
		case "append":
			last[x.name] = max(last[x.name], x.seed)
		case "created":
			names[x.name] = true
		case "deleted":
			names[x.name] = false
		case "shared":
			want := streamtest.Pattern(x.seed, x.length)
			got := make([]byte, x.length)
			if _, err := l.Client.ReadExtent(limit(t), extentstore.ExtentID(x.extent), x.offset, got); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%+v: %v", x, err)
			}
		}
	}
	for name, want := range names {
		if _, is := f.Stat(name); is != want {
			t.Errorf("stream %s exists: %v, want %v", name, is, want)
		}
	}
	for name, n := range last {
		r := must(f.Open(name))(t)
		got := make([]byte, r.Size())
		if _, err := r.ReadAt(limit(t), got, 0); err != nil {
			t.Fatal(err)
		}
		want := []byte(nil)
		for i := uint64(1); i <= n; i++ {
			want = append(want, piece(i)...)
		}
		rest, whole := bytes.CutPrefix(got, want)
		if !whole || len(rest) > 0 && !bytes.Equal(rest, piece(n+1)) {
			t.Fatalf("stream %s: got %d bytes, want %d of %d appends, and at most the next one", name, len(got), len(want), n)
		}
	}
}

// piece is the content of the append of a number.
func piece(i uint64) []byte { return streamtest.Pattern(i, 1+int(i*i%3000)) }

// TestKillChild is the process that TestKill kills.
func TestKillChild(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		t.Skip("only for TestKill")
	}
	round := os.Getenv("STAMP_TEST_CRASH_ROUND")
	opts := crashOptions
	opts.Dir = dir
	l := streamtest.New(t, opts)
	f := l.Acquire("/a/")
	ctx := context.Background()
	var mu sync.Mutex
	tell := func(x fact) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf("\nFACT %s %s %d %d %d %d.\n", x.kind, x.name, x.seed, x.extent, x.offset, x.length)
	}
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Go(func() {
			name := fmt.Sprintf("/a/log-%s-%d", round, g)
			w := must(f.Create(ctx, name, stream.CreateOptions{Kind: extentstore.CommitLog}))(t)
			for i := uint64(1); ; i++ {
				ok(t, w.Append(ctx, extentstore.NewBlock(piece(i))))
				tell(fact{kind: "append", name: name, seed: i})
			}
		})
	}
	s := must(f.OpenShared(ctx, "/a/data", extentstore.BlobData))(t)
	for g := range 4 {
		wg.Go(func() {
			for i := uint64(g) << 32; ; i++ {
				p := streamtest.Pattern(i, 1+int(i%20_000))
				id, off, err := s.Append(ctx, extentstore.NewBlock(p))
				ok(t, err)
				tell(fact{"shared", "-", i, uint64(id), off, len(p)})
			}
		})
	}
	wg.Go(func() {
		for i := 0; ; i++ {
			name := fmt.Sprintf("/a/file-%s-%d", round, i)
			w := must(f.Create(ctx, name, stream.CreateOptions{Kind: extentstore.RowData}))(t)
			ok(t, w.Append(ctx, extentstore.NewBlock([]byte("some rows"))))
			ok(t, w.Close(ctx))
			ok(t, f.MultiModify(ctx, op(extentstore.OpRename, name, name+"r")))
			tell(fact{kind: "deleted", name: name})
			if i%2 == 0 {
				tell(fact{kind: "created", name: name + "r"})
			} else { // may have taken effect before we could tell
				ok(t, f.MultiModify(ctx, op(extentstore.OpDelete, name+"r", "")))
				tell(fact{kind: "deleted", name: name + "r"})
			}
		}
	})
	wg.Wait()
}
