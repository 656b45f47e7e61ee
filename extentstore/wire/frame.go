package wire

import (
	"encoding/binary"

	"stamp"
	"stamp/extentstore"
)

// The data path, version 1. Integers are little-endian; "text" is a byte n and n
// bytes of UTF-8, "long text" the same with two bytes for n; CRCs are CRC-32C
// (Castagnoli).
//
// A connection carries frames in both directions. A frame is a header of 28
// bytes, m bytes of meta and n bytes of payload:
//
//	offset  bytes  field
//	0       4      CRC of the 24 bytes that follow
//	4       1      type
//	5       3      0
//	8       8      number of the call; 0 in hello, welcome, ping and pong
//	16      4      m, at most 65,536
//	20      4      n, at most 16,777,216
//	24      4      CRC of the meta
//	28      m      meta, see below
//	28+m    n      payload: of append and replicate the blocks' bytes, of the
//	               reply to a read those of the extent. Else n is 0.
//
// A header or a meta that does not match its CRC ends the connection: nothing
// behind it can be trusted. A payload has its checksums in the meta; one that
// does not match makes the call Corrupt and nothing else. Who receives a meta
// that is longer than it knows ignores the rest, and takes what is missing at
// the end for zero only where this page says so: that is how fields are added.
//
// The client begins with the four bytes "STMD" and a hello, the server answers
// with a welcome, or with failed and the end:
//
//	hello    2  lowest version that the client speaks
//	         2  highest
//	         8  features that the client has; none are defined yet
//	         text  stamp id, empty if not known
//	         text  name of the client, for people
//	         text  NodeID that the client wants to reach
//	welcome  2  version that is spoken from here on
//	         8  features that both have
//	         text  stamp id, empty if not known
//	         text  NodeID of the server
//	         4  bytes of appends that may be unanswered
//	         4  bytes of reads that may be unanswered
//	         4  calls that may be unanswered of each of three classes: append and
//	            replicate; read; all others
//
// After that the client makes calls, numbered from 1 upwards, as many at once as
// the welcome allows. The server answers each call once, with done or failed, in any
// order. Acknowledgements of appends of one extent stand for each other: when one is sent,
// everything before its offset is durable on all replicas too. What exceeds the
// allowance is answered Busy. A cancel says that nobody waits for a call any
// more; it is answered all the same, and counts until then. Either side sends a
// ping when it has heard nothing for a while and answers one with a pong; who
// hears nothing at all for long ends the connection.
//
// The meta of a request begins with
//
//	0    4  µs until the client's deadline, 0 if it has none
//	4    1  extentstore.Class
//	5    text  DiskID
//
// and goes on, by type (state, spec and fragments are below):
//
//	create       spec
//	append       8 extent, blocks
//	replicate    8 extent, 8 offset, blocks
//	read         8 extent, 8 offset, 4 length, at most 4,194,304
//	close        8 extent
//	seal         8 extent, 8 length
//	delete       8 extent, 8 term
//	stat         8 extent
//	list         8 extent after which to begin, 4 limit, 8 term
//	verify       8 extent
//	disk         nothing
//	sum          8 extent, 8 length
//	pull         spec, 8 length, 1 count, count texts: DiskIDs; 8 term
//	encode       8 extent, 8 length, fragments
//	reconstruct  8 extent, 8 length, fragments, 1 index, 8 term
//	trash        8 extent after which to begin, 4 limit
//	restore      8 extent
//
//	term         in which the StreamManager leads that orders it; missing if none
//	             does
//	blocks       4 count, at most 4096; of each: 4 bytes of payload, 4 CRC of each
//	             64 KiB of it begun
//	spec         8 extent, 1 kind, 8 target, 1 count, count texts: DiskIDs
//	fragments    1 code, 8 first extent, 8 length, 1 count, count texts: DiskIDs
//
// Of the replies, done has for
//
//	append               8 offset
//	read                 4 CRC of the payload
//	close, stat, verify  state
//	list                 2 count, count states
//	disk                 8 capacity, 8 free, 8 reserve, long text: why it failed,
//	                     8 trash, 8 foreign; the last two may be missing
//	sum                  4 CRC
//	trash                2 count, of each: 8 extent, 1 kind, 8 length, 8 seconds
//	                     since 1970 when it was dropped
//	all others           nothing
//
//	state        8 extent, 8 length, 1 bits: 1 closed, 2 sealed, 4 doubtful, 8 absent
//
// and failed, as the answer to a call or a hello
//
//	2  stamp.Kind
//	long text  stamp.Error.Op
//	long text  stamp.Error.What, and of its cause if that says more
//	text  DiskID of the secondary on which an append has failed; may be missing
//
// Types never get another meaning:
const (
	typeHello   = 1
	typeWelcome = 2
	typePing    = 3
	typePong    = 4
	typeCancel  = 5
	typeDone    = 6
	typeFailed  = 7

	typeCreate      = 16
	typeAppend      = 17
	typeReplicate   = 18
	typeRead        = 19
	typeClose       = 20
	typeSeal        = 21
	typeDelete      = 22
	typeStat        = 23
	typeList        = 24
	typeVerify      = 25
	typeDisk        = 26
	typeSum         = 27
	typePull        = 28
	typeEncode      = 29
	typeReconstruct = 30
	typeTrash       = 31
	typeRestore     = 32
)

const (
	version    = 1
	features   = 0
	headerSize = 28
	maxMeta    = 64 << 10
	maxPayload = extentstore.MaxAppendSize
	maxRead    = 4 << 20
	maxStates  = 2048 // in the reply to a list
	stateSize  = 17
	maxTrashed = 2048 // in the reply to a trash
	trashSize  = 25
)

// names are for errors and metrics.
var names = map[byte]string{
	typeCreate: "create", typeAppend: "append", typeReplicate: "replicate", typeRead: "read", typeClose: "close", typeSeal: "seal",
	typeDelete: "delete", typeStat: "stat", typeList: "list", typeVerify: "verify", typeDisk: "disk", typeSum: "sum", typePull: "pull",
	typeEncode: "encode", typeReconstruct: "reconstruct", typeTrash: "trash", typeRestore: "restore",
}

// A header is the fixed part of a frame.
type header struct {
	kind    byte
	call    uint64
	meta    int
	payload int
	metaSum uint32
}

var le = binary.LittleEndian

// begin makes room for a header at the start of a frame.
func begin(b []byte) []byte { return append(b[:0], make([]byte, headerSize)...) }

// finish fills in the header of a frame whose meta is complete.
func finish(b []byte, kind byte, call uint64, payload int) {
	b[4], b[5], b[6], b[7] = kind, 0, 0, 0
	le.PutUint64(b[8:], call)
	le.PutUint32(b[16:], uint32(len(b)-headerSize))
	le.PutUint32(b[20:], uint32(payload))
	le.PutUint32(b[24:], extentstore.Checksum(b[headerSize:]))
	le.PutUint32(b, extentstore.Checksum(b[4:headerSize]))
}

func damaged(format string, args ...any) error {
	return stamp.Errorf(stamp.Corrupt, "wire.receive", format, args...)
}

// parseHeader reads a header and checks it.
func parseHeader(b []byte) (header, error) {
	if got, want := extentstore.Checksum(b[4:headerSize]), le.Uint32(b); got != want {
		return header{}, damaged("the header of a frame does not match its checksum")
	}
	h := header{kind: b[4], call: le.Uint64(b[8:]), meta: int(le.Uint32(b[16:])), payload: int(le.Uint32(b[20:])), metaSum: le.Uint32(b[24:])}
	if h.meta > maxMeta || h.payload > maxPayload {
		return h, stamp.Errorf(stamp.Invalid, "wire.receive", "a frame with %d bytes of meta and %d of payload", h.meta, h.payload)
	}
	return h, nil
}

// checkMeta verifies the meta that goes with a header.
func (h *header) checkMeta(meta []byte) error {
	if extentstore.Checksum(meta) != h.metaSum {
		return damaged("the meta of a frame of type %d does not match its checksum", h.kind)
	}
	return nil
}

// A reader takes fields off the front of a meta. Once something is missing all
// it gives is zero, and bad is set.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n < 0 || n > len(r.b) {
		r.bad = true
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) u8() byte {
	if p := r.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if p := r.take(2); p != nil {
		return le.Uint16(p)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if p := r.take(4); p != nil {
		return le.Uint32(p)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if p := r.take(8); p != nil {
		return le.Uint64(p)
	}
	return 0
}

func (r *reader) extent() extentstore.ExtentID { return extentstore.ExtentID(r.u64()) }
func (r *reader) i64() int64                   { return int64(r.u64()) }
func (r *reader) text() string                 { return string(r.take(int(r.u8()))) }
func (r *reader) longText() string             { return string(r.take(int(r.u16()))) }

func (r *reader) disks() []extentstore.DiskID {
	n := int(r.u8())
	if r.bad || n == 0 {
		return nil
	}
	disks := make([]extentstore.DiskID, 0, n)
	for range n {
		disks = append(disks, extentstore.DiskID(r.text()))
	}
	return disks
}

func (r *reader) err(what string) error {
	if r.bad {
		return stamp.Errorf(stamp.Invalid, "wire.receive", "a %s that is too short", what)
	}
	return nil
}

func putText(b []byte, s string) []byte {
	s = s[:min(len(s), 255)]
	return append(append(b, byte(len(s))), s...)
}

func putLongText(b []byte, s string, limit int) []byte {
	s = s[:min(len(s), limit)]
	return append(le.AppendUint16(b, uint16(len(s))), s...)
}

func putDisks(b []byte, disks []extentstore.DiskID) []byte {
	b = append(b, byte(len(disks)))
	for _, d := range disks {
		b = putText(b, string(d))
	}
	return b
}

// hello is what the client says first.
type hello struct {
	lowest, highest uint16
	features        uint64
	stamp           extentstore.StampID
	client          string
	node            extentstore.NodeID
}

func (h *hello) encode() []byte {
	b := begin(nil)
	b = le.AppendUint16(b, h.lowest)
	b = le.AppendUint16(b, h.highest)
	b = le.AppendUint64(b, h.features)
	b = putText(b, string(h.stamp))
	b = putText(b, h.client)
	b = putText(b, string(h.node))
	finish(b, typeHello, 0, 0)
	return b
}

func (h *hello) decode(meta []byte) error {
	r := reader{b: meta}
	*h = hello{
		lowest: r.u16(), highest: r.u16(), features: r.u64(),
		stamp: extentstore.StampID(r.text()), client: r.text(), node: extentstore.NodeID(r.text()),
	}
	return r.err("hello")
}

// welcome is the server's answer.
type welcome struct {
	version  uint16
	features uint64
	stamp    extentstore.StampID
	node     extentstore.NodeID
	appends  uint32 // bytes
	reads    uint32 // bytes
	calls    uint32 // of each class
}

func (w *welcome) encode() []byte {
	b := begin(nil)
	b = le.AppendUint16(b, w.version)
	b = le.AppendUint64(b, w.features)
	b = putText(b, string(w.stamp))
	b = putText(b, string(w.node))
	b = le.AppendUint32(b, w.appends)
	b = le.AppendUint32(b, w.reads)
	b = le.AppendUint32(b, w.calls)
	finish(b, typeWelcome, 0, 0)
	return b
}

func (w *welcome) decode(meta []byte) error {
	r := reader{b: meta}
	*w = welcome{
		version: r.u16(), features: r.u64(), stamp: extentstore.StampID(r.text()), node: extentstore.NodeID(r.text()),
		appends: r.u32(), reads: r.u32(), calls: r.u32(),
	}
	return r.err("welcome")
}
