package blob

import (
	"net/http"

	"stamp/frontend"
	"stamp/partition/blob"
)

// createContainer makes a container. Public access is not offered.
func (o *Operations) createContainer(r *frontend.Request) error {
	if r.Container == "$logs" {
		return frontend.Errorf(frontend.InvalidResourceName, "the name is reserved")
	}
	switch v := r.Header("X-Ms-Blob-Public-Access"); v {
	case "":
	case "container", "blob":
		return frontend.Errorf(frontend.PublicAccessNotPermitted, "containers are private")
	default:
		return frontend.HeaderError(frontend.InvalidHeaderValue, "x-ms-blob-public-access", v)
	}
	m, err := metadata(r)
	if err != nil {
		return err
	}
	p, err := o.blobs.CreateContainer(r.Context(), &blob.CreateContainerRequest{
		Account: r.Account, Name: r.Container, Metadata: m})
	if err != nil {
		return err
	}
	setWritten(r, blob.Written{ETag: p.ETag, LastModified: p.LastModified})
	r.WriteHead(http.StatusCreated)
	return nil
}

// deleteContainer deletes a container and all in it.
func (o *Operations) deleteContainer(r *frontend.Request) error {
	cond, err := conditions(r)
	if err != nil {
		return err
	}
	if err := o.blobs.DeleteContainer(r.Context(), r.Account, r.Container, cond); err != nil {
		return err
	}
	r.WriteHead(http.StatusAccepted)
	return nil
}

func (o *Operations) container(r *frontend.Request) (*blob.ContainerProperties, error) {
	cond, err := readConditions(r)
	if err != nil {
		return nil, err
	}
	p, err := o.blobs.GetContainer(r.Context(), r.Account, r.Container, cond)
	if err != nil {
		return nil, err
	}
	setWritten(r, blob.Written{ETag: p.ETag, LastModified: p.LastModified})
	return p, nil
}

// getContainerProperties answers with the headers of a container.
func (o *Operations) getContainerProperties(r *frontend.Request) error {
	p, err := o.container(r)
	if err != nil {
		return err
	}
	setMetadata(r, p.Metadata)
	r.Set("X-Ms-Lease-Status", "unlocked")
	r.Set("X-Ms-Lease-State", "available")
	r.Set("X-Ms-Has-Immutability-Policy", "false")
	r.Set("X-Ms-Has-Legal-Hold", "false")
	r.Set("X-Ms-Immutable-Storage-With-Versioning-Enabled", "false")
	r.Set("X-Ms-Default-Encryption-Scope", "$account-encryption-key")
	r.Set("X-Ms-Deny-Encryption-Scope-Override", "false")
	r.SetInt("Content-Length", 0)
	r.WriteHead(http.StatusOK)
	return nil
}

// getContainerMetadata answers with the metadata of a container as headers.
func (o *Operations) getContainerMetadata(r *frontend.Request) error {
	p, err := o.container(r)
	if err != nil {
		return err
	}
	setMetadata(r, p.Metadata)
	r.SetInt("Content-Length", 0)
	r.WriteHead(http.StatusOK)
	return nil
}

// setContainerMetadata replaces a container's metadata.
func (o *Operations) setContainerMetadata(r *frontend.Request) error {
	cond, err := conditions(r)
	if err != nil {
		return err
	}
	m, err := metadata(r)
	if err != nil {
		return err
	}
	p, err := o.blobs.SetContainerMetadata(r.Context(), r.Account, r.Container, m, cond)
	if err != nil {
		return err
	}
	setWritten(r, blob.Written{ETag: p.ETag, LastModified: p.LastModified})
	r.WriteHead(http.StatusOK)
	return nil
}

// getContainerACL answers that the container is private and has no stored
// access policies: neither can be set.
func (o *Operations) getContainerACL(r *frontend.Request) error {
	if _, err := o.container(r); err != nil {
		return err
	}
	w := newListing(r)
	defer w.free()
	w.x.Empty("SignedIdentifiers")
	return w.finish(http.StatusOK)
}

// listContainers lists a page of the account's containers.
func (o *Operations) listContainers(r *frontend.Request) error {
	limit, err := maxResults(r, blob.MaxListed)
	if err != nil {
		return err
	}
	include, err := includes(r, "metadata", "deleted", "system")
	if err != nil {
		return err
	}
	req := blob.ListContainersRequest{
		Account:  r.Account,
		Prefix:   r.Query("prefix"),
		Marker:   r.Query("marker"),
		Max:      limit,
		Metadata: include["metadata"],
	}
	page, err := o.blobs.ListContainers(r.Context(), &req)
	if err != nil {
		return err
	}
	w := newListing(r)
	defer w.free()
	x := w.x
	x.StartAttr("EnumerationResults", "ServiceEndpoint", endpoint(r))
	x.TextIf("Prefix", req.Prefix)
	x.TextIf("Marker", req.Marker)
	if limit > 0 {
		x.Int("MaxResults", int64(limit))
	}
	x.Start("Containers")
	for i := range page.Containers {
		w.container(&page.Containers[i], req.Metadata)
		w.flush()
	}
	x.End("Containers")
	if page.NextMarker == "" {
		x.Empty("NextMarker")
	} else {
		x.Text("NextMarker", page.NextMarker)
	}
	x.End("EnumerationResults")
	return w.finish(http.StatusOK)
}

func (w *listing) container(p *blob.ContainerProperties, withMetadata bool) {
	x := w.x
	x.Start("Container")
	x.Text("Name", p.Name)
	x.Start("Properties")
	x.Time("Last-Modified", p.LastModified)
	var b [24]byte
	x.Start("Etag")
	x.Raw(string(p.ETag.AppendQuoted(b[:0])))
	x.End("Etag")
	x.Raw("<LeaseStatus>unlocked</LeaseStatus><LeaseState>available</LeaseState>" +
		"<DefaultEncryptionScope>$account-encryption-key</DefaultEncryptionScope>" +
		"<DenyEncryptionScopeOverride>false</DenyEncryptionScopeOverride>" +
		"<HasImmutabilityPolicy>false</HasImmutabilityPolicy><HasLegalHold>false</HasLegalHold>" +
		"<ImmutableStorageWithVersioningEnabled>false</ImmutableStorageWithVersioningEnabled>")
	x.End("Properties")
	if withMetadata {
		w.metadata(p.Metadata)
	}
	x.End("Container")
}
