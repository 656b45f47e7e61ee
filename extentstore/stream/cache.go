package stream

import (
	"sync"

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
