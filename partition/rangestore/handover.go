package rangestore

import (
	"bytes"
	"context"
	"encoding/binary"

	"github.com/cockroachdb/pebble/v2"

	"stamp"
	"stamp/extentstore"
)

// A handover is all the rows that belong to a range itself, on their way to
// the range that it is merged into. Integers are little-endian;
// testdata/handover.golden pins it.
//
//	offset  bytes  field
//	0       4      "SHND"
//	4       1      version, 1
//	5       8      id of the range that left it
//	13      ...    rows, in order of their keys
//	end-4   4      CRC-32C of the bytes above
//
// A row is its key and its value, each behind its length in 4 bytes. Anything
// else is Corrupt, and no range is opened with it.
const (
	handoverMagic   = "SHND"
	handoverVersion = 1
	handoverFixed   = 17
	maxHandover     = 64 << 20 // bytes: it is made in memory
)

type row struct{ key, value []byte }

func encodeHandover(from RangeID, rows []row) []byte {
	p := append([]byte(handoverMagic), handoverVersion)
	p = binary.LittleEndian.AppendUint64(p, uint64(from))
	for _, r := range rows {
		for _, part := range [][]byte{r.key, r.value} {
			p = binary.LittleEndian.AppendUint32(p, uint32(len(part)))
			p = append(p, part...)
		}
	}
	return binary.LittleEndian.AppendUint32(p, extentstore.Checksum(p))
}

// decodeHandover reads what encodeHandover writes; its rows are parts of p. An
// empty p holds none.
func decodeHandover(p []byte) (from RangeID, rows []row, err error) {
	bad := func(why string) (RangeID, []row, error) {
		return 0, nil, stamp.Errorf(stamp.Corrupt, "rangestore.decodeHandover", "handover of %d bytes: %s", len(p), why)
	}
	if len(p) == 0 {
		return 0, nil, nil
	}
	if len(p) < handoverFixed || string(p[:4]) != handoverMagic || p[4] != handoverVersion {
		return bad("it is none, or of another version")
	}
	body, sum := p[:len(p)-4], binary.LittleEndian.Uint32(p[len(p)-4:])
	if extentstore.Checksum(body) != sum {
		return bad("wrong checksum")
	}
	from = RangeID(binary.LittleEndian.Uint64(p[5:]))
	rest := body[13:]
	cut := func() (part []byte, ok bool) {
		if len(rest) < 4 {
			return nil, false
		}
		n := uint64(binary.LittleEndian.Uint32(rest))
		if n > uint64(len(rest)-4) {
			return nil, false
		}
		part, rest = rest[4:4+n], rest[4+n:]
		return part, true
	}
	for len(rest) > 0 {
		key, ok := cut()
		value, ok2 := cut()
		if !ok || !ok2 {
			return bad("cut short")
		}
		if !owned(key) {
			return bad("a row of an object")
		}
		rows = append(rows, row{key, value})
	}
	return from, rows, nil
}

// Handover copies the rows that belong to the range itself. It takes none
// away. TooLarge if there are more than a merge can carry.
func (p *Pause) Handover(ctx context.Context) ([]byte, error) {
	r := p.r
	lower, upper := ownedSpan()
	it, err := r.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, r.readError("rangestore.Handover", err)
	}
	defer it.Close()
	var rows []row
	size := 0
	for ok := it.First(); ok; ok = it.Next() {
		rows = append(rows, row{bytes.Clone(it.Key()), bytes.Clone(it.Value())})
		if size += len(it.Key()) + len(it.Value()) + 8; size > maxHandover {
			return nil, stamp.Errorf(stamp.TooLarge, "rangestore.Handover", "range %s has more than %d bytes of rows of its own", r.name, maxHandover)
		}
	}
	if err := it.Error(); err != nil {
		return nil, r.readError("rangestore.Handover", err)
	}
	return encodeHandover(r.desc.ID, rows), r.check()
}

// GiveAway removes the rows that belong to the range itself, after the handover
// that holds them is durable. Readers who have seen some are answered NotOwner.
// Restore is the way back; before either the range must not be read by its own.
func (p *Pause) GiveAway(ctx context.Context) error {
	r := p.r
	r.era.Load().away.Store(true)
	lower, upper := ownedSpan()
	if err := r.exciseIfAny(ctx, pebble.KeyRange{Start: lower, End: upper}); err != nil {
		return err
	}
	return r.check()
}

// Restore undoes GiveAway.
func (p *Pause) Restore(ctx context.Context, handover []byte) error {
	_, rows, err := decodeHandover(handover)
	if err != nil {
		return err
	}
	if err := p.r.restore(ctx, rows); err != nil {
		return err
	}
	p.r.begin(p.r.Bounds())
	return nil
}
