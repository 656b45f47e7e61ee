package server

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/streamtest"
	"stamp/partition/rangestore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openServer(t testing.TB, l *streamtest.Layer, opts Options) *Server {
	t.Helper()
	opts.Client = l.Client
	s, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeServer(t, s) })
	return s
}

func closeServer(t testing.TB, s *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
}

func set(t testing.TB, r *rangestore.Range, key string, value []byte) {
	t.Helper()
	if err := r.Update(t.Context(), rangestore.Latches{}, func(tx *rangestore.Tx) error { return tx.Set([]byte(key), value) }); err != nil {
		t.Fatal(err)
	}
}

func found(t testing.TB, r *rangestore.Range, key string) bool {
	t.Helper()
	ok, err := r.Get(t.Context(), []byte(key), func([]byte) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

func TestOptions(t *testing.T) {
	if _, err := Open(t.Context(), Options{}); stamp.KindOf(err) != stamp.Invalid {
		t.Errorf("without a client: got %v, want Invalid", err)
	}
	if Folder(Blob, 1) != "/blob/1/" || len(Tables()) != 4 || rangestore.DefaultMemTableSize != 32<<20 {
		t.Error("names and sizes changed")
	}
}

func TestServerServesAllRanges(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Fake: true, Nodes: 3})
	s := openServer(t, l, Options{})
	if s.Range("none") != nil || s.Folder("none") != nil {
		t.Error("there is a range that was not opened")
	}
	for _, name := range Tables() {
		set(t, s.Range(name), name, []byte("x"))
		if s.Folder(name).Name() != Folder(name, 1) || s.Range(name).Name() != name {
			t.Errorf("%s is in %s", name, s.Folder(name).Name())
		}
	}
	// A blob data stream in the folder is none of Pebble's files.
	data, err := s.Folder(Blob).OpenShared(t.Context(), Folder(Blob, 1)+"data", extentstore.BlobData)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := data.Append(t.Context(), extentstore.NewBlock([]byte("bits"))); err != nil {
		t.Fatal(err)
	}
	closeServer(t, s)

	s = openServer(t, l, Options{})
	for _, name := range Tables() {
		if !found(t, s.Range(name), name) || found(t, s.Range(name), "other") {
			t.Errorf("%s lost its row or has another's", name)
		}
	}
	if info, ok := s.Folder(Blob).Stat(Folder(Blob, 1) + "data"); !ok || info.SealedLength() != 4 {
		t.Errorf("blob data stream: got %+v, %v", info, ok)
	}
}

func TestSecondServerFencesTheFirst(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Fake: true})
	first := openServer(t, l, Options{})
	set(t, first.Range(Blob), "a", []byte("x"))
	second := openServer(t, l, Options{})
	if !found(t, second.Range(Blob), "a") {
		t.Error("the second server lost a row")
	}
	for _, name := range Tables() {
		err := first.Range(name).Update(t.Context(), rangestore.Latches{}, func(tx *rangestore.Tx) error {
			return tx.Set([]byte("b"), nil)
		})
		if stamp.KindOf(err) != stamp.Fenced {
			t.Errorf("%s on the first server: got %v, want Fenced", name, err)
		}
		<-first.Range(name).Done()
	}
	closeServer(t, first)
	set(t, second.Range(Blob), "c", nil)
}

// TestMemTablesStayInTheirBudget fills two ranges; the larger is flushed.
func TestMemTablesStayInTheirBudget(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Fake: true})
	s := openServer(t, l, Options{MemTableSize: 8 << 20, MemTables: 3 << 20})
	for i := range 40 {
		set(t, s.Range(Blob), fmt.Sprint(i), make([]byte, 64<<10))
	}
	set(t, s.Range(Entity), "a", make([]byte, 64<<10))
	deadline := time.Now().Add(10 * time.Second)
	for s.Range(Blob).Metrics().Flush.Count == 0 {
		if time.Now().After(deadline) {
			t.Fatalf("not flushed: memtables take %d bytes", s.Range(Blob).MemTableSize())
		}
		time.Sleep(10 * time.Millisecond)
	}
	if n := s.Range(Entity).Metrics().Flush.Count; n != 0 {
		t.Errorf("the smaller range was flushed %d times", n)
	}
}

// TestTakeOver: 100,000 rows of 4 KiB, a log to replay, and an owner that did
// not close. The nodes and the StreamManager keep running. It prints how long
// opening takes; the budget of a whole start is 2 s.
func TestTakeOver(t *testing.T) {
	rows := 100_000
	if testing.Short() {
		rows = 20_000
	}
	l := streamtest.New(t, streamtest.Options{JournalSize: 128 << 20})
	first := openServer(t, l, Options{})
	value := make([]byte, 4096)
	for i := range value {
		value[i] = byte(i * i >> 5)
	}
	const batch = 100
	for i := 0; i < rows; i += batch {
		err := first.Range(Blob).Update(t.Context(), rangestore.Latches{}, func(tx *rangestore.Tx) (err error) {
			for j := i; j < i+batch; j++ {
				err = errors.Join(err, tx.Set(fmt.Appendf(nil, "b%07d", j*7919%rows), value))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	log := first.Range(Blob).Metrics().WAL.Size
	begin := time.Now()
	second := openServer(t, l, Options{})
	opened := time.Since(begin)
	for i := 0; i < rows; i += 97 {
		if !found(t, second.Range(Blob), fmt.Sprintf("b%07d", i)) {
			t.Fatalf("row %d is lost", i)
		}
	}
	closeServer(t, first)
	begin = time.Now()
	closeServer(t, second)
	t.Logf("open %v with %d MiB of log, close %v", opened, log>>20, time.Since(begin))
}
