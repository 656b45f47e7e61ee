package powerfs

import (
	"maps"
	"slices"
	"syscall"
)

func sortedNames(m map[string]*inode) []string { return slices.Sorted(maps.Keys(m)) }

func sortedPages(m map[int64]struct{}) []int64 { return slices.Sorted(maps.Keys(m)) }

func cloneNames(m map[string]*inode) map[string]*inode { return maps.Clone(m) }

func (c *content) clone() content {
	return content{size: c.size, pages: maps.Clone(c.pages), xattrs: maps.Clone(c.xattrs)}
}

// cutAt drops all beyond size, also the rest of the page at size.
func (c *content) cutAt(size int64) {
	for i, p := range c.pages {
		if i*pageSize >= size {
			delete(c.pages, i)
		} else if end := size - i*pageSize; end < pageSize {
			short := *p
			clear(short[end:])
			c.pages[i] = &short
		}
	}
}

func (n *inode) read(p []byte, off int64) int {
	if off >= n.live.size {
		return 0
	}
	p = p[:min(int64(len(p)), n.live.size-off)]
	for done := 0; done < len(p); {
		i, at := (off+int64(done))/pageSize, (off+int64(done))%pageSize
		k := min(len(p)-done, int(pageSize-at))
		if pg := n.live.pages[i]; pg != nil {
			copy(p[done:done+k], pg[at:])
		} else {
			clear(p[done : done+k])
		}
		done += k
	}
	return len(p)
}

func (n *inode) write(p []byte, off int64) {
	for done := 0; done < len(p); {
		i, at := (off+int64(done))/pageSize, (off+int64(done))%pageSize
		k := min(len(p)-done, int(pageSize-at))
		n.writePage(i, int(at), p[done:done+k])
		done += k
	}
	n.live.size = max(n.live.size, off+int64(len(p)))
}

func (n *inode) writePage(i int64, at int, p []byte) {
	old := n.live.pages[i]
	n.dirty[i] = struct{}{}
	if len(p) == pageSize && *(*page)(p) == *zeroPage {
		n.live.pages[i] = zeroPage
		return
	}
	pg := old
	if old == nil || old == zeroPage || old == n.durable.pages[i] {
		pg = new(page)
		if old != nil && len(p) < pageSize {
			*pg = *old
		}
		n.live.pages[i] = pg
	}
	copy(pg[at:], p)
}

// sync makes the live content durable.
func (n *inode) sync() {
	for i := range n.dirty {
		n.syncPage(i)
	}
	n.durable.size = n.live.size
	n.durable.xattrs = n.live.xattrs // replaced, never changed
}

// syncRange makes what a write with O_DSYNC has written durable, and with it
// the length, without which it could not be read.
func (n *inode) syncRange(off, length int64) {
	for i := off / pageSize; i*pageSize < off+length; i++ {
		if _, ok := n.dirty[i]; ok {
			n.syncPage(i)
		}
	}
	n.durable.size = max(n.durable.size, off+length)
	if n.live.size < n.durable.size {
		n.durable.size = n.live.size
	}
}

func (n *inode) syncPage(i int64) {
	if p := n.live.pages[i]; p != nil {
		n.durable.pages[i] = p
	} else {
		delete(n.durable.pages, i)
	}
	delete(n.dirty, i)
}

func (n *inode) truncate(size int64) {
	if size < n.live.size {
		n.punch(size, n.live.size-size)
	}
	n.live.size = size
}

// punch makes a range zeros.
func (n *inode) punch(off, length int64) {
	end := min(off+length, (n.live.size+pageSize-1)/pageSize*pageSize)
	for off < end {
		i, at := off/pageSize, off%pageSize
		k := min(end-off, pageSize-at)
		switch old := n.live.pages[i]; {
		case old == nil:
		case k == pageSize:
			delete(n.live.pages, i)
			n.dirty[i] = struct{}{}
		default:
			n.writePage(i, int(at), make([]byte, k))
		}
		off += k
	}
}

// change makes c, live only.
func (n *inode) change(c change) {
	c.apply(n.entries)
	n.changes = append(n.changes, c)
}

// syncNames makes the names of a directory durable.
func (n *inode) syncNames() {
	n.synced = cloneNames(n.entries)
	n.changes = nil
}

func (n *inode) isDir() bool { return n.mode&syscall.S_IFMT == syscall.S_IFDIR }
