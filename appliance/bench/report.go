package bench

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// TextHeader is the line above those of WriteText.
const TextHeader = "target       op    size     clients      ops/s       MB/s        p50        p99   server CPU/op   client CPU/op  errors\n"

// WriteText writes a result as one line for people.
func WriteText(w io.Writer, r Result) error {
	_, err := fmt.Fprintf(w, "%-12s %-5s %-8s %7d %10.0f %10.1f %10s %10s %15s %15s %7d\n",
		r.Target, r.Op, SizeText(r.Size), r.Clients, r.OpsPerSecond, r.MBPerSecond,
		round(r.P50), round(r.P99), cpuText(r.ServerCPU), cpuText(r.ClientCPU), r.Errors)
	return err
}

// SizeText writes a size as people say it: "4 KiB".
func SizeText(size int) string { return strings.Replace(humanize.IBytes(uint64(size)), ".0 ", " ", 1) }

func cpuText(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return round(d).String()
}

// round keeps three or four digits.
func round(d time.Duration) time.Duration {
	switch {
	case d < 10*time.Microsecond:
		return d.Round(10 * time.Nanosecond)
	case d < time.Millisecond:
		return d.Round(time.Microsecond)
	case d < 100*time.Millisecond:
		return d.Round(10 * time.Microsecond)
	default:
		return d.Round(time.Millisecond)
	}
}
