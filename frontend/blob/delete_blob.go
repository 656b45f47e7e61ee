package blob

import (
	"net/http"

	"stamp/frontend"
)

// deleteBlob deletes a blob. It has no snapshots, so including them is nothing.
func (o *Operations) deleteBlob(r *frontend.Request) error {
	switch v := r.Header("X-Ms-Delete-Snapshots"); v {
	case "", "include":
	case "only":
		return frontend.HeaderError(frontend.NotImplemented, "x-ms-delete-snapshots", v)
	default:
		return frontend.HeaderError(frontend.InvalidHeaderValue, "x-ms-delete-snapshots", v)
	}
	cond, err := conditions(r)
	if err != nil {
		return err
	}
	if err := o.blobs.DeleteBlob(r.Context(), ref(r), cond); err != nil {
		return err
	}
	r.Set("X-Ms-Delete-Type-Permanent", "true")
	r.WriteHead(http.StatusAccepted)
	return nil
}
