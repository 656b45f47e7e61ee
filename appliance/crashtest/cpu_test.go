//go:build crash

package crashtest

import (
	"os"
	"strconv"
	"strings"
)

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
