package main

import (
	"fmt"
	"io"
	"sort"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"stamp/appliance/admin"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "the state of the stream layer: what can still be lost, what is being healed",
		Flags: layerFlags(), Action: onLayer(0, 0, status),
	}
}

func status(c *cli.Context, layer admin.StreamLayer) error {
	l, err := layer.Layer(c.Context)
	if err != nil {
		return err
	}
	if asJSON(c) {
		return printJSON(c, l)
	}
	return printStatus(c.App.Writer, l)
}

func printStatus(out io.Writer, l admin.Layer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "stamp\t%s\n", l.Stamp)
	fmt.Fprintf(w, "safety\t%s\n", safety(l))
	fmt.Fprintf(w, "extents\t%s in %s streams; %s open, %s coded\n",
		humanize.Comma(l.Extents), humanize.Comma(l.Streams), humanize.Comma(l.Unsealed), humanize.Comma(l.Coded))
	fmt.Fprintf(w, "missing\t%s\n", missing(l.Missing))
	if l.Lost > 0 {
		fmt.Fprintf(w, "LOST\t%s extents have no good copy that can be reached\n", humanize.Comma(l.Lost))
	}
	if l.Foreign > 0 {
		fmt.Fprintf(w, "FOREIGN\t%s extents on disks were never issued by this stamp: its StreamManager is older than the data\n", humanize.Comma(l.Foreign))
	}
	fmt.Fprintf(w, "heal\t%s\n", progress(l.Heal, "nothing to do"))
	full := ""
	if l.Full {
		full = "; FULL: new user data is refused"
	}
	fmt.Fprintf(w, "space\t%s free of %s%s\n", bytesText(l.Free), bytesText(l.Capacity), full)
	fmt.Fprintf(w, "policies\t%s\n", policies(l.Policies))
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	w = tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MANAGER\tADDRESS\tROLE")
	for _, m := range l.Members {
		fmt.Fprintf(w, "%s\t%s\t%s\n", m.ID, dash(m.Address), memberRole(m))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	w = tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(diskHeader, "\t"))
	for _, d := range l.Disks {
		fmt.Fprintln(w, strings.Join(diskRow(d), "\t"))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, text := range l.Warnings {
		if _, err := fmt.Fprintf(out, "\nwarning: %s\n", text); err != nil {
			return err
		}
	}
	return nil
}

// safety says in a sentence what may fail now.
func safety(l admin.Layer) string {
	if l.Lost > 0 {
		return fmt.Sprintf("%s extents cannot be read now", humanize.Comma(l.Lost))
	}
	if l.ToleratesDisks == 0 {
		return "the failure of one more disk may lose data"
	}
	return fmt.Sprintf("any %s may fail, or any %s, before data can be lost",
		count(l.ToleratesDisks, "disk"), count(l.ToleratesNodes, "node"))
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// missing says how many extents lack how many copies.
func missing(by []int64) string {
	var out []string
	for n := len(by) - 1; n > 0; n-- {
		if by[n] > 0 {
			out = append(out, fmt.Sprintf("%s extents lack %d", humanize.Comma(by[n]), n))
		}
	}
	if len(out) == 0 {
		return "nothing: every extent has all its copies"
	}
	return strings.Join(out, ", ")
}

func progress(p admin.Progress, none string) string {
	if p.Extents == 0 && p.Bytes == 0 {
		return none
	}
	text := fmt.Sprintf("%s extents, %s to go", humanize.Comma(p.Extents), bytesText(p.Bytes))
	if p.DoneExtents > 0 {
		text += fmt.Sprintf(", %s done", humanize.Comma(p.DoneExtents))
	}
	if p.Rate > 0 {
		text += fmt.Sprintf(", %s/s", bytesText(int64(p.Rate)))
	}
	if p.ETA > 0 {
		text += ", " + p.ETA.Round(time.Second).String()
	}
	return text
}

func bytesText(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

func policies(by map[string]string) string {
	var out []string
	for kind, code := range by {
		if code != "none" {
			out = append(out, kind+" "+code)
		}
	}
	if len(out) == 0 {
		return "replicas for all kinds of streams"
	}
	sort.Strings(out)
	return strings.Join(out, ", ")
}

func memberRole(m admin.Member) string {
	if m.Leader {
		return "leader"
	}
	return "follower"
}
