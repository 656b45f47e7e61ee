// Package command is the encoding of the commands on the StreamManager's log.
// command.proto is the specification.
package command

//go:generate protoc --go_out=. --go_opt=paths=source_relative command.proto

// Version is that of the commands this program writes, and the highest that it
// can apply.
const Version = 4
