package node

import (
	"context"
	"time"

	"stamp/extentstore"
)

// A StreamManager is what a node needs of it in the background.
type StreamManager interface {
	// ReportDamage makes it read a replica through and repair it from others.
	ReportDamage(id extentstore.ExtentID, on extentstore.DiskID)
}

// A judge is the part of extentstore.Registry that says what may go.
type judge interface {
	Judge(ctx context.Context, of extentstore.StampID, disk extentstore.DiskID, ids []extentstore.ExtentID) ([]extentstore.Verdict, error)
}

// Attach gives the node its StreamManager, or the way to it. From then on what
// scrub finds is reported. If it judges, as an extentstore.Registry does, nothing
// leaves the trash for good before it has said so, and the node asks what it holds
// for nothing. Without that the order to delete has to do.
func (n *Node) Attach(m StreamManager) {
	n.manager.Store(&m)
	for _, d := range n.disks {
		select {
		case d.attached <- struct{}{}:
		default:
		}
	}
}

func (n *Disk) registry() judge {
	if m := n.node.manager.Load(); m != nil {
		j, _ := (*m).(judge)
		return j
	}
	return nil
}

const (
	judgeBatch   = 4096
	judgeTimeout = 5 * time.Second
	// A replica goes only if the StreamManager says twice that nobody wants
	// it: an extent is created on its disks before it is known.
	judgeAgain = time.Minute
	trashEvery = time.Second
	// The trash gives way when less than this part of the disk is free above
	// the reserve, so that files still grow in large steps.
	trashShare = 32
)

// reclaimer asks what the disk holds for nothing, and empties the trash.
func (n *Disk) reclaimer() {
	ctx, cancel := context.WithCancel(n.service)
	defer cancel()
	n.wg.Go(func() {
		select {
		case <-n.stop:
		case <-ctx.Done():
		}
		cancel()
	})
	tick := n.opts.Clock.NewTimer(trashEvery)
	defer tick.Stop()
	suspects := map[extentstore.ExtentID]bool{}
	next := n.opts.Clock.Now()
	for {
		select {
		case <-tick.C():
			tick.Reset(trashEvery)
		case <-n.attached:
			next = n.opts.Clock.Now()
		case <-ctx.Done():
			return
		}
		n.emptyTrash(ctx)
		n.holdBallast()
		if now := n.opts.Clock.Now(); n.registry() != nil && !now.Before(next) {
			var ok bool
			suspects, ok = n.judgeAll(ctx, suspects)
			next = now.Add(n.opts.JudgeEvery)
			if len(suspects) > 0 || !ok {
				next = now.Add(min(judgeAgain, n.opts.JudgeEvery))
			}
		}
	}
}

// judgeAll asks about every extent here. Those that nobody wants are returned,
// and dropped if they were among the suspects; ok is false if it could not be
// said of all.
func (n *Disk) judgeAll(ctx context.Context, suspects map[extentstore.ExtentID]bool) (found map[extentstore.ExtentID]bool, ok bool) {
	found = map[extentstore.ExtentID]bool{}
	var foreign int64
	var example extentstore.ExtentID
	for after := extentstore.ExtentID(0); ; {
		xs := n.above(after, judgeBatch)
		if len(xs) == 0 {
			break
		}
		ids := make([]extentstore.ExtentID, 0, len(xs))
		for _, x := range xs {
			after = x.id
			if n.known(x) {
				ids = append(ids, x.id)
			}
		}
		verdicts, err := n.judge(ctx, ids)
		if err != nil {
			return found, false
		}
		for i, id := range ids {
			switch verdicts[i] {
			case extentstore.Foreign:
				foreign++
				example = id
			case extentstore.Drop:
				if !suspects[id] {
					found[id] = true
				} else if err := n.Delete(ctx, id); err != nil {
					return found, false
				} else {
					n.opts.Log.Info("extent dropped that no stream needs here", "node", n.opts.ID, "extent", id)
				}
			}
		}
	}
	if was := n.foreign.Swap(foreign); foreign > 0 && foreign != was {
		n.opts.Log.Error("extents that this stamp never issued are kept: the StreamManager's state is older than the data", "node", n.opts.ID, "extents", foreign, "example", example)
	}
	return found, true
}

func (n *Disk) judge(ctx context.Context, ids []extentstore.ExtentID) ([]extentstore.Verdict, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, judgeTimeout)
	defer cancel()
	v, err := n.registry().Judge(ctx, n.opts.Stamp, n.opts.ID, ids)
	if err == nil && len(v) != len(ids) {
		v = make([]extentstore.Verdict, len(ids)) // all Unknown
	}
	if err != nil {
		n.opts.Log.Debug("no verdict on extents", "node", n.opts.ID, "extents", len(ids), "error", err)
	}
	return v, err
}

// judgeTrash asks whether what is in the trash may go for good. That does not
// change any more once it is said: ids are not used twice.
func (n *Disk) judgeTrash(ctx context.Context) {
	if n.registry() == nil {
		return
	}
	n.trash.mu.Lock()
	var items []*trashed
	for _, t := range n.trash.items {
		if !t.judged && len(items) < judgeBatch {
			items = append(items, t)
		}
	}
	early := time.Since(n.trash.asked) < judgeTimeout
	n.trash.mu.Unlock()
	if len(items) == 0 || early {
		return
	}
	ids := make([]extentstore.ExtentID, len(items))
	for i, t := range items {
		ids[i] = t.id
	}
	verdicts, err := n.judge(ctx, ids)
	n.trash.mu.Lock()
	defer n.trash.mu.Unlock()
	if err != nil {
		n.trash.asked = time.Now()
		return
	}
	undecided := false
	for i, t := range items {
		switch {
		case verdicts[i] == extentstore.Drop, n.superseded(t):
			t.judged = true
		case verdicts[i] == extentstore.Keep && !t.wanted:
			t.wanted = true
			n.opts.Log.Error("an extent that was dropped is in use; it stays in the trash until the disk has it again", "node", n.opts.ID, "extent", t.id)
			fallthrough
		default:
			undecided = true
		}
	}
	if undecided {
		n.trash.asked = time.Now() // not again at once
	}
}

// superseded reports whether a whole replica of the extent is here again.
func (n *Disk) superseded(t *trashed) bool {
	x := n.find(t.id)
	if x == nil {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.has(flagSealed) && x.r.Queued() == t.length
}

// emptyTrash removes what is too old or stands in the way.
func (n *Disk) emptyTrash(ctx context.Context) {
	if items, _ := n.trash.size(); items == 0 {
		return
	}
	n.judgeTrash(ctx)
	old := n.opts.Clock.Now().Add(-n.trash.keep).Unix()
	n.trash.purging.Lock()
	freed := n.purge(func(t *trashed, _ int64) bool { return t.at <= old })
	n.trash.purging.Unlock()
	if freed > 0 {
		n.space.credit(n, freed)
	} else {
		n.space.refresh(n)
	}
	n.giveWay(func() int64 { return n.space.lastCapacity()/trashShare - n.space.spare() })
}
