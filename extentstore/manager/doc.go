// Package manager is the StreamManager (SM): it owns the namespace of streams
// and the state of extents, and is off the data path (SOSP 2011, section 4.2).
//
// The decisions are State.Step, which takes one command and changes nothing
// but itself: no clock, no goroutine, no I/O. Commands stand on a replicated
// log (package consensus). Manager is the driver: it talks to ExtentNodes,
// puts commands on the log and answers callers.
//
// Life of an extent:
//
//	reserved    its id is set aside on the log for one leader
//	unsealed    a stream's last entry; replicas are created beside the command
//	sealed      length fixed for ever
//	garbage     no stream points to it; may be linked again within the grace time
//	condemned   may not be linked any more; replicas are being deleted
//	forgotten   unknown again; a replica that turns up is deleted
//
// What may be lost in a crash at any point is a reserved id and replicas
// that no stream points to. At start, and when a node comes back, reconcile
// compares what the nodes hold with the state: forgotten replicas are deleted,
// sealed ones forced to their length, ids that nobody issued are kept and
// reported.
package manager
