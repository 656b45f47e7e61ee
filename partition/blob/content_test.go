package blob

import (
	"bytes"
	"errors"
	"runtime"
	"sync"
	"testing"
)

// stuckWriter takes nothing until it is let go.
type stuckWriter struct {
	begun *sync.WaitGroup
	once  sync.Once
	until chan struct{}
}

var errGone = errors.New("the reader is gone")

func (w *stuckWriter) Write([]byte) (int, error) {
	w.once.Do(w.begun.Done)
	<-w.until
	return 0, errGone
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Clients who do not take what they asked for bind a bounded amount of memory,
// and others are still served.
func TestStuckReadersBindLittleMemory(t *testing.T) {
	w := newWorld(t, nil)
	w.box("box")
	ref := Ref{"acct", "box", "large"}
	want := bytes.Repeat([]byte("0123456789abcde\n"), 4<<16)
	if _, err := put(bg, w.s, PutBlobRequest{Ref: ref}, want); err != nil {
		t.Fatal(err)
	}
	get := func() *Content {
		b, err := w.s.GetBlob(bg, ref, Conditions{})
		if err != nil {
			t.Fatal(err)
		}
		return b.Content
	}
	const readers = 200
	before := heap()
	var begun, ended sync.WaitGroup
	until := make(chan struct{})
	for range readers {
		begun.Add(1)
		content := get()
		ended.Go(func() {
			if _, err := content.WriteTo(bg, &stuckWriter{begun: &begun, until: until}, 0, content.Size()); !errors.Is(err, errGone) {
				t.Errorf("got %v", err)
			}
		})
	}
	begun.Wait()
	if grown, limit := heap()-before, int64(readMemory+readers*smallRead+32<<20); grown > limit {
		t.Errorf("%d stuck readers bind %d MiB, at most %d expected", readers, grown>>20, limit>>20)
	}
	for _, n := range []int64{1, smallRead, smallRead + 1, readSize, readSize + 1, int64(len(want))} {
		var out bytes.Buffer
		if k, err := get().WriteTo(bg, &out, 0, n); err != nil || k != n || !bytes.Equal(out.Bytes(), want[:n]) {
			t.Errorf("%d bytes beside them: got %d, %v", n, k, err)
		}
	}
	close(until)
	ended.Wait()
	if !readRoom.TryAcquire(readMemory) {
		t.Fatal("memory was not given back")
	}
	readRoom.Release(readMemory)
}
