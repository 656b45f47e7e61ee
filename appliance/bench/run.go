package bench

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"stamp/appliance/blobclient"
)

// Op is what a workload does.
type Op string

// The operations.
const (
	Put  Op = "put"  // whole blobs in one request each
	Get  Op = "get"  // whole blobs
	List Op = "list" // all names of a container, page by page
)

// Target is a server to measure.
type Target struct {
	Name   string // in reports
	Client blobclient.Options
	PID    int // of the server on this machine, for its CPU; 0 when unknown
}

// Workload is one measurement. It ends when Duration is over or MaxOps
// operations have been done, whichever comes first.
type Workload struct {
	Op        Op
	Size      int // of each blob
	Clients   int // connections, each with one request under way
	Duration  time.Duration
	MaxOps    int    // 0 means no limit
	MaxBytes  int64  // of distinct blobs kept on the server, at least one per client; 0 means 1 GiB
	Container string // of the blobs; "" means "bench". A List adds to the name
	MD5       bool   // put with Content-MD5
	Blobs     int    // for List: how many names there shall be; 0 means 1000
}

// Result is what was measured.
type Result struct {
	Target  string  `json:"target"`
	Op      Op      `json:"op"`
	Size    int     `json:"size"`
	Clients int     `json:"clients"`
	Ops     int     `json:"ops"`
	Errors  int     `json:"errors"`
	Seconds float64 `json:"seconds"`

	OpsPerSecond float64       `json:"opsPerSecond"` // for List: names per second
	MBPerSecond  float64       `json:"mbPerSecond"`  // 10^6 bytes
	P50          time.Duration `json:"p50ns"`
	P99          time.Duration `json:"p99ns"`
	Max          time.Duration `json:"maxns"`
	ServerCPU    time.Duration `json:"serverCPUns"` // per operation, 0 when unknown
	ClientCPU    time.Duration `json:"clientCPUns"` // per operation
}

const (
	defaultMaxBytes  = 1 << 30
	defaultContainer = "bench"
	defaultBlobs     = 1000
	maxDistinct      = 100_000 // blobs of one size, whatever MaxBytes allows
	maxErrors        = 100     // after which a run gives up
)

// worker is one client of a run.
type worker struct {
	client *blobclient.Client
	id     int
	body   []byte
	names  int // blobs that belong to this worker
	next   int
	page   bytes.Buffer
	marker string
	hist   histogram
	bytes  int64
	units  int // operations, for List names
	errors int
	err    error // the first one
}

// Run measures one workload on a target.
func Run(ctx context.Context, t Target, w Workload) (Result, error) {
	if w.Clients <= 0 || w.Size < 0 || w.Duration <= 0 && w.MaxOps <= 0 {
		return Result{}, fmt.Errorf("workload needs clients, a size and an end: %+v", w)
	}
	w.fillDefaults()
	workers, err := prepare(ctx, t, &w)
	if err != nil {
		return Result{}, err
	}
	defer func() {
		for _, k := range workers {
			k.client.Close()
		}
	}()
	return measure(ctx, t, w, workers)
}

func (w *Workload) fillDefaults() {
	if w.MaxBytes == 0 {
		w.MaxBytes = defaultMaxBytes
	}
	if w.Blobs == 0 {
		w.Blobs = defaultBlobs
	}
	if w.Container == "" {
		w.Container = defaultContainer
	}
}

// container that a workload runs in: names to be listed have their own.
func (w *Workload) container() string {
	if w.Op == List {
		return fmt.Sprintf("%s-list-%d", w.Container, w.Blobs)
	}
	return w.Container
}

// Clean deletes the containers that runs of w have made. S3 has no such
// operation for a bucket with objects in it: there it does nothing.
func Clean(t Target, w Workload) error {
	if t.Client.S3 {
		return nil
	}
	c, err := blobclient.New(t.Client)
	if err != nil {
		return err
	}
	defer c.Close()
	for _, op := range []Op{Put, List} {
		v := w
		v.Op = op
		v.fillDefaults()
		var status *blobclient.StatusError
		if err := c.DeleteContainer(v.container()); err != nil && !(errors.As(err, &status) && status.Status == 404) {
			return err
		}
	}
	return nil
}

// prepare makes container and workers, and the blobs that a Get or List needs.
func prepare(ctx context.Context, t Target, w *Workload) ([]*worker, error) {
	first, err := blobclient.New(t.Client)
	if err != nil {
		return nil, err
	}
	defer first.Close()
	var status *blobclient.StatusError
	if err := first.CreateContainer(w.container()); err != nil && !(errors.As(err, &status) && status.Status == 409) {
		return nil, fmt.Errorf("create container %s: %w", w.container(), err)
	}
	workers := make([]*worker, w.Clients)
	perWorker := int(min(w.MaxBytes/int64(max(w.Size, 1)), maxDistinct)) / w.Clients
	for i := range workers {
		c, err := blobclient.New(t.Client)
		if err != nil {
			return nil, err
		}
		workers[i] = &worker{client: c, id: i, names: max(perWorker, 1), body: randomBody(w.Size, i)}
	}
	fill := 0 // blobs that must be there before the clock starts
	switch w.Op {
	case Get:
		// As many as a run reads in a second or so are enough: servers that
		// cache have them all in memory, and it says what it measures.
		fill = min(perWorker*w.Clients, 1000)
		fill = max(fill/w.Clients, 1) * w.Clients
	case List:
		fill = w.Blobs
	}
	if w.Op == List {
		have, err := countNames(ctx, first, w.container())
		if err != nil || have == fill {
			return workers, err
		}
	}
	if fill == 0 {
		return workers, nil
	}
	return workers, populate(ctx, *w, workers, fill)
}

// countNames lists a container, so that one that an earlier run has filled is
// not filled again.
func countNames(ctx context.Context, c *blobclient.Client, container string) (int, error) {
	var page bytes.Buffer
	total, marker := 0, ""
	for {
		n, next, err := c.List(container, marker, &page)
		total += n
		if err != nil || next == "" || ctx.Err() != nil {
			return total, err
		}
		marker = next
	}
}

// populate puts n blobs, spread over the workers.
func populate(ctx context.Context, w Workload, workers []*worker, n int) error {
	var wg sync.WaitGroup
	for i, k := range workers {
		k.names = n / len(workers)
		if i < n%len(workers) {
			k.names++
		}
		wg.Go(func() {
			for j := range k.names {
				if k.err != nil || ctx.Err() != nil {
					return
				}
				k.err = k.client.Put(w.name(k.id, j), k.body)
			}
		})
	}
	wg.Wait()
	for _, k := range workers {
		if k.err != nil {
			return fmt.Errorf("fill container %s: %w", w.container(), k.err)
		}
	}
	return context.Cause(ctx)
}

func (w *Workload) name(worker, i int) string {
	return fmt.Sprintf("%s/%d/%02d/%06d", w.container(), w.Size, worker, i)
}

func randomBody(size, seed int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	b := make([]byte, size)
	r.Read(b)
	return b
}

func measure(ctx context.Context, t Target, w Workload, workers []*worker) (Result, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var left atomic.Int64
	left.Store(int64(w.MaxOps))

	serverBefore, cpuErr := processCPU(t.PID)
	clientBefore := ownCPU()
	start := time.Now()
	var end time.Time
	if w.Duration > 0 {
		end = start.Add(w.Duration)
	}
	var wg sync.WaitGroup
	for _, k := range workers {
		wg.Go(func() {
			for ctx.Err() == nil && (w.MaxOps == 0 || left.Add(-1) >= 0) {
				began := time.Now()
				if !end.IsZero() && !began.Before(end) {
					return
				}
				if err := k.step(&w); err != nil {
					if k.errors++; k.err == nil {
						k.err = err
					}
					if k.errors >= maxErrors {
						stop()
					}
					continue
				}
				k.hist.add(time.Since(began))
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	clientCPU := ownCPU() - clientBefore
	serverAfter, err := processCPU(t.PID)
	if cpuErr == nil {
		cpuErr = err
	}
	if t.PID != 0 && cpuErr != nil {
		return Result{}, fmt.Errorf("CPU of the server: %w", cpuErr)
	}
	return summarize(t, w, workers, elapsed, serverAfter-serverBefore, clientCPU)
}

func summarize(t Target, w Workload, workers []*worker, elapsed, serverCPU, clientCPU time.Duration) (Result, error) {
	r := Result{Target: t.Name, Op: w.Op, Size: w.Size, Clients: w.Clients, Seconds: elapsed.Seconds()}
	var all histogram
	var bytes int64
	var err error
	for _, k := range workers {
		all.merge(&k.hist)
		bytes += k.bytes
		r.Ops += k.units
		if r.Errors += k.errors; err == nil {
			err = k.err
		}
	}
	if r.Ops == 0 {
		return r, fmt.Errorf("%s %d bytes on %s: no operation succeeded: %w", w.Op, w.Size, t.Name, err)
	}
	r.OpsPerSecond = float64(r.Ops) / r.Seconds
	r.MBPerSecond = float64(bytes) / 1e6 / r.Seconds
	r.P50, r.P99, r.Max = all.quantile(0.50), all.quantile(0.99), all.max
	if t.PID != 0 {
		r.ServerCPU = serverCPU / time.Duration(r.Ops)
	}
	r.ClientCPU = clientCPU / time.Duration(r.Ops)
	return r, nil
}

// step does one operation.
func (k *worker) step(w *Workload) error {
	switch w.Op {
	case Put:
		return k.put(w)
	case Get:
		if err := k.client.Get(w.name(k.id, k.next), nil); err != nil {
			return err
		}
		k.next = (k.next + 1) % k.names
		k.done(1, w.Size)
		return nil
	case List:
		n, next, err := k.client.List(w.container(), k.marker, &k.page)
		if err != nil {
			return err
		}
		k.marker = next
		k.done(n, k.page.Len())
		return nil
	default:
		return fmt.Errorf("unknown operation %q", w.Op)
	}
}

func (k *worker) put(w *Workload) error {
	// Every put has other bytes, so that nothing can be saved by content.
	if len(k.body) >= 8 {
		binary.LittleEndian.PutUint64(k.body, uint64(k.units)<<16|uint64(k.id))
	}
	var headers []blobclient.Header
	if w.MD5 {
		sum := md5.Sum(k.body)
		headers = append(headers, blobclient.Header{Name: "Content-MD5", Value: base64.StdEncoding.EncodeToString(sum[:])})
	}
	if err := k.client.Put(w.name(k.id, k.next), k.body, headers...); err != nil {
		return err
	}
	k.next = (k.next + 1) % k.names
	k.done(1, w.Size)
	return nil
}

func (k *worker) done(units, bytes int) {
	k.units += units
	k.bytes += int64(bytes)
}
