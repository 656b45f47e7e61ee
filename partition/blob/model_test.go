package blob

import (
	"bytes"
	"context"
	"encoding/base64"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"stamp"
	"stamp/partition/schema"
)

// modelBlob is what a blob should be.
type modelBlob struct {
	exists bool
	data   []byte
	etag   ETag
	md     string
	blocks []committedBlock // with the blobs' data in order
	staged map[string][]byte
}

type model struct {
	boxes map[string]map[string]*modelBlob
}

func (m *model) blob(box, name string) *modelBlob {
	b := m.boxes[box][name]
	if b == nil {
		b = &modelBlob{staged: make(map[string][]byte)}
		m.boxes[box][name] = b
	}
	return b
}

func blockID(i int) string { return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%03d", i)) }

var seeds = flag.Int("seeds", 4, "runs of TestRandomOperations")

// TestRandomOperations compares the service with maps in memory, through
// reopening and collecting.
func TestRandomOperations(t *testing.T) {
	const steps = 700
	for seed := range uint64(*seeds) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			w := newWorld(t, func(o *Options) { o.SmallBits = 100 })
			w.data.target = 20_000
			r := &runner{t: t, w: w, rng: rand.New(rand.NewPCG(seed, 7)), m: model{boxes: make(map[string]map[string]*modelBlob)}}
			for i := range steps {
				r.step()
				if i%50 == 49 {
					w.check()
					r.compareAll()
				}
			}
			for name := range maps.Clone(r.m.boxes) {
				if err := w.s.DeleteContainer(context.Background(), "acct", name, Conditions{}); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.s.Collect(context.Background()); err != nil {
				t.Fatal(err)
			}
			rep := w.check()
			if rep.Live != 0 || rep.Blobs != 0 || w.data.stored() != 0 {
				t.Errorf("after deleting everything: %+v, %d bytes stored", rep, w.data.stored())
			}
		})
	}
}

type runner struct {
	t   *testing.T
	w   *world
	rng *rand.Rand
	m   model
}

var (
	boxNames  = []string{"alpha", "beta", "gamma"}
	blobNames = []string{"a", "a/b", "a/c/d", "b", "z\x00y", "ü/ö", "a/c/e"}
)

func (r *runner) step() {
	ctx := context.Background()
	s := r.w.s
	box := boxNames[r.rng.IntN(len(boxNames))]
	ref := Ref{"acct", box, blobNames[r.rng.IntN(len(blobNames))]}
	blobs, boxExists := r.m.boxes[box]
	want := func(err error, kind stamp.Kind) {
		r.t.Helper()
		if kind == stamp.Other && err != nil || kind != stamp.Other && (err == nil || stamp.KindOf(err) != kind) {
			r.t.Fatalf("%v: got %v, want %v", ref, err, kind)
		}
	}
	op := r.rng.IntN(100)
	if !boxExists && op < 80 {
		op = 80
	}
	size := []int{0, 5, 100, 101, 3000, 9000}[r.rng.IntN(6)]
	switch {
	case op < 25:
		p := randomBytes(r.rng, size)
		md := fmt.Sprint(r.rng.IntN(1000))
		wr, err := put(ctx, s, PutBlobRequest{Ref: ref, Metadata: []*schema.Pair{{Name: "k", Value: md}}}, p)
		want(err, stamp.Other)
		old := r.m.blob(box, ref.Name)
		if wr.ETag <= old.etag {
			r.t.Fatalf("ETag %v after %v", wr.ETag, old.etag)
		}
		blobs[ref.Name] = &modelBlob{exists: true, data: p, etag: wr.ETag, md: md, staged: make(map[string][]byte)}
	case op < 40:
		id := blockID(r.rng.IntN(90))
		p := randomBytes(r.rng, 1+size)
		want(putBlock(ctx, s, ref, id, p), stamp.Other)
		r.m.blob(box, ref.Name).staged[id] = p
	case op < 50:
		r.putBlockList(ref)
	case op < 58:
		b := r.m.blob(box, ref.Name)
		err := s.DeleteBlob(ctx, ref, Conditions{})
		if !b.exists {
			want(err, stamp.BlobNotFound)
			break
		}
		want(err, stamp.Other)
		delete(blobs, ref.Name)
	case op < 63:
		b := r.m.blob(box, ref.Name)
		wr, err := s.SetMetadata(ctx, ref, []*schema.Pair{{Name: "k", Value: "new"}}, Conditions{IfMatch: "*"})
		if !b.exists {
			want(err, stamp.BlobNotFound)
			break
		}
		want(err, stamp.Other)
		b.md, b.etag = "new", wr.ETag
	case op < 68:
		b := r.m.blob(box, ref.Name)
		_, err := put(ctx, s, PutBlobRequest{Ref: ref, Conditions: Conditions{IfMatch: (b.etag + 1).String()}}, []byte("x"))
		want(err, stamp.ConditionNotMet)
		if b.exists {
			_, err := put(ctx, s, PutBlobRequest{Ref: ref, Conditions: Conditions{IfNoneMatch: "*"}}, []byte("x"))
			want(err, stamp.BlobExists)
		}
	case op < 80:
		r.compare(ref)
	case op < 88:
		_, err := s.CreateContainer(ctx, &CreateContainerRequest{Account: "acct", Name: box})
		if boxExists {
			want(err, stamp.ContainerExists)
			break
		}
		want(err, stamp.Other)
		r.m.boxes[box] = make(map[string]*modelBlob)
	case op < 90:
		err := s.DeleteContainer(ctx, "acct", box, Conditions{})
		if !boxExists {
			want(err, stamp.ContainerNotFound)
			break
		}
		want(err, stamp.Other)
		delete(r.m.boxes, box)
		_, _, err = get(ctx, s, ref)
		want(err, stamp.ContainerNotFound)
	case op < 92:
		r.w.reopen()
	case op < 95:
		want(s.Collect(ctx), stamp.Other)
	default:
		r.compareList(box)
	}
}

func (r *runner) putBlockList(ref Ref) {
	b := r.m.blob(ref.Container, ref.Name)
	req := &PutBlockListRequest{Ref: ref}
	var data []byte
	var blocks []committedBlock
	ids := slices.Sorted(maps.Keys(b.staged))
	at := int64(0)
	for _, c := range b.blocks { // some of the old ones
		if r.rng.IntN(2) == 0 {
			req.Blocks = append(req.Blocks, BlockRef{ID: c.id, From: Committed})
			data = append(data, b.data[at:at+c.size]...)
			blocks = append(blocks, c)
		}
		at += c.size
	}
	for _, id := range ids {
		for range r.rng.IntN(3) { // some not at all, some twice
			req.Blocks = append(req.Blocks, BlockRef{ID: id, From: Latest})
			data = append(data, b.staged[id]...)
			blocks = append(blocks, committedBlock{id, int64(len(b.staged[id]))})
		}
	}
	if r.rng.IntN(10) == 0 {
		req.Blocks = append(req.Blocks, BlockRef{ID: blockID(999)})
		if _, err := r.w.s.PutBlockList(context.Background(), req); stamp.KindOf(err) != stamp.InvalidBlockList {
			r.t.Fatalf("a list with a missing block: %v", err)
		}
		return
	}
	// A block id that stands twice in the committed list with different
	// contents is looked up as the last; keep the model simple.
	seen := make(map[string]int)
	for _, c := range blocks {
		seen[c.id]++
	}
	for _, c := range b.blocks {
		if seen[c.id] > 0 && b.staged[c.id] != nil {
			return
		}
	}
	wr, err := r.w.s.PutBlockList(context.Background(), req)
	if err != nil {
		r.t.Fatal(err)
	}
	r.m.boxes[ref.Container][ref.Name] = &modelBlob{exists: true, data: data, etag: wr.ETag, blocks: blocks, staged: make(map[string][]byte)}
}

func (r *runner) compare(ref Ref) {
	r.t.Helper()
	ctx := context.Background()
	b := r.m.blob(ref.Container, ref.Name)
	p, got, err := get(ctx, r.w.s, ref)
	if !b.exists {
		if stamp.KindOf(err) != stamp.BlobNotFound {
			r.t.Fatalf("%v: got %v, want BlobNotFound", ref, err)
		}
	} else {
		if err != nil {
			r.t.Fatalf("%v: %v", ref, err)
		}
		md := ""
		if len(got.Metadata) > 0 {
			md = got.Metadata[0].Value
		}
		if !bytes.Equal(p, b.data) || got.ETag != b.etag || md != b.md {
			r.t.Fatalf("%v: got %d bytes, %v, %q, want %d bytes, %v, %q", ref, len(p), got.ETag, md, len(b.data), b.etag, b.md)
		}
		from := r.rng.IntN(len(p) + 1)
		n := r.rng.IntN(len(p) - from + 1)
		var part bytes.Buffer
		if _, err := got.Content.WriteTo(ctx, &part, int64(from), int64(n)); err != nil || !bytes.Equal(part.Bytes(), p[from:from+n]) {
			r.t.Fatalf("%v: range %d+%d: %v", ref, from, n, err)
		}
	}
	list, err := r.w.s.GetBlockList(ctx, ref, Conditions{})
	if !b.exists && len(b.staged) == 0 {
		if stamp.KindOf(err) != stamp.BlobNotFound {
			r.t.Fatalf("%v: block list: got %v, want BlobNotFound", ref, err)
		}
		return
	}
	if err != nil {
		r.t.Fatal(err)
	}
	var committed, uncommitted []Block
	for _, c := range b.blocks {
		committed = append(committed, Block{c.id, c.size})
	}
	for _, id := range slices.Sorted(maps.Keys(b.staged)) {
		uncommitted = append(uncommitted, Block{id, int64(len(b.staged[id]))})
	}
	if d := cmp.Diff(committed, list.Committed); d != "" {
		r.t.Fatalf("%v: committed: %s", ref, d)
	}
	if d := cmp.Diff(uncommitted, list.Uncommitted); d != "" {
		r.t.Fatalf("%v: uncommitted: %s", ref, d)
	}
}

func (r *runner) compareAll() {
	for box := range r.m.boxes {
		for _, name := range blobNames {
			r.compare(Ref{"acct", box, name})
		}
		r.compareList(box)
	}
}

// compareList lists with random options, page by page.
func (r *runner) compareList(box string) {
	r.t.Helper()
	ctx := context.Background()
	req := &ListBlobsRequest{Account: "acct", Container: box, Max: 1 + r.rng.IntN(4), Metadata: true, Uncommitted: r.rng.IntN(2) == 0}
	req.Prefix = []string{"", "a", "a/", "a/c", "z", "nope"}[r.rng.IntN(6)]
	req.Delimiter = []string{"", "/", "\x00", "c/"}[r.rng.IntN(4)]
	var got []string
	for {
		page, err := r.w.s.ListBlobs(ctx, req)
		if _, exists := r.m.boxes[box]; !exists {
			if stamp.KindOf(err) != stamp.ContainerNotFound {
				r.t.Fatalf("%s: got %v, want ContainerNotFound", box, err)
			}
			return
		}
		if err != nil {
			r.t.Fatal(err)
		}
		if len(page.Items) > req.Max {
			r.t.Fatalf("%d items, at most %d wanted", len(page.Items), req.Max)
		}
		for _, it := range page.Items {
			switch {
			case it.Prefix != "":
				got = append(got, "prefix "+it.Prefix)
			case it.Uncommitted:
				got = append(got, "uncommitted "+it.Name)
			default:
				got = append(got, fmt.Sprintf("%s %d %v", it.Name, it.Size, it.ETag))
			}
		}
		if req.Marker = page.NextMarker; req.Marker == "" {
			break
		}
	}
	if want := r.expected(box, req); !slices.Equal(got, want) {
		r.t.Fatalf("list %+v:\n got %q\nwant %q", req, got, want)
	}
}

func (r *runner) expected(box string, req *ListBlobsRequest) []string {
	var want []string
	for _, name := range slices.Sorted(maps.Keys(r.m.boxes[box])) {
		b := r.m.boxes[box][name]
		visible := b.exists || len(b.staged) > 0 && req.Uncommitted
		rest, ok := strings.CutPrefix(name, req.Prefix)
		if !ok || !visible {
			continue
		}
		if i := strings.Index(rest, req.Delimiter); req.Delimiter != "" && i >= 0 {
			p := "prefix " + req.Prefix + rest[:i+len(req.Delimiter)]
			if len(want) == 0 || want[len(want)-1] != p {
				want = append(want, p)
			}
			continue
		}
		if b.exists {
			want = append(want, fmt.Sprintf("%s %d %v", name, len(b.data), b.etag))
		} else {
			want = append(want, "uncommitted "+name)
		}
	}
	return want
}
