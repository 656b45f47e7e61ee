package node

// FlushAll flushes everything, for tests.
func (n *Node) FlushAll() error {
	_, err := n.round(true)
	return err
}
