// Package wire carries the interfaces of the stream layer between processes.
//
// Every process has one Listener, on one port. A connection says by its
// application protocol (ALPN in TLS) what it is for:
//
//   - the data path, framed (frame.go is the specification): everything that an
//     ExtentNode and a Copier can be asked. Nodes is the client, ServeNode the
//     server;
//   - control over gRPC (wirepb/wire.proto): StreamManager, Registry and
//     Operator. Managers is the client, ServeManager the server;
//   - the replicated log of the StreamManager: Listener.Raft.
//
// Who speaks is said by certificates alone: see Identity and Security. In one
// process none of this is needed, the same interfaces are plain calls.
//
// Invariants:
//
//   - Memory for calls of others has a limit, and who goes over it is told Busy.
//   - A header, a meta and the answer to a read are verified against their
//     checksums where they arrive; the blocks of an append are by the
//     ExtentNode that is called with them.
//   - When a call returns, nothing here touches the caller's slices any more,
//     whatever the other end or the network does.
//   - Close returns when every goroutine has ended.
package wire
