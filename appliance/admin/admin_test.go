package admin_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stamp"
	"stamp/appliance/admin"
	"stamp/extentstore"
)

// one is a stamp of 2,500 streams named /a/0000 and on, with one extent each.
// The methods that the socket does not call are those of a nil interface.
type one struct{ extentstore.StreamManager }

func (one) Space(context.Context) (extentstore.Space, error) {
	return extentstore.Space{Capacity: 10, Free: 4, Disks: map[extentstore.DiskID]extentstore.DiskState{"dev-1": {Failed: "burnt"}}}, nil
}

func (one) List(_ context.Context, prefix, after string, limit int) (out []extentstore.StreamInfo, err error) {
	for i := 0; i < 2500 && len(out) < limit; i++ {
		if name := fmt.Sprintf("/a/%04d", i); name > after && strings.HasPrefix(name, prefix) {
			out = append(out, extentstore.StreamInfo{Name: name, Kind: extentstore.BlobData})
		}
	}
	return out, nil
}

func (one) Stat(_ context.Context, name string) (extentstore.StreamInfo, error) {
	if name != "/a/0000" {
		return extentstore.StreamInfo{}, stamp.Errorf(stamp.NotFound, "manager.Stat", "stream %s", name)
	}
	return extentstore.StreamInfo{Name: name, Kind: extentstore.BlobData, Extents: []extentstore.ExtentInfo{{ID: 7, Sealed: true, Length: 3 << 20}}}, nil
}

func (one) Extents(_ context.Context, after extentstore.ExtentID, limit int) (out []extentstore.ExtentInfo, err error) {
	for id := after + 1; id <= 2500 && len(out) < limit; id++ {
		out = append(out, extentstore.ExtentInfo{ID: id})
	}
	return out, nil
}

func (one) Extent(_ context.Context, id extentstore.ExtentID) (extentstore.ExtentInfo, error) {
	return extentstore.ExtentInfo{ID: id, Sealed: true, Length: 5, Replicas: []extentstore.DiskID{"dev-1", "dev-2", "dev-3", "dev-4"}}, nil
}

// Node gives nodes of which each has its own trouble.
func (one) Node(id extentstore.DiskID) (extentstore.ExtentNode, error) {
	if id == "dev-4" {
		return nil, stamp.Errorf(stamp.NotFound, "nodes", "no node %s", id)
	}
	return node{id: id}, nil
}

type node struct {
	extentstore.ExtentNode
	id extentstore.DiskID
}

func (n node) Verify(_ context.Context, id extentstore.ExtentID) (extentstore.ReplicaState, error) {
	switch n.id {
	case "dev-2":
		return extentstore.ReplicaState{ID: id, Length: 4}, nil
	case "dev-3":
		return extentstore.ReplicaState{ID: id, Length: 5}, stamp.Errorf(stamp.Corrupt, "node.Verify", "extent %s, offset 2", id)
	}
	return extentstore.ReplicaState{ID: id, Length: 5, Sealed: true}, nil
}

func (one) Length(_ context.Context, name string) (int64, error) {
	_, err := one{}.Stat(context.Background(), name)
	return 3<<20 + 5, err
}

func (one) ReadStream(_ context.Context, _ string, offset int64, p []byte) (int, error) {
	if offset >= 2<<20 {
		return 0, errors.New("the disk is gone")
	}
	for i := range p {
		p[i] = byte(offset + int64(i))
	}
	return len(p), nil
}

type accounts map[stamp.AccountName]admin.Account

func (a accounts) List(context.Context) (out []admin.Account, err error) {
	for _, acc := range a {
		out = append(out, admin.Account{Name: acc.Name})
	}
	return out, nil
}

func (a accounts) Create(_ context.Context, name stamp.AccountName) (admin.Account, error) {
	if _, ok := a[name]; ok {
		return admin.Account{}, stamp.Errorf(stamp.Exists, "account.Create", "account %s", name)
	}
	a[name] = admin.Account{Name: name, Keys: []string{"k1", "k2"}}
	return a[name], nil
}

func (a accounts) Get(_ context.Context, name stamp.AccountName) (admin.Account, error) {
	if acc, ok := a[name]; ok {
		return acc, nil
	}
	return admin.Account{}, stamp.Errorf(stamp.AccountNotFound, "account.Get", "account %s", name)
}

// start serves in a directory whose name is too long for a socket address.
func start(t *testing.T) *admin.Client {
	t.Helper()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 40))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// What a killed process left is replaced.
	if err := os.WriteFile(filepath.Join(dir, admin.SocketName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := admin.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, admin.SocketName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("socket: mode %v, %v; want 0600", info.Mode(), err)
	}
	server := &http.Server{Handler: admin.NewHandler(admin.Options{
		Accounts: accounts{}, Layer: &admin.Local{Manager: one{}, Nodes: one{}, Reader: one{}, Operator: operator{}},
		Status: func() admin.Status { return admin.Status{Version: "v1"} },
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return admin.NewClient(dir)
}

func TestSocket(t *testing.T) {
	ctx, c := context.Background(), start(t)
	st, err := c.Status(ctx)
	if err != nil || st.Version != "v1" || st.Space.Free != 4 || st.Space.Disks["dev-1"] != "burnt" {
		t.Errorf("Status = %+v, %v", st, err)
	}
	if list, err := c.Accounts(ctx); err != nil || len(list) != 0 {
		t.Errorf("Accounts = %v, %v; want none", list, err)
	}
	if a, err := c.CreateAccount(ctx, "alice"); err != nil || len(a.Keys) != 2 {
		t.Errorf("CreateAccount = %v, %v", a, err)
	}
	if _, err := c.CreateAccount(ctx, "alice"); stamp.KindOf(err) != stamp.Exists {
		t.Errorf("CreateAccount again: %v, want Exists", err)
	}
	if _, err := c.Account(ctx, "bob/../x y"); stamp.KindOf(err) != stamp.AccountNotFound && stamp.KindOf(err) != stamp.Unsupported {
		t.Errorf("Account of a strange name: %v, want AccountNotFound or Unsupported", err)
	}
	n := 0
	err = c.Streams(ctx, "/a/1", func(s admin.Stream) error { n++; return nil })
	if err != nil || n != 1000 {
		t.Errorf("Streams of /a/1: %d, %v; want 1000", n, err)
	}
	n = 0
	if err := c.Extents(ctx, func(admin.Extent) error { n++; return nil }); err != nil || n != 2500 {
		t.Errorf("Extents: %d, %v; want 2500", n, err)
	}
	if s, err := c.Stream(ctx, "/a/0000"); err != nil || s.Length != 3<<20+5 || len(s.List) != 1 || s.List[0].ID != "0000000000000007" {
		t.Errorf("Stream = %+v, %v", s, err)
	}
	if _, err := c.Stream(ctx, "/none"); stamp.KindOf(err) != stamp.NotFound {
		t.Errorf("Stream of no name: %v, want NotFound", err)
	}
}

func TestVerify(t *testing.T) {
	reps, err := start(t).Verify(context.Background(), "7")
	if err != nil || len(reps) != 4 {
		t.Fatalf("Verify = %v, %v; want four replicas", reps, err)
	}
	for i, want := range []stamp.Kind{stamp.Other, stamp.Corrupt, stamp.Corrupt, stamp.NotFound} {
		if i == 0 {
			if reps[0].Error != nil {
				t.Errorf("sound replica: %v", reps[0].Error)
			}
		} else if reps[i].Error == nil || reps[i].Error.Kind != want {
			t.Errorf("replica on %s: %+v, want %v", reps[i].Node, reps[i].Error, want)
		}
	}
}

// A stream that cannot be read to its end must not look whole.
func TestContentBreaksOff(t *testing.T) {
	ctx, c := context.Background(), start(t)
	r, err := c.Content(ctx, "/a/0000", 10, 2<<20-10)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	r.Close()
	if err != nil || len(b) != 2<<20-10 || b[0] != 10 {
		t.Errorf("a part: %d bytes, %v; want %d", len(b), err, 2<<20-10)
	}
	if r, err = c.Content(ctx, "/a/0000", 10, math.MaxInt64); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, r); err == nil || n == 0 {
		t.Errorf("more than there is: %d bytes, %v; want some and an error", n, err)
	}
	r.Close()
	r, err = c.Content(ctx, "/a/0000", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n, err := io.Copy(io.Discard, r); err == nil {
		t.Errorf("all of it: %d bytes without an error, want one", n)
	}
	if _, err := c.Content(ctx, "/a/0000", 4<<20, -1); stamp.KindOf(err) != stamp.InvalidRange {
		t.Errorf("past the end: %v, want InvalidRange", err)
	}
}

func TestNobodyThere(t *testing.T) {
	for _, dir := range []string{t.TempDir(), "/nonexistent"} {
		if _, err := admin.NewClient(dir).Status(context.Background()); stamp.KindOf(err) != stamp.Unavailable || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v, want Unavailable with the directory", dir, err)
		}
	}
}

// operator knows one disk, and notes what it is told.
type operator struct{ extentstore.Operator }

var told []string

func (operator) Status(context.Context) (extentstore.Status, error) {
	return extentstore.Status{
		Stamp: "s", Members: []extentstore.Member{{ID: "m1", Address: "a:1", Leader: true}},
		Disks:     []extentstore.DiskStatus{{ID: "dev-1", State: extentstore.DiskFailed, Why: "burnt", Extents: 3}},
		Missing:   []int64{5, 2},
		Tolerates: 1,
		Policies:  map[extentstore.StreamKind]extentstore.Code{extentstore.BlobData: extentstore.LRC1222},
	}, nil
}

func (operator) Repair(_ context.Context, id extentstore.ExtentID) ([]string, error) {
	return []string{"extent " + id.String() + " had a bad day"}, nil
}

func (operator) Drain(_ context.Context, what string, on bool) error {
	told = append(told, fmt.Sprint("drain ", what, " ", on))
	return nil
}

func (operator) SetPolicy(_ context.Context, kind extentstore.StreamKind, code extentstore.Code) error {
	told = append(told, fmt.Sprint("policy ", kind, " ", code))
	return nil
}

func (operator) AddMember(_ context.Context, m extentstore.Member) error {
	told = append(told, fmt.Sprint("add ", m.ID, " ", m.Address))
	return nil
}

func (operator) RemoveMember(_ context.Context, id string) error {
	return stamp.Errorf(stamp.NotFound, "manager.RemoveMember", "no member %s", id)
}

func TestOperator(t *testing.T) {
	ctx, c := context.Background(), start(t)
	told = nil
	l, err := c.Layer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Disks) != 1 || l.Disks[0].Why != "burnt" || l.Missing[1] != 2 || l.Free != 4 || l.Policies["blobdata"] != "lrc-12-2-2" || l.Policies["commitlog"] != "none" {
		t.Errorf("Layer = %+v", l)
	}
	if found, err := c.Repair(ctx, "7"); err != nil || len(found) != 1 {
		t.Errorf("Repair = %v, %v", found, err)
	}
	if p, err := c.Where(ctx, "7"); err != nil || len(p) != 4 || p[0].Condition != "failed" || p[0].Why != "burnt" {
		t.Errorf("Where = %+v, %v", p, err)
	}
	for _, err := range []error{c.Drain(ctx, "en1/d1", true), c.SetPolicy(ctx, "rowdata", "rs-6-3"), c.AddMember(ctx, "m4", "h:7")} {
		if err != nil {
			t.Error(err)
		}
	}
	if got, want := strings.Join(told, "; "), "drain en1/d1 true; policy rowdata rs-6-3; add m4 h:7"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	if err := c.SetPolicy(ctx, "rowdata", "raid"); stamp.KindOf(err) != stamp.Invalid {
		t.Errorf("no such code: %v, want Invalid", err)
	}
	if err := c.SetPolicy(ctx, "fragment", "none"); stamp.KindOf(err) != stamp.Invalid {
		t.Errorf("no such kind: %v, want Invalid", err)
	}
	if err := c.RemoveMember(ctx, "m9"); stamp.KindOf(err) != stamp.NotFound {
		t.Errorf("no such member: %v, want NotFound", err)
	}
}
