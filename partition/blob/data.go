package blob

import (
	"context"

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

// dataName is the name of a range's blob data stream in its folder. No file of
// Pebble's is called so.
const dataName = "blobdata"

// NewData is the blob data stream of the range that has the folder. It is made
// if it is missing.
func NewData(ctx context.Context, folder *stream.Folder, client *stream.Client) (Data, error) {
	name := folder.Name() + dataName
	shared, err := folder.OpenShared(ctx, name, extentstore.BlobData)
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
	if n == len(p) {
		return nil
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
