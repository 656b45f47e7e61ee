package stream

import (
	"sync"
	"sync/atomic"
	"time"

	"stamp"
	"stamp/extentstore"
)

// infoCache remembers where extents are. Replicas of an extent do not move
// without the readers noticing: a node that has it no longer says NotFound,
// and then the StreamManager is asked again.
type infoCache struct {
	shards [16]struct {
		mu sync.RWMutex
		m  map[extentstore.ExtentID]*extentstore.ExtentInfo
	}
}

const infosPerShard = 8192

func (c *infoCache) get(id extentstore.ExtentID) *extentstore.ExtentInfo {
	s := &c.shards[id%16]
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.m[id]
}

func (c *infoCache) put(info *extentstore.ExtentInfo) {
	s := &c.shards[info.ID%16]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = map[extentstore.ExtentID]*extentstore.ExtentInfo{}
	}
	if len(s.m) >= infosPerShard {
		for id := range s.m { // any one
			delete(s.m, id)
			break
		}
	}
	s.m[info.ID] = info
}

func (c *infoCache) drop(id extentstore.ExtentID) {
	s := &c.shards[id%16]
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.m, id)
}

// health remembers which nodes have failed lately, so that reads begin
// elsewhere.
type health struct {
	turn  atomic.Uint32 // spreads the reads of sealed extents
	nodes sync.Map      // DiskID to *atomic.Int64: unhealthy until, Unix nanoseconds
}

const shunFor = time.Second

func (h *health) failed(id extentstore.DiskID, clock stamp.Clock) {
	v, _ := h.nodes.LoadOrStore(id, &atomic.Int64{})
	v.(*atomic.Int64).Store(clock.Now().Add(shunFor).UnixNano())
}

func (h *health) good(id extentstore.DiskID, clock stamp.Clock) bool {
	v, ok := h.nodes.Load(id)
	if !ok {
		return true
	}
	until := v.(*atomic.Int64)
	if t := until.Load(); t == 0 || clock.Now().UnixNano() < t {
		return t == 0
	}
	until.Store(0)
	return true
}
