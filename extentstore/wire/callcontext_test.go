package wire

import (
	"context"
	"testing"
	"time"

	"stamp/extentstore"
)

func TestCallContext(t *testing.T) {
	c := newCallContext(extentstore.Scrub, 0)
	if _, ok := c.Deadline(); ok || c.Err() != nil || extentstore.ClassOf(c) != extentstore.Scrub {
		t.Fatal("a fresh context has a deadline, an error or another class")
	}
	done := c.Done()
	child, cancel := context.WithTimeout(c, time.Hour)
	defer cancel()
	other, cancelOther := context.WithCancel(c)
	cancelOther()
	if other.Err() == nil || len(c.after) != 1 {
		t.Fatalf("%d children wait for the end, want 1", len(c.after))
	}
	c.end(context.Canceled)
	c.end(context.DeadlineExceeded)
	<-done
	<-child.Done()
	if c.Err() != context.Canceled || child.Err() != context.Canceled {
		t.Fatalf("got %v and %v", c.Err(), child.Err())
	}
	late, cancel := context.WithCancel(c)
	defer cancel()
	<-late.Done()

	c = newCallContext(99, time.Millisecond)
	if extentstore.ClassOf(c) != extentstore.Foreground {
		t.Fatal("an unknown class is not foreground")
	}
	<-c.Done()
	if c.Err() != context.DeadlineExceeded {
		t.Fatalf("got %v", c.Err())
	}
	c = newCallContext(0, 1)
	for c.Err() == nil {
	}
	<-c.Done()
	if _, ok := c.Deadline(); !ok {
		t.Fatal("no deadline")
	}
	after, cancel := context.WithCancel(newCallContext(0, time.Millisecond))
	defer cancel()
	<-after.Done()
	if after.Err() != context.DeadlineExceeded {
		t.Fatalf("got %v", after.Err())
	}
}
