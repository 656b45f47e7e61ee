// Package stamptest runs a whole stamp for a test: in the test's own process
// (New), or as a `stamp dev` process that can be killed (StartProcess).
package stamptest
