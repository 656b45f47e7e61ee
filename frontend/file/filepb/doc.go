// Package filepb is the file service's messages as protoc makes them.
package filepb

//go:generate protoc --go_out=../../.. --go_opt=module=stamp --go-grpc_out=../../.. --go-grpc_opt=module=stamp --proto_path=. file.proto
