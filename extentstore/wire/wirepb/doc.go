// Package wirepb is the messages and services of control as protoc makes them.
// wire.proto is the specification.
package wirepb

//go:generate protoc --go_out=../../.. --go_opt=module=stamp --go-grpc_out=../../.. --go-grpc_opt=module=stamp --proto_path=. wire.proto
