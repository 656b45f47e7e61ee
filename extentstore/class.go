package extentstore

import "context"

// A Class says what reads and writes are for, so that the I/O scheduler of a
// disk can let people go first and still give everything else its share.
//
// Classes travel on the wire: add at the end, never renumber.
type Class uint8

const (
	Foreground Class = iota // somebody waits for it
	Repair                  // copies between nodes, encoding, reconstruction
	Scrub                   // the search for damage
)

type classKey struct{}

// WithClass gives a context whose calls of an ExtentNode are of a class.
func WithClass(ctx context.Context, c Class) context.Context {
	return context.WithValue(ctx, classKey{}, c)
}

// ClassOf is the class that calls with ctx have, Foreground unless WithClass
// has said otherwise.
func ClassOf(ctx context.Context) Class {
	c, _ := ctx.Value(classKey{}).(Class)
	return c
}
