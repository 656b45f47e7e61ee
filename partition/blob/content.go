package blob

import (
	"context"
	"io"
)

// Content is the content of one version of a blob. It holds no latch and needs
// no Close. When bits are moved by the collector while it is read it finds
// them again; when the blob is changed or deleted meanwhile and bits are gone,
// reading breaks off with ConditionNotMet. Methods are safe for concurrent
// use.
type Content struct{}

// Size is the length of the content.
func (c *Content) Size() int64 { panic("being built") }

// Bits is the whole content if it stands in the row, else nil and false. It
// must not be changed.
func (c *Content) Bits() ([]byte, bool) { panic("being built") }

// ReadAt fills p from offset on. Like io.ReaderAt it returns fewer bytes only
// with an error: io.EOF at the end.
func (c *Content) ReadAt(ctx context.Context, p []byte, offset int64) (int, error) {
	panic("being built")
}

// WriteTo writes n bytes from offset on to w and reads ahead meanwhile.
func (c *Content) WriteTo(ctx context.Context, w io.Writer, offset, n int64) (int64, error) {
	panic("being built")
}
