package wire

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
)

// readBuffer is how much is read ahead; payload beyond it goes straight to
// where it belongs.
const readBuffer = 32 << 10

// A receiver reads frames off a connection.
type receiver struct {
	conn net.Conn
	br   *bufio.Reader
	// heard counts what has arrived, so that silence shows.
	heard atomic.Uint64
	// broken is asked when a read was broken off by a deadline: it takes the
	// deadline away again.
	broken func()

	head [headerSize]byte
	meta []byte
}

func newReceiver(conn net.Conn) *receiver {
	return &receiver{conn: conn, br: bufio.NewReaderSize(conn, readBuffer), meta: make([]byte, 0, 4096)}
}

// fill reads exactly len(p) bytes. again is called when the read was broken
// off, and says whether p is still wanted.
func (r *receiver) fill(p []byte, again func() bool) (done int, err error) {
	for done < len(p) {
		n, err := r.br.Read(p[done:])
		done += n
		if n > 0 {
			r.heard.Add(1)
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || r.broken == nil {
			if err == io.EOF && done > 0 {
				err = io.ErrUnexpectedEOF
			}
			return done, err
		}
		r.broken()
		if again != nil && !again() {
			return done, nil
		}
	}
	return done, nil
}

// next reads header and meta of a frame. The meta is good until the next call.
func (r *receiver) next() (header, []byte, error) {
	if _, err := r.fill(r.head[:], nil); err != nil {
		return header{}, nil, err
	}
	h, err := parseHeader(r.head[:])
	if err != nil {
		return h, nil, err
	}
	if cap(r.meta) < h.meta {
		r.meta = make([]byte, 0, maxMeta)
	}
	meta := r.meta[:h.meta]
	if _, err := r.fill(meta, nil); err != nil {
		return h, nil, err
	}
	return h, meta, h.checkMeta(meta)
}

// skip throws n bytes away.
func (r *receiver) skip(n int) error {
	for n > 0 {
		k, err := r.br.Discard(min(n, readBuffer))
		n -= k
		if k > 0 {
			r.heard.Add(1)
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || r.broken == nil {
			return err
		}
		r.broken()
	}
	return nil
}
