package file

import (
	"hash/fnv"
	"strings"
	"unicode/utf8"

	"stamp"
	"stamp/partition/blob"
	"stamp/partition/schema"
)

// Metadata that makes a directory or a symbolic link of a blob, as blobfuse2
// and ADLS Gen2 write it. Names are compared without regard to case.
const (
	folderKey  = "hdi_isfolder"
	symlinkKey = "is_symlink"
)

// typeOf tells what kind of file a row is. REST may change it at any time by
// changing the metadata.
func typeOf(row *blob.Row) Type {
	for _, p := range row.Metadata {
		if !strings.EqualFold(p.Value, "true") {
			continue
		}
		switch {
		case strings.EqualFold(p.Name, folderKey):
			return Directory
		case strings.EqualFold(p.Name, symlinkKey):
			return Symlink
		}
	}
	return Regular
}

// attrOf tells the attributes of a row. Blobs that REST made have their
// Last-Modified for all times.
func attrOf(row *blob.Row) Attr {
	a := Attr{
		ID: FileID(row.FileId), Type: typeOf(row), Size: row.Size,
		Atime: row.Modified, Mtime: row.Modified, Ctime: row.Modified, Btime: row.Created,
		Change: row.Version, NoMode: true, NoOwner: true,
	}
	if a.Type == Directory {
		a.Size = 0
	}
	applyPosix(&a, row.Posix)
	return a
}

func applyPosix(a *Attr, p *schema.Posix) {
	if p == nil {
		return
	}
	if p.HasMode {
		a.Mode, a.NoMode = p.Mode&07777, false
	}
	if p.HasOwner {
		a.UID, a.GID, a.NoOwner = p.Uid, p.Gid, false
	}
	if p.Atime != nil {
		a.Atime = *p.Atime
	}
	if p.Mtime != nil {
		a.Mtime = *p.Mtime
	}
	if p.Ctime != nil {
		a.Ctime = max(a.Ctime, *p.Ctime)
	}
	a.HasXattrs = len(p.Xattrs) > 0
}

// posix is the POSIX column of a row, made if it has none.
func posix(row *blob.Row) *schema.Posix {
	if row.Posix == nil {
		row.Posix = &schema.Posix{}
	}
	return row.Posix
}

// apply sets attributes in a POSIX column. typ is the file's.
func (s *Set) apply(p *schema.Posix, typ Type, now int64) {
	if s.KillPriv && p.HasMode && typ == Regular {
		p.Mode &^= 0o4000
		if p.Mode&0o010 != 0 {
			p.Mode &^= 0o2000
		}
	}
	if s.Mode != nil {
		p.Mode, p.HasMode = *s.Mode&07777, true
	}
	if s.UID != nil {
		p.Uid, p.HasOwner = *s.UID, true
	}
	if s.GID != nil {
		p.Gid, p.HasOwner = *s.GID, true
	}
	if s.Atime != nil {
		p.Atime = s.Atime
	}
	if s.Mtime != nil {
		p.Mtime = s.Mtime
	}
	p.Ctime = &now
	if s.Ctime != nil {
		p.Ctime = s.Ctime
	}
}

// virtualID is the id of a directory that has no row.
func virtualID(containerID uint64, name string) FileID {
	h := fnv.New64a()
	var id [8]byte
	for i := range id {
		id[i] = byte(containerID >> (8 * i))
	}
	h.Write(id[:])
	h.Write([]byte(name))
	return virtualBit | FileID(h.Sum64())&(containerBit-1)
}

// checkName refuses a component of a path that REST could not carry or that is
// none.
func checkName(op, name string) error {
	switch {
	case len(name) > MaxName:
		return stamp.Errorf(stamp.NameTooLong, op, "a name of %d bytes, at most %d", len(name), MaxName)
	case name == "" || name == "." || name == ".." || strings.Contains(name, "/"):
		return stamp.Errorf(stamp.Invalid, op, "%q is not the name of a file", name)
	case !utf8.ValidString(name):
		return stamp.Errorf(stamp.Invalid, op, "%q is not UTF-8, which REST could not carry", name)
	}
	for _, r := range name {
		if r < 0x20 || r == 0x7f || r == 0xfffe || r == 0xffff {
			return stamp.Errorf(stamp.Invalid, op, "%q has a control character, which REST could not carry", name)
		}
	}
	return nil
}

// isShown reports whether a component of a blob's name can be a file's name.
// Others are there for REST alone.
func isShown(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= MaxName && strings.IndexByte(name, 0) < 0
}

// checkPath refuses a path that is too long for a blob's name.
func checkPath(op, name string) error {
	if utf8.RuneCountInString(name) > blob.MaxBlobName {
		return stamp.Errorf(stamp.NameTooLong, op, "a path of %d characters, at most %d", utf8.RuneCountInString(name), blob.MaxBlobName)
	}
	return nil
}
