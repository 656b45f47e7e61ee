package protocol_test

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
	file string // below extentstore
	old  string
	new  string
}

var mutations = []mutation{
	{
		name: "acknowledge before the secondary has it",
		file: "replica/replica.go",
		old:  "if c.end() > s.durable || !f.acknowledged(c) {",
		new:  "if c.end() > s.durable {",
	},
	{
		name: "acknowledge before the primary has it",
		file: "replica/replica.go",
		old:  "if c.end() > s.durable || !f.acknowledged(c) {",
		new:  "if c.peers == 0 && c.end() > s.durable || !f.acknowledged(c) {",
	},
	{
		name: "seal at the largest length",
		file: "sealing/sealing.go",
		old:  "if q.honest == 0 || length < q.smallest {",
		new:  "if q.honest == 0 || length > q.smallest {",
	},
	{
		name: "answer a seal and go on appending",
		file: "replica/replica.go",
		old: `	case s.Has(Closed):
		return stamp.Sealed, "has answered a seal"
	case s.failed:`,
		new: `	case s.failed:`,
	},
	{
		name: "forget over a restart to have answered",
		file: "replica/recover.go",
		old:  "*r.State = State{flags: flags &^ (Sealed | Deleted),",
		new:  "*r.State = State{flags: flags &^ (Sealed | Deleted | Closed),",
	},
	{
		name: "forget over a restart the answer on the journal",
		file: "replica/recover.go",
		old: `	case Close:
		r.flags |= Closed`,
		new: `	case Close:`,
	},
	{
		name: "forget the answer when creation comes later",
		file: "replica/replica.go",
		old: `	case s.Has(Closed):
		return refuse(out, in.Call, stamp.Sealed, "has answered a seal")
	case s.Has(Created) && (`,
		new: `	case s.Has(Closed) && !s.Has(Created):
		s.flags &^= Closed
	case s.Has(Created) && (`,
	},
	{
		name: "let a replica without its journal vote",
		file: "replica/recover.go",
		old:  "if (loss.Journal || r.Damaged) && !s.Has(Doubtful) {",
		new:  "if r.Damaged && !s.Has(Doubtful) {",
	},
	{
		name: "let a doubtful replica vote",
		file: "sealing/sealing.go",
		old:  "if r.Doubtful || t.Lost(r.ID) {",
		new:  "if t.Lost(r.ID) {",
	},
	{
		name: "let a replica vote that was never created",
		file: "sealing/sealing.go",
		old:  "	if r.Absent {\n		return Absent\n	}\n",
		new:  "",
	},
	{
		name: "skip the epoch check on append (the next extent)",
		file: "manager/step.go",
		old: `	if err := s.checkEpoch(folderOf(name), epoch); err != nil {
		return nil, err
	}
	st, ok := s.streams.Get(name)`,
		new: `	st, ok := s.streams.Get(name)`,
	},
	{
		name: "skip the epoch check on unlink and other changes of names",
		file: "manager/modify.go",
		old:  "if err := s.checkEpoch(folder, stamp.Epoch(c.Epochs[folder])); err != nil {",
		new:  "if err := s.checkEpoch(folder, stamp.Epoch(c.Epochs[folder])); err != nil && stamp.KindOf(err) != stamp.Fenced {",
	},
	{
		name: "resend acknowledged bytes after the seal of a full extent",
		file: "appender/appender.go",
		old:  "	s.acked += s.size\n	return Step{Do: Done}",
		new:  "	if s.acked += s.size; s.acked >= s.target {\n		return s.seal()\n	}\n	return Step{Do: Done}",
	},
	{
		name: "resend bytes that the seal says are in",
		file: "appender/appender.go",
		old:  "in := s.doubt > 0 && length == s.acked+s.doubt\n",
		new:  "in := s.doubt > 0 && length == s.acked+s.doubt\n	if in {\n		in, length = false, s.acked\n	}\n",
	},
	{
		name: "seal an extent with several appenders at what one of them knows",
		file: "appender/shared.go",
		old:  "const SharedSealAt = -1",
		new:  "const SharedSealAt = 0",
	},
	{
		name: "seal a forgotten extent as empty",
		file: "appender/shared.go",
		old:  "const ForgottenSealAt = -1",
		new:  "const ForgottenSealAt = 0",
	},
	{
		name: "let a second seal change the length",
		file: "manager/step.go",
		old:  "if e.length == unsealed {\n			e.length = l.Length",
		new:  "if e.length == unsealed || e.length < l.Length {\n			e.length = l.Length",
	},
	{
		name: "keep what is above the sealed length",
		file: "replica/replica.go",
		old:  `out = s.end(length, length, stamp.Sealed, "is sealed", out)`,
		new:  `out = s.end(s.queued, length, stamp.Sealed, "is sealed", out)`,
	},
	{
		name: "take appends again on a primary that was restarted",
		file: "replica/recover.go",
		old:  "s.failed = primary || r.Damaged || s.Has(Doubtful)",
		new:  "s.failed = r.Damaged || s.Has(Doubtful)",
	},
	{
		name: "give the same offset twice after a failed append",
		file: "replica/replica.go",
		old:  "	s.failed = true\n	return s.end(s.queued, 0, kind, why, out)",
		new:  "	return s.end(s.queued, 0, kind, why, out)",
	},
	{
		name: "count what is not durable in the answer to a seal",
		file: "replica/replica.go",
		old:  "	if s.logged == s.changes {\n		return s.answer(who, out)\n	}\n	f := s.calls()",
		new:  "	if s.durable = s.queued; s.Has(Closed) || s.logged == s.changes {\n		return s.answer(who, out)\n	}\n	f := s.calls()",
	},
	{
		name: "collect extents that a clone still points to",
		file: "manager/modify.go",
		old:  "	t.refAll(st.extents, 1)\n",
		new:  "",
	},
	{
		name: "tell a disk to drop fragments that are in use",
		file: "manager/places.go",
		old:  "case isFragment && c.places[id-first] == index+1, e.replicas.on(index):",
		new:  "case isFragment && c.places[id-first] == index+2, e.replicas.on(index):",
	},
	{
		name: "place two replicas on one node",
		file: "manager/placement.go",
		old:  "if near == 3 || near == 2 && p.strict {",
		new:  "if near == 3 || near == 2 && p.strict && c.Index%2 == 0 {",
	},
	{
		name: "drop the replicas before the fragments are on the log",
		file: "manager/errands.go",
		old:  "	_, err = e.Propose(ctx, &command.Command{What: &command.Command_Coded{",
		new:  "	e.drop(ctx, j.Item.ID, old)\n	_, err = e.Propose(ctx, &command.Command{What: &command.Command_Coded{",
	},
	{
		name: "put fragments in the place of replicas that are not made",
		file: "manager/errands.go",
		old:  "	err = c.Encode(ctx, j.Item.ID, j.Item.Length, f)\n	if err == nil {\n		err = e.checkFragments(ctx, &f)\n	}",
		new:  "	_ = c.Encode(ctx, j.Item.ID, j.Item.Length, f)",
	},
	{
		name: "drop a replica before its move is on the log",
		file: "manager/errands.go",
		old:  "	_, err = e.Propose(ctx, &command.Command{What: &command.Command_Move{",
		new:  "	copied, _ := j.copyOf()\n	e.drop(ctx, copied, left(j))\n	_, err = e.Propose(ctx, &command.Command{What: &command.Command_Move{",
	},
}

// TestMutations runs the simulation over every mutation and wants a failure
// within SEEDS seeds. It needs MUTATIONS=1, because it takes minutes.
func TestMutations(t *testing.T) {
	if os.Getenv("MUTATIONS") == "" {
		t.Skip("takes minutes: make mutations")
	}
	seeds := number(t, "SEEDS", 4000)
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	only := os.Getenv("ONLY")
	for _, m := range mutations {
		if only != "" && !strings.Contains(m.name, only) {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			seed, invariant, err := caught(t, root, m, seeds)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Printf("| %s | `%s` | %s | %s |\n", m.name, m.file, seed, invariant)
		})
	}
}

var failure = regexp.MustCompile(`seed (\d+): after [^:]*: ([^:\n]*)`)

// caught builds the simulation with the mutation and says at which seed it
// fails, the first of FIRST being 1, and for which reason.
func caught(t *testing.T, root string, m mutation, seeds uint64) (seed, invariant string, err error) {
	dir := t.TempDir()
	path := filepath.Join(root, filepath.FromSlash(m.file))
	source, err := os.ReadFile(path)
	if err != nil {
		return "", "", err
	}
	if n := strings.Count(string(source), m.old); n != 1 {
		return "", "", fmt.Errorf("%s: the text to be replaced stands there %d times", m.file, n)
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
	cmd.Env = append(os.Environ(), "STOP=1", fmt.Sprintf("SEEDS=%d", seeds))
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
