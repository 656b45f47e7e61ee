package blob

import (
	"net/http"
	"strings"

	"stamp/frontend"
	"stamp/partition/blob"
)

// getBlockList lists a blob's blocks.
func (o *Operations) getBlockList(r *frontend.Request) error {
	kind := strings.ToLower(r.Query("blocklisttype"))
	switch kind {
	case "":
		kind = "committed"
	case "committed", "uncommitted", "all":
	default:
		return frontend.QueryError(frontend.InvalidQueryParameterValue, "blocklisttype", kind, "not committed, uncommitted or all")
	}
	cond, err := readConditions(r)
	if err != nil {
		return err
	}
	list, err := o.blobs.GetBlockList(r.Context(), ref(r), cond)
	if err != nil {
		return err
	}
	if p := list.Properties; p != nil {
		setETag(r, p.ETag)
		r.SetTime("Last-Modified", p.LastModified)
		r.SetInt("X-Ms-Blob-Content-Length", p.Size)
	} else {
		r.SetInt("X-Ms-Blob-Content-Length", 0)
	}
	w := newListing(r)
	defer w.free()
	w.x.Start("BlockList")
	if kind != "uncommitted" {
		w.blocks("CommittedBlocks", list.Committed)
	}
	if kind != "committed" {
		w.blocks("UncommittedBlocks", list.Uncommitted)
	}
	w.x.End("BlockList")
	return w.finish(http.StatusOK)
}

func (w *listing) blocks(element string, blocks []blob.Block) {
	w.x.Start(element)
	for i := range blocks {
		w.x.Start("Block")
		w.x.Text("Name", blocks[i].ID)
		w.x.Int("Size", blocks[i].Size)
		w.x.End("Block")
		w.flush()
	}
	w.x.End(element)
}
