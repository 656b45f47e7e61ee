package blob

import (
	"bytes"
	"net/http"

	"stamp"
	"stamp/frontend"
	"stamp/partition/blob"
)

// putBlob makes or replaces a block blob from the body.
func (o *Operations) putBlob(r *frontend.Request) error {
	n, err := bodyLength(r, blob.MaxPutBlob)
	if err != nil {
		return err
	}
	req := blob.PutBlobRequest{Ref: ref(r)}
	if err := o.putBlobHeaders(r, &req); err != nil {
		return err
	}
	s, err := newSums(r, true)
	if err != nil {
		return err
	}
	defer s.free()
	if n <= o.smallBits {
		b, err := o.buffers.get(r.Context(), int(n))
		if err != nil {
			return err
		}
		defer b.release()
		if err := readBody(r, b.b); err != nil {
			return err
		}
		s.add(b.b)
		if err := s.check(); err != nil {
			return err
		}
		req.Bits = b.b
	} else {
		if req.Upload, err = o.upload(r, n, &s); err != nil {
			return err
		}
		defer req.Upload.Close()
	}
	if req.Headers.ContentMD5 == nil {
		req.Headers.ContentMD5 = s.sum[:]
	} else if !bytes.Equal(req.Headers.ContentMD5, s.sum[:]) {
		return mismatch(frontend.Md5Mismatch, req.Headers.ContentMD5, s.sum[:])
	}
	written, err := o.blobs.PutBlob(r.Context(), &req)
	if err != nil {
		return overwriting(r, err)
	}
	setWritten(r, written)
	r.Set("Content-Md5", encodeBase64(s.sum[:]))
	s.setCRC(r)
	r.Set("X-Ms-Request-Server-Encrypted", "false")
	r.WriteHead(http.StatusCreated)
	return nil
}

func (o *Operations) putBlobHeaders(r *frontend.Request, req *blob.PutBlobRequest) (err error) {
	if req.Conditions, err = conditions(r); err != nil {
		return err
	}
	if r.Grant.CreateOnly() {
		req.Conditions.IfNoneMatch = "*"
	}
	if req.Headers, err = blobHeaders(r); err != nil {
		return err
	}
	standardHeaders(r, &req.Headers)
	if req.Headers.ContentType == "" {
		req.Headers.ContentType = defaultContentType
	}
	if req.Metadata, err = metadata(r); err != nil {
		return err
	}
	req.AccessTier, err = accessTier(r)
	return err
}

// overwriting tells a sender who may create but not overwrite why it failed.
func overwriting(r *frontend.Request, err error) error {
	if stamp.KindOf(err) == stamp.BlobExists && r.Grant.CreateOnly() {
		return frontend.Errorf(frontend.UnauthorizedBlobOverwrite, "the signature lets create, not overwrite")
	}
	return err
}
