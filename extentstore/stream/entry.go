package stream

import (
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"stamp/extentstore"
)

// entry is a stream in memory. Its layout is replaced as a whole, so that
// readers need no lock.
type entry struct {
	kind    extentstore.StreamKind
	created time.Time
	layout  atomic.Pointer[layout]

	mu     sync.Mutex // guards the fields below and changes of layout
	name   string
	gone   bool // deleted or replaced
	shared *Shared
}

// layout says which extent holds which part of a stream. It is never changed.
type layout struct {
	inline []byte
	infos  []extentstore.ExtentInfo
	starts []int64 // offset of each extent in the stream
	sealed int64   // bytes in inline and in sealed extents
	live   *live   // of the last extent if it is not sealed
}

// live is the extent that is being appended to.
type live struct {
	id    extentstore.ExtentID
	acked atomic.Int64
}

// atLeast raises what is acknowledged.
func (l *live) atLeast(n int64) {
	for {
		old := l.acked.Load()
		if n <= old || l.acked.CompareAndSwap(old, n) {
			return
		}
	}
}

func (l *layout) size() int64 {
	if l.live == nil {
		return l.sealed
	}
	return l.sealed + l.live.acked.Load()
}

// find returns the extent that holds an offset below size.
func (l *layout) find(offset int64) int {
	return sort.Search(len(l.starts), func(i int) bool { return l.starts[i] > offset }) - 1
}

func newLayout(inline []byte, infos []extentstore.ExtentInfo, alive *live) *layout {
	l := &layout{inline: inline, infos: infos, starts: make([]int64, len(infos)), sealed: int64(len(inline))}
	for i := range infos {
		l.starts[i] = l.sealed
		if infos[i].Sealed {
			l.sealed += infos[i].Length
			continue
		}
		if alive == nil || alive.id != infos[i].ID {
			alive = &live{id: infos[i].ID}
		}
		l.live = alive
	}
	return l
}

func newEntry(info extentstore.StreamInfo) *entry {
	e := &entry{name: info.Name, kind: info.Kind, created: info.Created}
	e.layout.Store(newLayout(info.Inline, info.Extents, nil))
	return e
}

// set takes over what the StreamManager says. It may have said so before it
// sealed an extent that is known here to be sealed.
func (e *entry) set(info extentstore.StreamInfo) {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.layout.Load()
	infos := slices.Clone(info.Extents)
	if n := len(infos); n > 0 && !infos[n-1].Sealed {
		for i := len(old.infos) - 1; i >= 0; i-- {
			if old.infos[i].ID == infos[n-1].ID && old.infos[i].Sealed {
				infos[n-1].Sealed, infos[n-1].Length = true, old.infos[i].Length
			}
		}
	}
	e.layout.Store(newLayout(info.Inline, infos, old.live))
}

// allocated adds an extent. Like the StreamManager it first drops a last one
// that is empty.
func (e *entry) allocated(info extentstore.ExtentInfo) *live {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.layout.Load()
	infos := old.infos
	if n := len(infos); n > 0 && infos[n-1].Sealed && infos[n-1].Length == 0 {
		infos = infos[:n-1]
	}
	l := newLayout(old.inline, append(slices.Clone(infos), info), nil)
	e.layout.Store(l)
	return l.live
}

// sealed notes the length of the last extent.
func (e *entry) sealed(id extentstore.ExtentID, length int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.layout.Load()
	n := len(old.infos)
	if n == 0 || old.infos[n-1].ID != id || old.infos[n-1].Sealed {
		return
	}
	infos := slices.Clone(old.infos)
	infos[n-1].Sealed, infos[n-1].Length = true, length
	e.layout.Store(newLayout(old.inline, infos, nil))
}

// info describes the stream. The length of an unsealed extent is what has been
// acknowledged.
func (e *entry) info() extentstore.StreamInfo {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.layout.Load()
	info := extentstore.StreamInfo{Name: e.name, Kind: e.kind, Inline: l.inline, Extents: slices.Clone(l.infos), Created: e.created}
	if l.live != nil {
		info.Extents[len(info.Extents)-1].Length = l.live.acked.Load()
	}
	return info
}

func (e *entry) where() (name string, gone bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.name, e.gone
}
