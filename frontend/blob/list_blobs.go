package blob

import (
	"net/http"

	"stamp"
	"stamp/frontend"
	"stamp/partition/blob"
)

// listBlobs lists a page of a container. There are no snapshots, versions,
// deleted blobs, copies, tags and holds, so including them adds nothing.
func (o *Operations) listBlobs(r *frontend.Request) error {
	limit, err := maxResults(r, blob.MaxListed)
	if err != nil {
		return err
	}
	include, err := includes(r, "metadata", "uncommittedblobs", "copy", "deleted", "tags", "versions",
		"snapshots", "immutabilitypolicy", "legalhold", "deletedwithversions", "permissions")
	if err != nil {
		return err
	}
	for _, name := range [...]string{"showonly", "startfrom", "endbefore"} {
		if v := r.Query(name); v != "" {
			return frontend.QueryError(frontend.NotImplemented, name, v, "not available yet")
		}
	}
	req := blob.ListBlobsRequest{
		Account:     r.Account,
		Container:   r.Container,
		Prefix:      r.Query("prefix"),
		Delimiter:   r.Query("delimiter"),
		Marker:      r.Query("marker"),
		Max:         limit,
		Metadata:    include["metadata"],
		Uncommitted: include["uncommittedblobs"],
	}
	page, err := o.blobs.ListBlobs(r.Context(), &req)
	if err != nil {
		if req.Marker != "" && stamp.KindOf(err) == stamp.Invalid {
			return frontend.QueryError(frontend.OutOfRangeInput, "marker", req.Marker, "not a marker that a listing returned")
		}
		return err
	}
	w := newListing(r)
	defer w.free()
	x := w.x
	x.Raw(`<EnumerationResults ServiceEndpoint="`)
	x.Escape(endpoint(r))
	x.Raw(`" ContainerName="`)
	x.Escape(r.Container)
	x.Raw(`">`)
	if req.Prefix != "" {
		x.Name("Prefix", req.Prefix)
	}
	x.TextIf("Marker", req.Marker)
	if limit > 0 {
		x.Int("MaxResults", int64(limit))
	}
	x.TextIf("Delimiter", req.Delimiter)
	x.Start("Blobs")
	for i := range page.Items {
		w.item(&page.Items[i], req.Metadata)
		w.flush()
	}
	x.End("Blobs")
	if page.NextMarker == "" {
		x.Empty("NextMarker")
	} else {
		x.Text("NextMarker", page.NextMarker)
	}
	x.End("EnumerationResults")
	return w.finish(http.StatusOK)
}

func (w *listing) item(it *blob.ListItem, withMetadata bool) {
	x := w.x
	if it.Prefix != "" {
		x.Start("BlobPrefix")
		x.Name("Name", it.Prefix)
		x.End("BlobPrefix")
		return
	}
	x.Start("Blob")
	x.Name("Name", it.Name)
	x.Start("Properties")
	w.properties(&it.Properties)
	x.End("Properties")
	if withMetadata {
		w.metadata(it.Metadata)
	}
	x.End("Blob")
}

func (w *listing) properties(p *blob.Properties) {
	x := w.x
	if !p.Uncommitted {
		x.Time("Creation-Time", p.Created)
		x.Time("Last-Modified", p.LastModified)
		x.Start("Etag")
		var b [24]byte
		quoted := p.ETag.AppendQuoted(b[:0])
		x.Raw(string(quoted[1 : len(quoted)-1]))
		x.End("Etag")
	}
	x.Int("Content-Length", p.Size)
	if !p.Uncommitted {
		contentType := p.Headers.ContentType
		if contentType == "" {
			contentType = defaultContentType
		}
		x.Text("Content-Type", contentType)
		x.TextIf("Content-Encoding", p.Headers.ContentEncoding)
		x.TextIf("Content-Language", p.Headers.ContentLanguage)
		x.Base64If("Content-MD5", p.Headers.ContentMD5)
		x.TextIf("Cache-Control", p.Headers.CacheControl)
		x.TextIf("Content-Disposition", p.Headers.ContentDisposition)
	}
	x.Text("BlobType", blobType(p.Type))
	if !p.Uncommitted {
		tier, inferred := shownTier(p)
		x.Text("AccessTier", tier)
		if inferred {
			x.Text("AccessTierInferred", "true")
		}
		x.Raw("<LeaseStatus>unlocked</LeaseStatus><LeaseState>available</LeaseState><ServerEncrypted>false</ServerEncrypted>")
	}
}

// shownTier is the access tier that clients see.
func shownTier(p *blob.Properties) (tier string, inferred bool) {
	if p.AccessTier == "" {
		return "Hot", true
	}
	return p.AccessTier, false
}

func (w *listing) metadata(m blob.Metadata) {
	if len(m) == 0 {
		w.x.Empty("Metadata")
		return
	}
	w.x.Start("Metadata")
	for _, p := range m {
		w.x.Text(p.Name, p.Value)
	}
	w.x.End("Metadata")
}
