// Package clienttest runs other people's programs against a real `stamp dev`
// process: rclone, restic and Microsoft's SDKs over REST; cp, rsync, tar, git,
// restic, borg, sqlite3 and fio on the mount. `make test-clients` runs it, and
// installs what is missing first; a program that is not there fails the test.
//
// SHORT=1 makes the big blobs smaller. DIR=/some/directory runs the tests of
// the mount on a plain directory, to tell the mount's faults from the test's.
package clienttest
