package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"stamp"
	"stamp/appliance/admin"
	"stamp/extentstore"
)

func extentCommand() *cli.Command {
	return &cli.Command{
		Name: "extent", Usage: "extents of a running stamp",
		Subcommands: []*cli.Command{
			{Name: "list", Aliases: []string{"ls"}, Usage: "list the extents", Flags: layerFlags(), Action: onLayer(0, 0, extentList)},
			{Name: "show", Usage: "describe an extent and what each place says of it", ArgsUsage: "EXTENT", Flags: layerFlags(), Action: onLayer(1, 1, extentShow)},
			{Name: "where", Usage: "say where the replicas or fragments of an extent are", ArgsUsage: "EXTENT", Flags: layerFlags(), Action: onLayer(1, 1, extentWhere)},
			{Name: "verify", Usage: "read every replica of the given or of all extents and check it", ArgsUsage: "[EXTENT...]", Flags: layerFlags(), Action: onLayer(0, -1, extentVerify)},
			{Name: "repair", Usage: "make good what is missing or damaged of an extent", ArgsUsage: "EXTENT...", Flags: layerFlags(), Action: onLayer(1, -1, extentRepair)},
		},
	}
}

func newExtentList(c *cli.Context) *list[admin.Extent] {
	return newList(c, []string{"EXTENT", "STATE", "LENGTH", "REFS", "REPLICAS"}, func(x admin.Extent) []string {
		return []string{x.ID, extentState(x), extentLength(x), strconv.Itoa(x.Refs), extentPlaces(x)}
	})
}

func extentState(x admin.Extent) string {
	switch {
	case x.Coded != nil:
		return x.Coded.Code
	case x.Sealed:
		return "sealed"
	}
	return "open"
}

func extentLength(x admin.Extent) string {
	if !x.Sealed {
		return "-"
	}
	return strconv.FormatInt(x.Length, 10)
}

func extentPlaces(x admin.Extent) string {
	all := x.Replicas
	if x.Coded != nil {
		all = append(all[:len(all):len(all)], x.Coded.Places...)
	}
	var out []string
	for _, id := range all {
		out = append(out, string(id))
	}
	return strings.Join(out, ",")
}

func extentList(c *cli.Context, layer admin.StreamLayer) error {
	l := newExtentList(c)
	if err := layer.Extents(c.Context, l.add); err != nil {
		return err
	}
	return l.close()
}

// extentID reads an argument.
func extentID(arg string) (string, error) {
	id, err := extentstore.ParseExtentID(arg)
	if err != nil {
		return "", usageError("%v", err)
	}
	return id.String(), nil
}

func newReplicaList(c *cli.Context) *list[admin.Replica] {
	return newList(c, []string{"EXTENT", "DISK", "STATE", "LENGTH", "SUM"}, func(r admin.Replica) []string {
		if r.Error != nil {
			return []string{r.Extent, string(r.Node), r.Error.Name, r.Error.What, ""}
		}
		return []string{r.Extent, string(r.Node), replicaState(r), strconv.FormatInt(r.Length, 10), r.Sum}
	})
}

func replicaState(r admin.Replica) string {
	state := "open"
	switch {
	case r.Sealed:
		state = "sealed"
	case r.Closed:
		state = "closed"
	}
	if r.Doubtful {
		state += ",doubtful"
	}
	return state
}

func extentShow(c *cli.Context, layer admin.StreamLayer) error {
	id, err := extentID(c.Args().First())
	if err != nil {
		return err
	}
	x, err := layer.Extent(c.Context, id)
	if err != nil {
		return err
	}
	reps, err := layer.Replicas(c.Context, id)
	if err != nil {
		return err
	}
	if asJSON(c) {
		return printJSON(c, struct {
			admin.Extent
			Held []admin.Replica `json:"held"`
		}{x, reps})
	}
	fmt.Fprintf(c.App.Writer, "extent   %s\nstate    %s\nlength   %s\nrefs     %d\n", x.ID, extentState(x), extentLength(x), x.Refs)
	l := newReplicaList(c)
	for _, r := range reps {
		if err := l.add(r); err != nil {
			return err
		}
	}
	return l.close()
}

func extentWhere(c *cli.Context, layer admin.StreamLayer) error {
	id, err := extentID(c.Args().First())
	if err != nil {
		return err
	}
	places, err := layer.Where(c.Context, id)
	if err != nil {
		return err
	}
	l := newList(c, []string{"EXTENT", "FRAGMENT", "DISK", "RACK", "ADDRESS", "CONDITION"}, func(p admin.Place) []string {
		fragment := "-"
		if p.Fragment != nil {
			fragment = strconv.Itoa(*p.Fragment)
		}
		return []string{p.Extent, fragment, string(p.Disk), dash(p.Rack), dash(p.Address), dash(because(p.Condition, p.Why))}
	})
	for _, p := range places {
		if err := l.add(p); err != nil {
			return err
		}
	}
	return l.close()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func because(what, why string) string {
	if why == "" {
		return what
	}
	return what + " (" + why + ")"
}

func extentVerify(c *cli.Context, layer admin.StreamLayer) error {
	bad, replicas, bytes := 0, 0, int64(0)
	l := newList(c, nil, func(r admin.Replica) []string {
		if r.Error != nil {
			return []string{r.Extent, string(r.Node), r.Error.Name, r.Error.What}
		}
		return []string{r.Extent, string(r.Node), "ok", strconv.FormatInt(r.Length, 10)}
	})
	verify := func(id string) error {
		found, err := layer.Verify(c.Context, id)
		if err != nil {
			return err
		}
		for _, r := range found {
			replicas++
			bytes += r.Length
			if r.Error != nil {
				bad++
			}
			if err := l.add(r); err != nil {
				return err
			}
		}
		return nil
	}
	if c.Args().Present() {
		for _, arg := range c.Args().Slice() {
			id, err := extentID(arg)
			if err != nil {
				return err
			}
			if err := verify(id); err != nil {
				return err
			}
		}
	} else if err := layer.Extents(c.Context, func(x admin.Extent) error {
		err := verify(x.ID)
		if stamp.KindOf(err) == stamp.NotFound {
			return nil // collected since it was listed
		}
		return err
	}); err != nil {
		return err
	}
	if err := l.close(); err != nil {
		return err
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d replicas are damaged or cannot be read", bad, replicas)
	}
	if asJSON(c) {
		return nil
	}
	_, err := fmt.Fprintf(c.App.Writer, "%d replicas are sound, %s\n", replicas, humanize.IBytes(uint64(bytes)))
	return err
}

// repaired is what a repair of one extent has found.
type repaired struct {
	Extent string   `json:"extent"`
	Found  []string `json:"found"`
	Error  string   `json:"error,omitempty"`
}

func extentRepair(c *cli.Context, layer admin.StreamLayer) error {
	l := newList(c, nil, func(r repaired) []string {
		switch {
		case r.Error != "":
			return []string{r.Extent, "not repaired: " + r.Error}
		case len(r.Found) == 0:
			return []string{r.Extent, "is sound"}
		}
		return []string{r.Extent, "repaired: " + strings.Join(r.Found, "; ")}
	})
	var failed error
	for _, arg := range c.Args().Slice() {
		id, err := extentID(arg)
		if err != nil {
			return err
		}
		r := repaired{Extent: id}
		r.Found, err = layer.Repair(c.Context, id)
		if err != nil {
			r.Error = err.Error()
			failed = errors.Join(failed, err)
		}
		if err := l.add(r); err != nil {
			return err
		}
	}
	return errors.Join(l.close(), failed)
}
