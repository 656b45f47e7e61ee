package stamptest

import (
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// A Pace keeps a third of the machine's CPU idle while a test writes, so that the
// test measures faults and not starvation, and leaves room for what else runs
// here.
type Pace struct {
	delay atomic.Int64 // before each operation of a writer
	stop  chan struct{}
	done  chan struct{}
}

const (
	idleShare = 1.0 / 3
	leastWait = 100 * time.Microsecond
	mostWait  = 50 * time.Millisecond
)

// NewPace begins to look at the CPU.
func NewPace() *Pace {
	p := &Pace{stop: make(chan struct{}), done: make(chan struct{})}
	p.delay.Store(int64(2 * time.Millisecond))
	go p.run()
	return p
}

func (p *Pace) run() {
	defer close(p.done)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	idle, total := cpuTimes()
	for {
		select {
		case <-p.stop:
			return
		case <-tick.C:
		}
		i, t := cpuTimes()
		if t == total {
			continue
		}
		share := float64(i-idle) / float64(t-total)
		idle, total = i, t
		d := time.Duration(p.delay.Load())
		if share < idleShare {
			d = min(d*3/2, mostWait)
		} else {
			d = max(d*3/4, leastWait)
		}
		p.delay.Store(int64(d))
	}
}

// Wait waits before an operation.
func (p *Pace) Wait() { time.Sleep(rand.N(2 * time.Duration(p.delay.Load()))) }

// Close ends the looking.
func (p *Pace) Close() {
	close(p.stop)
	<-p.done
}

// cpuTimes returns the idle and all time of all CPUs, from /proc/stat.
func cpuTimes() (idle, total int64) {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	for i, f := range strings.Fields(line)[1:] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil || i >= 8 { // what follows is counted twice
			break
		}
		total += n
		if i == 3 || i == 4 { // idle, waiting for I/O
			idle += n
		}
	}
	return idle, total
}
