package admin

import (
	"context"
	"encoding/json"
	"io"
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

// Options configures a handler. All fields are Required.
type Options struct {
	Accounts Accounts
	Layer    *Local
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
	mux.HandleFunc("GET /v1/content", s.content)
	handle("GET /v1/extents", s.listExtents)
	for pattern, fn := range s.layer() {
		handle(pattern, fn)
	}
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
	space, err := s.Layer.Manager.Space(r.Context())
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
	list, err := s.Layer.Manager.List(r.Context(), q.Get("prefix"), q.Get("after"), limit)
	if err != nil {
		return nil, err
	}
	out := make([]Stream, 0, len(list))
	for _, info := range list {
		out = append(out, newStream(info))
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
	length, err := number(q, "length", -1)
	if err != nil {
		fail(w, err)
		return
	}
	rd, err := s.Layer.Content(r.Context(), name, offset, length)
	if err != nil {
		fail(w, err)
		return
	}
	defer rd.Close()
	size := rd.(*content).Size()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	if n, err := io.CopyBuffer(struct{ io.Writer }{w}, rd, make([]byte, max(min(size, 1<<20), 1))); n < size || err != nil {
		panic(http.ErrAbortHandler)
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
	list, err := s.Layer.Manager.Extents(r.Context(), after, limit)
	if err != nil {
		return nil, err
	}
	out := make([]Extent, 0, len(list))
	for _, x := range list {
		out = append(out, newExtent(x))
	}
	return out, nil
}

// layer has the handlers that hand a call on as it is.
func (s *server) layer() map[string]func(r *http.Request) (any, error) {
	type call = func(r *http.Request) (any, error)
	l := s.Layer
	id := func(fn func(ctx context.Context, id string) (any, error)) call {
		return func(r *http.Request) (any, error) { return fn(r.Context(), r.PathValue("id")) }
	}
	do := func(fn func(ctx context.Context, id string, q url.Values) error) call {
		return func(r *http.Request) (any, error) { return nil, fn(r.Context(), r.PathValue("id"), r.URL.Query()) }
	}
	return map[string]call{
		"GET /v1/layer":                 func(r *http.Request) (any, error) { return l.Layer(r.Context()) },
		"GET /v1/stream":                func(r *http.Request) (any, error) { return l.Stream(r.Context(), r.URL.Query().Get("name")) },
		"GET /v1/extents/{id}":          id(func(ctx context.Context, id string) (any, error) { return l.Extent(ctx, id) }),
		"GET /v1/extents/{id}/replicas": id(func(ctx context.Context, id string) (any, error) { return l.Replicas(ctx, id) }),
		"GET /v1/extents/{id}/where":    id(func(ctx context.Context, id string) (any, error) { return l.Where(ctx, id) }),
		"POST /v1/extents/{id}/verify":  id(func(ctx context.Context, id string) (any, error) { return l.Verify(ctx, id) }),
		"POST /v1/extents/{id}/repair":  id(func(ctx context.Context, id string) (any, error) { return l.Repair(ctx, id) }),
		"POST /v1/drain": do(func(ctx context.Context, _ string, q url.Values) error {
			on, err := strconv.ParseBool(q.Get("on"))
			if err != nil {
				return stamp.Errorf(stamp.Invalid, "admin", "on=%q: want true or false", q.Get("on"))
			}
			return l.Drain(ctx, q.Get("what"), on)
		}),
		"GET /v1/trash": func(r *http.Request) (any, error) {
			q := r.URL.Query()
			limit, err := pageLimit(q)
			if err != nil {
				return nil, err
			}
			return l.trashPage(r.Context(), extentstore.DiskID(q.Get("disk")), q.Get("after"), limit)
		},
		"POST /v1/restore": do(func(ctx context.Context, _ string, q url.Values) error {
			return l.Restore(ctx, extentstore.DiskID(q.Get("disk")), q.Get("extent"))
		}),
		"POST /v1/policy": do(func(ctx context.Context, _ string, q url.Values) error {
			return l.SetPolicy(ctx, q.Get("kind"), q.Get("code"))
		}),
		"POST /v1/members/{id}": do(func(ctx context.Context, id string, q url.Values) error {
			return l.AddMember(ctx, id, q.Get("address"))
		}),
		"DELETE /v1/members/{id}": do(func(ctx context.Context, id string, _ url.Values) error {
			return l.RemoveMember(ctx, id)
		}),
	}
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
