// Package partition is the partition layer (SOSP 2011, section 5): object
// tables cut into RangePartitions, each an LSM tree whose files are streams of
// the layer below. Its parts, bottom to top:
//
//	streamfs    Pebble's view of a folder of streams: fencing, overlay
//	rangestore  one RangePartition: rows, batches, snapshots, latches
//	lock        the decisions of LockService: leases, elections, and the record of
//	            who has which RangePartition; host puts them on the managers'
//	            log, session is for holders, remote carries calls
//	server      the PartitionServer: opens ranges, shares memory and compaction
//	schema      keys and rows of the object tables
//	segment     the content of a blob or file: an ordered list of segments
//	blob, account, file  semantics above rows; they know nothing of HTTP
//
// Invariants of the layer:
//
//   - What was acknowledged is durable, and what was read was durable when the
//     answer was given.
//   - An owner that was fenced acknowledges nothing and answers nothing.
//   - Nobody is the owner of a range whose lease another may have: a server that
//     was stopped for longer than its lease answers nothing when it goes on, and
//     cannot take its folder back from the one after it.
//   - A row points only into extents of its own range's blob data stream.
//
// DESIGN.md says why it is like this and what was measured.
package partition
