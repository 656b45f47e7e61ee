package blob

import (
	"context"
	"errors"
	"slices"
	"time"

	"stamp"
	"stamp/extentstore"
	"stamp/partition/rangestore"
	"stamp/partition/schema"
	"stamp/partition/segment"
)

// The collector is one goroutine. A pass of it
//
//  1. gives up uploads that have lasted too long,
//  2. removes what deleted containers have left,
//  3. removes uncommitted blocks that nobody has touched for a week,
//  4. counts live bytes anew if the range has been split or merged,
//  5. unlinks extents in which nothing lives,
//  6. rewrites extents in which little lives, and unlinks them too.
//
// Every step is a series of commits, each of which leaves the rows and the
// live bytes in agreement, so a crash in the middle needs no repair.

// Limits of one pass.
const (
	sweepRows      = 2000             // rows of a deleted container in one commit
	scanRowsAtOnce = 5000             // rows looked at in one snapshot
	rewriteBudget  = 1 << 30          // bytes copied
	rewriteAt      = 256 << 20        // dead bytes in sealed extents that are worth a scan of the rows, and a 20th of all
	smallExtent    = 16 << 20         // sealed extents below it are put together
	manySmall      = 64               // when there are so many
	expireEvery    = time.Hour        // between two looks at uncommitted blocks
	rewriteEvery   = 10 * time.Minute // between two rewrites, unless space is short
	shortBelow     = 0.9              // share of live bytes below which extents are rewritten while space is short
)

type collectorState struct {
	expired   time.Time
	rewritten time.Time
}

// wake asks for a pass now.
func (s *Service) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (s *Service) run(ctx context.Context) {
	defer close(s.stopped)
	if s.opts.CollectEvery < 0 {
		<-ctx.Done()
		return
	}
	timer := s.opts.Clock.NewTimer(s.opts.CollectEvery)
	defer timer.Stop()
	s.wake() // what an earlier owner has left undone
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.r.Done():
			return
		case <-timer.C():
		case <-s.kick:
		}
		if err := s.collect(ctx, false); err != nil && ctx.Err() == nil {
			s.log.Warn("collector pass failed", "err", err)
		}
		timer.Reset(s.opts.CollectEvery)
	}
}

// Collect makes a whole pass now, and rewrites every extent with too little
// live data however small the gain.
func (s *Service) Collect(ctx context.Context) error { return s.collect(ctx, true) }

func (s *Service) collect(ctx context.Context, force bool) (err error) {
	s.collecting.Lock()
	defer s.collecting.Unlock()
	defer func() {
		outcome := "ok"
		if err != nil {
			outcome = "failed"
		}
		s.metrics.passes.WithLabelValues(outcome).Inc()
	}()
	s.expireUploads()
	if err := s.buryContainers(ctx); err != nil {
		return err
	}
	if now := s.opts.Clock.Now(); force || now.Sub(s.cursor.expired) >= expireEvery {
		if err := s.expireStaged(ctx, now); err != nil {
			return err
		}
		s.cursor.expired = now
	}
	if err := s.recount(ctx); err != nil {
		return err
	}
	return s.reclaim(ctx, force)
}

// expireUploads gives up uploads that have lasted too long.
func (s *Service) expireUploads() {
	now := s.opts.Clock.Now()
	s.uploadsMu.Lock()
	var late []*Upload
	for u := range s.uploads {
		if now.Sub(u.begun) > s.opts.MaxUpload {
			late = append(late, u)
		}
	}
	s.uploadsMu.Unlock()
	for _, u := range late {
		u.giveUp()
	}
}

// usage is an extent of the blob data stream and what lives in it.
type usage struct {
	extentstore.ExtentInfo
	live int64
}

func (u *usage) dead() int64 { return u.Length - u.live }

// reclaim gives back the space of extents.
func (s *Service) reclaim(ctx context.Context, force bool) error {
	sealed, err := s.usage(ctx)
	if err != nil {
		return err
	}
	if sealed, err = s.unlinkDead(ctx, sealed); err != nil {
		return err
	}
	short := s.spaceShort()
	if force || short {
		if err := s.rollDead(ctx); err != nil {
			return err
		}
		if sealed, err = s.usage(ctx); err != nil {
			return err
		}
		if sealed, err = s.unlinkDead(ctx, sealed); err != nil {
			return err
		}
	}
	victims := s.victims(sealed, force, short)
	if len(victims) == 0 {
		return nil
	}
	s.cursor.rewritten = s.opts.Clock.Now()
	if err := s.rewrite(ctx, victims); err != nil {
		return err
	}
	if sealed, err = s.usage(ctx); err != nil {
		return err
	}
	_, err = s.unlinkDead(ctx, sealed)
	return err
}

// usage lists the sealed extents that may be judged, with their live bytes.
// Pins are looked at before the rows: an upload commits before it unpins.
func (s *Service) usage(ctx context.Context) ([]usage, error) {
	extents := s.extents()
	inStream := make(map[extentstore.ExtentID]bool, len(extents))
	var judged []usage
	waited := s.opts.Clock.Now().Sub(s.opened) >= s.opts.OpenWait
	stored := int64(0)
	for _, e := range extents {
		stored += e.Length
		inStream[e.ID] = true
		if e.Sealed && (waited || e.ID >= s.openExtent) && !s.pins.has(e.ID) {
			judged = append(judged, usage{ExtentInfo: e})
		}
	}
	live, err := s.liveBytes(ctx)
	if err != nil {
		return nil, err
	}
	total := int64(0)
	var empty []extentstore.ExtentID
	for id, n := range live {
		total += n
		switch {
		case inStream[id] && n >= 0:
		case !inStream[id] && n == 0:
			empty = append(empty, id)
		case !inStream[id] && s.isIn(id):
		default:
			s.log.Error("live bytes of an extent are wrong", "extent", id, "live", n, "in stream", inStream[id])
		}
	}
	s.metrics.stored.Set(float64(stored))
	s.metrics.live.Set(float64(total))
	for i := range judged {
		judged[i].live = live[judged[i].ID]
	}
	return judged, s.forgetLive(ctx, empty)
}

// isIn looks whether an extent has come into the stream since it was listed.
func (s *Service) isIn(id extentstore.ExtentID) bool {
	return slices.ContainsFunc(s.extents(), func(e extentstore.ExtentInfo) bool { return e.ID == id })
}

// liveBytes reads the live bytes of all extents.
func (s *Service) liveBytes(ctx context.Context) (live map[extentstore.ExtentID]int64, err error) {
	err = s.r.View(ctx, func(v *rangestore.Snapshot) error {
		live, err = readLive(v)
		return err
	})
	return live, err
}

func readLive(v readable) (map[extentstore.ExtentID]int64, error) {
	live := make(map[extentstore.ExtentID]int64)
	it, err := v.Iter([]byte{schema.TableLive}, []byte{schema.TableLive + 1})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		id, valid := schema.ParseLiveKey(it.Key())
		if !valid {
			return nil, stamp.Errorf(stamp.Corrupt, "blob.Collect", "key %x is not one of live bytes", it.Key())
		}
		n, err := rangestore.DecodeSum(it.Value())
		if err != nil {
			return nil, err
		}
		live[id] = n
	}
	return live, it.Error()
}

// forgetLive removes the rows of extents that are no longer in the stream.
func (s *Service) forgetLive(ctx context.Context, ids []extentstore.ExtentID) error {
	if len(ids) == 0 {
		return nil
	}
	return s.r.Update(ctx, rangestore.Latches{}, func(tx *rangestore.Tx) error {
		for _, id := range ids {
			if n, err := tx.GetSum(schema.LiveKey(id)); err != nil || n != 0 {
				return err
			}
			if err := tx.Delete(schema.LiveKey(id)); err != nil {
				return err
			}
		}
		return nil
	})
}

// unlinkDead takes the extents out of the stream in which nothing lives, and
// returns the others.
func (s *Service) unlinkDead(ctx context.Context, sealed []usage) ([]usage, error) {
	var rest []usage
	var gone []extentstore.ExtentID
	for _, e := range sealed {
		if e.live != 0 {
			rest = append(rest, e)
			continue
		}
		if err := s.unlink(ctx, e.ID); err != nil && stamp.KindOf(err) != stamp.NotFound {
			return rest, errors.Join(err, s.forgetLive(ctx, gone))
		}
		s.metrics.unlinked.Inc()
		s.log.Info("extent unlinked", "extent", e.ID, "length", e.Length)
		gone = append(gone, e.ID)
	}
	return rest, s.forgetLive(ctx, gone)
}

// spaceShort reports whether it is worth much work to win space.
func (s *Service) spaceShort() bool {
	if s.opts.Space == nil {
		return false
	}
	sp := s.opts.Space()
	return sp.Full || sp.Capacity > 0 && sp.Free < sp.Capacity/10
}

// rollDead seals the current extents if little lives in them, so that they can
// be judged.
func (s *Service) rollDead(ctx context.Context) error {
	if err := s.rollIfDead(ctx, s.opts.Data); err != nil || s.opts.Moved == s.opts.Data {
		return err
	}
	return s.rollIfDead(ctx, s.opts.Moved)
}

func (s *Service) rollIfDead(ctx context.Context, data Data) error {
	extents := data.Extents()
	if len(extents) == 0 {
		return nil
	}
	last := extents[len(extents)-1]
	if last.Sealed || last.Length == 0 {
		return nil
	}
	live, err := s.r.ReadSum(ctx, schema.LiveKey(last.ID))
	if err != nil || float64(live) >= s.opts.RewriteBelow*float64(last.Length) {
		return err
	}
	return data.Roll(ctx)
}

// victims chooses the extents that are worth being rewritten, the emptiest
// first, within a budget of bytes to copy.
func (s *Service) victims(sealed []usage, force, short bool) map[extentstore.ExtentID]bool {
	below, budget, largest := s.opts.RewriteBelow, int64(rewriteBudget), int64(1<<62)
	if short {
		below = max(below, shortBelow)
		budget, largest = s.room()
	}
	small := 0
	for i := range sealed {
		if sealed[i].Length < smallExtent {
			small++
		}
	}
	var chosen []usage
	dead, stored := int64(0), int64(0)
	for _, e := range sealed {
		stored += e.Length
		if float64(e.live) < below*float64(e.Length) || e.Length < smallExtent && small >= manySmall {
			chosen = append(chosen, e)
			dead += e.dead()
		}
	}
	worth := force || dead >= max(rewriteAt, stored/20) || small >= manySmall || short && dead > 0
	soon := s.opts.Clock.Now().Sub(s.cursor.rewritten) < rewriteEvery
	if !worth || soon && !force && !short {
		return nil
	}
	slices.SortFunc(chosen, func(a, b usage) int {
		x, y := float64(a.live)/float64(a.Length), float64(b.live)/float64(b.Length)
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	victims := make(map[extentstore.ExtentID]bool)
	for _, e := range chosen {
		if budget -= e.live; budget < 0 && len(victims) > 0 || e.live > largest {
			break
		}
		victims[e.ID] = true
	}
	return victims
}

// room is how much may be copied in one pass while space is short, and how
// much at most out of one extent. Space that was won comes back only after the
// StreamManager's grace time, a few passes later.
func (s *Service) room() (budget, largest int64) {
	sp := s.opts.Space()
	reserve := int64(0)
	for _, d := range sp.Disks {
		reserve += d.Reserve
	}
	copies := int64(max(1, min(len(sp.Disks), extentstore.MaxReplicas)))
	free := max(sp.Free, 0) / copies
	return min(rewriteBudget, free/4+reserve/copies/8), free/2 + reserve/copies/2
}

// rowSegments is the segment list that stands in a row of an object.
func rowSegments(suffix byte, key, value []byte) (segment.List, error) {
	switch suffix {
	case schema.SuffixBase:
		row, err := parseRow(value)
		if err != nil {
			return nil, err
		}
		c, err := row.content()
		return c.List, err
	case schema.SuffixBlock:
		var row schema.BlockRow
		if _, err := schema.ParseMessage(value, &row); err != nil {
			return nil, err
		}
		return segment.Decode(row.Segments, nil, 0)
	case schema.SuffixSegment:
		return segment.DecodeRow(value, segment.RowOffset(key))
	}
	return nil, nil
}

// objectKey takes the key of any row of an object apart, named or orphan.
func objectKey(key []byte) (k schema.ObjectKey, containerID uint64, ok bool) {
	if len(key) > 0 && key[0] == schema.TableOrphan {
		k, containerID, _, ok = schema.ParseOrphanKey(key)
		return k, containerID, ok
	}
	containerID, n, ok := schema.ContainerID(key)
	if !ok {
		return k, 0, false // a container's row
	}
	k, ok = schema.ParseObject(key, n)
	return k, containerID, ok
}
