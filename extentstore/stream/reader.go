package stream

import "context"

// A Reader reads one stream. It is safe for concurrent use and needs no Close.
type Reader struct{}

// ReadAt fills p from offset on. Like io.ReaderAt it returns fewer bytes than
// len(p) only with an error, which is io.EOF at the end.
func (r *Reader) ReadAt(ctx context.Context, p []byte, offset int64) (int, error) {
	panic("being built")
}

// Size is the number of bytes that can be read.
func (r *Reader) Size() int64 { panic("being built") }
