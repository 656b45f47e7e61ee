package wire_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"stamp/extentstore"
	"stamp/extentstore/streamtest"
	"stamp/extentstore/wire"
)

// deaf is a disk that answers after a moment, whoever still waits for it.
type deaf struct{ extentstore.ExtentNode }

func (deaf) Stat(_ context.Context, id extentstore.ExtentID) (extentstore.ReplicaState, error) {
	time.Sleep(time.Duration(500+rand.IntN(1500)) * time.Microsecond)
	return extentstore.ReplicaState{ID: id}, nil
}

// TestLostUnderWay breaks connections while their calls are ending: the server
// must not end calls that are not theirs any more.
func TestLostUnderWay(t *testing.T) {
	address, _ := serve(t, wire.Security{Insecure: true}, "en1", disks{"en1/d1": deaf{streamtest.NewFake("en1/d1", disks{}, 0)}}.find)
	rounds := 20
	if testing.Short() {
		rounds = 10
	}
	for range rounds {
		d := &directory{}
		d.set("en1", address)
		nodes := connect(t, wire.Security{Insecure: true}, d)
		far, err := nodes.Node("en1/d1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := far.Stat(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		var calls sync.WaitGroup
		for range 400 {
			calls.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+rand.IntN(3000))*time.Microsecond)
				defer cancel()
				far.Stat(ctx, 1)
			})
		}
		time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
		nodes.Close()
		calls.Wait()
	}
}
