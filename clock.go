package stamp

import "time"

// Clock is the time that a component sees. Product code takes one in its
// Options where tests need to move time by hand; nil means SystemClock.
type Clock interface {
	// Now is the wall clock with a monotonic reading.
	Now() time.Time
	// NewTimer makes a timer that sends on its channel after d.
	NewTimer(d time.Duration) Timer
}

// Timer is the part of time.Timer that components use.
type Timer interface {
	C() <-chan time.Time
	// Stop reports whether it stopped the timer before it fired.
	Stop() bool
	Reset(d time.Duration) bool
}

// SystemClock is the machine's clock.
type SystemClock struct{}

var _ Clock = SystemClock{}

// Now implements Clock.
func (SystemClock) Now() time.Time { return time.Now() }

// NewTimer implements Clock.
func (SystemClock) NewTimer(d time.Duration) Timer { return systemTimer{time.NewTimer(d)} }

type systemTimer struct{ t *time.Timer }

func (t systemTimer) C() <-chan time.Time        { return t.t.C }
func (t systemTimer) Stop() bool                 { return t.t.Stop() }
func (t systemTimer) Reset(d time.Duration) bool { return t.t.Reset(d) }
