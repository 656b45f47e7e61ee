// Package lockpb is the encoding of LockService's commands, of its snapshot and
// of its calls. The proto files are the specification.
package lockpb

//go:generate protoc --go_out=../../.. --go_opt=module=stamp --go-grpc_out=../../.. --go-grpc_opt=module=stamp --proto_path=. lockstate.proto lock.proto

// Version is that of the commands this program writes, and the highest that it
// can apply.
const Version = 1
