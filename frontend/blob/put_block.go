package blob

import (
	"encoding/base64"
	"net/http"

	"stamp/frontend"
	"stamp/partition/blob"
)

// putBlock adds an uncommitted block from the body.
func (o *Operations) putBlock(r *frontend.Request) error {
	id, err := blockID(r)
	if err != nil {
		return err
	}
	n, err := bodyLength(r, blob.MaxBlockSize)
	if err != nil {
		return err
	}
	if n == 0 {
		return frontend.HeaderError(frontend.InvalidHeaderValue, "Content-Length", "0")
	}
	s, err := newSums(r, false)
	if err != nil {
		return err
	}
	defer s.free()
	up, err := o.upload(r, n, &s)
	if err != nil {
		return err
	}
	defer up.Close()
	if err := o.blobs.PutBlock(r.Context(), &blob.PutBlockRequest{Ref: ref(r), BlockID: id, Upload: up}); err != nil {
		return err
	}
	if s.want.md5 != nil {
		r.Set("Content-Md5", encodeBase64(s.sum[:]))
	} else {
		s.setCRC(r)
	}
	r.Set("X-Ms-Request-Server-Encrypted", "false")
	r.WriteHead(http.StatusCreated)
	return nil
}

// blockID reads the block's id: base64 of 1 to 64 bytes.
func blockID(r *frontend.Request) (string, error) {
	id := r.Query("blockid")
	if id == "" {
		return "", &frontend.Error{Code: frontend.MissingRequiredQueryParameter,
			Fields: []frontend.Field{{Name: "QueryParameterName", Value: "blockid"}}}
	}
	raw, err := base64.StdEncoding.DecodeString(id)
	if err != nil || len(raw) > blob.MaxBlockID {
		return "", frontend.QueryError(frontend.InvalidQueryParameterValue, "blockid", id, "not base64 of 1 to 64 bytes")
	}
	return id, nil
}
