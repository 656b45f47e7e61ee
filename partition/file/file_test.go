package file

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"stamp"
	"stamp/partition/blob"
	"stamp/partition/partitiontest"
	"stamp/partition/rangestore"
	"stamp/partition/schema"
)

const account = "acct"

var (
	ctx = context.Background()
	box = Ref{Container: "box"}
)

type stand struct {
	*Service
	table *partitiontest.Table
}

func open(t testing.TB, opts Options) *stand {
	t.Helper()
	s := &stand{table: partitiontest.Open(t, partitiontest.Options{Clock: opts.Clock})}
	s.open(t, opts)
	s.mkdir(t, box)
	return s
}

func (s *stand) open(t testing.TB, opts Options) {
	t.Helper()
	opts.Blobs, opts.Range = s.table.Blobs, s.table.Range
	f, err := Open(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Service = f
	t.Cleanup(func() { f.Close() })
}

func (s *stand) make(t testing.TB, r Ref, typ Type) Attr {
	t.Helper()
	dir, name := r.Parent()
	a, _, err := s.Create(ctx, account, CreateRequest{Parent: dir, Name: name, Type: typ, Mode: 0o755, Exclusive: true})
	if err != nil {
		t.Fatalf("create %s: %v", r, err)
	}
	return a
}

func (s *stand) mkdir(t testing.TB, r Ref) Attr { t.Helper(); return s.make(t, r, Directory) }

// names lists a directory and all below it.
func (s *stand) names(t testing.TB, dir Ref) map[string]FileID {
	t.Helper()
	all := map[string]FileID{}
	var walk func(Ref)
	walk = func(dir Ref) {
		after := ""
		for {
			entries, next, err := s.List(ctx, account, dir, after, 7)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				r := dir.Child(e.Name)
				if _, twice := all[r.Name]; twice {
					t.Errorf("%s is listed twice", r)
				}
				all[r.Name] = e.Attr.ID
				if e.Attr.Type == Directory {
					walk(r)
				}
			}
			if next == "" {
				return
			}
			after = next
		}
	}
	walk(dir)
	return all
}

func TestRenameInSteps(t *testing.T) {
	s := open(t, Options{})
	dir, to := box.Child("dir"), box.Child("to")
	s.mkdir(t, dir)
	want := map[string]FileID{"to": 0}
	for i := range 50 {
		sub := dir.Child(fmt.Sprint("sub", i%5))
		if i < 5 {
			want["to/sub"+fmt.Sprint(i)] = s.mkdir(t, sub).ID
		}
		f := sub.Child(fmt.Sprint("f", i))
		want["to"+f.Name[len("dir"):]] = s.make(t, f, Regular).ID
	}
	check := func() {
		t.Helper()
		got := s.names(t, box)
		delete(got, "dir")
		for name, id := range want {
			if name == "to" {
				continue
			}
			if got[name] != id {
				t.Errorf("%s has id %d, want %d", name, got[name], id)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%d names, want %d", len(got), len(want))
		}
	}
	s.renameRows = 7
	req := RenameRequest{From: dir, To: to}
	if _, err := s.Rename(ctx, account, req); err != nil {
		t.Fatal(err)
	}
	check()

	// To and fro, with a crash after the first step of the way back.
	if _, err := s.Rename(ctx, account, RenameRequest{From: to, To: dir}); err != nil {
		t.Fatal(err)
	}
	_, more, err := s.renameFirst(ctx, account, req)
	if err != nil || !more {
		t.Fatalf("first step: %v, more %v", err, more)
	}
	s.Close()
	s.table.Reopen(t)
	s.open(t, Options{})
	check()
	err = s.rows.View(ctx, func(v *rangestore.Snapshot) error {
		return each(v, schema.RenamesPrefix(), func(key, _ []byte) error {
			t.Errorf("a rename is still noted under %x", key)
			return nil
		})
	})
	if err != nil {
		t.Error(err)
	}
}

// TestMadeBetweenTheSteps puts blobs over REST under both names of a directory
// that is being renamed. None of them may be lost, and the newer stands.
func TestMadeBetweenTheSteps(t *testing.T) {
	s := open(t, Options{})
	dir, to := box.Child("dir"), box.Child("to")
	s.mkdir(t, dir)
	for i := range 20 {
		s.make(t, dir.Child(fmt.Sprint("f", 10+i)), Regular)
	}
	s.renameRows = 7
	req := RenameRequest{From: dir, To: to}
	if _, more, err := s.renameFirst(ctx, account, req); err != nil || !more {
		t.Fatalf("first step: %v, more %v", err, more)
	}
	want := map[string]string{
		"to/f29":  "new, not moved yet", // the old one comes later
		"dir/f10": "old name, moved already",
		"dir/new": "old name",
	}
	for name, text := range want {
		_, err := s.blobs.PutBlob(ctx, &blob.PutBlobRequest{
			Ref: blob.Ref{Account: account, Container: box.Container, Name: name}, Bits: []byte(text),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.moveRest(ctx, account, box.Container, dir.Name, to.Name); err != nil {
		t.Fatal(err)
	}
	for name, text := range want {
		name = strings.Replace(name, "dir/", "to/", 1)
		b, err := s.blobs.GetBlob(ctx, blob.Ref{Account: account, Container: box.Container, Name: name}, blob.Conditions{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if bits, _ := b.Content.Bits(); string(bits) != text {
			t.Errorf("%s holds %q, want %q", name, bits, text)
		}
	}
	if got := s.names(t, box); len(got) != 22 {
		t.Errorf("%d names, want 22: %v", len(got), got)
	}
}

func TestSessionRunsOut(t *testing.T) {
	clock := newClock()
	s := open(t, Options{Clock: clock, Lease: time.Minute})
	session, lease, err := s.OpenSession(ctx, account)
	if err != nil || lease != time.Minute {
		t.Fatalf("lease %v, %v", lease, err)
	}
	keep := func(name string) Ref {
		r := box.Child(name)
		r.ID = s.make(t, r, Regular).ID
		if kept, err := s.Remove(ctx, account, RemoveRequest{Ref: r, Keep: session}); err != nil || !kept {
			t.Fatalf("unlink: %v, %v", kept, err)
		}
		r.Session = session
		return r
	}
	f := keep("f")
	clock.move(50 * time.Second)
	if err := s.RenewSession(ctx, account, session); err != nil {
		t.Fatal(err)
	}
	clock.move(50 * time.Second)
	if _, err := s.GetAttr(ctx, account, f); err != nil {
		t.Errorf("an unlinked file of a session that was renewed: %v", err)
	}

	// A restart gives a fresh lease.
	s.Close()
	s.table.Reopen(t)
	s.open(t, Options{Clock: clock, Lease: time.Minute})
	clock.move(50 * time.Second)
	if err := s.RenewSession(ctx, account, session); err != nil {
		t.Errorf("renew after a restart: %v", err)
	}
	if err := s.RenewSession(ctx, "other", session); stamp.KindOf(err) != stamp.NotFound {
		t.Errorf("another account renewed the session: %v", err)
	}
	clock.move(61 * time.Second)
	deadline := time.Now().Add(5 * time.Second)
	for {
		clock.move(20 * time.Second)
		_, err := s.GetAttr(ctx, account, f)
		if stamp.KindOf(err) == stamp.Stale && err != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the file of a session that has run out: %v", err)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestRequestsAreForgotten(t *testing.T) {
	clock := newClock()
	s := open(t, Options{Clock: clock})
	id := RequestID{1}
	req := CreateRequest{Parent: box, Name: "a", Exclusive: true, Request: id}
	if _, _, err := s.Create(ctx, account, req); err != nil {
		t.Fatal(err)
	}
	clock.move(RequestTime - time.Second)
	if err := s.forgetRequests(ctx); err != nil {
		t.Fatal(err)
	}
	if _, created, err := s.Create(ctx, account, req); err != nil || !created {
		t.Errorf("repeated in time: %v, %v", created, err)
	}
	clock.move(2 * time.Second)
	if err := s.forgetRequests(ctx); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Create(ctx, account, req); stamp.KindOf(err) != stamp.Exists {
		t.Errorf("repeated too late: %v, want Exists", err)
	}
}

func TestLiveBytesFollowOrphans(t *testing.T) {
	s := open(t, Options{})
	session, _, err := s.OpenSession(ctx, account)
	if err != nil {
		t.Fatal(err)
	}
	r := box.Child("f")
	r.ID = s.make(t, r, Regular).ID
	fill := func(r Ref) {
		u, err := s.NewUpload(ctx, account, r)
		if err != nil {
			t.Fatal(err)
		}
		p, err := u.Append(ctx, make([]byte, 1<<20))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(ctx, account, CommitRequest{Ref: r, Edits: []Edit{{Length: 1 << 20, Piece: p}}}); err != nil {
			t.Fatal(err)
		}
		u.Close()
	}
	fill(r)
	g := box.Child("g")
	g.ID = s.make(t, g, Regular).ID
	fill(g)
	if got := s.live(t); got != 2<<20 {
		t.Fatalf("live bytes %d, want 2 MiB", got)
	}
	if done, err := s.Rename(ctx, account, RenameRequest{From: g, To: r, Keep: session}); err != nil || !done.Kept {
		t.Fatalf("rename over an open file: %+v, %v", done, err)
	}
	if got := s.live(t); got != 2<<20 {
		t.Errorf("live bytes after the rename %d, want 2 MiB", got)
	}
	r.Session = session
	fill(r) // overwrites the orphan
	if got := s.live(t); got != 2<<20 {
		t.Errorf("live bytes after writing to the orphan %d, want 2 MiB", got)
	}
	if err := s.CloseSession(ctx, account, session); err != nil {
		t.Fatal(err)
	}
	if got := s.live(t); got != 1<<20 {
		t.Errorf("live bytes after the session %d, want 1 MiB", got)
	}
	if _, err := s.Remove(ctx, account, RemoveRequest{Ref: box.Child("f")}); err != nil {
		t.Fatal(err)
	}
	if got := s.live(t); got != 0 {
		t.Errorf("live bytes at the end %d, want 0", got)
	}
}

// live sums up the live bytes of all extents.
func (s *stand) live(t testing.TB) (sum int64) {
	t.Helper()
	err := s.rows.View(ctx, func(v *rangestore.Snapshot) error {
		return each(v, []byte{schema.TableLive}, func(_, value []byte) error {
			n, err := rangestore.DecodeSum(value)
			sum += n
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

func TestUploadsAreGivenUp(t *testing.T) {
	s := open(t, Options{})
	u, err := s.NewUpload(ctx, account, box.Child("f"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := u.Append(ctx, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	u.Close()
	if err := s.ReadPiece(ctx, account, p, 0, make([]byte, 1)); err == nil {
		t.Error("a piece outlived its upload")
	}
	if _, err := u.Append(ctx, []byte("x")); err == nil {
		t.Error("appended to a closed upload")
	}
	if n := s.pieces.bytes(); n != 0 {
		t.Errorf("%d bytes are still waiting", n)
	}
}

func TestBlobWithoutIDKeepsOneNumber(t *testing.T) {
	s := open(t, Options{})
	if _, err := s.blobs.PutBlob(ctx, &blob.PutBlobRequest{Ref: blob.Ref{Account: account, Container: "box", Name: "a"}, Bits: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	a, err := s.GetAttr(ctx, account, box.Child("a"))
	if err != nil || a.ID == 0 || a.ID&(containerBit|virtualBit) != 0 {
		t.Fatalf("id %d, %v", a.ID, err)
	}
	if _, err := s.blobs.PutBlob(ctx, &blob.PutBlobRequest{Ref: blob.Ref{Account: account, Container: "box", Name: "a"}, Bits: []byte("2")}); err != nil {
		t.Fatal(err)
	}
	b, err := s.GetAttr(ctx, account, box.Child("a"))
	if err != nil || b.ID != a.ID || b.Change == a.Change {
		t.Errorf("overwritten: %+v, was %+v, %v", b, a, err)
	}
}
