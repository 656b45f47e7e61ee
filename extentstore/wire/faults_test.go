package wire_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/streamtest"
	"stamp/extentstore/wire"
)

// A proxy stands between client and server and does what networks do.
type proxy struct {
	t      testing.TB
	l      net.Listener
	to     string
	work   sync.WaitGroup
	mu     sync.Mutex // guards the fields below
	conns  []net.Conn
	opened int
	refuse bool
	stall  chan struct{} // while not nil, nothing passes; closed to go on
	// flip is called with what passes, and may change it.
	flip func(up bool, p []byte)
}

func newProxy(t testing.TB, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, l: l, to: to}
	p.work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			refuse := p.refuse
			p.opened++
			p.mu.Unlock()
			if refuse {
				c.Close()
				continue
			}
			d, err := net.Dial("tcp", p.to)
			if err != nil {
				c.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, c, d)
			p.mu.Unlock()
			p.work.Go(func() { p.pass(c, d, true) })
			p.work.Go(func() { p.pass(d, c, false) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.resume()
		p.cut()
		p.work.Wait()
	})
	return p
}

func (p *proxy) address() string { return p.l.Addr().String() }

func (p *proxy) pass(from, to net.Conn, up bool) {
	defer to.Close()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		p.mu.Lock()
		stall, flip := p.stall, p.flip
		p.mu.Unlock()
		if stall != nil {
			<-stall
		}
		if flip != nil {
			flip(up, b[:n])
		}
		if _, werr := to.Write(b[:n]); werr != nil || err != nil {
			return
		}
	}
}

// cut ends all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	p.conns = nil
}

func (p *proxy) halt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stall == nil {
		p.stall = make(chan struct{})
	}
}

func (p *proxy) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stall != nil {
		close(p.stall)
		p.stall = nil
	}
}

func (p *proxy) set(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn()
}

// rig is a disk behind server, proxy and client.
type rig struct {
	*proxy
	far   extentstore.ExtentNode
	fake  *streamtest.Fake
	local *streamtest.Faulty
	d     *directory
	nodes *wire.Nodes
}

func newRig(t testing.TB, secure bool, opts wire.NodesOptions) *rig {
	t.Helper()
	server, client := wire.Security{Insecure: true}, wire.Security{Insecure: true}
	if secure {
		ca := streamtest.NewCA(t)
		server, client = security(ca, "extent/en1"), security(ca, "manager/m1")
	}
	r := &rig{fake: streamtest.NewFake("en1/d1", disks{}, 0), d: &directory{}}
	r.local = streamtest.NewFaulty(r.fake)
	address, _ := serveWith(t, server, wire.NodeOptions{Node: "en1", Silence: -1, Disk: disks{"en1/d1": r.local}.find})
	r.proxy = newProxy(t, address)
	r.d.set("en1", r.proxy.address())
	opts.Security, opts.Directory = client, r.d.Directory
	r.nodes = connectWith(t, opts)
	var err error
	if r.far, err = r.nodes.Node("en1/d1"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	spec := extentstore.ExtentSpec{ID: 1, Replicas: []extentstore.DiskID{"en1/d1"}, Kind: extentstore.BlobData}
	if err := r.far.Create(ctx, spec); err != nil {
		t.Fatal(err)
	}
	return r
}

func wantKind(t testing.TB, err error, kinds ...stamp.Kind) {
	t.Helper()
	if err != nil {
		for _, k := range kinds {
			if stamp.KindOf(err) == k {
				return
			}
		}
	}
	t.Fatalf("got %v, want one of %v", err, kinds)
}

// until repeats a call until it succeeds.
func until(t testing.TB, call func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = call(); err == nil {
			return
		}
	}
	t.Fatalf("still failing: %v", err)
}

func block(seed uint64, n int) []extentstore.Block {
	return []extentstore.Block{extentstore.NewBlock(streamtest.Pattern(seed, n))}
}

func TestCut(t *testing.T) {
	r := newRig(t, true, wire.NodesOptions{})
	ctx := t.Context()
	if _, err := r.far.Append(ctx, 1, block(1, 5000)); err != nil {
		t.Fatal(err)
	}
	// A call that finds its connection cut is made again where that is safe.
	for range 5 {
		r.cut()
		if st, err := r.far.Stat(ctx, 1); err != nil || st.Length != 5000 {
			t.Fatalf("got %+v, %v", st, err)
		}
	}
	// One that is under way fails, and may have taken effect.
	r.local.Delay(200 * time.Millisecond)
	failed := make(chan error, 1)
	go func() {
		_, err := r.far.Append(ctx, 1, block(2, 100))
		failed <- err
	}()
	for r.local.Calls("Append") < 2 {
		time.Sleep(time.Millisecond)
	}
	r.cut()
	wantKind(t, <-failed, stamp.Unavailable)
	r.local.Delay(0)
	// Nobody is there: calls fail at once, then less and less is tried.
	r.set(func() { r.refuse = true })
	r.cut()
	wantKind(t, r.far.Seal(ctx, 1, 0), stamp.Unavailable)
	r.set(func() { r.opened = 0 })
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); time.Sleep(time.Millisecond) {
		_, err := r.far.Stat(ctx, 1)
		wantKind(t, err, stamp.Unavailable)
	}
	r.set(func() {
		if r.opened > 20 {
			t.Errorf("%d attempts to connect within 300 ms", r.opened)
		}
		r.refuse = false
	})
	until(t, func() error { _, err := r.far.Stat(ctx, 1); return err })
}

// TestSilence has the network take everything and deliver nothing.
func TestSilence(t *testing.T) {
	r := newRig(t, true, wire.NodesOptions{Ping: 20 * time.Millisecond, Silence: 200 * time.Millisecond})
	r.halt()
	_, err := r.far.Append(t.Context(), 1, block(1, 100))
	wantKind(t, err, stamp.Unavailable)
	// Connecting again is bounded too.
	_, err = r.far.Stat(t.Context(), 1)
	wantKind(t, err, stamp.Unavailable)
	r.resume()
	until(t, func() error { _, err := r.far.Stat(t.Context(), 1); return err })
}

// TestIdleStays leaves a connection alone for longer than a silent one would
// last.
func TestIdleStays(t *testing.T) {
	r := newRig(t, false, wire.NodesOptions{Ping: 10 * time.Millisecond, Silence: 500 * time.Millisecond})
	time.Sleep(700 * time.Millisecond)
	if _, err := r.far.Stat(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	r.set(func() {
		if r.opened != 1 {
			t.Errorf("%d connections were made", r.opened)
		}
	})
}

// TestDeadlines lets calls end while the network stands still: by their own
// deadlines, and with nothing of the caller touched afterwards.
func TestDeadlines(t *testing.T) {
	for _, secure := range []bool{false, true} {
		r := newRig(t, secure, wire.NodesOptions{Silence: -1})
		big := block(7, extentstore.MaxBlockSize)
		if _, err := r.far.Append(t.Context(), 1, big); err != nil {
			t.Fatal(err)
		}
		r.halt()
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(20+i)*time.Millisecond)
				defer cancel()
				blocks := block(uint64(i), 1<<20)
				var err error
				if i%3 == 0 {
					p := make([]byte, 3<<20)
					_, err = r.far.Read(ctx, 1, 0, p)
					clear(p) // the race detector sees who else writes
				} else {
					_, err = r.far.Append(ctx, 1, blocks)
					clear(blocks[0].Payload)
				}
				if err == nil || stamp.KindOf(err) != stamp.Timeout {
					t.Errorf("call %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		r.resume()
		// The connection is still whole, and what was sent is what was given:
		// an append whose caller has gone may be there, but not damaged.
		state, err := r.far.Close(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		all := make([]byte, state.Length)
		if n, err := r.far.Read(t.Context(), 1, 0, all); err != nil || n != len(all) {
			t.Fatalf("read %d of %d: %v", n, len(all), err)
		}
		if !bytes.Equal(all[:len(big[0].Payload)], big[0].Payload) {
			t.Fatal("the first append has changed")
		}
		for at := len(big[0].Payload); len(all)-at >= 1<<20; at += 1 << 20 {
			found := false
			for i := range 30 {
				found = found || bytes.Equal(all[at:at+1<<20], block(uint64(i), 1<<20)[0].Payload)
			}
			if !found {
				t.Fatalf("at %d stands what nobody appended", at)
			}
		}
		r.set(func() {
			if r.opened != 1 {
				t.Errorf("%d connections were made", r.opened)
			}
		})
	}
}

// TestFlips changes bytes on the way, without TLS: nothing that is damaged is
// taken or returned.
func TestFlips(t *testing.T) {
	r := newRig(t, false, wire.NodesOptions{Ping: 20 * time.Millisecond, Silence: 300 * time.Millisecond})
	var left atomic.Int64
	rnd := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	r.set(func() {
		r.flip = func(up bool, p []byte) {
			if len(p) == 0 || left.Add(-1) != 0 {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			p[rnd.IntN(len(p))] ^= 1 << rnd.IntN(8)
		}
	})
	want := []byte{}
	failed := 0
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
	defer cancel()
	for i := range 300 {
		left.Store(int64(1 + i%7))
		b := block(uint64(i), 1+(i*977)%9000)
		offset, err := r.far.Append(ctx, 1, b)
		if err == nil {
			// What failed before this may stand before it.
			for int64(len(want)) < offset {
				want = append(want, 0)
			}
			want = append(want, b[0].Payload...)
			p := make([]byte, len(b[0].Payload))
			n, err := r.far.Read(ctx, 1, offset, p)
			if err == nil && !bytes.Equal(p[:n], b[0].Payload) {
				t.Fatalf("append %d: read something else at %d", i, offset)
			}
		} else {
			failed++
			switch stamp.KindOf(err) {
			case stamp.Unavailable, stamp.Corrupt, stamp.Invalid:
			default:
				t.Fatalf("append %d: %v", i, err)
			}
			left.Store(0)
			until(t, func() error { _, err := r.far.Stat(ctx, 1); return err })
		}
	}
	if failed == 0 {
		t.Error("nothing was damaged")
	}
	t.Logf("%d of 300 appends failed", failed)
}

// TestCancelStorm begins calls and gives them up, again and again.
func TestCancelStorm(t *testing.T) {
	for _, secure := range []bool{false, true} {
		r := newRig(t, secure, wire.NodesOptions{Silence: -1})
		if _, err := r.far.Append(t.Context(), 1, block(1, 2<<20)); err != nil {
			t.Fatal(err)
		}
		r.local.Delay(2 * time.Millisecond)
		var wg sync.WaitGroup
		for g := range 32 {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(g), 9))
				for range 40 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rnd.IntN(4000))*time.Microsecond)
					switch rnd.IntN(3) {
					case 0:
						b := block(uint64(g), 1+rnd.IntN(300_000))
						r.far.Append(ctx, 1, b)
						clear(b[0].Payload)
					case 1:
						p := make([]byte, 1+rnd.IntN(3<<20))
						r.far.Read(ctx, 1, 0, p)
						clear(p)
					case 2:
						r.far.Stat(ctx, 1)
					}
					cancel()
				}
			})
		}
		wg.Wait()
		r.local.Delay(0)
		// All of the windows is free again: this takes most of each.
		p := make([]byte, 2<<20)
		for range 40 {
			wg.Go(func() {
				if _, err := r.far.Read(t.Context(), 1, 0, make([]byte, 2<<20)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n, err := r.far.Read(t.Context(), 1, 0, p); err != nil || !bytes.Equal(p[:n], streamtest.Pattern(1, 2<<20)) {
			t.Fatalf("read %d: %v", n, err)
		}
		r.set(func() {
			if r.opened != 1 {
				t.Errorf("%d connections were made", r.opened)
			}
		})
	}
}

// stuck is a disk on which one extent never answers.
type stuck struct {
	extentstore.ExtentNode
	waiting atomic.Int64
}

func (s *stuck) Append(ctx context.Context, id extentstore.ExtentID, blocks []extentstore.Block) (int64, error) {
	if id == 13 {
		s.waiting.Add(1)
		defer s.waiting.Add(-1)
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return s.ExtentNode.Append(ctx, id, blocks)
}

// TestStuckExtent has more appends to an extent that is stuck than the window
// allows: others go on.
func TestStuckExtent(t *testing.T) {
	fake := streamtest.NewFake("en1/d1", disks{}, 0)
	s := &stuck{ExtentNode: fake}
	far := one(t, true, s)
	ctx, cancel := context.WithCancel(t.Context())
	if err := far.Create(ctx, extentstore.ExtentSpec{ID: 1, Replicas: []extentstore.DiskID{"en1/d1"}, Kind: extentstore.BlobData}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 60 {
		wg.Go(func() { far.Append(ctx, 13, block(1, 4<<20)) })
	}
	for s.waiting.Load() < 7 {
		time.Sleep(time.Millisecond)
	}
	for i := range 20 {
		if _, err := far.Append(ctx, 1, block(uint64(i), 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := far.Read(ctx, 1, 0, make([]byte, 20<<20)); err != nil {
		t.Fatal(err)
	}
	if n := s.waiting.Load(); n > 8 {
		t.Errorf("the stuck extent has %d appends of 4 MiB in a window of 64 MiB", n)
	}
	cancel()
	wg.Wait()
}

// TestConcurrentAppenders has 64 append to one extent, with big and small reads
// beside them.
func TestConcurrentAppenders(t *testing.T) {
	r := newRig(t, true, wire.NodesOptions{})
	ctx := t.Context()
	if _, err := r.far.Append(ctx, 1, block(1, 4<<20)); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var readers, wg sync.WaitGroup
	head := streamtest.Pattern(1, 4<<20)
	for g := range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				p := make([]byte, []int{4 << 10, 4 << 20}[g%2])
				if n, err := r.far.Read(ctx, 1, 0, p); err != nil || !bytes.Equal(p[:n], head[:len(p)]) {
					t.Errorf("read %d of %d: %v", n, len(p), err)
					return
				}
			}
		})
	}
	var mu sync.Mutex
	got := map[int64][]byte{}
	for g := range 64 {
		wg.Go(func() {
			for i := range 10 {
				b := block(uint64(g*1000+i), 1+(g*131+i*977)%5000)
				offset, err := r.far.Append(ctx, 1, b)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				got[offset] = b[0].Payload
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	close(stop)
	readers.Wait()
	if len(got) != 640 {
		t.Fatalf("%d appends at different places, want 640", len(got))
	}
	for offset, want := range got {
		p := make([]byte, len(want))
		if n, err := r.far.Read(ctx, 1, offset, p); err != nil || !bytes.Equal(p[:n], want) {
			t.Fatalf("read %d at %d: %v", n, offset, err)
		}
	}
}

// TestMoved finds a node under its new address, and another node under the old
// one.
func TestMoved(t *testing.T) {
	ca := streamtest.NewCA(t)
	first := streamtest.NewFake("en1/d1", disks{}, 0)
	address, stop := serve(t, security(ca, "extent/en1"), "en1", disks{"en1/d1": first}.find)
	d := &directory{}
	d.set("en1", address)
	nodes := connect(t, security(ca, "partition/ps1"), d)
	far, err := nodes.Node("en1/d1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := far.Disk(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
	_, err = far.Disk(t.Context())
	wantKind(t, err, stamp.Unavailable)
	moved, _ := serve(t, security(ca, "extent/en1"), "en1", disks{"en1/d1": first}.find)
	d.set("en1", moved)
	until(t, func() error { _, err := far.Disk(t.Context()); return err })

	// en2 is not where the directory says: whoever is there is not taken for it.
	d.set("en2", moved)
	other, err := nodes.Node("en2/d1")
	if err != nil {
		t.Fatal(err)
	}
	_, err = other.Disk(t.Context())
	wantKind(t, err, stamp.Unavailable, stamp.Denied)
	none, err := nodes.Node("en3/d1")
	if err != nil {
		t.Fatal(err)
	}
	_, err = none.Disk(t.Context())
	wantKind(t, err, stamp.Unavailable)
	missing, err := nodes.Node("en1/d9")
	if err != nil {
		t.Fatal(err)
	}
	_, err = missing.Disk(t.Context())
	wantKind(t, err, stamp.NotFound)
	if _, err := nodes.Node(""); stamp.KindOf(err) != stamp.NotFound {
		t.Fatalf("a disk without a name: %v", err)
	}
}

func TestRoles(t *testing.T) {
	ca := streamtest.NewCA(t)
	fake := streamtest.NewFake("en1/d1", disks{}, 0)
	address, _ := serve(t, security(ca, "extent/en1"), "en1", disks{"en1/d1": fake}.find)
	d := &directory{}
	d.set("en1", address)
	ctx := t.Context()
	spec := extentstore.ExtentSpec{ID: 1, Replicas: []extentstore.DiskID{"en1/d1"}, Kind: extentstore.BlobData}
	calls := map[string]func(n extentstore.Copier) error{
		"create":      func(n extentstore.Copier) error { return n.Create(ctx, spec) },
		"append":      func(n extentstore.Copier) error { _, err := n.Append(ctx, 1, block(1, 10)); return err },
		"replicate":   func(n extentstore.Copier) error { return n.Replicate(ctx, 1, 0, block(1, 10)) },
		"read":        func(n extentstore.Copier) error { _, err := n.Read(ctx, 1, 0, make([]byte, 1)); return err },
		"close":       func(n extentstore.Copier) error { _, err := n.Close(ctx, 1); return err },
		"seal":        func(n extentstore.Copier) error { return n.Seal(ctx, 1, 0) },
		"delete":      func(n extentstore.Copier) error { return n.Delete(ctx, 1) },
		"stat":        func(n extentstore.Copier) error { _, err := n.Stat(ctx, 1); return err },
		"list":        func(n extentstore.Copier) error { _, err := n.List(ctx, 0, 1); return err },
		"verify":      func(n extentstore.Copier) error { _, err := n.Verify(ctx, 1); return err },
		"disk":        func(n extentstore.Copier) error { _, err := n.Disk(ctx); return err },
		"sum":         func(n extentstore.Copier) error { _, err := n.Sum(ctx, 1, 0); return err },
		"pull":        func(n extentstore.Copier) error { return n.Pull(ctx, spec, 0, nil) },
		"encode":      func(n extentstore.Copier) error { return n.Encode(ctx, 1, 0, extentstore.Fragments{}) },
		"reconstruct": func(n extentstore.Copier) error { return n.Reconstruct(ctx, 1, 0, extentstore.Fragments{}, 0) },
	}
	client := "append read stat disk"
	for role, allowed := range map[string]string{
		"manager/m1":    "create append replicate read close seal delete stat list verify disk sum pull encode reconstruct",
		"extent/en2":    "create replicate read close seal delete stat verify disk sum",
		"partition/ps1": client, "frontend/fe1": client,
		"operator/me": client + " list verify sum",
	} {
		far, err := connect(t, security(ca, role), d).Node("en1/d1")
		if err != nil {
			t.Fatal(err)
		}
		for name, call := range calls {
			denied := stamp.KindOf(call(far.(extentstore.Copier))) == stamp.Denied
			may := false
			for _, a := range bytes.Fields([]byte(allowed)) {
				may = may || string(a) == name
			}
			if denied == may {
				t.Errorf("%s calls %s: denied %v", role, name, denied)
			}
		}
	}
	// Strangers reach nothing at all.
	for name, s := range map[string]wire.Security{
		"another CA":    security(streamtest.NewCA(t), "manager/m1"),
		"another stamp": {TLS: ca.TLS("stamp://other/manager/m1"), Stamp: "other"},
		"no TLS":        {Insecure: true},
	} {
		far, err := connect(t, s, d).Node("en1/d1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := far.Disk(ctx); err == nil {
			t.Errorf("%s: got an answer", name)
		}
	}
}

// TestGarbage writes anything to the port: the server goes on.
func TestGarbage(t *testing.T) {
	fake := streamtest.NewFake("en1/d1", disks{}, 0)
	address, _ := serve(t, wire.Security{Insecure: true}, "en1", disks{"en1/d1": fake}.find)
	rnd := rand.New(rand.NewPCG(3, 4))
	for i := range 30 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 1+rnd.IntN(5000))
		for j := range p {
			p[j] = byte(rnd.Uint32())
		}
		copy(p, []string{"STMD", "STMR", "PRI ", "GET "}[i%4])
		c.Write(p)
		c.(*net.TCPConn).CloseWrite()
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				t.Errorf("garbage %d keeps its connection", i)
			}
		}
		c.Close()
	}
	d := &directory{}
	d.set("en1", address)
	far, err := connect(t, wire.Security{Insecure: true}, d).Node("en1/d1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := far.Disk(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestSlowReader has a client that reads nothing: what it asks for takes no more
// memory than the window, and another client is served.
func TestSlowReader(t *testing.T) {
	ca := streamtest.NewCA(t)
	fake := streamtest.NewFake("en1/d1", disks{}, 0)
	address, _ := serve(t, security(ca, "extent/en1"), "en1", disks{"en1/d1": fake}.find)
	p := newProxy(t, address)
	slow, quick := &directory{}, &directory{}
	slow.set("en1", p.address())
	quick.set("en1", address)
	a := connectWith(t, wire.NodesOptions{Security: security(ca, "manager/m1"), Directory: slow.Directory, Silence: -1})
	far, _ := a.Node("en1/d1")
	ctx, cancel := context.WithCancel(t.Context())
	if err := far.Create(ctx, extentstore.ExtentSpec{ID: 1, Replicas: []extentstore.DiskID{"en1/d1"}, Kind: extentstore.BlobData}); err != nil {
		t.Fatal(err)
	}
	if _, err := far.Append(ctx, 1, block(1, 4<<20)); err != nil {
		t.Fatal(err)
	}
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	p.halt()
	var wg sync.WaitGroup
	target := make([]byte, 4<<20)
	for range 200 {
		wg.Go(func() { far.Read(ctx, 1, 0, target[:1<<20:1<<20]) })
	}
	other, _ := connect(t, security(ca, "partition/ps1"), quick).Node("en1/d1")
	for range 20 {
		if _, err := other.Read(t.Context(), 1, 0, make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	var now runtime.MemStats
	runtime.ReadMemStats(&now)
	if grown := int64(now.HeapInuse) - int64(before.HeapInuse); grown > 200<<20 {
		t.Errorf("the heap has grown by %d MiB", grown>>20)
	}
	cancel()
	wg.Wait()
}
