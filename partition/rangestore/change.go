package rangestore

import (
	"bytes"
	"context"

	"stamp"
)

// Narrow makes the range what desc says, with bounds inside its own, after that
// has become durable beside its files. Rows outside are no longer answered from
// here, except to who began to read before; Trim throws them away later.
func (p *Pause) Narrow(ctx context.Context, desc Descriptor) error {
	r := p.r
	r.mu.Lock()
	r.desc = desc
	r.mu.Unlock()
	r.begin(desc.Bounds)
	return r.adjust(ctx, desc, nil)
}

// Retire ends the service of a range whose rows another one has now: whoever
// is still reading, and all who come, are told NotOwner. What the LSM tree
// still does is thrown away. Close remains to be called.
func (r *Range) Retire() {
	err := stamp.Errorf(stamp.NotOwner, "rangestore", "range %s is no more", r.name)
	r.finish(err)
	if r.terminal != nil {
		r.terminal.Overlay(err)
	}
}

// CheckSplit is Invalid if the range cannot be split at a key. The split is at
// the returned key: the first of the object that has the given one.
func (r *Range) CheckSplit(key []byte) ([]byte, error) {
	at := bytes.Clone(key)
	if r.rules.Boundary != nil {
		at = bytes.Clone(r.rules.Boundary(key))
	}
	b := r.Bounds()
	switch {
	case len(at) == 0 || len(at) > MaxBound || owned(at):
		return nil, stamp.Errorf(stamp.Invalid, "rangestore.Split", "a range cannot begin at a key of %d bytes, %.32x", len(at), at)
	case !b.Contains(at) || bytes.Equal(at, b.Low):
		return nil, stamp.Errorf(stamp.Invalid, "rangestore.Split", "key %.32x is not inside of range %s", at, r.name)
	}
	return at, nil
}

// Abandon makes the range terminal: it can not go on, and is to be opened anew.
func (r *Range) Abandon(cause error) { r.poison(cause) }
