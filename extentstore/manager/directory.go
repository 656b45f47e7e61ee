package manager

import (
	"strings"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/manager/command"
)

// Limits of what is registered. Indexes of disks have 16 bits in an extent.
const (
	maxDisks        = 1<<16 - 2
	maxNodeDisks    = 1024 // that ever were; so that one node cannot use up all indexes
	maxNodeName     = 128  // bytes; of a disk's name twice as much
	maxNodeLocation = 256  // bytes of rack and address
)

// register makes a node known, or known at another place or with more disks.
func (s *State) register(c *command.Register) Output {
	if err := s.mayRegister(c); err != nil {
		return Output{Err: err}
	}
	i, known := s.nodeIndex(extentstore.NodeID(c.Node))
	if !known {
		i = uint16(len(s.nodes))
		s.nodes = append(s.nodes, nodeRecord{id: extentstore.NodeID(c.Node)})
	}
	n := &s.nodes[i]
	n.rack, n.address, n.removed = c.Rack, c.Address, false
	s.numberRacks()
	for _, name := range c.Disks {
		s.addDisk(extentstore.DiskID(name))
	}
	return Output{}
}

func (s *State) mayRegister(c *command.Register) error {
	switch {
	case c.Node == "" || len(c.Node) > maxNodeName || strings.ContainsRune(c.Node, '/'):
		return stamp.Errorf(stamp.Invalid, "manager", "%q cannot be the name of a node", c.Node)
	case len(c.Rack) > maxNodeLocation || len(c.Address) > maxNodeLocation:
		return stamp.Errorf(stamp.Invalid, "manager", "node %s: rack and address have more than %d bytes", c.Node, maxNodeLocation)
	}
	fresh := 0
	for _, name := range c.Disks {
		if id := extentstore.DiskID(name); string(id.Node()) != c.Node || len(name) > 2*maxNodeName {
			return stamp.Errorf(stamp.Invalid, "manager", "%q is not a disk of node %s", name, c.Node)
		}
		if _, known := s.diskIndex(extentstore.DiskID(name)); !known {
			fresh++
		}
	}
	if len(s.disks)+fresh > maxDisks || len(s.nodes) == maxDisks {
		return stamp.Errorf(stamp.Invalid, "manager", "node %s: a stamp has at most %d nodes and disks", c.Node, maxDisks)
	}
	return nil
}

// disksWith counts the disks of a node, those that it registers among them.
func (s *State) disksWith(c *command.Register) (n int) {
	for _, d := range s.disks {
		if string(d.id.Node()) == c.Node {
			n++
		}
	}
	for _, name := range c.Disks {
		if _, known := s.diskIndex(extentstore.DiskID(name)); !known {
			n++
		}
	}
	return n
}

// registered reports whether registering would change nothing.
func (s *State) registered(c *command.Register) bool {
	i, known := s.nodeIndex(extentstore.NodeID(c.Node))
	if !known || s.nodes[i] != (nodeRecord{id: extentstore.NodeID(c.Node), rack: c.Rack, address: c.Address}) {
		return false
	}
	for _, name := range c.Disks {
		if _, known := s.diskIndex(extentstore.DiskID(name)); !known {
			return false
		}
	}
	return true
}

// directory lists the nodes with their disks, in the order of their
// registration.
func (s *State) directory() []extentstore.NodeInfo {
	all := make([]extentstore.NodeInfo, len(s.nodes))
	for i, n := range s.nodes {
		all[i] = extentstore.NodeInfo{ID: n.id, Rack: n.rack, Address: n.address}
	}
	for _, d := range s.disks {
		all[d.node].Disks = append(all[d.node].Disks, d.id)
	}
	present := all[:0]
	for i := range all {
		if !s.nodes[i].removed {
			present = append(present, all[i])
		}
	}
	return present
}
