package stream

import (
	"context"

	"stamp/extentstore"
)

// A Shared is a stream that many append to at once; blocks land in no
// particular order and after a failure a block may be there twice. Who appends
// remembers the extent and offset that Append returns. Methods are safe for
// concurrent use.
type Shared struct{}

// Append adds blocks, all or none and next to each other, and returns the
// extent and the offset of the first. They are then durable on every replica.
// Errors are of the kinds Fenced, Full and Invalid, or the context's own.
func (s *Shared) Append(ctx context.Context, blocks ...extentstore.Block) (extentstore.ExtentID, int64, error) {
	panic("being built")
}

// Current is the extent that is being appended to, 0 if there is none.
func (s *Shared) Current() extentstore.ExtentID { panic("being built") }

// Roll seals the current extent, if there is one; the next append allocates
// another.
func (s *Shared) Roll(ctx context.Context) error { panic("being built") }
