// Package wire carries the interfaces of the stream layer between processes.
//
// Every process has one Listener, on one port. A connection says by its
// application protocol (ALPN in TLS) what it is for:
//
//   - the data path, framed: everything that an ExtentNode and a Copier can be
//     asked;
//   - control over gRPC: StreamManager, Registry and Operator;
//   - the replicated log of the StreamManager: Listener.Raft.
//
// Who speaks is said by certificates alone: see Identity and Security. In one
// process none of this is needed, the same interfaces are plain calls.
//
// Close returns, everywhere here, when every goroutine has ended.
package wire
