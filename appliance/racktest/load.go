package racktest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"

	"stamp"
	"stamp/appliance/stamptest"
	"stamp/extentstore"
	"stamp/extentstore/stream"
)

// LoadOptions says what is written. The zero value of a field is usable.
type LoadOptions struct {
	Seed    uint64
	Folder  string // of the streams, with a slash at the end; "" means /load/
	Writers int    // sole appenders, each of a stream of its own; 0 means 24
	Shared  int    // appenders of two streams that they share; 0 means 8
	Large   int    // bytes of the largest append, mostly they are smaller; 0 means 256 KiB
	Budget  int64  // bytes after which appends get small, so that disks last; 0 means 256 MiB
}

// stopGrace is how long an append may take to end when the load is stopped.
const stopGrace = time.Minute

// record is an append that was acknowledged.
type record struct {
	extent extentstore.ExtentID // of a shared stream
	offset int64                // in the stream of a sole appender, in the extent of a shared one
	n      int
	sum    uint64
}

// writer is one appender. While it runs only its own goroutine uses what is not
// guarded.
type writer struct {
	name   string // of its stream
	sole   bool
	rng    *rand.Rand
	append func(ctx context.Context, b extentstore.Block) (extentstore.ExtentID, int64, error)
	at     int64 // of a sole appender: bytes acknowledged

	mu  sync.Mutex // guards log
	log []record

	lastAck atomic.Int64 // Unix nanoseconds
	failed  atomic.Int64 // when an attempt failed after which none was acknowledged yet, or 0
	stall   time.Duration
}

// A Load is writers at work.
type Load struct {
	rack    *Rack
	opts    LoadOptions
	client  *stream.Client
	pace    *stamptest.Pace
	unpace  sync.Once // closes pace
	writers []*writer
	folders []*stream.Folder
	stop    atomic.Bool
	ctx     context.Context // of the appends
	cancel  context.CancelFunc
	work    sync.WaitGroup
	bytes   atomic.Int64
	acks    atomic.Int64

	mu         sync.Mutex // guards the fields below
	errs       []error
	pauses     []time.Duration
	seals      []time.Duration
	extensions []time.Duration
	appends    []time.Duration
	noticed    []time.Duration
	reasons    map[string]int // of attempts that failed
}

// Load starts writers. Check, after Stop, looks for what they wrote.
func (r *Rack) Load(opts LoadOptions) *Load {
	r.t.Helper()
	if opts.Writers == 0 {
		opts.Writers = 24
	}
	if opts.Shared == 0 {
		opts.Shared = 8
	}
	if opts.Folder == "" {
		opts.Folder = "/load/"
	}
	if opts.Large == 0 {
		opts.Large = 256 << 10
	}
	if opts.Budget == 0 {
		opts.Budget = 256 << 20
	}
	l := &Load{rack: r, opts: opts, pace: stamptest.NewPace(), reasons: map[string]int{}}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	remote := r.Client()
	var err error
	l.client, err = stream.New(stream.Options{
		Manager: watchedManager{remote.Manager, l}, Nodes: watched{remote.Nodes, l}, ExtentTarget: extentTarget(r.opts.ExtentSize),
	})
	if err == nil {
		err = l.open()
	}
	if err != nil {
		r.t.Fatalf("begin to write: %v", err)
	}
	for _, w := range l.writers {
		w.lastAck.Store(time.Now().UnixNano())
		l.work.Go(func() { l.run(w) })
	}
	return l
}

// open makes the streams.
func (l *Load) open() error {
	ctx, cancel := context.WithTimeout(l.ctx, 30*time.Second)
	defer cancel()
	for i := range l.opts.Writers {
		w := l.writer(i, fmt.Sprintf("%sw%02d/log", l.opts.Folder, i), true)
		f, err := l.client.Acquire(ctx, fmt.Sprintf("%sw%02d/", l.opts.Folder, i), 0)
		if err != nil {
			return err
		}
		l.folders = append(l.folders, f)
		kind := []extentstore.StreamKind{extentstore.CommitLog, extentstore.RowData, extentstore.BlobData}[i%3]
		sole, err := f.Create(ctx, w.name, stream.CreateOptions{Kind: kind})
		if err != nil {
			return err
		}
		w.append = func(ctx context.Context, b extentstore.Block) (extentstore.ExtentID, int64, error) {
			return 0, 0, sole.Append(ctx, b)
		}
	}
	if l.opts.Shared <= 0 {
		return nil
	}
	f, err := l.client.Acquire(ctx, l.opts.Folder+"shared/", 0)
	if err != nil {
		return err
	}
	l.folders = append(l.folders, f)
	for i := range l.opts.Shared {
		w := l.writer(l.opts.Writers+i, fmt.Sprintf("%sshared/%d", l.opts.Folder, i%2), false)
		s, err := f.OpenShared(ctx, w.name, extentstore.BlobData)
		if err != nil {
			return err
		}
		w.append = func(ctx context.Context, b extentstore.Block) (extentstore.ExtentID, int64, error) {
			return s.Append(ctx, b)
		}
	}
	return nil
}

func (l *Load) writer(i int, name string, sole bool) *writer {
	w := &writer{name: name, sole: sole, rng: rand.New(rand.NewPCG(l.opts.Seed, uint64(i)))}
	l.writers = append(l.writers, w)
	return w
}

// run appends until the load is stopped.
func (l *Load) run(w *writer) {
	ctx := context.WithValue(l.ctx, writerKey{}, w)
	for seq := uint64(0); !l.stop.Load(); seq++ {
		l.pace.Wait()
		p := w.payload(seq, l.size(w))
		b := extentstore.NewBlock(p)
		id, at, err := w.append(ctx, b)
		now := time.Now()
		switch {
		case err == nil:
		case stamp.KindOf(err) == stamp.Full:
			w.failed.Store(0) // it was refused: nothing is to be acknowledged
			continue
		default:
			l.report(fmt.Errorf("%s, append %d of %d bytes: %w", w.name, seq, len(p), err))
			return
		}
		r := record{extent: id, offset: at, n: len(p), sum: xxhash.Sum64(p)}
		if w.sole {
			r.offset = w.at
			w.at += int64(len(p))
		}
		w.mu.Lock()
		w.log = append(w.log, r)
		w.mu.Unlock()
		l.acks.Add(1)
		l.bytes.Add(int64(len(p)))
		gap := now.Sub(time.Unix(0, w.lastAck.Swap(now.UnixNano())))
		w.stall = max(w.stall, gap)
	}
}

// size is mostly small, with a few up to the largest.
func (l *Load) size(w *writer) int {
	limit := []int{512, 4 << 10, 4 << 10, 16 << 10, 64 << 10, l.opts.Large}[w.rng.IntN(6)]
	if l.bytes.Load() > l.opts.Budget {
		limit = 256
	}
	return 24 + w.rng.IntN(limit)
}

// payload makes bytes that say whose they are.
func (w *writer) payload(seq uint64, n int) []byte {
	p := make([]byte, n)
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], w.rng.Uint64())
	rand.NewChaCha8(seed).Read(p)
	copy(p, w.name[len(w.name)-8:])
	binary.LittleEndian.PutUint64(p[8:], seq)
	return p
}

func (l *Load) report(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errs = append(l.errs, err)
}

// Stop ends the load. It returns what went wrong with appends that had to
// succeed, and what an append that does not end waits for. A second Stop
// returns the same.
func (l *Load) Stop() error {
	l.stop.Store(true)
	grace, cancel := patience(stopGrace)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		l.work.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-grace.Done():
		var hang []string
		for _, w := range l.writers {
			if since := time.Since(time.Unix(0, w.lastAck.Load())); since > stopGrace {
				hang = append(hang, fmt.Sprintf("%s for %v", w.name, since.Round(time.Second)))
			}
		}
		l.report(fmt.Errorf("appends do not end: %v", hang))
		l.cancel()
		<-ended
	}
	l.cancel()
	l.unpace.Do(l.pace.Close)
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.errs...)
}

// Resumed waits until every writer has had an append acknowledged that began
// after now.
func (l *Load) Resumed(within time.Duration) error {
	began := time.Now()
	ctx, cancel := patience(within)
	defer cancel()
	for {
		var late []string
		for _, w := range l.writers {
			if w.lastAck.Load() < began.UnixNano() {
				late = append(late, w.name)
			}
		}
		l.mu.Lock()
		err := errors.Join(l.errs...)
		l.mu.Unlock()
		switch {
		case err != nil:
			return err
		case len(late) == 0:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("no acknowledged append within %v: %v", within, late)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Delete removes the streams. The load has been stopped.
func (l *Load) Delete(ctx context.Context) error {
	names := map[string]*stream.Folder{}
	for _, w := range l.writers {
		for _, f := range l.folders {
			if strings.HasPrefix(w.name, f.Name()) {
				names[w.name] = f
			}
		}
	}
	for name, f := range names {
		if err := f.MultiModify(ctx, extentstore.Op{Kind: extentstore.OpDelete, Name: name}); err != nil {
			return fmt.Errorf("delete %s: %w", name, err)
		}
	}
	return nil
}

// Acks is the number of appends acknowledged so far.
func (l *Load) Acks() int64 { return l.acks.Load() }

// Report is how a load went, from a moment on.
type Report struct {
	Acks, Bytes int64
	Spans
	// Stall is the longest time between two acknowledged appends of a writer,
	// the wait for the error included.
	Stall   time.Duration
	Reasons map[string]int // attempts that failed, by kind
}

// Spans are times of a load.
type Spans struct {
	// Pauses are the times from an attempt's error to the next acknowledged
	// append of the same writer.
	Pauses Times
	// Noticed are the times until those attempts failed.
	Noticed Times
	// Seals and Extensions are the StreamManager's calls, in pauses and without.
	Seals, Extensions Times
	// Appends are the attempts that succeeded, in pauses and without.
	Appends Times
}

// Times sums up durations.
type Times struct {
	N                    int
	P50, P99, Mean, Most time.Duration
}

func newTimes(all []time.Duration) Times {
	t := Times{N: len(all)}
	if t.N == 0 {
		return t
	}
	all = slices.Sorted(slices.Values(all))
	var sum time.Duration
	for _, d := range all {
		sum += d
	}
	t.Mean = sum / time.Duration(t.N)
	t.P50, t.P99, t.Most = all[t.N/2], all[min(t.N*99/100, t.N-1)], all[t.N-1]
	return t
}

// String writes p50, p99, mean and the longest.
func (t Times) String() string {
	ms := func(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
	return fmt.Sprintf("%d (p50 %v, p99 %v, mean %v, longest %v)", t.N, ms(t.P50), ms(t.P99), ms(t.Mean), ms(t.Most))
}

// mark is a moment of a load.
type mark struct{ pauses, noticed, seals, extensions, appends int }

func (l *Load) mark() mark {
	l.mu.Lock()
	defer l.mu.Unlock()
	return mark{len(l.pauses), len(l.noticed), len(l.seals), len(l.extensions), len(l.appends)}
}

// since tells of the time since a moment.
func (l *Load) since(m mark) Spans {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Spans{
		Pauses: newTimes(l.pauses[m.pauses:]), Noticed: newTimes(l.noticed[m.noticed:]), Seals: newTimes(l.seals[m.seals:]),
		Extensions: newTimes(l.extensions[m.extensions:]), Appends: newTimes(l.appends[m.appends:]),
	}
}

// pausesSince lists the pauses since a moment.
func (l *Load) pausesSince(m mark) []time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.pauses[m.pauses:])
}

// Report sums up the load. Call it after Stop.
func (l *Load) Report() Report {
	r := Report{Acks: l.acks.Load(), Bytes: l.bytes.Load(), Reasons: l.reasons, Spans: l.since(mark{})}
	for _, w := range l.writers {
		r.Stall = max(r.Stall, w.stall)
	}
	return r
}

func (r Report) String() string {
	return fmt.Sprintf("%d appends of %d MiB acknowledged; pauses from an error to the next acknowledged append: %v; longest stall %v; seals %v; extensions %v; errors %v",
		r.Acks, r.Bytes>>20, r.Pauses, r.Stall.Round(time.Millisecond), r.Seals, r.Extensions, r.Reasons)
}

// watchedManager measures what a new extent costs.
type watchedManager struct {
	extentstore.StreamManager
	load *Load
}

// Seal implements extentstore.StreamManager.
func (m watchedManager) Seal(ctx context.Context, id extentstore.ExtentID, at int64) (int64, error) {
	began := time.Now()
	length, err := m.StreamManager.Seal(ctx, id, at)
	m.load.mu.Lock()
	m.load.seals = append(m.load.seals, time.Since(began))
	m.load.mu.Unlock()
	return length, err
}

// ReportDamage hands on what the client tells of replicas.
func (m watchedManager) ReportDamage(id extentstore.ExtentID, on extentstore.DiskID) {
	if to, ok := m.StreamManager.(interface {
		ReportDamage(extentstore.ExtentID, extentstore.DiskID)
	}); ok {
		to.ReportDamage(id, on)
	}
}

// Extend implements extentstore.StreamManager.
func (m watchedManager) Extend(ctx context.Context, x extentstore.Extension) (extentstore.Extended, error) {
	began := time.Now()
	out, err := m.StreamManager.Extend(ctx, x)
	m.load.mu.Lock()
	m.load.extensions = append(m.load.extensions, time.Since(began))
	m.load.mu.Unlock()
	return out, err
}

// writerKey finds the writer in the context of an append.
type writerKey struct{}

// watched sees what the attempts of appends come to: the client heals them and
// says nothing.
type watched struct {
	extentstore.Nodes
	load *Load
}

// Node implements extentstore.Nodes.
func (w watched) Node(id extentstore.DiskID) (extentstore.ExtentNode, error) {
	n, err := w.Nodes.Node(id)
	if err != nil {
		return nil, err
	}
	return watchedNode{n, w.load}, nil
}

type watchedNode struct {
	extentstore.ExtentNode
	load *Load
}

// Append implements extentstore.ExtentNode.
func (n watchedNode) Append(ctx context.Context, id extentstore.ExtentID, blocks []extentstore.Block) (int64, error) {
	began := time.Now()
	at, err := n.ExtentNode.Append(ctx, id, blocks)
	w, _ := ctx.Value(writerKey{}).(*writer)
	if w == nil {
		return at, err
	}
	ended := time.Now()
	now, took := ended.UnixNano(), ended.Sub(began)
	if err != nil {
		// Sealed is another appender's failure, or a roll: the clock of this
		// writer begins all the same.
		w.failed.CompareAndSwap(0, now)
		n.load.mu.Lock()
		n.load.reasons[stamp.KindOf(err).String()]++
		n.load.noticed = append(n.load.noticed, took)
		n.load.mu.Unlock()
		return at, err
	}
	failed := w.failed.Swap(0)
	n.load.mu.Lock()
	defer n.load.mu.Unlock()
	n.load.appends = append(n.load.appends, took)
	if failed != 0 {
		n.load.pauses = append(n.load.pauses, time.Duration(now-failed))
	}
	return at, nil
}
