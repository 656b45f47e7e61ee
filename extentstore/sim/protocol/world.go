// Package protocol simulates the protocol of StreamManager and ExtentNodes: the
// decisions of the product (packages replica, sealing, appender and the state
// of manager) under one single-threaded loop of events with a clock, a network
// and disks that one seed drives. The same seed gives the same run, event by
// event.
//
// Where the product goes straight through (manager.Errands, node.Copier) it runs as
// a coroutine of that loop, see course.
//
// What is simulated is what those packages are told, and what becomes of what
// they ask for: journals and files that lose what was not synced, messages that
// are late, lost or repeated, processes that die at any event, a leader of the
// StreamManager that is deposed and does not know it. Package oracle.go holds
// what must be true whatever happens.
package protocol

import (
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/replica"
)

// Options of one run.
type Options struct {
	Seed  uint64
	Steps int          // events before all is healed; 0 means 2500
	Trace func(string) // nil: none
}

// Result of one run.
type Result struct {
	Seed   uint64
	Hash   uint64 // of all that happened
	Events int
	Acked  int // appends that were acknowledged
	Sealed int
	Err    error
	When   time.Duration // on the simulated clock
}

// micros is a time or a span of the simulated clock, in microseconds.
type micros int64

const (
	ms     micros = 1000
	second        = 1000 * ms
)

type event struct {
	at  micros
	seq uint64
	fn  func()
}

// proc is a process: what it has scheduled dies with it.
type proc struct {
	id   int
	name string
	up   bool
	life int
	// stuck: it gets no processor until then, as after SIGSTOP.
	stuck micros
}

// world is one run.
type world struct {
	rng    *rand.Rand
	now    micros
	heap   []event
	seq    uint64
	events int
	hash   uint64
	trace  func(string)
	opts   Options

	procs []*proc
	cut   [][]bool // from, to
	drop  float64
	dup   float64
	slow  float64
	calm  bool // the faults are over
	firm  bool // leaders stay

	nodes   []*node
	disks   []*disk
	members []*proc
	sm      sm
	owners  []*owner
	oracle  oracle
	outs    []replica.Output

	courses []*course
	current *course // the one that runs

	unit      int64 // of the size of appends, in bytes
	coded     bool  // blob data is to be coded
	fragments map[extentstore.ExtentID]bool
	blobs     map[uint64][]byte // content of fragments
	scratch   []byte
}

// violation is what a run ends with when an invariant does not hold.
type violation struct{ error }

func (w *world) fail(invariant, format string, args ...any) {
	panic(violation{fmt.Errorf("%s: %s", invariant, fmt.Sprintf(format, args...))})
}

// note makes something part of the run's hash.
func (w *world) note(what byte, a, b uint64) {
	h := w.hash
	h = (h ^ uint64(what)) * 0x100000001b3
	h = (h ^ a) * 0x100000001b3
	h = (h ^ b) * 0x100000001b3
	w.hash = h ^ h>>29
}

func (w *world) tracef(format string, args ...any) {
	if w.trace != nil {
		w.trace(fmt.Sprintf("%10.3fms ", float64(w.now)/1000) + fmt.Sprintf(format, args...))
	}
}

// chance is true with probability p.
func (w *world) chance(p float64) bool { return p > 0 && w.rng.Float64() < p }

func (w *world) between(lo, hi micros) micros { return lo + micros(w.rng.Int64N(int64(hi-lo)+1)) }

func (w *world) after(d micros, fn func()) {
	w.seq++
	e := event{w.now + d, w.seq, fn}
	h := append(w.heap, e)
	i := len(h) - 1
	for i > 0 {
		p := (i - 1) / 2
		if !e.before(&h[p]) {
			break
		}
		h[i] = h[p]
		i = p
	}
	h[i] = e
	w.heap = h
}

func (e *event) before(o *event) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

func (w *world) next() event {
	h := w.heap
	top := h[0]
	last := len(h) - 1
	e := h[last]
	h[last] = event{}
	h = h[:last]
	i := 0
	for {
		c := 2*i + 1
		if c >= last {
			break
		}
		if c+1 < last && h[c+1].before(&h[c]) {
			c++
		}
		if !h[c].before(&e) {
			break
		}
		h[i] = h[c]
		i = c
	}
	if last > 0 {
		h[i] = e
	}
	w.heap = h
	return top
}

// do schedules something that a process does, unless it dies before.
func (w *world) do(p *proc, d micros, fn func()) {
	life := p.life
	w.after(d, func() {
		if p.life != life || !p.up {
			return
		}
		if p.stuck > w.now {
			w.do(p, p.stuck-w.now, fn)
			return
		}
		fn()
	})
}

func (w *world) newProc(name string) *proc {
	p := &proc{id: len(w.procs), name: name, up: true}
	w.procs = append(w.procs, p)
	return p
}

// resp is the answer to any call.
type resp struct {
	failed bool
	bad    bool // of a poll: the disk has left service
	kind   stamp.Kind
	n      int64
	state  extentstore.ReplicaState
	list   []extentstore.ReplicaState
	pieces []piece
	info   extentstore.ExtentInfo
	infos  []extentstore.StreamInfo
	ids    []extentstore.ExtentID
	epoch  stamp.Epoch
}

func failure(kind stamp.Kind) resp { return resp{failed: true, kind: kind} }

// send brings something from one process to another, or not. once says that
// the transport does not repeat it.
func (w *world) send(from, to *proc, once bool, fn func()) {
	if w.cut[from.id][to.id] || w.chance(w.drop) {
		return
	}
	d := w.between(40, 300)
	if w.chance(w.slow) {
		d += w.between(0, 40*ms)
		if w.chance(0.1) {
			d += w.between(0, 200*ms)
		}
	}
	deliver := func() {
		if to.stuck > w.now {
			w.after(to.stuck-w.now, fn)
			return
		}
		fn()
	}
	w.after(d, deliver)
	if !once && w.chance(w.dup) {
		w.after(d+w.between(0, 20*ms), deliver)
	}
}

// call calls another process. done is told what it answers, or Timeout, or
// Unavailable when it is known not to be there; never twice, and not after the
// caller has died.
func (w *world) call(from, to *proc, timeout micros, once bool, serve func(reply func(resp)), done func(resp)) {
	life, open := from.life, true
	finish := func(r resp) {
		if open && from.life == life && from.up {
			open = false
			w.events++
			done(r)
		}
	}
	w.after(timeout, func() {
		if open {
			finish(failure(stamp.Timeout))
		}
	})
	w.send(from, to, once, func() {
		w.events++
		if !to.up {
			if w.chance(0.8) {
				w.send(to, from, false, func() { finish(failure(stamp.Unavailable)) })
			}
			return
		}
		served := to.life
		serve(func(r resp) {
			if to.up && to.life == served {
				w.send(to, from, false, func() { finish(r) })
			}
		})
	})
}

// Run simulates one seed.
func Run(o Options) (res Result) {
	if o.Steps == 0 {
		o.Steps = 2500
	}
	w := &world{opts: o, trace: o.Trace, hash: 0xcbf29ce484222325}
	w.rng = rand.New(rand.NewPCG(o.Seed, 0x57a317))
	w.fragments, w.blobs = map[extentstore.ExtentID]bool{}, map[uint64][]byte{}
	defer func() {
		defer w.abandon()
		res = Result{Seed: o.Seed, Hash: w.hash, Events: w.events, Acked: w.oracle.acked, Sealed: w.oracle.sealed, When: time.Duration(w.now) * time.Microsecond}
		switch p := recover().(type) {
		case nil:
		case violation:
			res.Err = p.error
		default:
			res.Err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	w.build()
	for w.events < o.Steps && len(w.heap) > 0 {
		w.step()
	}
	w.heal()
	return res
}

func (w *world) step() {
	e := w.next()
	w.now = e.at
	w.note(1, uint64(e.at), e.seq)
	e.fn()
}

// build makes a stamp by the seed.
func (w *world) build() {
	nNodes := 3 + w.rng.IntN(3)
	perNode := 1
	w.unit = 16
	switch {
	case w.chance(0.1): // enough disks for fragments
		nNodes, perNode = 4, 3
		w.unit, w.coded = 16<<10, true
	case w.chance(0.3):
		perNode = 2
	}
	for i := range nNodes {
		w.addNode(i, perNode)
	}
	for i := range 3 {
		w.members = append(w.members, w.newProc(fmt.Sprintf("sm%d", i)))
	}
	nFolders := 1 + w.rng.IntN(2)
	for i := range nFolders * 2 {
		w.addOwner(i, i%nFolders)
	}
	w.cut = make([][]bool, len(w.procs))
	for i := range w.cut {
		w.cut[i] = make([]bool, len(w.procs))
	}
	if !w.chance(0.2) {
		w.drop = 0.02 * w.rng.Float64()
		w.dup = 0.03 * w.rng.Float64()
		w.slow = 0.1 * w.rng.Float64()
	}
	w.oracle.init(w)
	w.sm.init(w)
	for _, o := range w.owners {
		o.start()
	}
	for _, n := range w.nodes {
		n.background()
		for _, d := range n.disks {
			d.reclaim(nil)
		}
	}
	w.nemesis()
}
