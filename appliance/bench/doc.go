// Package bench measures a blob server from outside, over HTTP: `stamp bench`.
//
// It runs one workload at a time (put, get or list; one size; a number of
// clients) and reports operations and bytes a second, latencies, and the CPU
// that server and client spent per operation. CPU is the steady figure on a
// shared machine; a rate is only good for a ratio taken in the same run.
//
// It is not a tuning tool for Stamp alone: it measures any Azure Blob
// endpoint, and S3 for comparison, and it brings the floor, a yardstick
// server that does the least that a durable server must do.
package bench
