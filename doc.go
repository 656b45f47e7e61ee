// Package stamp holds the nouns that every layer of a Stamp shares: the names
// of objects, the kinds of errors and the clock. It does no work and imports
// the standard library alone.
//
// A Stamp is one storage cluster with the architecture of Windows Azure
// Storage (Calder et al., SOSP 2011). Its layers, bottom to top, are
//
//	extentstore  append-only replicated streams of extents
//	partition    range-partitioned object tables on streams
//	geo          accounts over several stamps
//	frontend     Azure Blob, Table and Queue REST, and the mount's file service
//	fuse         the mount
//	systemd      units
//	appliance    which roles run on this machine
//	cmd          the stamp command
//
// and imports point down only; layers_test.go enforces it.
package stamp
