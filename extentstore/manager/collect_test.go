package manager_test

import (
	"testing"

	"stamp/extentstore/streamtest"
)

// TestCondemnSparesWhatIsLinked condemns an extent that a stream points to, as if
// it had been garbage until just now. Its replicas must not be deleted.
func TestCondemnSparesWhatIsLinked(t *testing.T) {
	l := streamtest.New(t, streamtest.Options{Nodes: 1})
	_, e := owner(t, l)
	add(t, l, e, "bits")
	got, err := l.Manager.Condemn(e.ID, e.ID+1000)
	ok(t, err)
	if len(got) != 0 {
		t.Errorf("condemned %v, to which a stream points or which do not exist", got)
	}
	if info, err := l.Manager.Extent(limit(t), e.ID); err != nil || info.Refs != 1 {
		t.Errorf("got %+v, %v", info, err)
	}
}
