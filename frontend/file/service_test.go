package file_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/frontend/file"
	pfile "stamp/partition/file"
	"stamp/partition/partitiontest"
)

const account = "acct"

var key = []byte("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")

// A stand is a file service with what is below it.
type stand struct {
	table  *partitiontest.Table
	files  *pfile.Service
	local  *file.Local
	server *file.Server
	addr   string
}

func open(t testing.TB) *stand {
	t.Helper()
	s := &stand{table: partitiontest.Open(t, partitiontest.Options{Space: func() extentstore.Space {
		return extentstore.Space{Capacity: 1 << 40, Free: 1 << 39}
	}})}
	var err error
	s.files, err = pfile.Open(context.Background(), pfile.Options{Blobs: s.table.Blobs, Range: s.table.Range, Space: func() extentstore.Space {
		return extentstore.Space{Capacity: 1 << 40, Free: 1 << 39}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.files.Close() })
	s.local = file.NewLocal(s.files, account)
	return s
}

// serve starts a server on addr, or on a free port.
func (s *stand) serve(t testing.TB, addr string) {
	t.Helper()
	server, err := file.NewServer(file.ServerOptions{Files: s.files, Keys: func(_ context.Context, a stamp.AccountName) ([][]byte, error) {
		if a != account && a != "other" {
			return nil, stamp.Errorf(stamp.AccountNotFound, "keys", "%s", a)
		}
		return [][]byte{[]byte("the other key"), key}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s.server, s.addr = server, l.Addr().String()
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
}

func (s *stand) dial(t testing.TB) *file.Client {
	t.Helper()
	c, err := file.Dial(context.Background(), file.ClientOptions{Server: s.addr, Account: account, Key: key, Patience: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// both runs a test against the service in process and through gRPC.
func both(t *testing.T, fn func(t *testing.T, s *stand, f file.Service)) {
	t.Run("local", func(t *testing.T) {
		s := open(t)
		fn(t, s, s.local)
	})
	t.Run("grpc", func(t *testing.T) {
		s := open(t)
		s.serve(t, "127.0.0.1:0")
		fn(t, s, s.dial(t))
	})
}

var (
	ctx  = context.Background()
	root = file.Ref{}
	box  = file.Ref{Container: "box"}
)

func create(t testing.TB, f file.Service, parent file.Ref, name string, typ file.Type) (file.Ref, file.Attr) {
	t.Helper()
	a, created, err := f.Create(ctx, file.CreateRequest{Parent: parent, Name: name, Type: typ, Mode: 0o640, UID: 7, GID: 8, Exclusive: true, Target: target(typ)})
	if err != nil || !created {
		t.Fatalf("create %s: %v, created %v", parent.Child(name), err, created)
	}
	r := parent.Child(name)
	r.ID = a.ID
	return r, a
}

func target(typ file.Type) string {
	if typ == file.Symlink {
		return "to/where"
	}
	return ""
}

// put gives a file a content through a commit.
func put(t testing.TB, f file.Service, r file.Ref, content string) file.Attr {
	t.Helper()
	zero := int64(0)
	req := file.CommitRequest{Ref: r, Truncate: &zero}
	if content != "" {
		req.Edits = []file.Edit{{Length: int64(len(content)), Data: []byte(content)}}
	}
	a, err := f.Commit(ctx, req)
	if err != nil {
		t.Fatalf("commit %s: %v", r, err)
	}
	return a
}

func get(t testing.TB, f file.Service, r file.Ref) string {
	t.Helper()
	p := make([]byte, 1<<20)
	n, err := f.Read(ctx, r, 0, p)
	if err != nil {
		t.Fatalf("read %s: %v", r, err)
	}
	return string(p[:n])
}

func wantKind(t testing.TB, err error, want stamp.Kind, what string) {
	t.Helper()
	if err == nil || stamp.KindOf(err) != want {
		t.Errorf("%s: got %v, want kind %v", what, err, want)
	}
}

func names(t testing.TB, f file.Service, dir file.Ref, limit int) []string {
	t.Helper()
	var all []string
	after := ""
	for {
		entries, next, err := f.List(ctx, dir, after, limit)
		if err != nil {
			t.Fatalf("list %s: %v", dir, err)
		}
		for _, e := range entries {
			all = append(all, e.Name)
		}
		if next == "" {
			return all
		}
		after = next
	}
}

func TestNames(t *testing.T) {
	both(t, func(t *testing.T, s *stand, f file.Service) {
		create(t, f, root, "box", file.Directory)
		dir, _ := create(t, f, box, "dir", file.Directory)
		a, attr := create(t, f, dir, "a", file.Regular)
		if attr.Mode != 0o640 || attr.UID != 7 || attr.GID != 8 || attr.Type != file.Regular {
			t.Errorf("new file has %+v", attr)
		}
		link, _ := create(t, f, dir, "link", file.Symlink)
		if got, err := f.Readlink(ctx, link); got != "to/where" || err != nil {
			t.Errorf("readlink: %q, %v", got, err)
		}
		_, _, err := f.Create(ctx, file.CreateRequest{Parent: dir, Name: "a", Exclusive: true})
		wantKind(t, err, stamp.Exists, "create again")
		again, created, err := f.Create(ctx, file.CreateRequest{Parent: dir, Name: "a"})
		if err != nil || created || again.ID != a.ID {
			t.Errorf("create without exclusive: %+v, %v, %v", again, created, err)
		}
		_, _, err = f.Create(ctx, file.CreateRequest{Parent: a, Name: "x"})
		wantKind(t, err, stamp.NotDir, "create in a file")
		_, _, err = f.Create(ctx, file.CreateRequest{Parent: box.Child("nowhere"), Name: "x"})
		wantKind(t, err, stamp.NotFound, "create in nowhere")
		_, err = f.Remove(ctx, file.RemoveRequest{Ref: dir})
		wantKind(t, err, stamp.IsDir, "unlink a directory")
		_, err = f.Remove(ctx, file.RemoveRequest{Ref: a, Directory: true})
		wantKind(t, err, stamp.NotDir, "rmdir a file")
		_, err = f.Remove(ctx, file.RemoveRequest{Ref: dir, Directory: true})
		wantKind(t, err, stamp.NotEmpty, "rmdir a full directory")
		_, err = f.Remove(ctx, file.RemoveRequest{Ref: box, Directory: true})
		wantKind(t, err, stamp.NotEmpty, "rmdir a full container")
		for _, r := range []file.Ref{a, link} {
			if _, err := f.Remove(ctx, file.RemoveRequest{Ref: r}); err != nil {
				t.Error(err)
			}
		}
		_, err = f.GetAttr(ctx, a)
		wantKind(t, err, stamp.Stale, "stat by a stale reference")
		_, err = f.Lookup(ctx, dir, "a")
		wantKind(t, err, stamp.NotFound, "lookup")
		if _, err := f.Remove(ctx, file.RemoveRequest{Ref: dir, Directory: true}); err != nil {
			t.Error(err)
		}
		if _, err := f.Remove(ctx, file.RemoveRequest{Ref: box, Directory: true}); err != nil {
			t.Error(err)
		}
		if got := names(t, f, root, 10); len(got) != 0 {
			t.Errorf("containers left: %v", got)
		}
	})
}

func TestBadNames(t *testing.T) {
	both(t, func(t *testing.T, _ *stand, f file.Service) {
		create(t, f, root, "box", file.Directory)
		for name, want := range map[string]stamp.Kind{
			"":                       stamp.Invalid,
			"..":                     stamp.Invalid,
			"a/b":                    stamp.Invalid,
			"bell\a":                 stamp.Invalid,
			strings.Repeat("x", 256): stamp.NameTooLong,
			strings.Repeat("x", 255): stamp.Other, // fits
			"ünï ☃ %20&=?#\"'<>+~\\": stamp.Other,
		} {
			_, _, err := f.Create(ctx, file.CreateRequest{Parent: box, Name: name, Exclusive: true})
			if stamp.KindOf(err) != want || want == stamp.Other && err != nil {
				t.Errorf("%q: got %v, want kind %v", name, err, want)
			}
		}
		_, _, err := f.Create(ctx, file.CreateRequest{Parent: root, Name: "Not_A_Container", Type: file.Directory})
		wantKind(t, err, stamp.Invalid, "mkdir at the top")
		deep := box
		for range 4 {
			deep, _ = create(t, f, deep, strings.Repeat("d", 250), file.Directory)
		}
		_, _, err = f.Create(ctx, file.CreateRequest{Parent: deep, Name: strings.Repeat("e", 50)})
		wantKind(t, err, stamp.NameTooLong, "a path of 1,054 characters")
	})
}

func TestContent(t *testing.T) {
	both(t, func(t *testing.T, s *stand, f file.Service) {
		create(t, f, root, "box", file.Directory)
		r, a := create(t, f, box, "a", file.Regular)
		b := put(t, f, r, "hello, world")
		if b.Size != 12 || b.Change == a.Change {
			t.Errorf("after the commit: %+v", b)
		}
		o, err := f.Open(ctx, r)
		if err != nil || !o.Whole || string(o.Content) != "hello, world" {
			t.Errorf("open: %+v, %v", o, err)
		}
		up, err := f.NewUpload(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		big := make([]byte, 3<<20)
		rand.Read(big)
		piece, err := up.Append(ctx, big)
		if err != nil {
			t.Fatal(err)
		}
		half := make([]byte, 1<<20)
		if err := f.ReadPiece(ctx, piece, 1<<20, half); err != nil || !bytes.Equal(half, big[1<<20:2<<20]) {
			t.Errorf("read a piece: %v", err)
		}
		want := append([]byte("hello"), make([]byte, 4<<20-5)...)
		copy(want[5:], ", w")
		copy(want[1<<20:], big[100:100+2<<20])
		cut, end := int64(8), int64(4<<20)
		at := int64(12345)
		c, err := f.Commit(ctx, file.CommitRequest{Ref: r, Truncate: &cut, Extend: &end,
			Edits: []file.Edit{{Offset: 1 << 20, Length: 2 << 20, Piece: piece, PieceOffset: 100}},
			Set:   file.Set{Mtime: &at}})
		if err != nil || c.Size != end || c.Mtime != at {
			t.Fatalf("commit: %+v, %v", c, err)
		}
		got := make([]byte, 5<<20)
		n, err := f.Read(ctx, r, 0, got)
		if err != nil || !bytes.Equal(got[:n], want) {
			t.Errorf("read %d bytes, %v, want %d the same", n, err, len(want))
		}
		if _, err := f.Commit(ctx, file.CommitRequest{Ref: r, Edits: []file.Edit{{Offset: 0, Length: 10, Piece: piece}}}); err == nil {
			t.Error("a piece was committed twice")
		}
		if err := up.Close(); err != nil {
			t.Error(err)
		}
		stale := r
		stale.ID++
		_, err = f.Commit(ctx, file.CommitRequest{Ref: stale, Extend: &end})
		wantKind(t, err, stamp.Stale, "commit to another file")
		_, err = f.Commit(ctx, file.CommitRequest{Ref: box, Extend: &end})
		wantKind(t, err, stamp.IsDir, "commit content to a directory")
	})
}

func TestAttributesLeaveREST(t *testing.T) {
	both(t, func(t *testing.T, s *stand, f file.Service) {
		create(t, f, root, "box", file.Directory)
		r, _ := create(t, f, box, "a", file.Regular)
		before := put(t, f, r, "x")
		mode, uid, at := uint32(0o4755), uint32(99), int64(1_000_000_000_123_456_789)
		a, err := f.Commit(ctx, file.CommitRequest{Ref: r, Set: file.Set{Mode: &mode, UID: &uid, Mtime: &at, Atime: &at}})
		if err != nil {
			t.Fatal(err)
		}
		if a.Mode != mode || a.UID != uid || a.GID != 8 || a.Mtime != at || a.Atime != at || a.Change != before.Change {
			t.Errorf("set attributes: %+v, was %+v", a, before)
		}
		if got, _ := f.GetAttr(ctx, r); got != a {
			t.Errorf("stat %+v, want %+v", got, a)
		}
		a, err = f.Commit(ctx, file.CommitRequest{Ref: r, Set: file.Set{KillPriv: true}})
		if err != nil || a.Mode != 0o755 {
			t.Errorf("kill privileges: mode %o, %v", a.Mode, err)
		}
		for _, dir := range []file.Ref{box, box.Child("virtual")} {
			if dir.Name != "" {
				put(t, f, must(create(t, f, must(create(t, f, box, "virtual", file.Directory)), "x", file.Regular)), "y")
			}
			a, err := f.Commit(ctx, file.CommitRequest{Ref: dir, Set: file.Set{Mode: &mode, Mtime: &at}})
			if err != nil || a.Mode != mode || a.Mtime != at {
				t.Errorf("%s: %+v, %v", dir, a, err)
			}
			if got, err := f.GetAttr(ctx, dir); err != nil || got.Mode != mode || got.Mtime != at {
				t.Errorf("%s: %+v, %v", dir, got, err)
			}
			create(t, f, dir, "later", file.Regular)
			if got, err := f.GetAttr(ctx, dir); err != nil || got.Mtime == at || got.Mode != mode {
				t.Errorf("%s after a create: %+v, %v", dir, got, err)
			}
		}
	})
}

func must(r file.Ref, _ file.Attr) file.Ref { return r }

func TestXattrs(t *testing.T) {
	both(t, func(t *testing.T, _ *stand, f file.Service) {
		create(t, f, root, "box", file.Directory)
		r, _ := create(t, f, box, "a", file.Regular)
		dir, _ := create(t, f, box, "d", file.Directory)
		for _, r := range []file.Ref{r, dir, box} {
			if err := f.SetXattr(ctx, r, "user.a", []byte("1"), file.XattrAny); err != nil {
				t.Fatal(err)
			}
			wantKind(t, f.SetXattr(ctx, r, "user.a", []byte("2"), file.XattrCreate), stamp.Exists, "create")
			wantKind(t, f.SetXattr(ctx, r, "user.b", []byte("2"), file.XattrReplace), stamp.NotFound, "replace")
			if err := f.SetXattr(ctx, r, "user.empty", []byte{}, file.XattrCreate); err != nil {
				t.Error(err)
			}
			wantKind(t, f.SetXattr(ctx, r, "user.big", make([]byte, 16<<10+1), file.XattrAny), stamp.TooLarge, "a big value")
			all, err := f.Xattrs(ctx, r)
			if err != nil || len(all) != 2 || string(all["user.a"]) != "1" || len(all["user.empty"]) != 0 {
				t.Errorf("%s: %v, %v", r, all, err)
			}
			if err := f.SetXattr(ctx, r, "user.a", nil, file.XattrReplace); err != nil {
				t.Error(err)
			}
			wantKind(t, f.SetXattr(ctx, r, "user.a", nil, file.XattrReplace), stamp.NotFound, "remove again")
		}
	})
}

func TestRename(t *testing.T) {
	both(t, func(t *testing.T, s *stand, f file.Service) {
		create(t, f, root, "box", file.Directory)
		dir, _ := create(t, f, box, "dir", file.Directory)
		a, _ := create(t, f, dir, "a", file.Regular)
		put(t, f, a, "content of a")
		b, _ := create(t, f, box, "b", file.Regular)
		put(t, f, b, "content of b")
		_, err := f.Rename(ctx, file.RenameRequest{From: a, To: b, NoReplace: true})
		wantKind(t, err, stamp.Exists, "no replace")
		done, err := f.Rename(ctx, file.RenameRequest{From: a, To: b})
		if err != nil || done.Replaced != b.ID || done.Kept {
			t.Fatalf("replace: %+v, %v", done, err)
		}
		b.ID = a.ID
		if got := get(t, f, b); got != "content of a" {
			t.Errorf("after the rename: %q", got)
		}
		_, err = f.Rename(ctx, file.RenameRequest{From: b, To: dir})
		wantKind(t, err, stamp.IsDir, "file over directory")
		_, err = f.Rename(ctx, file.RenameRequest{From: dir, To: b})
		wantKind(t, err, stamp.NotDir, "directory over file")
		_, err = f.Rename(ctx, file.RenameRequest{From: dir, To: dir.Child("in")})
		wantKind(t, err, stamp.Loop, "directory into itself")
		_, err = f.Rename(ctx, file.RenameRequest{From: b, To: box.Child("no").Child("where")})
		wantKind(t, err, stamp.NotFound, "into nowhere")

		// A tree with an empty directory, a virtual one, and times to keep.
		sub, _ := create(t, f, dir, "sub", file.Directory)
		create(t, f, sub, "empty", file.Directory)
		put(t, f, must(create(t, f, sub, "f", file.Regular)), "deep")
		at := int64(42)
		if _, err := f.Commit(ctx, file.CommitRequest{Ref: sub, Set: file.Set{Mtime: &at}}); err != nil {
			t.Fatal(err)
		}
		full, _ := create(t, f, box, "full", file.Directory)
		create(t, f, full, "x", file.Regular)
		_, err = f.Rename(ctx, file.RenameRequest{From: dir, To: full})
		wantKind(t, err, stamp.NotEmpty, "over a full directory")
		hole, _ := create(t, f, box, "hole", file.Directory)
		if _, err := f.Rename(ctx, file.RenameRequest{From: dir, To: hole}); err != nil {
			t.Fatal(err)
		}
		moved := hole.Child("sub")
		if got := names(t, f, moved, 10); !slices.Equal(got, []string{"empty", "f"}) {
			t.Errorf("moved directory has %v", got)
		}
		if got := get(t, f, moved.Child("f")); got != "deep" {
			t.Errorf("moved file has %q", got)
		}
		if got, err := f.GetAttr(ctx, moved); err != nil || got.Mtime != at || got.ID != sub.ID {
			t.Errorf("moved directory: %+v, %v, want mtime %d and id %d", got, err, at, sub.ID)
		}
		if _, err := f.GetAttr(ctx, file.Ref{Container: "box", Name: "dir"}); stamp.KindOf(err) != stamp.NotFound {
			t.Errorf("the old name: %v", err)
		}
		if got := names(t, f, box, 10); !slices.Equal(got, []string{"b", "full", "hole"}) {
			t.Errorf("container has %v", got)
		}
	})
}

func TestUnlinkWhileOpen(t *testing.T) {
	both(t, func(t *testing.T, s *stand, f file.Service) {
		create(t, f, root, "box", file.Directory)
		session, _, err := f.OpenSession(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var orphans []file.Ref
		for i := range 3 {
			r, _ := create(t, f, box, fmt.Sprint("f", i), file.Regular)
			put(t, f, r, "still here")
			if i == 0 {
				b, _ := create(t, f, box, "new", file.Regular)
				done, err := f.Rename(ctx, file.RenameRequest{From: b, To: r, Keep: session})
				if err != nil || !done.Kept || done.Replaced != r.ID {
					t.Fatalf("rename over an open file: %+v, %v", done, err)
				}
			} else if kept, err := f.Remove(ctx, file.RemoveRequest{Ref: r, Keep: session}); err != nil || !kept {
				t.Fatalf("unlink an open file: %v, %v", kept, err)
			}
			o := r
			o.Session = session
			if got := get(t, f, o); got != "still here" {
				t.Errorf("read: %q", got)
			}
			put(t, f, o, "and changed")
			if got := get(t, f, o); got != "and changed" {
				t.Errorf("read: %q", got)
			}
			if a, err := f.GetAttr(ctx, o); err != nil || !a.Unlinked {
				t.Errorf("stat: %+v, %v", a, err)
			}
			orphans = append(orphans, o)
		}
		if err := f.Drop(ctx, orphans[0]); err != nil {
			t.Error(err)
		}
		if err := f.Drop(ctx, orphans[0]); err != nil {
			t.Error("dropped twice:", err)
		}
		_, err = f.GetAttr(ctx, orphans[0])
		wantKind(t, err, stamp.Stale, "a dropped file")
		if err := f.CloseSession(ctx, session); err != nil {
			t.Fatal(err)
		}
		for _, o := range orphans[1:] {
			_, err = f.GetAttr(ctx, o)
			wantKind(t, err, stamp.Stale, "after the session")
		}
		wantKind(t, f.RenewSession(ctx, session), stamp.NotFound, "renew an ended session")
		if got := names(t, f, box, 10); !slices.Equal(got, []string{"f0"}) {
			t.Errorf("left: %v", got)
		}
	})
}

func TestListOrderAndPages(t *testing.T) {
	both(t, func(t *testing.T, s *stand, f file.Service) {
		create(t, f, root, "box", file.Directory)
		var want []string
		for i := range 40 {
			name := fmt.Sprintf("n%02d", i)
			typ := file.Regular
			if i%3 == 0 {
				typ = file.Directory
			}
			r, _ := create(t, f, box, name, typ)
			want = append(want, name)
			if typ == file.Directory {
				create(t, f, r, "inside", file.Regular)
				create(t, f, box, name+"-sorts-before-slash", file.Regular)
				want = append(want, name+"-sorts-before-slash")
			}
		}
		for _, limit := range []int{1, 2, 7, 1000} {
			got := names(t, f, box, limit)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("pages of %d: %v, want %v", limit, got, want)
			}
		}
	})
}

func TestRepeatedRequests(t *testing.T) {
	s := open(t)
	f := s.local
	create(t, f, root, "box", file.Directory)
	id := func(i byte) (r file.RequestID) { r[0] = i; return r }
	req := file.CreateRequest{Parent: box, Name: "a", Exclusive: true, Request: id(1)}
	a, created, err := f.Create(ctx, req)
	if err != nil || !created {
		t.Fatal(err)
	}
	b, created, err := f.Create(ctx, req)
	if err != nil || !created || a.ID != b.ID {
		t.Errorf("create again: %+v, %v, %v", b, created, err)
	}
	ren := file.RenameRequest{From: box.Child("a"), To: box.Child("b"), Request: id(2)}
	for range 2 {
		if _, err := f.Rename(ctx, ren); err != nil {
			t.Errorf("rename: %v", err)
		}
	}
	rem := file.RemoveRequest{Ref: box.Child("b"), Request: id(3)}
	for range 2 {
		if _, err := f.Remove(ctx, rem); err != nil {
			t.Errorf("remove: %v", err)
		}
	}
}

func TestServerRestart(t *testing.T) {
	s := open(t)
	s.serve(t, "127.0.0.1:0")
	c := s.dial(t)
	create(t, c, root, "box", file.Directory)
	r, _ := create(t, c, box, "a", file.Regular)
	addr := s.addr
	s.server.Close()
	done := make(chan error, 1)
	go func() {
		_, err := c.Commit(ctx, file.CommitRequest{Ref: r, Edits: []file.Edit{{Length: 1, Data: []byte("x")}}})
		done <- err
	}()
	time.Sleep(100 * time.Millisecond)
	s.serve(t, addr)
	if err := <-done; err != nil {
		t.Fatalf("commit while the server was away: %v", err)
	}
	if got := get(t, c, r); got != "x" {
		t.Errorf("read %q", got)
	}
}

func TestAuthentication(t *testing.T) {
	s := open(t)
	s.serve(t, "127.0.0.1:0")
	dial := func(o file.ClientOptions) error {
		o.Server, o.Patience = s.addr, time.Second
		c, err := file.Dial(ctx, o)
		if err == nil {
			c.Close()
		}
		return err
	}
	if err := dial(file.ClientOptions{Account: account, Key: []byte("the other key")}); err != nil {
		t.Errorf("the second key: %v", err)
	}
	wantKind(t, dial(file.ClientOptions{Account: account, Key: []byte("wrong")}), stamp.Denied, "a wrong key")
	wantKind(t, dial(file.ClientOptions{Account: "nobody", Key: key}), stamp.Denied, "no such account")
	_, err := file.Dial(ctx, file.ClientOptions{Server: "192.0.2.1:1", Account: account, Key: key})
	wantKind(t, err, stamp.Denied, "plain to another machine")

	// An account sees and reaches nothing of another's.
	c := s.dial(t)
	create(t, c, root, "box", file.Directory)
	r, _ := create(t, c, box, "a", file.Regular)
	up, err := c.NewUpload(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	piece, err := up.Append(ctx, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	other := file.NewLocal(s.files, "other")
	if _, err := other.GetAttr(ctx, r); stamp.KindOf(err) != stamp.ContainerNotFound {
		t.Errorf("another account's file: %v", err)
	}
	if err := other.ReadPiece(ctx, piece, 0, make([]byte, 6)); err == nil {
		t.Error("another account's piece was read")
	}
}

func TestWatch(t *testing.T) {
	both(t, func(t *testing.T, s *stand, f file.Service) {
		create(t, f, root, "box", file.Directory)
		me, _, err := f.OpenSession(ctx)
		if err != nil {
			t.Fatal(err)
		}
		wctx, cancel := context.WithCancel(ctx)
		defer cancel()
		seen := make(chan file.Change, 100)
		ended := make(chan error, 1)
		go func() { ended <- f.Watch(wctx, me, func(ch file.Change) { seen <- ch }) }()
		deadline := time.After(5 * time.Second)
		for i := 0; ; i++ { // until the watch has begun
			name := fmt.Sprint("f", i)
			if _, _, err := f.Create(ctx, file.CreateRequest{Parent: box, Name: name, By: me}); err != nil {
				t.Fatal(err)
			}
			if _, _, err := s.local.Create(ctx, file.CreateRequest{Parent: box, Name: "o" + name}); err != nil {
				t.Fatal(err)
			}
			select {
			case ch := <-seen:
				if !strings.HasPrefix(ch.Ref.Name, "o") {
					t.Errorf("told of an own change: %+v", ch)
				}
				cancel()
				if err := <-ended; err == nil || !errors.Is(wctx.Err(), context.Canceled) {
					t.Errorf("watch ended with %v", err)
				}
				return
			case <-deadline:
				t.Fatal("nothing seen")
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
}
