package manager_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager"
	"stamp/extentstore/stream"
	"stamp/extentstore/streamtest"
)

// TestLosses takes nodes away, wipes them and drains them while streams are
// written, never two at once. At the end every number that was acknowledged is
// there, and every extent has three replicas that are the same.
func TestLosses(t *testing.T) {
	for name, opts := range map[string]streamtest.Options{
		"fakes=8": {Nodes: 8, Fake: true, ExtentTarget: 20_000},
		"nodes=5": {Nodes: 5, ExtentTarget: 100_000},
	} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && !opts.Fake {
				t.Skip("long with real nodes")
			}
			opts.Upkeep = manager.UpkeepOptions{Lazy: 200 * time.Millisecond}
			opts.Grace = 100 * time.Millisecond
			l := streamtest.New(t, opts)
			ctx, stop := context.WithCancel(limit(t))
			f := l.Acquire("/w/")
			acked := make([]uint64, 4)
			var writers sync.WaitGroup
			for i := range acked {
				writers.Go(func() { acked[i] = write(ctx, t, f, i) })
			}
			lose(t, l, opts.Fake)
			stop()
			writers.Wait()
			f = l.Acquire("/w/") // seals the last extents
			for i, n := range acked {
				readBack(t, f, i, n)
			}
			eventually(t, "all is whole", func() error { return allEqual(l) })
			ok(t, l.Manager.Check(limit(t)))
			t.Logf("acknowledged %v", acked)
		})
	}
}

// write appends numbers to a stream until ctx ends.
func write(ctx context.Context, t *testing.T, f *stream.Folder, i int) (acked uint64) {
	w, err := f.Create(ctx, fmt.Sprintf("/w/%d", i), stream.CreateOptions{Kind: extentstore.BlobData})
	if err != nil {
		t.Error(err)
		return 0
	}
	block := make([]byte, 1000)
	for n := uint64(1); ctx.Err() == nil; n++ {
		binary.BigEndian.PutUint64(block, n)
		err := w.Append(limit(t), extentstore.NewBlock(block))
		if err != nil {
			t.Errorf("stream %d, number %d: %v", i, n, err)
			return acked
		}
		acked = n
		time.Sleep(time.Millisecond)
	}
	return acked
}

func readBack(t *testing.T, f *stream.Folder, i int, acked uint64) {
	t.Helper()
	r, err := f.Open(fmt.Sprintf("/w/%d", i))
	if err != nil {
		t.Errorf("stream %d: %v", i, err)
		return
	}
	p := make([]byte, r.Size())
	if _, err := r.ReadAt(limit(t), p, 0); err != nil {
		t.Errorf("stream %d: %v", i, err)
		return
	}
	for n := range uint64(len(p) / 1000) {
		if got := binary.BigEndian.Uint64(p[n*1000:]); got != n+1 {
			t.Errorf("stream %d: got number %d, want %d", i, got, n+1)
			return
		}
	}
	if n := uint64(len(p) / 1000); n < acked {
		t.Errorf("stream %d has %d numbers, %d were acknowledged", i, n, acked)
	}
}

// lose makes one thing after the other go wrong.
func lose(t *testing.T, l *streamtest.Layer, fake bool) {
	rnd := rand.New(rand.NewPCG(5, 6))
	wipe := func(id extentstore.DiskID) {
		l.Faulty(id).SetDown(true)
		time.Sleep(500 * time.Millisecond)
		if fake {
			l.Fake(id).Wipe()
			l.Faulty(id).SetDown(false)
			return
		}
		l.CloseNode(id)
		ok(t, os.RemoveAll(filepath.Join(l.Dir, string(id))))
		l.OpenNode(id)
	}
	whole := func(what string, id extentstore.DiskID) {
		eventually(t, fmt.Sprint(what, " ", id), func() error {
			s := status(t, l)
			for n := 1; n < len(s.Missing); n++ {
				if s.Missing[n] > 0 {
					return fmt.Errorf("%v are missing, %v", s.Missing, s.Warnings)
				}
			}
			if s.Lost > 0 {
				return fmt.Errorf("%d are lost", s.Lost)
			}
			return nil
		})
	}
	for range 2 {
		for i := range 4 {
			id := l.DiskIDs[(i+rnd.IntN(2)*4)%len(l.DiskIDs)]
			switch i % 4 {
			case 0:
				l.Faulty(id).SetDown(true)
				time.Sleep(700 * time.Millisecond)
				whole("away:", id)
				l.Faulty(id).SetDown(false)
			case 1:
				wipe(id)
			case 2:
				ok(t, l.Manager.Drain(limit(t), string(id), true))
				eventually(t, "drained", func() error {
					if d := diskOf(status(t, l), id); d.State != extentstore.DiskDrained {
						return fmt.Errorf("%+v", d)
					}
					return nil
				})
				ok(t, l.Manager.Drain(limit(t), string(id), false))
			case 3:
				l.Faulty(id).SetDown(true)
				time.Sleep(100 * time.Millisecond)
				l.Faulty(id).SetDown(false)
			}
			time.Sleep(100 * time.Millisecond)
			whole("then:", id)
		}
	}
}

// allEqual looks whether every extent has three good replicas, and nothing else
// is anywhere.
func allEqual(l *streamtest.Layer) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	infos, err := l.Manager.Extents(ctx, 0, 100_000)
	if err != nil {
		return err
	}
	if len(infos) == 0 {
		return errors.New("no extents")
	}
	for _, info := range infos {
		if !info.Sealed || len(info.Replicas) != 3 {
			return fmt.Errorf("extent %+v", info)
		}
		var first uint32
		for i, name := range info.Replicas {
			node, err := l.Node(name)
			if err != nil {
				return err
			}
			p := make([]byte, info.Length)
			n, err := node.Read(ctx, info.ID, 0, p)
			if err != nil && stamp.KindOf(err) != stamp.NotFound || int64(n) != info.Length {
				return fmt.Errorf("extent %v on %s: %d bytes, %v", info.ID, name, n, err)
			}
			sum := extentstore.Checksum(p)
			if i > 0 && sum != first {
				return fmt.Errorf("extent %v differs on %s", info.ID, name)
			}
			first = sum
		}
	}
	return nil
}
