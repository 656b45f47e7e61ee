package wire

import (
	"context"
	"sync"
	"time"

	"stamp/extentstore"
)

// callContext is the context of a call that a server carries out. It ends with
// the client's deadline, its cancel or its connection. Unlike those of package
// context it costs next to nothing until somebody waits for its end.
type callContext struct {
	class    context.Context // has the call's Class and no end
	deadline time.Time       // zero if there is none

	mu    sync.Mutex // guards the fields below
	err   error
	done  chan struct{}
	timer *time.Timer
	after map[*func()]struct{}
}

var classes = func() (all [3]context.Context) {
	for i := range all {
		all[i] = extentstore.WithClass(context.Background(), extentstore.Class(i))
	}
	return all
}()

func newCallContext(class extentstore.Class, remaining time.Duration) *callContext {
	c := &callContext{class: classes[0]}
	if int(class) < len(classes) {
		c.class = classes[class]
	}
	if remaining > 0 {
		c.deadline = time.Now().Add(remaining)
	}
	return c
}

// Deadline implements context.Context.
func (c *callContext) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }

// Value implements context.Context.
func (c *callContext) Value(key any) any { return c.class.Value(key) }

// Done implements context.Context.
func (c *callContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		c.check()
		if c.err != nil {
			close(c.done)
		} else {
			c.arm()
		}
	}
	return c.done
}

// arm sets the timer, if there is a deadline. Called with mu held.
func (c *callContext) arm() {
	if c.timer == nil && !c.deadline.IsZero() {
		c.timer = time.AfterFunc(time.Until(c.deadline), func() { c.end(context.DeadlineExceeded) })
	}
}

// check notes a deadline that has passed. Called with mu held.
func (c *callContext) check() {
	if c.err == nil && !c.deadline.IsZero() && !time.Now().Before(c.deadline) {
		c.err = context.DeadlineExceeded
	}
}

// Err implements context.Context.
func (c *callContext) Err() error {
	c.mu.Lock()
	if c.err == nil && c.done == nil {
		c.check()
	}
	err := c.err
	c.mu.Unlock()
	return err
}

// AfterFunc spares package context a goroutine for each context that is made
// from this one.
func (c *callContext) AfterFunc(f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.check()
	if c.err != nil {
		go f()
		return func() bool { return false }
	}
	if c.after == nil {
		c.after = map[*func()]struct{}{}
	}
	key := &f
	c.after[key] = struct{}{}
	c.arm()
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, waits := c.after[key]
		delete(c.after, key)
		return waits
	}
}

// end ends the context, with the first reason given. When a call has returned
// it frees the timer.
func (c *callContext) end(reason error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = reason
	}
	if c.done != nil {
		select {
		case <-c.done:
		default:
			close(c.done)
		}
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	after := c.after
	c.after = nil
	c.mu.Unlock()
	for f := range after {
		(*f)()
	}
}
