package node

import (
	"bytes"
	"encoding/binary"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"stamp/extentstore"
)

var update = flag.Bool("update", false, "write golden files that do not exist")

// golden compares got with a file that pins a version of a format.
func golden(t *testing.T, name string, got []byte) []byte {
	t.Helper()
	name = filepath.Join("testdata", name)
	want, err := os.ReadFile(name)
	if os.IsNotExist(err) && *update {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return got
	}
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: the encoding has changed", name)
	}
	return want
}

// goldenFile reads what an earlier version has written.
func goldenFile(t *testing.T, name string) []byte {
	t.Helper()
	p, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var testID = journalID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}

func exampleMembers() []*member {
	return []*member{{slot: 3, id: diskKey{1, 2, 3}, name: "en1/d1"}, {slot: 0, id: diskKey{4}, name: "en1/d2"}}
}

// exampleRecord has an entry of each kind.
func exampleRecord() []byte {
	rec := make([]byte, 1<<20)
	n := recordHeader
	entries := 0
	put := func(kind byte, id extentstore.ExtentID, offset int64, blocks []extentstore.Block, parts ...[]byte) {
		n += putEntry(rec[n:], kind, 3, id, offset, blocks, parts...)
		entries++
	}
	small := []extentstore.Block{extentstore.NewBlock([]byte("hello")), extentstore.NewBlock([]byte("world!!"))}
	large := []extentstore.Block{extentstore.NewBlock(bytes.Repeat([]byte("large"), 60_000))}
	put(entryCreate, 5, 1<<30, nil, appendSpec(nil, spec{extentstore.RowData, []extentstore.DiskID{"dev-1", "dev-2"}}))
	put(entryAppend, 5, 0, small)
	put(entryLarge, 5, 12, large, []byte("largelarge"))
	put(entryTail, 5, 300_012, nil, []byte("tail"))
	put(entryClose, 5, 0, nil)
	put(entrySeal, 5, 12, nil)
	put(entryDelete, 5, 0, nil)
	put(entryDoubt, 6, 0, nil)
	put(entryNothing, 0, 0, nil)
	put(entryDisks, 0, 0, nil, appendTable(nil, exampleMembers()))
	putRecordHeader(rec[:n], testID, recordInfo{seq: 77, segment: 9, tail: 4, entries: entries})
	return rec[:n]
}

func TestGoldenRecord(t *testing.T) {
	for version, c := range map[string]struct {
		slot  byte
		kinds []byte
	}{
		"v1": {0, []byte{4, 1, 2, 3, 5, 6, 7, 8, 9}},
		"v2": {3, []byte{4, 1, 2, 3, 5, 6, 7, 8, 9, 10}},
	} {
		t.Run(version, func(t *testing.T) {
			var p []byte
			if version == "v1" {
				p = goldenFile(t, "record-v1.golden") // as it was written then
			} else {
				p = golden(t, "record-v2.golden", exampleRecord())
			}
			checkRecord(t, p, c.slot, c.kinds)
		})
	}
}

func checkRecord(t *testing.T, p []byte, slot byte, want []byte) {
	r, err := decodeRecord(p, testID)
	if err != nil {
		t.Fatal(err)
	}
	if want := (recordInfo{seq: 77, segment: 9, tail: 4, length: len(p), entries: len(want)}); r != want {
		t.Fatalf("got %+v, want %+v", r, want)
	}
	var kinds []byte
	p = p[recordHeader:]
	for range r.entries {
		e, n, err := decodeEntry(p)
		if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, e.kind)
		if e.slot != slot {
			t.Errorf("kind %d of disk %d, want %d", e.kind, e.slot, slot)
		}
		switch e.kind {
		case entryAppend:
			if string(e.payload) != "helloworld!!" || e.nBlocks != 2 || e.size() != 12 {
				t.Errorf("append: %+v", e)
			}
		case entryLarge:
			if string(e.payload) != "largelarge" || e.size() != 300_000 || e.offset != 12 {
				t.Errorf("large: %d bytes at %d, payload %q", e.size(), e.offset, e.payload)
			}
		case entryCreate:
			var specs specTable
			s, _, err := specs.decode(e.payload)
			if err != nil || s.kind != extentstore.RowData || len(s.replicas) != 2 || s.replicas[1] != "dev-2" || e.offset != 1<<30 {
				t.Errorf("create: %+v, %v", s, err)
			}
		case entryDisks:
			ms, err := decodeTable(e.payload)
			if err != nil || !reflect.DeepEqual(ms, exampleMembers()) {
				t.Errorf("disks: %+v, %v", ms, err)
			}
		}
		p = p[n:]
	}
	if len(p) != 0 || !bytes.Equal(kinds, want) {
		t.Fatalf("kinds %v, %d bytes left", kinds, len(p))
	}
}

func TestGoldenJournalHeader(t *testing.T) {
	h, err := decodeJournalHeader(goldenFile(t, "journal-v1.golden"))
	if want := (ringHeader{version: 1, id: testID, segment: 4 << 20, count: 64}); err != nil || h != want {
		t.Fatalf("got %+v, %v", h, err)
	}
	want := exampleHeader()
	p := make([]byte, extentstore.SectorSize)
	want.put(p)
	p = golden(t, "journal-v2.golden", p)
	if h, err = decodeJournalHeader(p); err != nil || h != want {
		t.Fatalf("got %+v, %v", h, err)
	}
	p[60]++
	if _, err := decodeJournalHeader(p); err == nil {
		t.Error("a damaged header was taken")
	}
}

func exampleHeader() ringHeader {
	return ringHeader{version: 2, id: testID, segment: 4 << 20, count: 64, stamp: "5a0f9a9c-0000-4000-8000-000000000001", node: "en1"}
}

func exampleStates() []extentState {
	return []extentState{
		{id: 1, target: 1 << 30, born: 99, flags: flagCreated, spec: spec{extentstore.BlobData, []extentstore.DiskID{"dev-1", "dev-2", "dev-3"}}},
		{id: 2, flags: flagClosed},
		{id: 3, length: 12345, target: 7, flags: flagCreated | flagClosed | flagSealed | flagFinal, spec: spec{extentstore.Metadata, []extentstore.DiskID{"dev-1"}}},
		{id: 0xffffffffffffffff, flags: flagDeleted},
	}
}

func TestGoldenStates(t *testing.T) {
	p := golden(t, "state-v1.golden", appendStateGroup(nil, 8192, exampleStates()))
	var got []extentState
	var specs specTable
	n, err := decodeStateGroup(p, 8192, &specs, func(s extentState) { got = append(got, s) })
	if err != nil || n != len(p) {
		t.Fatalf("took %d of %d bytes: %v", n, len(p), err)
	}
	if want := exampleStates(); !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
	if _, err := decodeStateGroup(p, 4096, &specs, func(extentState) {}); err == nil {
		t.Error("a group in the wrong place was taken")
	}
}

func TestGoldenLabel(t *testing.T) {
	want := label{version: 1, stamp: "5a0f9a9c-0000-4000-8000-000000000001", disk: "dev-1", journal: testID}
	got, err := decodeLabel(goldenFile(t, "label-v1.golden"))
	if err != nil || got != want {
		t.Fatalf("got %+v, %v", got, err)
	}
	want.version, want.disk, want.id = 2, "en1/d1", diskKey{9, 8, 7}
	p := golden(t, "label-v2.golden", want.encode())
	got, err = decodeLabel(p)
	if err != nil || got != want {
		t.Fatalf("got %+v, %v", got, err)
	}
	p[30]++
	if _, err := decodeLabel(p); err == nil {
		t.Error("a damaged label was taken")
	}
}

func FuzzRecord(f *testing.F) {
	f.Add(exampleRecord())
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) >= recordHeader {
			// Make the checksums right, so that what is behind them is
			// tested too.
			r, err := decodeRecordHeader(p, testID)
			if err != nil || r.length > len(p) {
				r = recordInfo{seq: 1, entries: int(p[52])}
			}
			putRecordHeader(p, testID, r)
		}
		r, err := decodeRecord(p, testID)
		if err != nil {
			return
		}
		q := p[recordHeader:r.length]
		for range min(r.entries, 1000) {
			e, n, err := decodeEntry(q)
			if err != nil {
				return
			}
			total := int64(0)
			e.eachBlock(func(length int, sums []uint32, _ bool) {
				if len(sums) != sumsOf(length) {
					t.Fatalf("%d checksums for %d bytes", len(sums), length)
				}
				total += int64(length)
			})
			if e.size() != total || e.kind == entryAppend && int64(len(e.payload)) != total {
				t.Fatalf("entry of %d bytes, %d of payload", total, len(e.payload))
			}
			switch e.kind {
			case entryCreate:
				var specs specTable
				specs.decode(e.payload)
			case entryDisks:
				ms, err := decodeTable(e.payload)
				if err == nil && !bytes.Equal(appendTable(nil, ms), e.payload) {
					t.Fatalf("a table does not survive encoding: %+v", ms)
				}
			}
			q = q[n:]
		}
	})
}

func FuzzStates(f *testing.F) {
	f.Add(appendStateGroup(nil, 0, exampleStates()))
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) >= stateHeader {
			if n := binary.LittleEndian.Uint32(p[16:]); n >= stateHeader && int64(n) <= int64(len(p)) {
				binary.LittleEndian.PutUint32(p[20:], stateSum(p[:n]))
			}
		}
		var specs specTable
		var got []extentState
		if _, err := decodeStateGroup(p, 0, &specs, func(s extentState) { got = append(got, s) }); err != nil {
			return
		}
		var again []extentState
		if _, err := decodeStateGroup(appendStateGroup(nil, 0, got), 0, &specs, func(s extentState) { again = append(again, s) }); err != nil || !reflect.DeepEqual(got, again) {
			t.Fatalf("does not survive encoding: %v\n%+v\n%+v", err, got, again)
		}
	})
}

func FuzzLabel(f *testing.F) {
	f.Add(label{stamp: "s", disk: "n", journal: testID}.encode())
	f.Fuzz(func(_ *testing.T, p []byte) { decodeLabel(p) })
}

func FuzzJournalHeader(f *testing.F) {
	p := make([]byte, extentstore.SectorSize)
	exampleHeader().put(p)
	f.Add(p)
	v1, err := os.ReadFile("testdata/journal-v1.golden")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(v1)
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) >= ringHeaderSize && p[4] == 2 {
			binary.LittleEndian.PutUint32(p[ringHeaderSize-4:], extentstore.Checksum(p[:ringHeaderSize-4]))
		}
		h, err := decodeJournalHeader(p)
		if err != nil || h.version == 1 {
			return
		}
		q := make([]byte, extentstore.SectorSize)
		h.put(q)
		if again, err := decodeJournalHeader(q); err != nil || again != h {
			t.Fatalf("does not survive encoding: %v\n%+v\n%+v", err, h, again)
		}
	})
}
