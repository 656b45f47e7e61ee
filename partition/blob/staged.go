package blob

import (
	"bytes"
	"context"
	"strings"
	"sync"

	"stamp"
	"stamp/partition/rangestore"
	"stamp/partition/schema"
	"stamp/partition/segment"
)

// staged keeps, of blobs with uncommitted blocks, how many there are and how
// long their ids are, so that Put Block need not count them. It is a cache:
// what is not in it is counted from the rows.
//
// It also keeps which blobs may have uncommitted blocks at all, so that Put
// Blob of one that has none need not look. That set is never too small: it is
// read from the rows at Open, Put Block adds to it before it commits, and a
// blob leaves it only when its blocks are known to be gone.
type staged struct {
	mu    sync.Mutex // guards the fields below and what they point to
	blobs map[string]*stagedBlob

	maybe    map[string]uint64 // by object: the count of changes when it was last added
	changes  uint64
	overflow bool // too many to keep: any blob may have some
}

type stagedBlob struct {
	n        int // blocks committed to the table or on their way there
	idLen    int // of every id; meaningless if n is 0
	inFlight int // Put Blocks that will call done
}

const (
	maxStaged = 10_000    // blobs in the cache
	maxMaybe  = 1_000_000 // blobs in the set
)

// load fills the set.
func (st *staged) load(ctx context.Context, r *rangestore.Range) error {
	return r.View(ctx, func(v *rangestore.Snapshot) error {
		it, err := v.Iter([]byte{schema.TableStaged}, []byte{schema.TableStaged + 1})
		if err != nil {
			return err
		}
		defer it.Close()
		for ok := it.First(); ok && !st.overflow; ok = it.Next() {
			st.mark(string(it.Key()[1:]))
		}
		return it.Error()
	})
}

// mark adds a blob to the set, before the commit of a block of its.
func (st *staged) mark(object string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.maybe) >= maxMaybe {
		st.overflow, st.maybe = true, nil
	}
	if !st.overflow {
		st.changes++
		st.maybe[object] = st.changes
	}
}

// has reports whether a blob may have uncommitted blocks. The stamp is for
// unmark.
func (st *staged) has(object []byte) (maybe bool, stamp uint64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	stamp, maybe = st.maybe[string(object)]
	return maybe || st.overflow, stamp
}

// unmark takes a blob out of the set whose blocks have been gone for certain
// since has returned the stamp, unless it was added again.
func (st *staged) unmark(object []byte, stamp uint64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.maybe[string(object)] == stamp {
		delete(st.maybe, string(object))
	}
}

// unmarkAll takes all blobs of a container out that is gone.
func (st *staged) unmarkAll(prefix []byte) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for object := range st.maybe {
		if strings.HasPrefix(object, string(prefix)) {
			delete(st.maybe, object)
		}
	}
}

// add admits one more block. It is called under the read latch of the blob;
// count counts the rows and tells the length of their ids.
func (st *staged) add(object string, idLen int, isNew bool, count func() (n, idLen int, err error)) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	b := st.blobs[object]
	if b == nil {
		st.mu.Unlock()
		n, length, err := count()
		st.mu.Lock()
		if err != nil {
			return err
		}
		if b = st.blobs[object]; b == nil {
			st.evict()
			b = &stagedBlob{n: n, idLen: length}
			st.blobs[object] = b
		}
	}
	if b.n > 0 && b.idLen != idLen {
		return stamp.Errorf(stamp.InvalidBlockID, "blob.PutBlock", "block id of %d bytes, those before have %d", idLen, b.idLen)
	}
	if isNew && b.n >= MaxUncommittedBlocks {
		return stamp.Errorf(stamp.BlockCountExceeds, "blob.PutBlock", "the blob has %d uncommitted blocks", b.n)
	}
	b.idLen = idLen
	b.inFlight++
	if isNew {
		b.n++
	}
	return nil
}

// done ends what add began.
func (st *staged) done(object string, wasNew, committed bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	b := st.blobs[object]
	if b == nil {
		return
	}
	b.inFlight--
	if wasNew && !committed {
		b.n--
	}
}

// evict makes room. A blob with Put Blocks under way stays.
func (st *staged) evict() {
	for k, b := range st.blobs {
		if len(st.blobs) < maxStaged {
			return
		}
		if b.inFlight == 0 {
			delete(st.blobs, k)
		}
	}
}

// forget is called under the write latch of the blob, when nothing is under
// way.
func (st *staged) forget(object string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	delete(st.blobs, object)
}

// blocksRange is the range of the keys of a blob's uncommitted blocks.
func blocksRange(object []byte) (lower, upper []byte) {
	lower = append(bytes.Clone(object), schema.SuffixBlock)
	upper = append(bytes.Clone(object), schema.SuffixBlock+1)
	return lower, upper
}

// scanStaged calls fn for the uncommitted blocks of a blob, in order of id.
// The row's segments do not outlive the call.
func scanStaged(r segment.Reader, object []byte, fn func(id string, row *schema.BlockRow) error) error {
	lower, upper := blocksRange(object)
	it, err := r.Iter(lower, upper)
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		var row schema.BlockRow
		if _, err := schema.ParseMessage(it.Value(), &row); err != nil {
			return err
		}
		if err := fn(string(it.Key()[len(lower):]), &row); err != nil {
			return err
		}
	}
	return it.Error()
}

// countStaged counts the uncommitted blocks of a blob.
func countStaged(r segment.Reader, object []byte) (n, idLen int, err error) {
	lower, upper := blocksRange(object)
	it, err := r.Iter(lower, upper)
	if err != nil {
		return 0, 0, err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		n, idLen = n+1, len(it.Key())-len(lower)
	}
	return n, idLen, it.Error()
}

// discardStaged removes the uncommitted blocks of the blob, under its write
// latch.
func (ch *change) discardStaged() error {
	maybe, mark := ch.s.staged.has(ch.object)
	if !maybe {
		return nil
	}
	ch.unmark, ch.mark = true, mark
	key := schema.StagedKey(ch.object)
	_, found, err := ch.tx.Get(key)
	if err != nil || !found {
		return err
	}
	err = scanStaged(ch.tx, ch.object, func(_ string, row *schema.BlockRow) error {
		l, err := segment.Decode(row.Segments, nil, 0)
		if err != nil {
			return err
		}
		ch.lives().Add(l, -1)
		return nil
	})
	if err != nil {
		return err
	}
	return ch.forgetStaged(key)
}

// forgetStaged removes the rows of uncommitted blocks without touching live
// bytes.
func (ch *change) forgetStaged(key []byte) error {
	ch.s.staged.forget(string(ch.object))
	lower, upper := blocksRange(ch.object)
	if err := ch.tx.DeleteRange(lower, upper); err != nil {
		return err
	}
	return ch.tx.Delete(key)
}

func putStaged(tx *rangestore.Tx, object []byte, now int64) error {
	v, err := schema.AppendMessage(nil, &schema.StagedRow{Modified: now}, 0)
	if err != nil {
		return err
	}
	return tx.Set(schema.StagedKey(object), v)
}
