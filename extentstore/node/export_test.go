package node

// FlushAll flushes everything, for tests.
func (n *Node) FlushAll() error {
	_, err := n.round(true)
	return err
}

// RoundFailed is what the flusher does with an error.
func (n *Node) RoundFailed(err error) { n.roundFailed(err) }

// IsLost reports whether a failed read keeps its buffer from being used again.
func IsLost(err error) bool { return isLost(err) }
