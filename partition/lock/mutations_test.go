package lock

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A mutation is a mistake in the product's code that the simulation has to
// find. It replaces a piece of text that stands exactly once in a file, in an
// overlay: the source itself is not touched.
type mutation struct {
	name string
	file string // below the module
	old  string
	new  string
}

var mutations = []mutation{
	{
		name: "the holder stops without a margin",
		file: "partition/lock/grantor.go",
		old:  "return term / 10",
		new:  "return 0 * term",
	},
	{
		name: "the holder counts from the answer",
		file: "partition/lock/holder.go",
		old:  "h.until = max(h.until, h.asked+in.Term",
		new:  "h.until = max(h.until, reading(now)+in.Term",
	},
	{
		name: "an Open that is tried again counts from its last call",
		file: "partition/lock/holder.go",
		old:  "h.opened || !h.tried {",
		new:  "true {",
	},
	{
		name: "a new leader counts from renewals before it led",
		file: "partition/lock/grantor.go",
		old:  "c = &counted{since: reading(now)}",
		new:  "c = &counted{since: reading(now) - l.Term}",
	},
	{
		name: "the wall clock is used",
		file: "partition/lock/grantor.go",
		old:  "return now.Boot",
		new:  "return time.Duration(now.Wall.UnixNano())",
	},
	{
		name: "a lease is renewed while its end is on its way",
		file: "partition/lock/grantor.go",
		old:  "case c.ending:",
		new:  "case c.ending && c.term == 0:",
	},
	{
		name: "the end of a lease that an earlier reign decided on is accepted",
		file: "partition/lock/state.go",
		old:  "if c.Reign != t.reign {",
		new:  "if c.Reign > t.reign {",
	},
	{
		name: "an order of an earlier PartitionManager is accepted",
		file: "partition/lock/state.go",
		old:  "order != e.Number",
		new:  "order > e.Number",
	},
	{
		name: "a range is assigned that another has",
		file: "partition/lock/state.go",
		old:  "	case !a.Holder.IsZero():\n		return refuse(stamp.ConditionNotMet, \"range %d is held by",
		new:  "	case a.ID == 0:\n		return refuse(stamp.ConditionNotMet, \"range %d is held by",
	},
	{
		name: "a range is given back under an earlier epoch",
		file: "partition/lock/state.go",
		old:  "a.Holder != by || a.Epoch != stamp.Epoch(epoch)",
		new:  "a.Holder != by",
	},
	{
		name: "a late server takes its folder back",
		file: "extentstore/manager/step.go",
		old:  "case epoch <= current:",
		new:  "case epoch == 0:",
	},
}

// TestMutations runs the simulation over every mutation and wants a failure
// within SEEDS seeds. It needs MUTATIONS=1, because it takes minutes.
func TestMutations(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutations {
		if err := m.check(root); err != nil {
			t.Error(err)
		}
	}
	if os.Getenv("MUTATIONS") == "" {
		t.Skip("the rest takes minutes: make mutations")
	}
	seeds, only := envUint("SEEDS", 2000), os.Getenv("ONLY")
	for _, m := range mutations {
		if only != "" && !strings.Contains(m.name, only) {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			seed, why, err := caught(t, root, m, seeds)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Printf("| %s | `%s` | %s | %s |\n", m.name, m.file, seed, why)
		})
	}
}

// check wants the text to stand in the file, so that the list keeps up with the
// code.
func (m *mutation) check(root string) error {
	source, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(m.file)))
	if err != nil {
		return err
	}
	if n := strings.Count(string(source), m.old); n != 1 {
		return fmt.Errorf("%s: %s: the text to be replaced stands there %d times", m.name, m.file, n)
	}
	return nil
}

var failure = regexp.MustCompile(`seed (\d+): at [^:]*: ([^\n]*)`)

// caught builds the simulation with the mutation and says at which seed it
// fails, and for which reason.
func caught(t *testing.T, root string, m mutation, seeds uint64) (seed, why string, err error) {
	dir := t.TempDir()
	path := filepath.Join(root, filepath.FromSlash(m.file))
	source, err := os.ReadFile(path)
	if err != nil {
		return "", "", err
	}
	changed := filepath.Join(dir, "changed.go")
	if err := os.WriteFile(changed, []byte(strings.Replace(string(source), m.old, m.new, 1)), 0o600); err != nil {
		return "", "", err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{path: changed}})
	if err != nil {
		return "", "", err
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		return "", "", err
	}
	program := filepath.Join(dir, "sim.test")
	if out, err := exec.Command("go", "test", "-c", "-overlay", list, "-o", program, ".").CombinedOutput(); err != nil {
		return "", "", fmt.Errorf("build: %v\n%s", err, out)
	}
	cmd := exec.Command(program, "-test.run", "^TestSeeds$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("SEEDS=%d", seeds))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return "", "", fmt.Errorf("not found by %d seeds", seeds)
	}
	found := failure.FindStringSubmatch(string(out))
	if found == nil {
		return "", "", fmt.Errorf("the simulation failed in another way:\n%s", out)
	}
	return found[1], found[2], nil
}
