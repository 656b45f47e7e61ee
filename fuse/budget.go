package fuse

import (
	"sync"
)

// A budget bounds the memory of all that a mount has buffered and not yet
// handed over. Who would exceed it waits, and the mount is asked to hand over.
type budget struct {
	limit    int64
	pressure chan struct{} // has an element while somebody waits

	mu   sync.Mutex // guards the fields below
	cond *sync.Cond
	used int64
	err  error // why nothing can be handed over; given to those who wait
	wait int   // how many wait
}

func newBudget(limit int64) *budget {
	b := &budget{limit: limit, pressure: make(chan struct{}, 1)}
	b.cond = sync.NewCond(&b.mu)
	return b
}

// add charges or gives back memory at once.
func (b *budget) add(delta int64) {
	b.mu.Lock()
	b.used += delta
	if b.used < 0 {
		panic("fuse: more memory given back than was taken")
	}
	if delta < 0 {
		b.err = nil
		b.cond.Broadcast()
	}
	b.mu.Unlock()
}

// room waits until there is room for n more bytes, which the caller then
// charges with add: a few writers may exceed the limit by one request each.
func (b *budget) room(n int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = nil
	for b.used > 0 && b.used+n > b.limit {
		select {
		case b.pressure <- struct{}{}:
		default:
		}
		b.wait++
		b.cond.Wait()
		b.wait--
		if b.err != nil {
			return b.err
		}
	}
	return nil
}

// refuse wakes those who wait with an error.
func (b *budget) refuse(err error) {
	b.mu.Lock()
	b.err = err
	b.cond.Broadcast()
	b.mu.Unlock()
}

// inUse is the memory charged.
func (b *budget) inUse() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}
