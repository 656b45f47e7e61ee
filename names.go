package stamp

// AccountName names a storage account: 3 to 24 lower-case letters and digits.
// With PartitionName and ObjectName it is the three-part key of every object
// (SOSP 2011, section 2.2).
type AccountName string

// PartitionName is the unit of atomic batches. For a blob in a flat container
// it is the full blob name.
type PartitionName string

// ObjectName tells objects of one PartitionName apart: a row key, a message id,
// a snapshot.
type ObjectName string

// Epoch numbers the owners of a folder of streams. A higher epoch fences every
// lower one: the stream layer refuses appends and namespace changes that carry
// an older epoch than the newest it has handed out.
type Epoch uint64
