package stream

import (
	"context"
	"io"

	"stamp"
)

// A Reader reads one stream. It is safe for concurrent use and needs no Close.
type Reader struct {
	c *Client
	e *entry
}

// ReadAt fills p from offset on. Like io.ReaderAt it returns fewer bytes than
// len(p) only with an error, which is io.EOF at the end.
func (r *Reader) ReadAt(ctx context.Context, p []byte, offset int64) (int, error) {
	if offset < 0 {
		return 0, stamp.Errorf(stamp.Invalid, "stream.ReadAt", "offset %d", offset)
	}
	l := r.e.layout.Load()
	var eof error
	switch rest := l.size() - offset; {
	case len(p) == 0:
		return 0, nil
	case rest <= 0:
		return 0, io.EOF
	case rest < int64(len(p)):
		p, eof = p[:rest], io.EOF
	}
	done := 0
	if offset < int64(len(l.inline)) {
		done = copy(p, l.inline[offset:])
	}
	for i := l.find(offset + int64(done)); done < len(p); i++ {
		within := offset + int64(done) - l.starts[i]
		n := len(p) - done
		if i+1 < len(l.starts) {
			n = int(min(int64(n), l.starts[i+1]-l.starts[i]-within))
		}
		if n == 0 {
			continue // an empty extent
		}
		k, err := r.c.readInfo(ctx, &l.infos[i], within, p[done:done+n])
		done += k
		if k < n {
			if err == io.EOF { // less than was acknowledged
				err = stamp.Errorf(stamp.Corrupt, "stream.ReadAt", "extent %v: %d of %d bytes at %d", l.infos[i].ID, k, n, within)
			}
			return done, err
		}
	}
	return done, eof
}

// Size is the number of bytes that can be read.
func (r *Reader) Size() int64 { return r.e.layout.Load().size() }
