package rangestore

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"stamp"
)

// A log that fails must not end the process, and nothing is acknowledged that
// it may have lost. streamfs never fails; this is the last line of defence.
func TestFailingLogPoisons(t *testing.T) {
	var broken atomic.Bool
	mem := vfs.NewCrashableMem()
	fs := &terminalFS{done: make(chan struct{}), FS: errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if broken.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && strings.HasSuffix(op.Path, ".log") {
			return errors.New("injected")
		}
		return nil
	}))}
	r, err := Open(t.Context(), Options{Name: "test", FS: fs, MemTableSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	set(t, r, "a", "acked")
	broken.Store(true)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			err := r.Update(t.Context(), Latches{Write: [][]byte{[]byte("a")}}, func(tx *Tx) error {
				return tx.Set([]byte("a"), []byte("not acked"))
			})
			if stamp.KindOf(err) != stamp.Unavailable {
				t.Errorf("got %v, want Unavailable", err)
			}
		})
	}
	wg.Wait()
	<-r.Done()
	if r.Err() == nil || !fs.Fenced() {
		t.Errorf("Err %v, overlay %v", r.Err(), fs.Fenced())
	}
	if _, err := r.Get(t.Context(), []byte("a"), func([]byte) error { return nil }); stamp.KindOf(err) != stamp.Unavailable {
		t.Errorf("a poisoned range answers: %v", err)
	}
	broken.Store(false)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	t.Log(r.Close(ctx))

	if got := get(t, open(t, mem.CrashClone(vfs.CrashCloneCfg{})), "a"); got != "acked" {
		t.Errorf("after reopening: got %q, want acked", got)
	}
}

// terminalFS is a file system with the state of streamfs.
type terminalFS struct {
	vfs.FS
	once sync.Once
	done chan struct{}
}

var _ Terminal = (*terminalFS)(nil)

func (f *terminalFS) Overlay(error)         { f.once.Do(func() { close(f.done) }) }
func (f *terminalFS) Done() <-chan struct{} { return f.done }
func (f *terminalFS) Stalled() error        { return nil }
func (f *terminalFS) Interrupt()            {}

func (f *terminalFS) Fenced() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}
