package protocol

import (
	"context"
	"iter"

	"stamp/extentstore/erasure"
)

// course is code of the product that goes straight through and waits for
// answers, as a coroutine of the event loop: it runs while its process waits for
// nothing, and never beside anything else.
type course struct {
	w       *world
	p       *proc
	yield   func(struct{}) bool
	next    func() (struct{}, bool)
	stop    func()
	ended   bool
	stopped bool
}

// abandoned unwinds a course at the end of a run.
type abandoned struct{}

// run begins a course of a process. If the process dies it goes on no more.
func (w *world) run(p *proc, fn func()) {
	c := &course{w: w, p: p}
	c.next, c.stop = iter.Pull(func(yield func(struct{}) bool) {
		defer func() {
			c.ended = true
			if r := recover(); r != nil {
				if _, ok := r.(abandoned); !ok {
					panic(r)
				}
			}
		}()
		c.yield = yield
		fn()
	})
	if len(w.courses) >= 64 {
		left := w.courses[:0]
		for _, c := range w.courses {
			if !c.ended {
				left = append(left, c)
			}
		}
		clear(w.courses[len(left):])
		w.courses = left
	}
	w.courses = append(w.courses, c)
	c.resume()
}

func (c *course) resume() {
	before := c.w.current
	c.w.current = c
	c.next()
	c.w.current = before
}

// await lets a course wait until done is called, which happens never if its
// process dies.
func (w *world) await(start func(done func(resp))) (r resp) {
	c := w.current
	if c.stopped {
		panic(abandoned{})
	}
	got, waits := false, false
	start(func(a resp) {
		if got {
			return
		}
		r, got = a, true
		if waits {
			c.resume()
		}
	})
	if !got {
		waits = true
		if !c.yield(struct{}{}) {
			c.stopped = true
			panic(abandoned{})
		}
	}
	return r
}

// each makes calls side by side, for a Copier.
func (w *world) each(ctx context.Context, n int, call func(ctx context.Context, i int) error) (first error) {
	p := w.current.p
	w.await(func(done func(resp)) {
		left := n
		for i := range n {
			w.run(p, func() {
				if err := call(ctx, i); err != nil && first == nil {
					first = err
				}
				if left--; left == 0 {
					done(resp{})
				}
			})
		}
	})
	return first
}

func (w *world) gather(ctx context.Context, g *erasure.Gathering) ([]byte, error) {
	return g.InTurn(ctx)
}

// abandon ends all courses, at the end of a run.
func (w *world) abandon() {
	for _, c := range w.courses {
		w.current = c
		if !c.ended {
			c.stop()
		}
	}
	w.courses = nil
}
