// Package file is what a mount does to the blobs of an account, above rows:
// lookup, create, commit of edits, rename, unlink while open. It knows nothing
// of FUSE or gRPC, and stands beside package blob, whose rows it shares: a blob
// is a file, and what one package commits the other sees at once.
//
// In a flat container the rows are keyed by the blob's full name. Names
// between slashes are directories. A directory that must exist while it is
// empty has a marker, a blob of no length with metadata hdi_isfolder=true;
// a symbolic link is a blob with is_symlink=true whose content is the target.
//
// Invariants:
//
//   - Each change of a name or of a file is one commit: content, attributes
//     and size change together or not at all.
//   - A change of attributes alone moves neither ETag nor Last-Modified.
//   - A create, a rename or an unlink holds the latch of each directory whose
//     emptiness or existence it relies on.
//   - A file that was unlinked while a session has it open is a row of that
//     session, and gone when the session ends.
package file
