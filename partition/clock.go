package partition

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Now reads the machine's clocks. What a hypervisor does to a machine that it
// stops is not seen by them: a stopped virtual machine must not go on while
// another has its name.
func Now() Moment {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("partition.Now: no boot time: %v", err)) // no lease could be kept
	}
	return Moment{Boot: time.Duration(ts.Nano()), Wall: time.Now()}
}
