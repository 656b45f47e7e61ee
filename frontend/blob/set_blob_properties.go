package blob

import (
	"net/http"

	"stamp/frontend"
)

// setBlobProperties replaces a blob's properties; those not given are cleared.
func (o *Operations) setBlobProperties(r *frontend.Request) error {
	for _, key := range [...]string{"X-Ms-Blob-Content-Length", "X-Ms-Sequence-Number-Action", "X-Ms-Blob-Sequence-Number"} {
		if r.Header(key) != "" {
			return frontend.Errorf(frontend.InvalidBlobType, "only page blobs have a settable length and a sequence number")
		}
	}
	cond, err := conditions(r)
	if err != nil {
		return err
	}
	h, err := blobHeaders(r)
	if err != nil {
		return err
	}
	written, err := o.blobs.SetHTTPHeaders(r.Context(), ref(r), h, cond)
	if err != nil {
		return err
	}
	setWritten(r, written)
	r.WriteHead(http.StatusOK)
	return nil
}

// setBlobMetadata replaces a blob's metadata.
func (o *Operations) setBlobMetadata(r *frontend.Request) error {
	cond, err := conditions(r)
	if err != nil {
		return err
	}
	m, err := metadata(r)
	if err != nil {
		return err
	}
	written, err := o.blobs.SetMetadata(r.Context(), ref(r), m, cond)
	if err != nil {
		return err
	}
	setWritten(r, written)
	r.Set("X-Ms-Request-Server-Encrypted", "false")
	r.WriteHead(http.StatusOK)
	return nil
}
