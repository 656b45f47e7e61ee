package schema

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
)

func TestMountRowsAreForEver(t *testing.T) {
	var b strings.Builder
	note := func(what string, p []byte) { fmt.Fprintf(&b, "%s\n\t%s\n", what, hex.EncodeToString(p)) }
	object := AppendObject(nil, ContainerPrefix("acct", 7), "dir")
	note("session 5", SessionKey(5))
	note("orphan 11 of container 7, kept by session 5", KeptKey(5, 7, 11))
	note("request 0102..", RequestKey([16]byte{1, 2}))
	note("rename of dir in container 7", RenameKey(7, "dir"))
	note("times of directory dir", append(object, SuffixDirectory))
	note("POSIX column of container 7", append(AppendObject(nil, ContainerPrefix("acct", 7), ""), SuffixColumn))
	for _, m := range []proto.Message{
		&DirectoryRow{Mtime: 1, Ctime: 2},
		&SessionRow{Account: "acct", Begun: 3},
		&KeptRow{Account: "acct", Container: "box"},
		&RequestRow{Time: 4, Created: true, Kept: true, Replaced: 5},
		&RenameRow{Account: "acct", Container: "box", From: "a", To: "b"},
	} {
		v, err := AppendMessage(nil, m, 0)
		if err != nil {
			t.Fatal(err)
		}
		note(string(m.ProtoReflect().Descriptor().Name()), v)
	}
	golden(t, "testdata/mount.golden", b.String())

	if id, ok := ParseSessionKey(SessionKey(5)); !ok || id != 5 {
		t.Errorf("session key parses as %d, %v", id, ok)
	}
	if s, c, f, ok := ParseKeptKey(KeptKey(5, 7, 11)); !ok || s != 5 || c != 7 || f != 11 {
		t.Errorf("kept key parses as %d, %d, %d, %v", s, c, f, ok)
	}
	for _, bad := range [][]byte{nil, SessionsPrefix(), KeptKey(1, 2, 3)[:25], VersionKey()} {
		if _, ok := ParseSessionKey(bad); ok {
			t.Errorf("%x parses as a session's key", bad)
		}
		if _, _, _, ok := ParseKeptKey(bad); ok {
			t.Errorf("%x parses as the key of what a session keeps", bad)
		}
	}
}
