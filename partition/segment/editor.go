package segment

// An Editor changes the content of one object. It reads the rows it needs,
// keeps the changes in memory and writes them in one commit. It belongs to one
// goroutine, and to the latches of its transaction.
type Editor struct{}

// Size is the length of the object, with the changes.
func (e *Editor) Size() int64 { panic("being built") }

// Write replaces what the list covers by the list; a gap behind the end of
// the object becomes a hole.
func (e *Editor) Write(l List) error { panic("being built") }

// Truncate cuts the object, or extends it with a hole.
func (e *Editor) Truncate(size int64) error { panic("being built") }

// Slice returns the segments of a range, cut to it, with the changes.
func (e *Editor) Slice(offset, length int64) (List, error) { panic("being built") }
