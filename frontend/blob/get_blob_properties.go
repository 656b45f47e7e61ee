package blob

import (
	"net/http"

	"stamp/frontend"
)

// getBlobProperties answers with the headers of a blob.
func (o *Operations) getBlobProperties(r *frontend.Request) error {
	cond, err := readConditions(r)
	if err != nil {
		return err
	}
	p, err := o.blobs.GetProperties(r.Context(), ref(r), cond)
	if err != nil {
		return err
	}
	setProperties(r, p)
	if p.Headers.ContentMD5 != nil {
		r.Set("Content-Md5", encodeBase64(p.Headers.ContentMD5))
	}
	tier, inferred := shownTier(p)
	r.Set("X-Ms-Access-Tier", tier)
	if inferred {
		r.Set("X-Ms-Access-Tier-Inferred", "true")
	}
	r.SetInt("Content-Length", p.Size)
	r.WriteHead(http.StatusOK)
	return nil
}

// getBlobMetadata answers with the metadata of a blob as headers.
func (o *Operations) getBlobMetadata(r *frontend.Request) error {
	cond, err := readConditions(r)
	if err != nil {
		return err
	}
	p, err := o.blobs.GetProperties(r.Context(), ref(r), cond)
	if err != nil {
		return err
	}
	setETag(r, p.ETag)
	r.SetTime("Last-Modified", p.LastModified)
	setMetadata(r, p.Metadata)
	r.SetInt("Content-Length", 0)
	r.WriteHead(http.StatusOK)
	return nil
}
