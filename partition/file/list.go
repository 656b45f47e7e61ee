package file

import (
	"context"
	"strings"

	"stamp"
	"stamp/partition/blob"
)

// List returns up to limit entries of a directory behind the position after,
// and the position behind the last of them, empty at the end.
//
// Entries come in the order of blob names. A directory with a marker stands
// where its marker does; one without where the names in it begin, that is
// where a "/" behind its own name sorts. The two differ, and names may lie
// between: "a", "a-b", "a/c". A position is a blob name, or a directory's name
// with "/".
func (s *Service) List(ctx context.Context, account stamp.AccountName, dir Ref, after string, limit int) (entries []Entry, next string, err error) {
	if limit <= 0 || limit > MaxList {
		limit = MaxList
	}
	if dir.IsRoot() {
		return s.listContainers(ctx, account, after, limit)
	}
	err = s.view(ctx, account, dir, func(v *blob.RowView) error {
		f, err := resolve(v, "file.List", dir)
		if err != nil {
			return err
		}
		if f.attr.Type != Directory {
			return stamp.Errorf(stamp.NotDir, "file.List", "%s is not a directory", dir)
		}
		l := lister{view: v, limit: limit}
		if dir.Name != "" {
			l.prefix = dir.Name + "/"
		}
		err = l.run(after)
		entries, next = l.entries, l.next
		return err
	})
	return entries, next, err
}

// A lister fills one page.
type lister struct {
	view    *blob.RowView
	prefix  string
	limit   int
	entries []Entry
	next    string
	last    string // position of the last name that was looked at
	// seen are blobs whose names begin the name that is being looked at: one
	// of them may be the directory's marker, or a file that hides it. They
	// are at most as many as the name has characters.
	seen []string
}

func (l *lister) run(after string) error {
	from := ""
	if after != "" {
		from = next(l.prefix + after)
		if err := l.remember(after); err != nil {
			return err
		}
	}
	return l.view.ScanDelimited(l.prefix, "/", from, func(name string, row *blob.Row) (bool, error) {
		if len(l.entries) == l.limit {
			l.next = l.last
			return false, nil
		}
		l.last = strings.TrimPrefix(name, l.prefix)
		return true, l.add(l.last, row)
	})
}

// next is the name from which a scan goes on behind a position: behind all
// that begins with a directory's name and "/", else behind the one blob.
func next(position string) string {
	if dir, ok := strings.CutSuffix(position, "/"); ok {
		return dir + "0" // the character behind "/"
	}
	return position + "\x00"
}

// add shows a blob, or a virtual directory, whose row is nil.
func (l *lister) add(name string, row *blob.Row) error {
	for len(l.seen) > 0 && !strings.HasPrefix(name, l.seen[len(l.seen)-1]) {
		l.seen = l.seen[:len(l.seen)-1]
	}
	if row != nil {
		l.seen = append(l.seen, name)
		if isShown(name) {
			a := attrOf(row)
			l.entries = append(l.entries, Entry{name, a})
			if a.Type == Directory {
				return dirTimes(l.view, l.prefix+name, &l.entries[len(l.entries)-1].Attr)
			}
		}
		return nil
	}
	name = strings.TrimSuffix(name, "/")
	for _, have := range l.seen {
		if have == name {
			return nil // its marker was shown
		}
	}
	if !isShown(name) {
		return nil
	}
	f, err := resolveVirtual(l.view, "file.List", Ref{Name: l.prefix + name})
	if err != nil {
		return err
	}
	l.entries = append(l.entries, Entry{name, f.attr})
	return nil
}

// remember looks for blobs in front of a position that may hide a directory
// behind it.
func (l *lister) remember(after string) error {
	for i := range len(after) {
		name := after[:i+1]
		row, err := l.view.Get(blob.Named(l.prefix + name))
		if err != nil {
			return err
		}
		if row != nil {
			l.seen = append(l.seen, name)
		}
	}
	return nil
}

// listContainers lists an account's root.
func (s *Service) listContainers(ctx context.Context, account stamp.AccountName, after string, limit int) (entries []Entry, next string, err error) {
	page, err := s.blobs.ListContainers(ctx, &blob.ListContainersRequest{Account: account, Marker: after, Max: limit})
	if err != nil {
		return nil, "", err
	}
	for i := range page.Containers {
		a, err := s.GetAttr(ctx, account, Ref{Container: page.Containers[i].Name})
		switch {
		case err == nil:
			entries = append(entries, Entry{page.Containers[i].Name, a})
		case stamp.KindOf(err) != stamp.ContainerNotFound: // deleted meanwhile
			return nil, "", err
		}
	}
	return entries, page.NextMarker, nil
}
