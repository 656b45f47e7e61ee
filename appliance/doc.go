// Package appliance puts the roles of a stamp together on one machine. In this
// version that is OpenDev: StreamManager, ExtentNodes, PartitionServer and
// FrontEnd in one process on one directory, talking through plain calls.
//
// It owns what no single layer can: the directory and its label and lock, the
// sizes that follow from the disks, the order in which the roles start and
// stop, the ports, the operators' socket (package admin), health and metrics.
// It knows nothing of blobs, streams or HTTP operations beyond handing them to
// their layers, and it reads no flags.
package appliance
