package bench

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"
)

// FloorOptions configures a Floor. All of it is required.
type FloorOptions struct {
	Dir         string // for the journal, on the disk that is measured
	JournalSize int64
	MaxMemory   int64  // bytes of blobs it may hold; a put beyond is refused
	Key         string // base64; requests are hashed with it, not checked
}

// Floor is the yardstick: the least that a server does that keeps what it
// acknowledges. It is bare net/http, computes one HMAC-SHA256 for each
// request, acknowledges a PUT after one group-committed journal flush and
// answers a GET from memory. It has no names, no listing, no conditions, no
// checksums and no way to start again with its data; nobody should store
// anything in it.
type Floor struct {
	opts    FloorOptions
	journal *floorJournal
	macs    sync.Pool

	mu    sync.RWMutex // guards the fields below
	blobs map[string][]byte
	held  int64
}

// OpenFloor prepares the journal in opts.Dir.
func OpenFloor(opts FloorOptions) (*Floor, error) {
	key, err := base64.StdEncoding.DecodeString(opts.Key)
	if err != nil {
		return nil, fmt.Errorf("floor key is not base64: %w", err)
	}
	j, err := openFloorJournal(filepath.Join(opts.Dir, "floor.journal"), opts.JournalSize)
	if err != nil {
		return nil, err
	}
	f := &Floor{opts: opts, journal: j, blobs: map[string][]byte{}}
	f.macs.New = func() any { return hmac.New(sha256.New, key) }
	return f, nil
}

// Close gives the journal back. No request may be under way.
func (f *Floor) Close() error { return f.journal.close() }

// Serve answers requests on l until ctx is done.
func (f *Floor) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{Handler: f, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	err := srv.Serve(l)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// ServeHTTP implements http.Handler.
func (f *Floor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.hash(r)
	switch {
	case r.Method == "PUT" && r.URL.RawQuery == "restype=container":
		w.WriteHeader(http.StatusCreated)
	case r.URL.RawQuery != "":
		w.WriteHeader(http.StatusNotImplemented)
	case r.Method == "PUT":
		f.put(w, r)
	case r.Method == "GET":
		f.get(w, r)
	default:
		w.WriteHeader(http.StatusNotImplemented)
	}
}

// hash spends what the check of a signature cannot do without.
func (f *Floor) hash(r *http.Request) {
	mac := f.macs.Get().(hash.Hash)
	mac.Reset()
	io.WriteString(mac, r.Method)
	io.WriteString(mac, r.URL.Path)
	io.WriteString(mac, r.Header.Get("x-ms-date"))
	io.WriteString(mac, r.Header.Get("Authorization"))
	var sum [sha256.Size]byte
	mac.Sum(sum[:0])
	f.macs.Put(mac)
}

func (f *Floor) put(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength < 0 {
		w.WriteHeader(http.StatusLengthRequired)
		return
	}
	if !f.fits(r.URL.Path, r.ContentLength) {
		w.WriteHeader(http.StatusInsufficientStorage)
		return
	}
	body := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, body); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if err := f.journal.append(body); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	f.mu.Lock()
	f.held += int64(len(body)) - int64(len(f.blobs[r.URL.Path]))
	f.blobs[r.URL.Path] = body
	f.mu.Unlock()
	w.WriteHeader(http.StatusCreated)
}

// fits says whether a blob of n bytes still does.
func (f *Floor) fits(name string, n int64) bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.held-int64(len(f.blobs[name]))+n <= f.opts.MaxMemory
}

func (f *Floor) get(w http.ResponseWriter, r *http.Request) {
	f.mu.RLock()
	body, ok := f.blobs[r.URL.Path]
	f.mu.RUnlock()
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Write(body)
}
