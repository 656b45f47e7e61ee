// Package replica decides what one replica of an extent does: which appends it
// takes and where they stand, when they are acknowledged, what it answers to a
// seal, and what is left of it after a restart. It is the protocol of an
// ExtentNode without the ExtentNode: it reads no clock, takes no lock and does
// no I/O, so that a simulation drives the very code that the node runs.
//
// A State is stepped through Inputs, one at a time, and answers with Outputs
// that its driver performs in order. The driver owns bytes, journal, files and
// connections; of bytes the State knows only where appends end.
//
// Invariants:
//
//   - Appends stand one behind the other. Their entries go to the journal in
//     this order, and they are acknowledged in it.
//   - An append is acknowledged when all bytes up to its end are durable here
//     and, on the primary, on every secondary.
//   - After the answer to a seal nothing is appended, also after a restart, also
//     if the replica is created only later. The answer counts what is durable
//     and ends at the end of a whole append.
//   - No offset is given to two different appends of a replicated extent: a
//     primary that was restarted may have forwarded what it has lost, so it
//     gives no more places in the extents it had.
//   - A replica that may have lost something that it acknowledged says so.
package replica
