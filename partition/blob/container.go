package blob

import (
	"bytes"
	"context"
	"encoding/base64"
	"sync"
	"time"

	"stamp"
	"stamp/partition/rangestore"
	"stamp/partition/schema"
)

// ContainerProperties are what is known of a container. They are shared
// between callers and must not be changed.
type ContainerProperties struct {
	Name         string
	ID           uint64 // never used again
	ETag         ETag
	Created      time.Time
	LastModified time.Time // whole seconds, UTC
	Metadata     Metadata
	PublicAccess string // empty, "blob" or "container"
}

// CreateContainerRequest makes a container.
type CreateContainerRequest struct {
	Account      stamp.AccountName
	Name         string
	Metadata     Metadata
	PublicAccess string
}

// ListContainersRequest selects a page of an account's containers.
type ListContainersRequest struct {
	Account  stamp.AccountName
	Prefix   string
	Marker   string
	Max      int  // 0 means MaxListed
	Metadata bool // fill in Metadata
}

// ListContainersPage is one page of a listing, in order of names.
type ListContainersPage struct {
	Containers []ContainerProperties
	NextMarker string
}

type containerName struct {
	account stamp.AccountName
	name    string
}

// A container is a container's row, decoded. It never changes.
type container struct {
	ContainerProperties
	modified int64  // ns
	prefix   []byte // of the keys of its objects
	latch    []byte // the latch that every change in the container shares
}

// containerLatch is not a key of a row that is ever written.
func containerLatch(id uint64) []byte { return schema.OrphansPrefix(id) }

func decodeContainer(name containerName, value []byte) (*container, *schema.ContainerRow, error) {
	row := new(schema.ContainerRow)
	if _, err := schema.ParseMessage(value, row); err != nil {
		return nil, nil, err
	}
	return newContainer(name, row), row, nil
}

func newContainer(name containerName, row *schema.ContainerRow) *container {
	return &container{
		ContainerProperties: ContainerProperties{
			Name:         name.name,
			ID:           row.Id,
			ETag:         ETag(row.Version),
			Created:      time.Unix(0, row.Created).UTC(),
			LastModified: wholeSeconds(row.Modified),
			Metadata:     row.Metadata,
			PublicAccess: row.PublicAccess,
		},
		modified: row.Modified,
		prefix:   schema.ContainerPrefix(name.account, row.Id),
		latch:    containerLatch(row.Id),
	}
}

func (c *container) state() state {
	return state{exists: c != nil, etag: c.ETag, modified: c.modified}
}

func wholeSeconds(ns int64) time.Time { return time.Unix(ns/1e9, 0).UTC() }

// containers are the containers' rows, in memory. A row that is being changed
// is not in it from before the commit is visible until after the change, so
// what it answers agrees with the range.
type containers struct {
	mu       sync.RWMutex // guards the fields below
	byName   map[containerName]*container
	changing map[containerName]int
	changes  uint64 // counts changes begun and ended
}

const maxKnown = 100_000 // containers kept in memory

func (k *containers) lookup(name containerName) (c *container, changes uint64) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.byName[name], k.changes
}

// learn adds what was read since the count of changes was taken.
func (k *containers) learn(name containerName, c *container, changes uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.changing[name] != 0 || k.changes != changes {
		return
	}
	for n := range k.byName {
		if len(k.byName) < maxKnown {
			break
		}
		delete(k.byName, n)
	}
	k.byName[name] = c
}

func (k *containers) begin(name containerName) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changing[name]++
	k.changes++
	delete(k.byName, name)
}

func (k *containers) end(name containerName) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.changing[name]--; k.changing[name] == 0 {
		delete(k.changing, name)
	}
	k.changes++
}

func noContainer(op string, name containerName) error {
	return stamp.Errorf(stamp.ContainerNotFound, op, "account %s has no container %s", name.account, name.name)
}

// container finds a container, in memory after the first time.
func (s *Service) container(ctx context.Context, account stamp.AccountName, name string) (*container, error) {
	n := containerName{account, name}
	c, changes := s.known.lookup(n)
	if c != nil {
		return c, nil
	}
	found, err := s.r.Get(ctx, schema.ContainerKey(account, name), func(value []byte) (err error) {
		c, _, err = decodeContainer(n, value)
		return err
	})
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, noContainer("blob", n)
	}
	s.known.learn(n, c, changes)
	return c, nil
}

// containerIn is container under the read latch of one that was called name:
// it may be gone by now, or another.
func (s *Service) containerIn(tx *rangestore.Tx, name containerName) (*container, error) {
	if c, _ := s.known.lookup(name); c != nil {
		return c, nil
	}
	value, found, err := tx.Get(schema.ContainerKey(name.account, name.name))
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, noContainer("blob", name)
	}
	c, _, err := decodeContainer(name, value)
	return c, err
}

// changeContainer runs fn under the write latch of a container's row. fn gets
// the row or nil, and says what shall be in its place.
func (s *Service) changeContainer(ctx context.Context, op string, name containerName, latches rangestore.Latches,
	fn func(tx *rangestore.Tx, old *container, row *schema.ContainerRow) (*schema.ContainerRow, error)) (*container, error) {
	if err := s.versions.ready(ctx); err != nil {
		return nil, err
	}
	key := schema.ContainerKey(name.account, name.name)
	latches.Write = append(latches.Write, key)
	var next *container
	begun := false
	err := s.r.Update(ctx, latches, func(tx *rangestore.Tx) error {
		value, found, err := tx.Get(key)
		if err != nil {
			return err
		}
		var old *container
		var row *schema.ContainerRow
		if found {
			if old, row, err = decodeContainer(name, bytes.Clone(value)); err != nil {
				return err
			}
		}
		row, err = fn(tx, old, row)
		if err != nil {
			return err
		}
		begun = true
		s.known.begin(name)
		if row == nil {
			return tx.Delete(key)
		}
		next = newContainer(name, row)
		v, err := schema.AppendMessage(nil, row, 0)
		if err != nil {
			return err
		}
		return tx.Set(key, v)
	})
	if begun {
		s.known.end(name)
	}
	return next, err
}

// CreateContainer makes a container. ContainerExists if the name is taken.
func (s *Service) CreateContainer(ctx context.Context, req *CreateContainerRequest) (*ContainerProperties, error) {
	const op = "blob.CreateContainer"
	name := containerName{req.Account, req.Name}
	if !validContainer(req.Name) {
		return nil, stamp.Errorf(stamp.Invalid, op, "%q is not a name of a container", req.Name)
	}
	if err := s.CheckSpace(); err != nil {
		return nil, err
	}
	id, err := s.r.NextIDs(ctx, 1)
	if err != nil {
		return nil, err
	}
	c, err := s.changeContainer(ctx, op, name, rangestore.Latches{}, func(_ *rangestore.Tx, old *container, _ *schema.ContainerRow) (*schema.ContainerRow, error) {
		if old != nil {
			return nil, stamp.Errorf(stamp.ContainerExists, op, "account %s has a container %s", req.Account, req.Name)
		}
		version, now, err := s.versions.next()
		return &schema.ContainerRow{
			Id: id, Version: version, Created: now.UnixNano(), Modified: now.UnixNano(),
			Metadata: req.Metadata, PublicAccess: req.PublicAccess,
		}, err
	})
	if err != nil {
		return nil, err
	}
	return &c.ContainerProperties, nil
}

// DeleteContainer deletes a container. On return nothing in it can be read or
// written any more and the name is free; the space comes back in the
// background.
func (s *Service) DeleteContainer(ctx context.Context, account stamp.AccountName, name string, cond Conditions) error {
	const op = "blob.DeleteContainer"
	n := containerName{account, name}
	for {
		c, err := s.container(ctx, account, name)
		if err != nil {
			return err
		}
		moved := false
		_, err = s.changeContainer(ctx, op, n, rangestore.Latches{Write: [][]byte{c.latch}}, func(tx *rangestore.Tx, old *container, _ *schema.ContainerRow) (*schema.ContainerRow, error) {
			if old == nil {
				return nil, noContainer(op, n)
			}
			if old.ID != c.ID {
				moved = true
				return nil, errMoved
			}
			if err := cond.checkWrite(op, old.state(), false); err != nil {
				return nil, err
			}
			grave, err := schema.AppendMessage(nil, &schema.GraveRow{
				Account: string(account), Container: name, Id: old.ID, Deleted: s.opts.Clock.Now().UnixNano(),
			}, 0)
			if err != nil {
				return nil, err
			}
			return nil, tx.Set(schema.GraveKey(old.ID), grave)
		})
		if moved {
			continue
		}
		if err == nil {
			s.wake()
		}
		return err
	}
}

// GetContainer finds a container, in memory after the first time.
func (s *Service) GetContainer(ctx context.Context, account stamp.AccountName, container string, cond Conditions) (*ContainerProperties, error) {
	c, err := s.container(ctx, account, container)
	if err != nil {
		return nil, err
	}
	if err := cond.checkRead("blob.GetContainer", c.state()); err != nil {
		return nil, err
	}
	return &c.ContainerProperties, nil
}

// SetContainerMetadata replaces a container's metadata.
func (s *Service) SetContainerMetadata(ctx context.Context, account stamp.AccountName, name string, metadata Metadata, cond Conditions) (*ContainerProperties, error) {
	const op = "blob.SetContainerMetadata"
	n := containerName{account, name}
	c, err := s.changeContainer(ctx, op, n, rangestore.Latches{}, func(_ *rangestore.Tx, old *container, row *schema.ContainerRow) (*schema.ContainerRow, error) {
		if old == nil {
			return nil, noContainer(op, n)
		}
		if err := cond.checkWrite(op, old.state(), false); err != nil {
			return nil, err
		}
		version, now, err := s.versions.next()
		row.Version, row.Modified, row.Metadata = version, max(now.UnixNano(), row.Modified), metadata
		return row, err
	})
	if err != nil {
		return nil, err
	}
	return &c.ContainerProperties, nil
}

// ListContainers lists an account's containers.
func (s *Service) ListContainers(ctx context.Context, req *ListContainersRequest) (*ListContainersPage, error) {
	limit := req.Max
	if limit <= 0 || limit > MaxListed {
		limit = MaxListed
	}
	from, err := decodeMarker("blob.ListContainers", req.Marker)
	if err != nil {
		return nil, err
	}
	prefix := schema.AppendStringPrefix(schema.ContainersPrefix(req.Account), req.Prefix)
	page := new(ListContainersPage)
	err = s.r.View(ctx, func(v *rangestore.Snapshot) error {
		it, err := v.Iter(prefix, schema.PrefixEnd(prefix))
		if err != nil {
			return err
		}
		defer it.Close()
		for ok := it.SeekGE(schema.ContainerKey(req.Account, from)); ok; ok = it.Next() {
			name, valid := schema.ParseContainerKey(it.Key())
			if !valid {
				return stamp.Errorf(stamp.Corrupt, "blob.ListContainers", "key %x is not a container's", it.Key())
			}
			if len(page.Containers) == limit {
				page.NextMarker = encodeMarker(name)
				return nil
			}
			c, _, err := decodeContainer(containerName{req.Account, name}, it.Value())
			if err != nil {
				return err
			}
			if !req.Metadata {
				c.Metadata = nil
			}
			page.Containers = append(page.Containers, c.ContainerProperties)
		}
		return it.Error()
	})
	if err != nil {
		return nil, err
	}
	return page, nil
}

// A marker is the name that a listing goes on with, in base64 so that it
// survives URLs and XML whatever is in the name.
func encodeMarker(name string) string {
	return "1!" + base64.RawURLEncoding.EncodeToString([]byte(name))
}

func decodeMarker(op, marker string) (string, error) {
	if marker == "" {
		return "", nil
	}
	if len(marker) >= 2 && marker[:2] == "1!" {
		if name, err := base64.RawURLEncoding.DecodeString(marker[2:]); err == nil {
			return string(name), nil
		}
	}
	return "", stamp.Errorf(stamp.Invalid, op, "%q is not a marker", marker)
}

// validContainer reports whether name is 3 to 63 lower-case letters, digits
// and single hyphens between them, or one of the names that Azure reserves.
func validContainer(name string) bool {
	switch name {
	case "$root", "$web", "$logs":
		return true
	}
	if len(name) < 3 || len(name) > 63 {
		return false
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case c == '-' && i > 0 && i < len(name)-1 && name[i-1] != '-':
		default:
			return false
		}
	}
	return true
}
