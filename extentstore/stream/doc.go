// Package stream is the client of the stream layer: what the partition layer
// appends and reads through. It knows which extents make up a stream, finds
// their replicas, and hides that extents fill up, fail and get sealed.
//
// It does not cache content and decides nothing about names: the
// StreamManager does. Invariants:
//
//   - What Append has acknowledged is durable on every replica and is read back
//     by every later read, through whatever failures.
//   - A Writer's stream holds no byte twice: after a failed append it sends again
//     only what lies beyond the length at which the extent was sealed.
//   - Once a Folder is fenced, nothing of it changes the stamp any more.
//
// Retries live here and nowhere above: operations go on until they succeed,
// until their context ends, or until the answer cannot change.
package stream
