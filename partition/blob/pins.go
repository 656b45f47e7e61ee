package blob

import (
	"sync"

	"stamp/extentstore"
)

// pins says which extents hold bits that no row points to yet, because their
// upload is still to be committed. The collector judges none of them.
//
// An append may land in any extent from the current one on; while it is under
// way all of those are pinned, afterwards the one it landed in.
type pins struct {
	mu     sync.Mutex // guards the fields below
	floors map[*Upload]extentstore.ExtentID
	held   map[extentstore.ExtentID]int
}

// begin pins for an append of u. current must be the stream's.
func (p *pins) begin(u *Upload, current func() extentstore.ExtentID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if u.inFlight == 0 {
		p.floors[u] = current()
	}
	u.inFlight++
}

// end notes where an append has landed; 0 if it failed.
func (p *pins) end(u *Upload, id extentstore.ExtentID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if id != 0 && !u.released && !u.pinned[id] {
		if u.pinned == nil {
			u.pinned = make(map[extentstore.ExtentID]bool, 1)
		}
		u.pinned[id] = true
		p.held[id]++
	}
	if u.inFlight--; u.inFlight == 0 {
		delete(p.floors, u)
	}
}

// release drops all pins of an upload whose appends have ended.
func (p *pins) release(u *Upload) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if u.released {
		return
	}
	u.released = true
	for id := range u.pinned {
		if p.held[id]--; p.held[id] == 0 {
			delete(p.held, id)
		}
	}
}

// pinned reports whether bits in the extent may be waiting for their commit.
func (p *pins) has(id extentstore.ExtentID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held[id] > 0 {
		return true
	}
	for _, floor := range p.floors {
		if id >= floor {
			return true
		}
	}
	return false
}
