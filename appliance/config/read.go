package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"stamp"
)

// Error is one thing that is wrong with a file.
type Error struct {
	File string
	Line int    // 0 where something is missing altogether
	Key  string // "extent.disks[1].path"; empty for errors of syntax
	What string // and what would be right
}

// Error is the text: file, line, key, what.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		b.WriteString(":" + strconv.Itoa(e.Line))
	}
	if e.Key != "" {
		b.WriteString(": " + e.Key)
	}
	b.WriteString(": " + e.What)
	return b.String()
}

// Read reads a file. Its error is of kind Invalid and holds an *Error for
// each thing that is wrong, one a line.
func Read(name string) (*Config, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(name, b)
}

// Parse reads the content of a file; name is for errors and relative paths.
func Parse(name string, b []byte) (*Config, error) {
	c := &Config{File: name}
	if errs := decode(c, b); len(errs) > 0 {
		return nil, invalid(errs)
	}
	at := lines(b)
	var errs []*Error
	c.check(func(key, format string, args ...any) {
		errs = append(errs, &Error{File: name, Line: at.of(key), Key: key, What: fmt.Sprintf(format, args...)})
	})
	if len(errs) > 0 {
		return nil, invalid(errs)
	}
	c.fill()
	return c, nil
}

// decode reads what has the right form; what has not comes back in order.
func decode(c *Config, b []byte) []*Error {
	d := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields()
	err := d.Decode(c)
	if err == nil {
		return nil
	}
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		var out []*Error
		for i := range strict.Errors {
			e := &strict.Errors[i]
			line, _ := e.Position()
			out = append(out, &Error{File: c.File, Line: line, Key: strings.Join(e.Key(), "."), What: unknown(e.Key())})
		}
		return out
	}
	var bad *toml.DecodeError
	if errors.As(err, &bad) {
		line, _ := bad.Position()
		key := strings.Join(bad.Key(), ".")
		if key == "" {
			key = lines(b).at(line)
		}
		return []*Error{{File: c.File, Line: line, Key: key, What: strings.TrimPrefix(strings.TrimPrefix(bad.Error(), "toml: "), "toml: ")}}
	}
	return []*Error{{File: c.File, What: err.Error()}}
}

// unknown says which keys there are where one is not known.
func unknown(key []string) string {
	table := strings.Join(key[:len(key)-1], ".")
	known := keys[table]
	if known == nil {
		return "no such key"
	}
	where := "in [" + table + "]"
	if table == "" {
		where = "at the top"
	}
	return "no such key " + where + ": there are " + strings.Join(known, ", ")
}

// keys are the keys of each table, for errors. A test holds them against the
// structs.
var keys = map[string][]string{
	"":             {"name", "rack", "certificates", "stamp", "log", "managers", "manager", "extent"},
	"managers":     {"id", "address"},
	"manager":      {"directory", "listen", "metrics", "replicas", "extent-size", "heal-after", "heal-rate", "code-after", "grace", "lease"},
	"extent":       {"listen", "advertise", "metrics", "journal", "journal-size", "reserve", "scrub", "scrub-rate", "copy-rate", "trash", "memory", "disks"},
	"extent.disks": {"id", "path"},
}

func invalid(errs []*Error) error {
	sort.SliceStable(errs, func(i, j int) bool { return errs[i].Line < errs[j].Line })
	all := make([]error, len(errs))
	for i, e := range errs {
		all[i] = e
	}
	return &stamp.Error{Op: "config", What: errors.Join(all...).Error(), Kind: stamp.Invalid, Err: errors.Join(all...)}
}

// places knows on which line each key and table stands.
type places map[string]int

// of is the line of a key, or else of the table that it would belong to.
func (p places) of(key string) int {
	for key != "" {
		if line, ok := p[key]; ok {
			return line
		}
		if i := strings.LastIndexAny(key, ".["); i >= 0 {
			key = key[:i]
		} else {
			key = ""
		}
	}
	return 0
}

// at is the longest key on a line.
func (p places) at(line int) string {
	best := ""
	for key, l := range p {
		if l == line && (len(key) > len(best) || len(key) == len(best) && key < best) {
			best = key
		}
	}
	return best
}

// lines finds the places. What cannot be parsed has none.
func lines(b []byte) places {
	out := places{}
	var p unstable.Parser
	p.Reset(b)
	count := map[string]int{}
	prefix := ""
	for p.NextExpression() {
		e := p.Expression()
		key, line := "", 0
		for it := e.Key(); it.Next(); {
			n := it.Node()
			if line == 0 && n.Raw.Length > 0 {
				line = p.Shape(n.Raw).Start.Line
			}
			if key != "" {
				key += "."
			}
			key += string(n.Data)
		}
		switch e.Kind {
		case unstable.Table:
			prefix = key
		case unstable.ArrayTable:
			prefix = key + "[" + strconv.Itoa(count[key]) + "]"
			count[key]++
			if _, ok := out[key]; !ok {
				out[key] = line
			}
		case unstable.KeyValue:
			if prefix != "" {
				key = prefix + "." + key
			}
			out[key] = line
			continue
		default:
			continue
		}
		out[prefix] = line
	}
	return out
}

// Size is a number of bytes that is written "64 MiB", "4 GiB" or "500 GB".
type Size int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(text []byte) error {
	v, err := humanize.ParseBytes(string(text))
	if err != nil || v > 1<<60 {
		return fmt.Errorf("%q is no size: want a number and a unit, as in \"64 MiB\" or \"4 GiB\"", text)
	}
	*s = Size(v)
	return nil
}

// String is the size in the largest fitting unit.
func (s Size) String() string { return humanize.IBytes(uint64(s)) }
