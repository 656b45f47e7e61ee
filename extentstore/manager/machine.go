package manager

import (
	"io"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"stamp"
	"stamp/extentstore/consensus"
	"stamp/extentstore/manager/command"
)

// machine puts the state under the log and a lock, so that callers read it
// beside Step.
type machine struct {
	mu    sync.RWMutex // guards the fields below
	state *State
	// broken is set once a committed command cannot be understood. What
	// follows would be applied to the wrong state, so nothing is, and nobody
	// gets an answer any more.
	broken error
	// named is closed once the state knows its stamp.
	named   chan struct{}
	isNamed bool
}

func newMachine() *machine { return &machine{state: newState(), named: make(chan struct{})} }

// tell is called with mu held after the state has changed.
func (m *machine) tell() {
	if m.state.stamp != "" && !m.isNamed {
		m.isNamed = true
		close(m.named)
	}
}

// fail ends the use of the state.
func (m *machine) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken == nil {
		m.broken = err
	}
}

var _ consensus.Machine = (*machine)(nil)

func encode(c *command.Command) ([]byte, error) {
	c.Version = command.Version
	return proto.Marshal(c)
}

// decode reads a command. Errors are of kind Corrupt, or Unsupported for a
// version above this program's.
func decode(p []byte) (*command.Command, error) {
	c := &command.Command{}
	if err := proto.Unmarshal(p, c); err != nil {
		return nil, stamp.Errorf(stamp.Corrupt, "manager.decode", "command on the log: %w", err)
	}
	if c.Version == 0 || c.Version > command.Version || c.What == nil {
		return nil, stamp.Errorf(stamp.Unsupported, "manager.decode", "command on the log of version %d; this program knows %d", c.Version, command.Version)
	}
	return c, nil
}

// Apply implements consensus.Machine. It returns an Output.
func (m *machine) Apply(p []byte) any {
	c, err := decode(p)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken == nil {
		m.broken = err
	}
	if m.broken != nil {
		return Output{Err: m.broken}
	}
	out := m.state.Step(time.UnixMilli(c.Time), c)
	m.tell()
	return out
}

// Snapshot implements consensus.Machine.
func (m *machine) Snapshot() (consensus.Snapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken != nil {
		return nil, m.broken
	}
	return frozen{m.state.freeze()}, nil
}

// Restore implements consensus.Machine.
func (m *machine) Restore(r io.Reader) (commit func(), err error) {
	s, err := readState(r)
	if err != nil {
		return nil, err
	}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.state = s
		m.tell()
	}, nil
}

// view reads the state.
func (m *machine) view(fn func(s *State) error) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.broken != nil {
		return m.broken
	}
	return fn(m.state)
}

type frozen struct{ s *State }

func (f frozen) Write(w io.Writer) error { return f.s.writeTo(w) }
func (f frozen) Release()                {}
