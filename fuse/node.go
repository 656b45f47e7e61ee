package fuse

import (
	"strings"
	"sync"
	"sync/atomic"

	"stamp"
	"stamp/frontend/file"
)

// A node is a file or directory that the kernel knows. Its place in the tree
// is a parent and a name, so that renaming a directory moves all that lies in
// it.
type node struct {
	id  uint64 // the kernel's name for it; never used again while mounted
	fid file.FileID
	typ file.Type

	// changed is the tick of the mount's last own change of the file, or of
	// a directory's entries. What the service said before it is stale.
	changed atomic.Uint64

	// kernelHas is the Attr.Change of the content that the kernel's page
	// cache holds, the mount's own later writes included; 0 if unknown.
	kernelHas atomic.Uint64

	// life is held while the file is opened, unlinked or closed, so that an
	// unlink knows whether the file is open. It comes before all other locks.
	life    sync.Mutex
	content *content // of a regular file that is open; set under life and tree.mu

	// Guarded by tree.mu.
	parent   *node
	name     string
	children map[string]*node
	lookups  uint64
	lost     file.Ref       // where it was, once it has no parent
	session  file.SessionID // which keeps it although it is unlinked
}

// A tree is the nodes that the kernel knows.
type tree struct {
	root *node

	mu    sync.Mutex // guards the fields below and parts of each node
	nodes map[uint64]*node
	byID  map[file.FileID]*node
	next  uint64
}

func newTree() *tree {
	root := &node{id: 1, fid: file.RootID, typ: file.Directory, lookups: 1}
	return &tree{
		root:  root,
		nodes: map[uint64]*node{1: root},
		byID:  map[file.FileID]*node{file.RootID: root},
		next:  2,
	}
}

// get finds a node by the kernel's name for it.
func (t *tree) get(id uint64) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.nodes[id]
}

// child finds the node that the kernel knows under a name, or nil.
func (t *tree) child(dir *node, name string) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	return dir.children[name]
}

// enter returns the node for what the service has found under a name, makes
// it if the kernel does not know it, and counts one lookup.
func (t *tree) enter(dir *node, name string, a *file.Attr) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.byID[a.ID]
	if have := dir.children[name]; a.Type == file.Directory && have != nil && have.typ == file.Directory {
		// A directory is known by its place: one that gets a marker gets another
		// id, and is still the directory of its entries.
		n = have
	}
	if n != nil && n.typ != a.Type { // REST made another kind of file of it
		t.detach(n)
		delete(t.byID, n.fid)
		n = nil
	}
	if n == nil {
		n = &node{id: t.next, fid: a.ID, typ: a.Type}
		t.next++
		t.nodes[n.id] = n
		t.byID[n.fid] = n
	}
	t.place(n, dir, name)
	n.lookups++
	return n
}

// place moves n to a name; whatever was known there has no name any more.
// The caller holds mu.
func (t *tree) place(n, dir *node, name string) {
	if n.parent == dir && n.name == name && n.session == 0 {
		return
	}
	if old := dir.children[name]; old != nil && old != n {
		t.detach(old)
	}
	if n.parent != nil {
		delete(n.parent.children, n.name)
	}
	was := n.parent
	n.parent, n.name, n.session = dir, name, 0
	if dir.children == nil {
		dir.children = make(map[string]*node)
	}
	dir.children[name] = n
	if was != nil && was != dir {
		t.sweep(was)
	}
}

// move does in the tree what a rename has done at the service.
func (t *tree) move(n, dir *node, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.place(n, dir, name)
}

// unlink takes n's name away; session, unless 0, keeps the file.
func (t *tree) unlink(n *node, session file.SessionID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.detach(n)
	n.session = session
}

// detach takes a node out of its directory. The caller holds mu.
func (t *tree) detach(n *node) {
	if n.parent == nil {
		return
	}
	n.lost = t.refLocked(n)
	delete(n.parent.children, n.name)
	was := n.parent
	n.parent = nil
	t.sweep(was)
}

// forget takes lookups back.
func (t *tree) forget(id, nlookup uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[id]
	if n == nil || n == t.root {
		return
	}
	n.lookups -= min(n.lookups, nlookup)
	t.sweep(n)
}

// sweep drops a node that neither the kernel nor a child needs, and then
// perhaps its parent.
func (t *tree) sweep(n *node) {
	for n != nil && n != t.root && n.lookups == 0 && len(n.children) == 0 && n.content == nil {
		delete(t.nodes, n.id)
		if t.byID[n.fid] == n {
			delete(t.byID, n.fid)
		}
		parent := n.parent
		if parent != nil {
			delete(parent.children, n.name)
			n.lost = t.refLocked(n)
			n.parent = nil
		}
		n = parent
	}
}

// ref is how the service finds the node now.
func (t *tree) ref(n *node) file.Ref {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.refLocked(n)
}

func (t *tree) refLocked(n *node) file.Ref {
	if n == t.root {
		return file.Ref{ID: file.RootID}
	}
	if n.parent == nil {
		r := n.lost
		r.ID, r.Session = n.fid, n.session
		return r
	}
	size := -1
	for p := n; p.parent != nil; p = p.parent {
		size += len(p.name) + 1
	}
	path := make([]byte, size)
	p := n
	for i := size; ; {
		i -= len(p.name)
		copy(path[i:], p.name)
		if p = p.parent; p.parent == nil {
			break
		}
		i--
		path[i] = '/'
	}
	if p != t.root { // lies in a directory that is gone
		r := t.refLocked(p)
		r.Name = join(r.Name, string(path))
		r.ID, r.Session = n.fid, 0
		return r
	}
	return split(string(path), n.fid)
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

func split(path string, id file.FileID) file.Ref {
	for i := range len(path) {
		if path[i] == '/' {
			return file.Ref{Container: path[:i], Name: path[i+1:], ID: id}
		}
	}
	return file.Ref{Container: path, ID: id}
}

// unlinked reports whether n has no name any more.
func (t *tree) unlinked(n *node) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return n.parent == nil && n != t.root
}

// all returns the nodes for which keep is true.
func (t *tree) all(keep func(*node) bool) []*node {
	t.mu.Lock()
	defer t.mu.Unlock()
	var found []*node
	for _, n := range t.nodes {
		if keep(n) {
			found = append(found, n)
		}
	}
	return found
}

// setContent changes what n has open. The caller holds n.life.
func (t *tree) setContent(n *node, c *content) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.content = c
	if c == nil {
		t.sweep(n)
	}
}

// open returns what n has open, or nil.
func (t *tree) open(n *node) *content {
	t.mu.Lock()
	defer t.mu.Unlock()
	return n.content
}

// errStale is for a node that the kernel should not know any more.
func errStale(id uint64) error {
	return stamp.Errorf(stamp.Stale, "fuse", "node %d is gone", id)
}

// find returns the node that the kernel knows under a path, or nil.
func (t *tree) find(ref file.Ref) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.root.children[ref.Container]
	for rest := ref.Name; n != nil && rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		n = n.children[name]
	}
	return n
}
