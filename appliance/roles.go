package appliance

import (
	"context"
	"encoding/base64"
	"path/filepath"
	"sync/atomic"
	"time"

	"stamp"
	"stamp/appliance/admin"
	"stamp/extentstore"
	"stamp/extentstore/consensus"
	"stamp/extentstore/disk"
	"stamp/extentstore/manager"
	"stamp/extentstore/node"
	"stamp/extentstore/stream"
	"stamp/partition/account"
	"stamp/partition/blob"
	"stamp/partition/file"
	"stamp/partition/lock/host"
	"stamp/partition/schema"
	"stamp/partition/server"
)

// roles are what runs in a Dev, from the bottom up.
type roles struct {
	nodes    nodes
	local    []*node.Node
	manager  *manager.Manager
	locks    *host.Service
	streams  *stream.Client
	ranges   *server.Server
	accounts *account.Service
	blobs    *blob.Service
	files    *file.Service

	lastSpace atomic.Pointer[askedSpace]
}

// nodes finds the ExtentNodes of this process; nil stands for one whose disk
// could not be opened.
type nodes map[extentstore.DiskID]extentstore.ExtentNode

var _ extentstore.Nodes = nodes(nil)

// Node implements extentstore.Nodes.
func (n nodes) Node(id extentstore.DiskID) (extentstore.ExtentNode, error) {
	en, ok := n[id]
	switch {
	case !ok:
		return nil, stamp.Errorf(stamp.NotFound, "appliance.Node", "no ExtentNode %s in this stamp", id)
	case en == nil:
		return nil, stamp.Errorf(stamp.Unavailable, "appliance.Node", "the disk of ExtentNode %s is not there", id)
	}
	return en, nil
}

// replicas is how many copies a stamp of n disks keeps.
func replicas(n int) int { return min(n, extentstore.MaxReplicas) }

func (d *Dev) openStreamLayer(ctx context.Context) error {
	d.nodes = nodes{}
	var ids []extentstore.DiskID
	for _, ld := range d.loc.label.Disks {
		if err := d.openNode(ctx, ld); err != nil && !d.goOnWithout(ld, err) {
			return err
		}
		ids = append(ids, ld.Node)
	}
	if len(d.info.Missing) == len(ids) {
		return stamp.Errorf(stamp.Unavailable, "appliance.OpenDev", "no disk of %s could be opened", d.loc.dir)
	}
	locks, err := host.New(host.Options{Log: d.log, Metrics: d.registry})
	if err != nil {
		return err
	}
	d.locks = locks
	d.onClose("lock service", func(context.Context) error { return locks.Close() })
	m, err := manager.Open(ctx, manager.Options{
		Dir: filepath.Join(d.loc.dir, "manager"), Stamp: d.loc.label.Stamp,
		Nodes: d.nodes, DiskIDs: ids, Replicas: replicas(len(ids)), ExtentTarget: d.sizes.extentTarget,
		Guests: []consensus.Guest{locks.Guest()},
		Log:    d.log, Metrics: d.registry,
	})
	if err != nil {
		return err
	}
	d.manager = m
	for _, en := range d.local {
		en.Attach(m)
	}
	d.onClose("stream manager", func(context.Context) error { return m.Close() })
	d.streams, err = stream.New(stream.Options{
		Manager: m, Nodes: d.nodes, ExtentTarget: d.sizes.extentTarget, Log: d.log, Metrics: d.registry,
	})
	if err != nil {
		return err
	}
	d.onClose("stream client", func(context.Context) error { return d.streams.Close() })
	return nil
}

// goOnWithout reports whether a stamp can serve although a disk could not be
// opened: what other disks hold replicas of, it can.
func (d *Dev) goOnWithout(ld labelDisk, err error) bool {
	kind := stamp.KindOf(err)
	if !d.loc.label.Ready || len(d.loc.label.Disks) < 2 || kind != stamp.Unavailable && kind != stamp.Corrupt {
		return false
	}
	d.log.Error("disk is missing, going on without it", "node", ld.Node, "disk", diskPath(d.loc.dir, ld), "error", err)
	d.nodes[ld.Node] = nil
	d.info.Missing = append(d.info.Missing, diskPath(d.loc.dir, ld))
	return true
}

func (d *Dev) openNode(ctx context.Context, ld labelDisk) error {
	if err := d.prepareDisk(ld); err != nil {
		return err
	}
	dir, err := disk.OpenDir(diskPath(d.loc.dir, ld), d.log)
	if err != nil {
		return err
	}
	n := int64(len(d.loc.label.Disks))
	en, err := node.Open(ctx, node.Options{
		ID: ld.Node.Node(), Stamp: d.loc.label.Stamp, Peers: d.nodes,
		Disks:        []node.DiskOptions{{ID: ld.Node, Disk: dir, Reserve: d.sizes.reserve}},
		JournalSize:  d.sizes.journal,
		MaxUnflushed: unflushed / n, IndexCache: indexCache / n,
		Log: d.log, Metrics: d.registry,
	})
	if err != nil {
		return err
	}
	d.nodes[ld.Node] = en.Disk(ld.Node)
	d.local = append(d.local, en)
	d.onClose("extent node "+string(ld.Node), func(context.Context) error { return en.Shutdown() })
	return nil
}

// spaceLife is how long an answer of the StreamManager is good. It waits for
// its log before it answers, which is too much for every write.
const spaceLife = 200 * time.Millisecond

// askedSpace is an answer of the StreamManager.
type askedSpace struct {
	extentstore.Space
	at time.Time
}

// space is how full the disks are. Who finds the last answer old asks; others
// go on with it meanwhile.
func (d *Dev) space() extentstore.Space {
	last := d.lastSpace.Load()
	if last != nil && time.Since(last.at) < spaceLife {
		return last.Space
	}
	next := &askedSpace{at: time.Now()}
	if last != nil {
		next.Space = last.Space
		if !d.lastSpace.CompareAndSwap(last, next) {
			return last.Space
		}
	}
	space, err := d.manager.Space(context.Background())
	if err != nil {
		return extentstore.Space{} // closing; an append will say so
	}
	d.lastSpace.Store(&askedSpace{Space: space, at: next.at})
	return space
}

func (d *Dev) openPartitionLayer(ctx context.Context) error {
	s, err := server.Open(ctx, server.Options{
		Client: d.streams, CacheSize: blockCache, MemTableSize: int(d.sizes.memTable),
		Rules: schema.Rules(), Space: d.space, Log: d.log, Metrics: d.registry,
	})
	if err != nil {
		return err
	}
	d.ranges = s
	d.onClose("ranges", s.Close)
	for _, name := range server.Tables() {
		if s.Range(name) == nil {
			return stamp.Errorf(stamp.Unsupported, "appliance.Dev", "table %s has several ranges, and this role serves tables of one", name)
		}
	}
	for _, name := range server.Tables() {
		go d.watch(name)
	}
	return nil
}

// watch reports a range that has become terminal: this process can not serve
// it any more.
func (d *Dev) watch(name string) {
	select {
	case <-d.stop:
	case <-d.ranges.Range(name).Done():
		d.fail(stamp.Errorf(stamp.Fenced, "appliance.Dev", "range %s has ended: it was taken over or its commit log failed", name))
	}
}

func (d *Dev) openServices(ctx context.Context) error {
	var err error
	if d.accounts, err = account.Open(ctx, account.Options{Range: d.ranges.Range(server.Account)}); err != nil {
		return err
	}
	if err := d.putAccounts(ctx); err != nil {
		return err
	}
	data, err := blob.NewData(ctx, d.ranges.Folder(server.Blob), d.streams)
	if err != nil {
		return err
	}
	moved, err := blob.NewMoved(ctx, d.ranges.Folder(server.Blob), d.streams)
	if err != nil {
		return err
	}
	d.blobs, err = blob.Open(ctx, blob.Options{
		Range: d.ranges.Range(server.Blob), Data: data, Moved: moved, Space: d.space, Log: d.log, Metrics: d.registry,
	})
	if err != nil {
		return err
	}
	d.onClose("blob service", func(context.Context) error { return d.blobs.Close() })
	d.files, err = file.Open(ctx, file.Options{
		Blobs: d.blobs, Range: d.ranges.Range(server.Blob), Space: d.space, Log: d.log, Metrics: d.registry,
	})
	if err != nil {
		return err
	}
	d.onClose("file service", func(context.Context) error { return d.files.Close() })
	return nil
}

// putAccounts makes the well-known account and those of the options, or gives
// existing ones these keys.
func (d *Dev) putAccounts(ctx context.Context) error {
	key, err := base64.StdEncoding.DecodeString(DevKey)
	if err != nil {
		return err
	}
	for _, a := range append([]AccountKeys{{DevAccount, [][]byte{key}}}, d.opts.Accounts...) {
		var second []byte
		if len(a.Keys) > 1 {
			second = a.Keys[1]
		}
		if _, err := d.accounts.Put(ctx, a.Name, a.Keys[0], second); err != nil {
			return err
		}
	}
	return nil
}

// adminAccounts shows the account table to the operators' socket.
type adminAccounts struct{ d *Dev }

var _ admin.Accounts = adminAccounts{}

func (a adminAccounts) List(ctx context.Context) ([]admin.Account, error) {
	list, err := a.d.accounts.List(ctx)
	var out []admin.Account
	for _, acc := range list {
		out = append(out, admin.Account{Name: acc.Name, Created: acc.Created})
	}
	return out, err
}

func (a adminAccounts) Create(ctx context.Context, name stamp.AccountName) (admin.Account, error) {
	acc, err := a.d.accounts.Create(ctx, name)
	return a.withKeys(acc), err
}

func (a adminAccounts) Get(ctx context.Context, name stamp.AccountName) (admin.Account, error) {
	acc, err := a.d.accounts.Get(ctx, name)
	return a.withKeys(acc), err
}

func (a adminAccounts) withKeys(acc *account.Account) admin.Account {
	if acc == nil {
		return admin.Account{}
	}
	out := admin.Account{Name: acc.Name, Created: acc.Created}
	for _, key := range acc.Keys {
		if len(key) > 0 {
			out.Keys = append(out.Keys, base64.StdEncoding.EncodeToString(key))
		}
	}
	if len(out.Keys) > 0 {
		out.ConnectionString = ConnectionString(a.d.scheme(), string(acc.Name), out.Keys[0], a.d.info.Endpoints)
	}
	return out
}
