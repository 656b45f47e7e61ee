package wire

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
)

var update = flag.Bool("update", false, "write golden files that are missing")

// intern is for tests.
func intern(p []byte) extentstore.DiskID { return extentstore.DiskID(p) }

var someSpec = extentstore.ExtentSpec{ID: 0x0102030405060708, Replicas: []extentstore.DiskID{"en1/d2", "en2/d1", "en3"}, Kind: extentstore.BlobData, Target: 1 << 30}

var someFragments = extentstore.Fragments{Code: extentstore.RS63, First: 77, Length: 1 << 20, Places: []extentstore.DiskID{"a", "b/c"}}

// requests has one of each type.
func requests() []request {
	big := bytes.Repeat([]byte("0123456789abcdef"), 70_000/16+1)[:70_000]
	blocks := []extentstore.Block{extentstore.NewBlock([]byte("hello")), extentstore.NewBlock(big), extentstore.NewBlock([]byte{0})}
	r := func(kind byte) request { return request{kind: kind, disk: "en1/d2", extent: 0x1122334455667788} }
	create, pull := r(typeCreate), r(typePull)
	create.extent, create.spec = 0, someSpec
	pull.extent, pull.spec, pull.length, pull.disks = 0, someSpec, 4096, []extentstore.DiskID{"en2/d1", "en4"}
	app, rep, read, seal, list, sum := r(typeAppend), r(typeReplicate), r(typeRead), r(typeSeal), r(typeList), r(typeSum)
	app.blocks, app.remaining = blocks, 1500*time.Millisecond
	rep.blocks, rep.offset, rep.class = blocks[:1], 1<<40, extentstore.Repair
	read.offset, read.length, read.class = 123456789, 65536, extentstore.Scrub
	seal.length, list.length, sum.length = 1<<33, 1000, 5
	encode, reconstruct := r(typeEncode), r(typeReconstruct)
	encode.length, encode.fragments = 99, someFragments
	reconstruct.length, reconstruct.fragments, reconstruct.index = 99, someFragments, 8
	trash := r(typeTrash)
	trash.length = 500
	disk := r(typeDisk)
	disk.extent = 0
	return []request{
		create, app, rep, read, r(typeClose), seal, r(typeDelete), r(typeStat), list, r(typeVerify), disk, sum, pull, encode, reconstruct,
		trash, r(typeRestore),
	}
}

// results has an answer for each type that answers with something.
func results() map[byte]result {
	state := extentstore.ReplicaState{ID: 0x1122334455667788, Length: 1 << 33, Closed: true, Doubtful: true}
	return map[byte]result{
		typeCreate: {}, typeAppend: {offset: 1 << 35}, typeReplicate: {}, typeRead: {sum: 0xdeadbeef}, typeClose: {state: state}, typeSeal: {},
		typeDelete: {}, typeStat: {state: extentstore.ReplicaState{ID: 1, Sealed: true, Absent: true}}, typeVerify: {state: state},
		typeList: {states: []extentstore.ReplicaState{state, {ID: 5}}},
		typeDisk: {disk: extentstore.DiskState{Capacity: 1 << 40, Free: 1 << 39, Reserve: 1 << 30, Failed: "it hangs", Trash: 1 << 33, Foreign: 2}}, typeSum: {sum: 7},
		typePull: {}, typeEncode: {}, typeReconstruct: {}, typeRestore: {},
		typeTrash: {trash: []extentstore.Trashed{{ID: 9, Kind: extentstore.BlobData, Length: 1 << 30, Dropped: time.Unix(1_800_000_000, 0)}, {ID: 10, Dropped: time.Unix(0, 0)}}},
	}
}

var (
	someHello   = hello{lowest: 1, highest: 3, features: 5, stamp: "11111111-2222-4333-8444-555555555555", client: "ps1", node: "en1"}
	someWelcome = welcome{version: 1, features: 4, stamp: "11111111-2222-4333-8444-555555555555", node: "en1", appends: 1 << 26, reads: 1 << 25, calls: 1024}
	someError   = &stamp.Error{Op: "node.Append", What: "extent 0000000000000001 is closed", Kind: stamp.Sealed}
)

// TestGolden pins the bytes of version 1 as it is now: trash and restore, and
// two more fields of a disk, were added to it.
func TestGolden(t *testing.T) {
	var lines []string
	add := func(name string, frame []byte) { lines = append(lines, name+" "+hex.EncodeToString(frame)) }
	add("hello", someHello.encode())
	add("welcome", someWelcome.encode())
	add("failed-hello", encodeFailed(nil, 0, someError))
	for _, kind := range []byte{typePing, typePong} {
		add(fmt.Sprint("signal-", kind), signal(kind).head)
	}
	cancel := begin(nil)
	finish(cancel, typeCancel, 9, 0)
	add("cancel", cancel)
	for i, r := range requests() {
		add("request-"+names[r.kind], r.encode(nil, uint64(i+1)))
		s := results()[r.kind]
		add("done-"+names[r.kind], s.encode(nil, r.kind, uint64(i+1), 0))
	}
	add("failed", encodeFailed(nil, 1<<40, someError))
	got := strings.Join(lines, "\n") + "\n"
	const file = "testdata/frames-v1-trash.golden"
	want, err := os.ReadFile(file)
	if *update && os.IsNotExist(err) {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Fatalf("frames of version 1 have changed:\ngot\n%s\nwant\n%s", got, want)
	}
}

// TestOldGolden reads the frames of version 1 as it was at first.
func TestOldGolden(t *testing.T) {
	b, err := os.ReadFile("testdata/frames-v1.golden")
	if err != nil {
		t.Fatal(err)
	}
	old := map[string][]byte{}
	for line := range strings.Lines(string(b)) {
		name, digits, _ := strings.Cut(strings.TrimSpace(line), " ")
		if old[name], err = hex.DecodeString(digits); err != nil {
			t.Fatal(err)
		}
	}
	seen := 0
	for i, r := range requests() {
		frame, ok := old["request-"+names[r.kind]]
		if !ok {
			continue // it is of later
		}
		seen++
		if !bytes.Equal(frame, r.encode(nil, uint64(i+1))) {
			t.Errorf("a request to %s has changed", names[r.kind])
		}
		want := results()[r.kind]
		want.disk.Trash, want.disk.Foreign = 0, 0
		var got result
		if _, meta := parse(t, old["done-"+names[r.kind]]); got.decode(r.kind, meta) != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("the old answer to %s: got %+v, want %+v", names[r.kind], got, want)
		}
	}
	if seen != 15 {
		t.Errorf("%d types of requests, want the 15 of old", seen)
	}
}

// parse takes a frame apart as a receiver does.
func parse(t testing.TB, frame []byte) (header, []byte) {
	t.Helper()
	h, err := parseHeader(frame[:headerSize])
	if err != nil {
		t.Fatal(err)
	}
	meta := frame[headerSize:]
	if len(meta) != h.meta {
		t.Fatalf("%d bytes of meta, the header says %d", len(meta), h.meta)
	}
	if err := h.checkMeta(meta); err != nil {
		t.Fatal(err)
	}
	return h, meta
}

// bare is a request without what belongs to decoding, and without payload.
func bare(r request) request {
	r.sizes, r.sums = nil, nil
	blocks := r.blocks
	r.blocks = nil
	for _, b := range blocks {
		r.blocks = append(r.blocks, extentstore.Block{Sums: b.Sums})
	}
	return r
}

func TestRequests(t *testing.T) {
	for i, want := range requests() {
		frame := want.encode(nil, uint64(i))
		h, meta := parse(t, frame)
		if h.kind != want.kind || h.call != uint64(i) || h.payload != want.payload() {
			t.Errorf("%s: header %+v", names[want.kind], h)
		}
		var got request
		if err := got.decode(h.kind, meta, h.payload, intern); err != nil {
			t.Errorf("%s: %v", names[want.kind], err)
			continue
		}
		if !reflect.DeepEqual(bare(got), bare(want)) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", names[want.kind], bare(got), bare(want))
		}
		// A later version may add fields; an earlier end is an error.
		if err := got.decode(h.kind, append(bytes.Clone(meta), 1, 2, 3), h.payload, intern); err != nil {
			t.Errorf("%s with fields of a later version: %v", names[want.kind], err)
		}
		for n := range meta {
			if err := got.decode(h.kind, meta[:n], h.payload, intern); err == nil {
				t.Errorf("%s is taken when cut at %d of %d", names[want.kind], n, len(meta))
				break
			}
		}
		if err := got.decode(h.kind, meta, h.payload+1, intern); err == nil {
			t.Errorf("%s is taken with one byte of payload too many", names[want.kind])
		}
	}
	var r request
	if err := r.decode(200, make([]byte, 100), 0, intern); stamp.KindOf(err) != stamp.Unsupported {
		t.Errorf("an unknown type: %v", err)
	}
}

func TestResults(t *testing.T) {
	for kind, want := range results() {
		h, meta := parse(t, want.encode(nil, kind, 3, 0))
		var got result
		if err := got.decode(kind, meta); err != nil || h.kind != typeDone {
			t.Errorf("%s: %v", names[kind], err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", names[kind], got, want)
		}
		for n := range meta {
			if kind == typeDisk && n == len(meta)-16 {
				continue // that is how it was at first
			}
			if err := got.decode(kind, meta[:n]); err == nil {
				t.Errorf("%s is taken when cut at %d of %d", names[kind], n, len(meta))
				break
			}
		}
	}
	_, meta := parse(t, encodeFailed(nil, 1, someError))
	if got, err := decodeFailed(meta); err != nil || !reflect.DeepEqual(got, error(someError)) {
		t.Errorf("got %v, %v", got, err)
	}
	long := &stamp.Error{Op: strings.Repeat("o", 1000), What: strings.Repeat("w", 1<<20), Kind: stamp.Busy}
	_, meta = parse(t, encodeFailed(nil, 1, long))
	if got, err := decodeFailed(meta); err != nil || stamp.KindOf(got) != stamp.Busy || len(got.Error()) > 3000 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestMicros(t *testing.T) {
	for d, want := range map[time.Duration]uint32{
		0: 0, -time.Second: 1, 1: 1, time.Microsecond: 1, time.Second: 1e6, 71 * time.Minute: 71 * 60e6, 2 * time.Hour: 0,
	} {
		if got := micros(d); got != want {
			t.Errorf("%v: got %d, want %d", d, got, want)
		}
	}
}

func FuzzHeader(f *testing.F) {
	f.Add(signal(typePing).head)
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) < headerSize {
			return
		}
		h, err := parseHeader(p[:headerSize])
		if err == nil && (h.meta > maxMeta || h.payload > maxPayload) {
			t.Fatalf("taken: %+v", h)
		}
	})
}

func FuzzRequest(f *testing.F) {
	for _, r := range requests() {
		_, meta := parse(f, r.encode(nil, 1))
		f.Add(r.kind, meta, r.payload())
		r.term = 1 << 40
		_, meta = parse(f, r.encode(nil, 1))
		f.Add(r.kind, meta, r.payload())
	}
	f.Fuzz(func(t *testing.T, kind byte, meta []byte, payload int) {
		if payload < 0 || payload > maxPayload || len(meta) > maxMeta {
			return
		}
		var r request
		if r.decode(kind, meta, payload, intern) != nil {
			return
		}
		total := 0
		for i, n := range r.sizes {
			if len(r.blocks[i].Sums) != sumsOf(n) {
				t.Fatalf("block %d of %d bytes has %d checksums", i, n, len(r.blocks[i].Sums))
			}
			total += n
			r.blocks[i].Payload = make([]byte, n)
		}
		if total != payload {
			t.Fatalf("blocks of %d bytes, payload of %d", total, payload)
		}
		if err := r.check(); err != nil && (kind == typeAppend || kind == typeReplicate) {
			t.Fatalf("what is taken could not be sent: %v", err)
		}
		h, again := parse(t, r.encode(nil, 1))
		var back request
		if err := back.decode(h.kind, again, h.payload, intern); err != nil || !reflect.DeepEqual(bare(back), bare(r)) {
			t.Fatalf("%v\ngot  %+v\nwant %+v", err, bare(back), bare(r))
		}
	})
}

func FuzzResult(f *testing.F) {
	for kind, s := range results() {
		_, meta := parse(f, s.encode(nil, kind, 1, 0))
		f.Add(kind, meta)
	}
	f.Fuzz(func(t *testing.T, kind byte, meta []byte) {
		var s, back result
		if len(meta) > maxMeta-4096 || s.decode(kind, meta) != nil {
			return
		}
		s.disk.Failed = s.disk.Failed[:min(len(s.disk.Failed), maxText)]
		_, again := parse(t, s.encode(nil, kind, 1, 0))
		if err := back.decode(kind, again); err != nil || !reflect.DeepEqual(back, s) {
			t.Fatalf("%v: got %+v, want %+v", err, back, s)
		}
	})
}

func FuzzGreeting(f *testing.F) {
	_, meta := parse(f, someHello.encode())
	f.Add(meta)
	_, meta = parse(f, someWelcome.encode())
	f.Add(meta)
	_, meta = parse(f, encodeFailed(nil, 0, someError))
	f.Add(meta)
	f.Fuzz(func(t *testing.T, meta []byte) {
		var h, h2 hello
		if h.decode(meta) == nil {
			_, again := parse(t, h.encode())
			if err := h2.decode(again); err != nil || h != h2 {
				t.Fatalf("%v: got %+v, want %+v", err, h2, h)
			}
		}
		var w, w2 welcome
		if w.decode(meta) == nil {
			_, again := parse(t, w.encode())
			if err := w2.decode(again); err != nil || w != w2 {
				t.Fatalf("%v: got %+v, want %+v", err, w2, w)
			}
		}
		if remote, err := decodeFailed(meta); err == nil && remote == nil {
			t.Fatal("an error that is none")
		}
	})
}

// memory is a connection that gives bytes.
type memory struct {
	net.Conn
	io.Reader
}

// Read implements net.Conn.
func (m memory) Read(p []byte) (int, error) { return m.Reader.Read(p) }

// FuzzReceiver reads frames from anything, with the checksums made right so
// that the fuzzer gets behind them.
func FuzzReceiver(f *testing.F) {
	for _, r := range requests()[:3] {
		f.Add(append(r.encode(nil, 1), make([]byte, r.payload())...), true)
	}
	f.Fuzz(func(t *testing.T, p []byte, mend bool) {
		if mend {
			for rest := p; len(rest) >= headerSize; {
				n := int(le.Uint32(rest[16:]))
				if n < 0 || n > len(rest)-headerSize {
					break
				}
				le.PutUint32(rest[24:], extentstore.Checksum(rest[headerSize:headerSize+n]))
				le.PutUint32(rest, extentstore.Checksum(rest[4:headerSize]))
				rest = rest[headerSize+n:]
			}
		}
		in := newReceiver(memory{Reader: bytes.NewReader(p)})
		for {
			h, meta, err := in.next()
			if err != nil {
				return
			}
			var r request
			r.decode(h.kind, meta, h.payload, intern)
			if in.skip(h.payload) != nil {
				return
			}
		}
	})
}

// TestCulprit carries the name of the secondary that an append has failed on. An
// error without one is as it was before there were any.
func TestCulprit(t *testing.T) {
	err := stamp.Errorf(stamp.Unavailable, "node.Append", "extent 7: replica on en3/d1: %w", &extentstore.ReplicaError{Disk: "en3/d1", Err: someError})
	_, meta := parse(t, encodeFailed(nil, 1, err))
	got, malformed := decodeFailed(meta)
	if disk, ok := extentstore.CulpritOf(got); malformed != nil || !ok || disk != "en3/d1" || stamp.KindOf(got) != stamp.Unavailable || got.Error() != err.Error() {
		t.Errorf("got %v of kind %v and %v, want %v", got, stamp.KindOf(got), malformed, err)
	}
	const want = "06656e332f6431"
	if end := hex.EncodeToString(meta[len(meta)-7:]); end != want {
		t.Errorf("the meta ends in %s, want %s", end, want)
	}
	if _, malformed := decodeFailed(meta[:len(meta)-1]); malformed == nil {
		t.Error("a name that is cut off was taken")
	}
}

// TestTerms pins the requests that may carry a term, with one.
func TestTerms(t *testing.T) {
	var lines []string
	for i, want := range requests() {
		switch want.kind {
		case typeDelete, typeList, typePull, typeReconstruct:
		default:
			continue
		}
		want.term = 0x0102030405060708
		frame := want.encode(nil, uint64(i+1))
		lines = append(lines, "request-"+names[want.kind]+" "+hex.EncodeToString(frame)+"\n")
		h, meta := parse(t, frame)
		var got request
		if err := got.decode(h.kind, append(bytes.Clone(meta), 1, 2, 3), 0, intern); err != nil || !reflect.DeepEqual(bare(got), bare(want)) {
			t.Errorf("%s: got %+v and %v, want %+v", names[want.kind], bare(got), err, bare(want))
		}
	}
	const file = "testdata/frames-v1-term.golden"
	if *update {
		if _, err := os.Stat(file); os.IsNotExist(err) {
			if err := os.WriteFile(file, []byte(strings.Join(lines, "")), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	golden, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(lines, ""); got != string(golden) {
		t.Fatalf("got\n%s\nwant\n%s", got, golden)
	}
}
