package stream

import (
	"context"

	"stamp/extentstore"
)

// A Writer is the sole appender of a stream. Its stream holds what was
// appended once and in order, through whatever failures. Methods are safe for
// concurrent use; appends take turns.
type Writer struct{}

// Append adds blocks, all or none, at most extentstore.MaxAppendSize bytes
// together. It returns when they are durable on every replica. What failed is
// healed inside, so it only returns errors of the kinds Fenced, Full and
// Invalid, and the context's own; after one of the latter the blocks may still
// become part of the stream, and the next Append first finds out.
func (w *Writer) Append(ctx context.Context, blocks ...extentstore.Block) error {
	panic("being built")
}

// Length is the number of bytes acknowledged.
func (w *Writer) Length() int64 { panic("being built") }

// ReadAt reads what was acknowledged, like Reader.ReadAt.
func (w *Writer) ReadAt(ctx context.Context, p []byte, offset int64) (int, error) {
	panic("being built")
}

// Close seals the last extent at the acknowledged length. A second Close does
// nothing.
func (w *Writer) Close(ctx context.Context) error { panic("being built") }
