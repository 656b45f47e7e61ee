// Package crashtest kills a `stamp dev` process at random moments under load
// and checks what it finds afterwards: every acknowledged blob is there with
// the bytes that were acknowledged, and of an operation that was not
// acknowledged either all has happened or nothing.
//
// The plug is pulled in three ways: SIGKILL, which loses what the process
// held; a power cut on a powerfs directory, which also loses every byte and
// name that was not synced; and a shutdown of a real XFS without flushing its
// log. `make crash ROUNDS=50` runs them; a failure prints the seed and keeps
// the data directory. The seed fixes the operations, their contents and the
// moments of the kills, not the schedule of the server's goroutines.
package crashtest
