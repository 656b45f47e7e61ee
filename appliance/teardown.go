package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// teardown remembers what a start has opened, to close it in reverse.
type teardown struct {
	closers []closer
	once    sync.Once
	err     error
}

// closer undoes one step of a start.
type closer struct {
	what string
	fn   func(ctx context.Context) error
}

// onClose adds a step.
func (t *teardown) onClose(what string, fn func(ctx context.Context) error) {
	t.closers = append(t.closers, closer{what, fn})
}

// run closes everything, from the last to the first, once. ctx is a bound on
// what may wait; every step is taken also after its end.
func (t *teardown) run(ctx context.Context, log *slog.Logger) error {
	t.once.Do(func() {
		var errs []error
		for i := len(t.closers) - 1; i >= 0; i-- {
			c := t.closers[i]
			began := time.Now()
			if err := c.fn(ctx); err != nil {
				errs = append(errs, fmt.Errorf("close %s: %w", c.what, err))
			}
			log.Debug("closed", "what", c.what, "took", time.Since(began).Round(time.Millisecond))
		}
		t.err = errors.Join(errs...)
	})
	return t.err
}
