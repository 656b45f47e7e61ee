// Package schema fixes how the rows of the object tables look in a
// RangePartition: their keys, for ever, and their values, in protobuf so that
// fields can be added.
//
// It is not the semantics of the objects, which stand in partition/blob,
// partition/account and their neighbours.
package schema

//go:generate protoc --go_out=../.. --go_opt=module=stamp --proto_path=. schema.proto
