package blob

import (
	"context"
	"io"

	"stamp"
	"stamp/extentstore"
	"stamp/extentstore/stream"
)

// streamData is Data on the stream layer.
type streamData struct {
	name   string
	folder *stream.Folder
	shared *stream.Shared
	client *stream.Client
}

// Names of the streams in the range's folder. No file of Pebble's is called so.
// On disk: never change.
const (
	dataName  = "blobdata"
	movedName = "moveddata"
)

// NewData is the blob data stream of the range that has the folder. It is made
// if it is missing.
func NewData(ctx context.Context, folder *stream.Folder, client *stream.Client) (Data, error) {
	return newData(ctx, folder, client, dataName, extentstore.BlobData)
}

// NewMoved is the range's stream of bits that the collector has moved.
func NewMoved(ctx context.Context, folder *stream.Folder, client *stream.Client) (Data, error) {
	return newData(ctx, folder, client, movedName, extentstore.MovedData)
}

func newData(ctx context.Context, folder *stream.Folder, client *stream.Client, name string, kind extentstore.StreamKind) (Data, error) {
	name = folder.Name() + name
	shared, err := folder.OpenShared(ctx, name, kind)
	if err != nil {
		return nil, err
	}
	return &streamData{name: name, folder: folder, shared: shared, client: client}, nil
}

func (d *streamData) Append(ctx context.Context, b extentstore.Block) (extentstore.ExtentID, int64, error) {
	return d.shared.Append(ctx, b)
}

func (d *streamData) Read(ctx context.Context, id extentstore.ExtentID, offset int64, p []byte) error {
	n, err := d.client.ReadExtent(ctx, id, offset, p)
	switch {
	case n == len(p):
		return nil
	case err == nil || err == io.EOF: // which to a caller would mean the end of the blob
		return stamp.Errorf(stamp.Corrupt, "blob.Read", "extent %v: %d of %d bytes at offset %d", id, n, len(p), offset)
	}
	return err
}

func (d *streamData) Current() extentstore.ExtentID  { return d.shared.Current() }
func (d *streamData) Roll(ctx context.Context) error { return d.shared.Roll(ctx) }

func (d *streamData) Extents() []extentstore.ExtentInfo {
	info, _ := d.folder.Stat(d.name)
	return info.Extents
}

func (d *streamData) Unlink(ctx context.Context, id extentstore.ExtentID) error {
	return d.folder.MultiModify(ctx, extentstore.Op{Kind: extentstore.OpUnlink, Name: d.name, Extent: id})
}
