package admin

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"stamp"
	"stamp/extentstore"
)

// Accounts is what the socket needs of the account table.
type Accounts interface {
	List(ctx context.Context) ([]Account, error)
	Create(ctx context.Context, name stamp.AccountName) (Account, error)
	Get(ctx context.Context, name stamp.AccountName) (Account, error)
}

// StreamReader is what the socket needs of the stream client.
type StreamReader interface {
	// Length counts the durable part of the unsealed extent.
	Length(ctx context.Context, name string) (int64, error)
	ReadStream(ctx context.Context, name string, offset int64, p []byte) (int, error)
}

// Options configures a handler. All fields are Required.
type Options struct {
	Accounts Accounts
	Manager  extentstore.StreamManager
	Nodes    extentstore.Nodes
	Streams  StreamReader
	Status   func() Status // Space is filled in by the handler
}

type server struct{ Options }

// NewHandler makes the handler of the operators' socket.
func NewHandler(opts Options) http.Handler {
	s := &server{opts}
	mux := http.NewServeMux()
	handle := func(pattern string, fn func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			v, err := fn(r)
			if err != nil {
				fail(w, err)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(v) // the caller has gone if it fails
		})
	}
	handle("GET /v1/status", s.status)
	handle("GET /v1/accounts", s.listAccounts)
	handle("POST /v1/accounts/{name}", s.createAccount)
	handle("GET /v1/accounts/{name}", s.getAccount)
	handle("GET /v1/streams", s.listStreams)
	handle("GET /v1/stream", s.getStream)
	mux.HandleFunc("GET /v1/content", s.content)
	handle("GET /v1/extents", s.listExtents)
	handle("GET /v1/extents/{id}", s.getExtent)
	handle("POST /v1/extents/{id}/verify", s.verify)
	handle("/", func(r *http.Request) (any, error) {
		return nil, stamp.Errorf(stamp.Unsupported, "admin", "no %s %s in this version", r.Method, r.URL.Path)
	})
	return mux
}

// fail answers with an error. The status is a courtesy; the client goes by
// the kind in the body.
func fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch stamp.KindOf(err) {
	case stamp.NotFound, stamp.AccountNotFound, stamp.Unsupported:
		status = http.StatusNotFound
	case stamp.Invalid:
		status = http.StatusBadRequest
	case stamp.Exists:
		status = http.StatusConflict
	case stamp.Busy, stamp.Unavailable, stamp.Timeout:
		status = http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(newError(err)) // the caller has gone if it fails
}

func (s *server) status(r *http.Request) (any, error) {
	st := s.Status()
	space, err := s.Manager.Space(r.Context())
	if err != nil {
		return nil, err
	}
	st.Space = Space{Capacity: space.Capacity, Free: space.Free, Full: space.Full, Disks: map[extentstore.DiskID]string{}}
	for id, d := range space.Disks {
		st.Space.Disks[id] = d.Failed
	}
	return st, nil
}

func (s *server) listAccounts(r *http.Request) (any, error) {
	list, err := s.Accounts.List(r.Context())
	if list == nil {
		list = []Account{}
	}
	return list, err
}

func (s *server) createAccount(r *http.Request) (any, error) {
	return s.Accounts.Create(r.Context(), stamp.AccountName(r.PathValue("name")))
}

func (s *server) getAccount(r *http.Request) (any, error) {
	return s.Accounts.Get(r.Context(), stamp.AccountName(r.PathValue("name")))
}

func (s *server) listStreams(r *http.Request) (any, error) {
	q := r.URL.Query()
	limit, err := pageLimit(q)
	if err != nil {
		return nil, err
	}
	list, err := s.Manager.List(r.Context(), q.Get("prefix"), q.Get("after"), limit)
	if err != nil {
		return nil, err
	}
	out := make([]Stream, 0, len(list))
	for _, info := range list {
		out = append(out, newStream(info))
	}
	return out, nil
}

func (s *server) getStream(r *http.Request) (any, error) {
	name := r.URL.Query().Get("name")
	info, err := s.Manager.Stat(r.Context(), name)
	if err != nil {
		return nil, err
	}
	length, err := s.Streams.Length(r.Context(), name)
	if err != nil {
		return nil, err
	}
	out := newStream(info)
	out.Length = length
	out.List = []Extent{}
	for _, x := range info.Extents {
		out.List = append(out.List, newExtent(x))
	}
	return out, nil
}

// content sends bytes of a stream as they are. An error after the first byte
// breaks the connection: a short answer must not look complete.
func (s *server) content(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	name := q.Get("name")
	offset, err := number(q, "offset", 0)
	if err != nil {
		fail(w, err)
		return
	}
	total, err := s.Streams.Length(r.Context(), name)
	if err != nil {
		fail(w, err)
		return
	}
	length, err := number(q, "length", total)
	if err != nil {
		fail(w, err)
		return
	}
	if offset > total {
		fail(w, stamp.Errorf(stamp.InvalidRange, "admin", "stream %s has %d bytes, none at %d", name, total, offset))
		return
	}
	length = min(length, total-offset)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(length, 10))
	buf := make([]byte, min(length, 1<<20))
	for length > 0 {
		n, err := s.Streams.ReadStream(r.Context(), name, offset, buf[:min(length, int64(len(buf)))])
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return
			}
		}
		offset, length = offset+int64(n), length-int64(n)
		if length > 0 && (err != nil || n == 0) {
			panic(http.ErrAbortHandler)
		}
	}
}

func (s *server) listExtents(r *http.Request) (any, error) {
	q := r.URL.Query()
	limit, err := pageLimit(q)
	if err != nil {
		return nil, err
	}
	var after extentstore.ExtentID
	if v := q.Get("after"); v != "" {
		if after, err = extentstore.ParseExtentID(v); err != nil {
			return nil, err
		}
	}
	list, err := s.Manager.Extents(r.Context(), after, limit)
	if err != nil {
		return nil, err
	}
	out := make([]Extent, 0, len(list))
	for _, x := range list {
		out = append(out, newExtent(x))
	}
	return out, nil
}

func (s *server) extent(r *http.Request) (extentstore.ExtentInfo, error) {
	id, err := extentstore.ParseExtentID(r.PathValue("id"))
	if err != nil {
		return extentstore.ExtentInfo{}, err
	}
	return s.Manager.Extent(r.Context(), id)
}

func (s *server) getExtent(r *http.Request) (any, error) {
	x, err := s.extent(r)
	return newExtent(x), err
}

// verify reads every replica of an extent and checks it against its index,
// and a sealed one against the length that the StreamManager has fixed.
func (s *server) verify(r *http.Request) (any, error) {
	x, err := s.extent(r)
	if err != nil {
		return nil, err
	}
	out := make([]Replica, 0, len(x.Replicas))
	for _, id := range x.Replicas {
		rep := Replica{Extent: x.ID.String(), Node: id}
		state, err := s.verifyReplica(r.Context(), x, id)
		if err != nil {
			if errors.Is(err, context.Canceled) {
				return nil, err
			}
			rep.Error = newError(err)
		}
		rep.Length, rep.Sealed = state.Length, state.Sealed
		out = append(out, rep)
	}
	return out, nil
}

func (s *server) verifyReplica(ctx context.Context, x extentstore.ExtentInfo, id extentstore.DiskID) (extentstore.ReplicaState, error) {
	node, err := s.Nodes.Node(id)
	if err != nil {
		return extentstore.ReplicaState{}, err
	}
	state, err := node.Verify(ctx, x.ID)
	if err == nil && x.Sealed && state.Length != x.Length {
		err = stamp.Errorf(stamp.Corrupt, "admin.verify", "extent %s on %s has %d bytes, it was sealed at %d", x.ID, id, state.Length, x.Length)
	}
	return state, err
}

func pageLimit(q url.Values) (int, error) {
	n, err := number(q, "limit", MaxPage)
	return int(min(max(n, 1), MaxPage)), err
}

func number(q url.Values, name string, missing int64) (int64, error) {
	v := q.Get(name)
	if v == "" {
		return missing, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		return 0, stamp.Errorf(stamp.Invalid, "admin", "%s=%q is not a number from 0 on", name, v)
	}
	return n, nil
}
