package racktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/dustin/go-humanize"

	"stamp"
	"stamp/appliance/admin"
	"stamp/appliance/config"
	"stamp/extentstore"
)

func extentTarget(size string) int64 {
	var s config.Size
	if err := s.UnmarshalText([]byte(size)); err != nil {
		return 0
	}
	return int64(s)
}

// Healed waits until every extent has all its copies, as the managers say.
func (r *Rack) Healed(within time.Duration) error {
	ctx, cancel := patience(within)
	defer cancel()
	began := time.Now()
	var last error
	for {
		l, err := r.Client().Layer(ctx)
		if err == nil {
			lacking := int64(0)
			for n, count := range l.Missing {
				if n > 0 {
					lacking += count
				}
			}
			if lacking == 0 && l.Lost == 0 {
				r.t.Logf("healed after %v: %d extents", time.Since(began).Round(time.Millisecond), l.Extents)
				return nil
			}
			err = fmt.Errorf("%d extents lack copies, %d are lost; heal %+v; %v", lacking, l.Lost, l.Heal, conditions(l))
		}
		last = err
		select {
		case <-ctx.Done():
			return fmt.Errorf("not healed within %v: %w", within, last)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func conditions(l admin.Layer) (out []string) {
	for _, d := range l.Disks {
		if d.Condition != string(extentstore.DiskServing) {
			out = append(out, fmt.Sprintf("%s %s (%s)", d.ID, d.Condition, d.Why))
		}
	}
	return out
}

// Check looks for every acknowledged append on every replica, and that all
// replicas of every sealed extent are the same bit for bit. The load has been
// stopped, and everything is healed.
func (l *Load) Check(ctx context.Context) error {
	began := time.Now()
	want := map[extentstore.ExtentID][]record{}
	var errs []error
	for _, w := range l.writers {
		if err := l.place(ctx, w, want); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	var extents, replicas, records int
	var bytes int64
	for after := extentstore.ExtentID(0); ; {
		page, err := l.rack.Client().Manager.Extents(ctx, after, admin.MaxPage)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		after = page[len(page)-1].ID
		for _, x := range page {
			if x.Refs == 0 {
				continue // nobody's, about to be collected
			}
			extents++
			replicas += len(x.Replicas)
			records += len(want[x.ID])
			n, err := l.checkPlaces(ctx, x, want[x.ID])
			bytes += n
			if err != nil {
				errs = append(errs, err)
			}
			delete(want, x.ID)
		}
	}
	for id, rs := range want {
		errs = append(errs, fmt.Errorf("extent %s is gone, and %d acknowledged appends with it", id, len(rs)))
	}
	if len(errs) > 10 {
		errs = append(errs[:10], fmt.Errorf("and %d more", len(errs)-10))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	l.rack.t.Logf("checked %d acknowledged appends on %d replicas of %d extents, %s, in %v",
		records, replicas, extents, humanize.IBytes(uint64(bytes)), time.Since(began).Round(time.Millisecond))
	return nil
}

// place finds the extents of a writer's records.
func (l *Load) place(ctx context.Context, w *writer, want map[extentstore.ExtentID][]record) error {
	if !w.sole {
		for _, r := range w.log {
			want[r.extent] = append(want[r.extent], r)
		}
		return nil
	}
	info, err := l.client.Stat(ctx, w.name)
	if err != nil {
		return fmt.Errorf("stream %s: %w", w.name, err)
	}
	at, i := int64(len(info.Inline)), 0
	for n, x := range info.Extents {
		end := at + x.Length
		if !x.Sealed {
			if n != len(info.Extents)-1 {
				return fmt.Errorf("stream %s: extent %d of %d is not sealed", w.name, n, len(info.Extents))
			}
			end = w.at
		}
		for i < len(w.log) && w.log[i].offset < end {
			r := w.log[i]
			if r.offset+int64(r.n) > end {
				return fmt.Errorf("stream %s: extent %s ends at %d of the stream, within the append of %d bytes at %d", w.name, x.ID, end, r.n, r.offset)
			}
			r.offset -= at
			want[x.ID] = append(want[x.ID], r)
			i++
		}
		at = end
	}
	switch {
	case i < len(w.log):
		return fmt.Errorf("stream %s has %d bytes, %d were acknowledged: %d appends are missing", w.name, at, w.at, len(w.log)-i)
	case at > w.at && l.ended(w):
		return fmt.Errorf("stream %s has %d bytes, only %d were acknowledged and nothing is in doubt: bytes are there twice", w.name, at, w.at)
	}
	return nil
}

// ended reports whether a writer has no append in doubt.
func (l *Load) ended(w *writer) bool { return w.failed.Load() == 0 }

// checkPlaces reads an extent on every replica. What has been moved since it was
// listed, off a disk that was full say, is looked for where it is now.
func (l *Load) checkPlaces(ctx context.Context, x extentstore.ExtentInfo, want []record) (n int64, err error) {
	for range 3 {
		if n, err = l.checkExtent(ctx, x, want); err == nil {
			return n, nil
		}
		now, e := l.rack.Client().Manager.Extent(ctx, x.ID)
		if e != nil {
			return n, errors.Join(err, e)
		}
		if slices.Equal(now.Replicas, x.Replicas) && (now.Coded == nil) == (x.Coded == nil) {
			return n, err
		}
		x = now
	}
	return n, err
}

// checkExtent reads an extent on every replica.
func (l *Load) checkExtent(ctx context.Context, x extentstore.ExtentInfo, want []record) (int64, error) {
	sort.Slice(want, func(i, j int) bool { return want[i].offset < want[j].offset })
	var errs []error
	var first []byte
	total := int64(0)
	for i, on := range x.Replicas {
		node, err := l.rack.Client().Nodes.Node(on)
		if err == nil {
			_, err = node.Verify(ctx, x.ID)
		}
		var p []byte
		if err == nil {
			p, err = readReplica(ctx, node, x)
		}
		total += int64(len(p))
		if err != nil {
			errs = append(errs, fmt.Errorf("extent %s on %s: %w", x.ID, on, err))
			continue
		}
		for _, r := range want {
			if int64(len(p)) < r.offset+int64(r.n) {
				errs = append(errs, fmt.Errorf("extent %s on %s has %d bytes: the acknowledged append of %d at %d is missing", x.ID, on, len(p), r.n, r.offset))
				break
			}
			if xxhash.Sum64(p[r.offset:r.offset+int64(r.n)]) != r.sum {
				errs = append(errs, fmt.Errorf("extent %s on %s: the acknowledged append of %d bytes at %d is damaged", x.ID, on, r.n, r.offset))
				break
			}
		}
		switch {
		case !x.Sealed:
		case i == 0 || first == nil:
			first = p
		case string(first) != string(p):
			errs = append(errs, fmt.Errorf("extent %s: the replicas on %s and %s differ", x.ID, x.Replicas[0], on))
		}
	}
	if x.Coded != nil {
		for _, r := range want {
			if err := l.readBack(r, func(p []byte) (int, error) { return l.client.ReadExtent(ctx, x.ID, r.offset, p) }); err != nil {
				errs = append(errs, fmt.Errorf("coded extent %s: %w", x.ID, err))
				break
			}
		}
		reps, err := l.rack.Client().Verify(ctx, x.ID.String())
		if err != nil {
			errs = append(errs, err)
		}
		for _, r := range reps {
			if r.Error != nil {
				errs = append(errs, r.Error.Err())
			}
		}
	}
	return total, errors.Join(errs...)
}

// CheckContent reads every append that has been acknowledged until now as the
// partition layer would, from whoever serves it. The load may go on.
func (l *Load) CheckContent(ctx context.Context) error {
	began := time.Now()
	n := 0
	var errs []error
	for _, w := range l.writers {
		w.mu.Lock()
		log := w.log[:len(w.log):len(w.log)]
		w.mu.Unlock()
		n += len(log)
		for _, r := range log {
			err := l.readBack(r, func(p []byte) (int, error) {
				if w.sole {
					return l.client.ReadStream(ctx, w.name, r.offset, p)
				}
				return l.client.ReadExtent(ctx, r.extent, r.offset, p)
			})
			if err != nil {
				errs = append(errs, fmt.Errorf("stream %s: %w", w.name, err))
				break
			}
		}
	}
	l.rack.t.Logf("read %d acknowledged appends in %v", n, time.Since(began).Round(time.Millisecond))
	return errors.Join(errs...)
}

// readBack holds what read gives against a record.
func (l *Load) readBack(r record, read func(p []byte) (int, error)) error {
	p := make([]byte, r.n)
	if n, err := read(p); n < r.n {
		return fmt.Errorf("read the acknowledged append of %d bytes at %d: %d bytes, %w", r.n, r.offset, n, err)
	}
	if xxhash.Sum64(p) != r.sum {
		return fmt.Errorf("the acknowledged append of %d bytes at %d is damaged", r.n, r.offset)
	}
	return nil
}

// readReplica reads all of one replica, past the other ones.
func readReplica(ctx context.Context, node extentstore.ExtentNode, x extentstore.ExtentInfo) ([]byte, error) {
	state, err := node.Stat(ctx, x.ID)
	if err != nil {
		return nil, err
	}
	if x.Sealed && state.Length != x.Length {
		return nil, stamp.Errorf(stamp.Corrupt, "racktest", "%d bytes, it was sealed at %d", state.Length, x.Length)
	}
	p := make([]byte, state.Length)
	for at := 0; at < len(p); {
		n, err := node.Read(ctx, x.ID, int64(at), p[at:min(len(p), at+1<<20)])
		at += n
		if err != nil && !(err == io.EOF && at == len(p)) {
			return nil, fmt.Errorf("read at %d: %w", at, err)
		}
		if n == 0 && at < len(p) {
			return nil, fmt.Errorf("read at %d: nothing", at)
		}
	}
	return p, nil
}
