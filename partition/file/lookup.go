package file

import (
	"context"
	"errors"
	"io"

	"google.golang.org/protobuf/proto"

	"stamp"
	"stamp/partition/blob"
	"stamp/partition/schema"
)

// rows is what a view and a change of a container have in common.
type rows interface {
	Container() *blob.ContainerProperties
	Get(o blob.Object) (*blob.Row, error)
	Scan(prefix, from string, fn func(name string, row *blob.Row) (bool, error)) error
	RawGet(key []byte) (value []byte, found bool, err error)
	Key(o blob.Object, suffix byte) []byte
}

// found is what stands under a path: a row, or a directory without one.
type found struct {
	row  *blob.Row // nil: container or virtual directory
	attr Attr
}

func errNotFound(op string, ref Ref) error {
	return stamp.Errorf(stamp.NotFound, op, "%s does not exist", ref)
}

func errStale(op string, ref Ref) error {
	return stamp.Errorf(stamp.Stale, op, "%s is another file by now", ref)
}

// resolve finds what stands under a path. A blob hides a virtual directory of
// the same name: REST may make both, a file system has one name for one file.
func resolve(r rows, op string, ref Ref) (found, error) {
	if ref.Session != 0 {
		row, err := r.Get(blob.Orphan(uint64(ref.ID)))
		if err != nil {
			return found{}, err
		}
		if row == nil {
			return found{}, errStale(op, ref)
		}
		f := found{row, attrOf(row)}
		f.attr.Unlinked = true
		return f, nil
	}
	if ref.Name == "" {
		return containerAttr(r)
	}
	row, err := r.Get(blob.Named(ref.Name))
	if err != nil {
		return found{}, err
	}
	if row == nil {
		return resolveVirtual(r, op, ref)
	}
	f := found{row, attrOf(row)}
	if f.attr.Type == Directory {
		err := dirTimes(r, ref.Name, &f.attr)
		return f, err
	}
	if ref.ID != 0 && ref.ID != f.attr.ID {
		return found{}, errStale(op, ref)
	}
	return f, nil
}

// resolveParent is resolve for a directory of which only type, mode and group
// matter.
func resolveParent(r rows, op string, ref Ref) (Attr, error) {
	ref.ID, ref.Session = 0, 0
	if ref.Name != "" {
		row, err := r.Get(blob.Named(ref.Name))
		if err != nil {
			return Attr{}, err
		}
		if row != nil {
			return attrOf(row), nil
		}
	}
	f, err := resolve(r, op, ref)
	return f.attr, err
}

// resolveVirtual finds a directory that exists only through what lies in it.
func resolveVirtual(r rows, op string, ref Ref) (found, error) {
	created, any := int64(0), false
	err := r.Scan(ref.Name+"/", "", func(_ string, row *blob.Row) (bool, error) {
		created, any = row.Created, true
		return false, nil
	})
	if err != nil {
		return found{}, err
	}
	if !any {
		if ref.ID != 0 {
			return found{}, errStale(op, ref)
		}
		return found{}, errNotFound(op, ref)
	}
	f := found{attr: Attr{
		ID: virtualID(r.Container().ID, ref.Name), Type: Directory, NoMode: true, NoOwner: true,
		Atime: created, Mtime: created, Ctime: created, Btime: created,
	}}
	err = dirTimes(r, ref.Name, &f.attr)
	return f, err
}

// containerAttr tells the attributes of a container.
func containerAttr(r rows) (found, error) {
	c := r.Container()
	t := c.Created.UnixNano()
	f := found{attr: Attr{
		ID: containerBit | FileID(c.ID), Type: Directory, NoMode: true, NoOwner: true,
		Atime: t, Mtime: t, Ctime: t, Btime: t, Change: uint64(c.ETag),
	}}
	p, err := containerColumn(r)
	if err != nil {
		return found{}, err
	}
	applyPosix(&f.attr, p)
	err = dirTimes(r, "", &f.attr)
	return f, err
}

// containerColumn is the POSIX column of a container, or nil.
func containerColumn(r rows) (*schema.Posix, error) {
	p := new(schema.Posix)
	ok, err := message(r, r.Key(blob.Named(""), schema.SuffixColumn), p)
	if err != nil || !ok {
		return nil, err
	}
	return p, nil
}

// message reads a row that is a message.
func message(r rows, key []byte, m proto.Message) (bool, error) {
	value, ok, err := r.RawGet(key)
	if err != nil || !ok {
		return false, err
	}
	_, err = schema.ParseMessage(value, m)
	return true, err
}

// dirTimes brings in the time of the last change of a directory's entries.
func dirTimes(r rows, name string, a *Attr) error {
	d := new(schema.DirectoryRow)
	ok, err := message(r, r.Key(blob.Named(name), schema.SuffixDirectory), d)
	if err != nil || !ok {
		return err
	}
	a.Mtime = d.Mtime
	a.Ctime = max(a.Ctime, d.Ctime)
	return nil
}

// view runs fn on a snapshot of the container of ref.
func (s *Service) view(ctx context.Context, account stamp.AccountName, ref Ref, fn func(v *blob.RowView) error) error {
	return s.blobs.ViewRows(ctx, account, ref.Container, fn)
}

// rootAttr is an account's root, for which no row stands.
func rootAttr() Attr { return Attr{ID: RootID, Type: Directory, NoMode: true, NoOwner: true} }

// Lookup finds a name in a directory. NotFound if there is none.
func (s *Service) Lookup(ctx context.Context, account stamp.AccountName, dir Ref, name string) (Attr, error) {
	ref := dir.Child(name)
	ref.ID, ref.Session = 0, 0
	return s.GetAttr(ctx, account, ref)
}

// GetAttr tells the attributes of a file.
func (s *Service) GetAttr(ctx context.Context, account stamp.AccountName, ref Ref) (attr Attr, err error) {
	const op = "file.GetAttr"
	if ref.IsRoot() {
		return rootAttr(), nil
	}
	if !ref.IsContainer() {
		ok, err := s.blobs.ReadRow(ctx, account, ref.Container, object(ref), func(row *blob.Row) error {
			attr = attrOf(row)
			return nil
		})
		switch {
		case err != nil:
			return Attr{}, err
		case ok && attr.Type == Directory:
			err := s.directoryTimes(ctx, account, ref, &attr)
			return attr, err
		case ok && ref.Session == 0 && ref.ID != 0 && ref.ID != attr.ID:
			return Attr{}, errStale(op, ref)
		case ok:
			attr.Unlinked = ref.Session != 0
			return attr, nil
		}
	}
	err = s.view(ctx, account, ref, func(v *blob.RowView) error {
		f, err := resolve(v, op, ref)
		attr = f.attr
		return err
	})
	return attr, err
}

// directoryTimes is dirTimes without a view.
func (s *Service) directoryTimes(ctx context.Context, account stamp.AccountName, ref Ref, a *Attr) error {
	_, err := s.blobs.ReadRaw(ctx, account, ref.Container, object(ref), schema.SuffixDirectory, func(value []byte) error {
		d := new(schema.DirectoryRow)
		if _, err := schema.ParseMessage(value, d); err != nil {
			return err
		}
		a.Mtime = d.Mtime
		a.Ctime = max(a.Ctime, d.Ctime)
		return nil
	})
	return err
}

// Open returns the attributes of a regular file, and its content if it stands
// in the row.
func (s *Service) Open(ctx context.Context, account stamp.AccountName, ref Ref) (Opened, error) {
	attr, content, err := s.content(ctx, account, ref, "file.Open")
	if err != nil {
		return Opened{}, err
	}
	o := Opened{Attr: attr}
	if bits, ok := content.Bits(); ok {
		o.Content, o.Whole = bits, true
	}
	return o, nil
}

func (s *Service) content(ctx context.Context, account stamp.AccountName, ref Ref, op string) (attr Attr, c *blob.Content, err error) {
	if ref.Name == "" && ref.Session == 0 {
		return attr, nil, stamp.Errorf(stamp.IsDir, op, "%s is a directory", ref)
	}
	row, c, err := s.blobs.GetRow(ctx, account, ref.Container, object(ref))
	switch {
	case err != nil:
		return attr, nil, err
	case row == nil:
		_, err := s.GetAttr(ctx, account, ref)
		if err == nil {
			err = stamp.Errorf(stamp.IsDir, op, "%s is a directory", ref)
		}
		return attr, nil, err
	}
	attr = attrOf(row)
	switch {
	case attr.Type == Directory:
		return attr, nil, stamp.Errorf(stamp.IsDir, op, "%s is a directory", ref)
	case ref.Session == 0 && ref.ID != 0 && ref.ID != attr.ID:
		return attr, nil, errStale(op, ref)
	}
	attr.Unlinked = ref.Session != 0
	return attr, c, nil
}

// object names the rows of a file.
func object(ref Ref) blob.Object {
	if ref.Session != 0 {
		return blob.Orphan(uint64(ref.ID))
	}
	return blob.Named(ref.Name)
}

// Read fills p from an offset of the file's content. It returns fewer bytes
// than len(p) only at the end.
func (s *Service) Read(ctx context.Context, account stamp.AccountName, ref Ref, offset int64, p []byte) (int, error) {
	for try := 0; ; try++ {
		_, c, err := s.content(ctx, account, ref, "file.Read")
		if err != nil {
			return 0, err
		}
		n := int(max(0, min(int64(len(p)), c.Size()-offset)))
		if n == 0 {
			return 0, nil
		}
		n, err = c.ReadAt(ctx, p[:n], offset)
		if stamp.KindOf(err) == stamp.ConditionNotMet && err != nil && try < readTries {
			continue // the file was changed meanwhile and its old bits are gone
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return n, err
	}
}

const readTries = 10

// Readlink returns the target of a symbolic link.
func (s *Service) Readlink(ctx context.Context, account stamp.AccountName, ref Ref) (string, error) {
	attr, c, err := s.content(ctx, account, ref, "file.Readlink")
	if err != nil {
		return "", err
	}
	if attr.Type != Symlink || c.Size() > MaxTarget {
		return "", stamp.Errorf(stamp.Invalid, "file.Readlink", "%s is not a symbolic link", ref)
	}
	p := make([]byte, c.Size())
	if _, err := c.ReadAt(ctx, p, 0); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return string(p), nil
}

// Xattrs returns all extended attributes of a file.
func (s *Service) Xattrs(ctx context.Context, account stamp.AccountName, ref Ref) (all map[string][]byte, err error) {
	if ref.IsRoot() {
		return nil, nil
	}
	err = s.view(ctx, account, ref, func(v *blob.RowView) error {
		f, err := resolve(v, "file.Xattrs", ref)
		if err != nil {
			return err
		}
		p, err := column(v, ref, f)
		if err != nil {
			return err
		}
		all = make(map[string][]byte, len(p.GetXattrs()))
		for _, x := range p.GetXattrs() {
			all[x.Name] = x.Value
		}
		return nil
	})
	return all, err
}

// column is the POSIX column of what was found: a container's stands in its
// directory row.
func column(r rows, ref Ref, f found) (*schema.Posix, error) {
	if f.row != nil {
		return f.row.Posix, nil
	}
	if !ref.IsContainer() {
		return nil, nil
	}
	return containerColumn(r)
}
