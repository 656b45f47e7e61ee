// Package lock holds the decisions of LockService, without a clock, a goroutine
// or I/O. They are three structs:
//
//   - State is what stands on the managers' log: leases, elections, and the
//     record of who has which RangePartition. It takes commands and has never
//     heard of time.
//   - Grantor belongs to the member that leads. It counts leases by the
//     leader's boot clock and says when one has run out, which then becomes a
//     command.
//   - Holder belongs to whoever holds a lease, and says until when it may rely
//     on it.
//
// Invariants:
//
//   - At no moment would two holders both find themselves valid for the same
//     range or election, as long as boot clocks run at the same rate within 5 %:
//     a holder counts from when it asked and stops a tenth early, the grantor
//     counts from when it answered and waits a twentieth longer.
//   - A renewal is answered only by a member that has since then made sure that
//     it leads; for a new leader every lease counts as just renewed; an expiry
//     that an earlier leader decided on is refused.
//   - What a lease holds changes hands only when the holder gives it back or
//     when the lease has ended.
//   - An order takes effect only while the PartitionManager that gave it is the
//     elected one.
//   - The ranges of a table cover all keys, each once.
//
// Package host puts this on the log, package session is for holders, package
// remote carries it over the network.
package lock
