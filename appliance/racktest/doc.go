// Package racktest runs a rack: managers and ExtentNodes as processes of the
// built binary, with certificates of their own authority, on directories,
// loop devices or disks that fail when told. One call starts it; each process
// can be killed, stopped, restarted and cut off from any other.
//
// Who calls Main from TestMain as root gets a network and a mount namespace of
// its own, in which every process has a network namespace, an address and a
// link to one bridge; cuts are made by nftables and lose packets as a broken
// switch does. All of it, mounts and loop devices too, disappears with the test
// process, however that ends. Elsewhere processes share the loopback interface and
// reach each other through relays of the test, which know by the socket's owner
// who calls; a cut leaves connections open and silent.
//
// Load writes streams through the stream client and remembers a hash of
// every acknowledged append; Check looks for them on every replica.
package racktest
