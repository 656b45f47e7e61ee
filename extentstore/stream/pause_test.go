package stream_test

import (
	"fmt"
	"testing"
	"time"

	"stamp/extentstore"
	"stamp/extentstore/streamtest"
)

// TestHungNode stops one node of several, as SIGSTOP does: whether it is the
// primary or a secondary, appends go on in well under a second and do not come
// back to it while it hangs.
func TestHungNode(t *testing.T) {
	t.Parallel()
	for _, nodes := range []int{3, 5} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			l := streamtest.New(t, streamtest.Options{Nodes: nodes, Replicas: 3})
			f := l.Acquire("/a/")
			w := create(t, f, "/a/x")
			s := must(f.OpenShared(limit(t), "/a/data", extentstore.BlobData))(t)
			var want []byte
			one := func(i int) time.Duration {
				p := streamtest.Pattern(uint64(i), 5000)
				began := time.Now()
				ok(t, w.Append(limit(t), extentstore.NewBlock(p)))
				want = append(want, p...)
				_, _, err := s.Append(limit(t), extentstore.NewBlock(p))
				ok(t, err)
				return time.Since(began)
			}
			one(0)
			for i, victim := range l.DiskIDs[:nodes-2] { // of three nodes two must be left
				l.Faulty(victim).Delay(time.Hour)
				t.Logf("%s hangs: two appends in %v", victim, one(3*i+1))
				began := time.Now()
				for range 5 {
					one(3*i + 2)
				}
				t.Logf("the next ten in %v", time.Since(began))
				l.Faulty(victim).Delay(0)
				time.Sleep(1100 * time.Millisecond) // a poll of the manager finds it again
				one(3*i + 3)
			}
			var sum time.Duration
			pauses := l.Client.Pauses()
			for _, d := range pauses {
				sum += d
			}
			if len(pauses) == 0 {
				t.Fatal("no append has failed")
			}
			t.Logf("%d pauses, mean %v, the longest %v", len(pauses), sum/time.Duration(len(pauses)), pauses[len(pauses)-1])
			if longest := pauses[len(pauses)-1]; longest > 5*time.Second {
				t.Errorf("a pause of %v", longest)
			}
			wantContent(t, l, f, "/a/x", want)
		})
	}
}
