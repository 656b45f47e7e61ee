package blob

import (
	"net/http"
	"strings"

	"stamp/frontend"
)

// Route implements frontend.Service: it finds the operation by the level of
// the resource, the method, restype and comp.
func (o *Operations) Route(r *frontend.Request) (*frontend.Operation, error) {
	if r.HTTP.Method == http.MethodOptions {
		return o.ops.preflight, nil
	}
	if r.Restype == "account" && r.Comp == "properties" {
		return only(r, o.ops.getAccountInformation, http.MethodGet, http.MethodHead)
	}
	op, err := o.route(r)
	if err != nil || op.Serve == nil {
		return op, err
	}
	return op, refuseUnknown(r)
}

func (o *Operations) route(r *frontend.Request) (*frontend.Operation, error) {
	switch {
	case r.Container == "":
		return o.routeService(r)
	case r.Blob == "":
		if err := checkContainer(r.Container); err != nil {
			return nil, err
		}
		return o.routeContainer(r)
	}
	if err := checkContainer(r.Container); err != nil {
		return nil, err
	}
	if err := checkBlob(r.Blob); err != nil {
		return nil, err
	}
	return o.routeBlob(r)
}

// only returns op if the request's method is one of methods.
func only(r *frontend.Request, op *frontend.Operation, methods ...string) (*frontend.Operation, error) {
	for _, m := range methods {
		if r.HTTP.Method == m {
			return op, nil
		}
	}
	return nil, wrongMethod(r)
}

func wrongMethod(r *frontend.Request) error {
	return frontend.Errorf(frontend.UnsupportedHTTPVerb, "method %s", r.HTTP.Method)
}

func unknownQuery(r *frontend.Request) error {
	if r.Comp != "" {
		return frontend.QueryError(frontend.InvalidQueryParameterValue, "comp", r.Query("comp"), "no operation of this resource has this value")
	}
	return frontend.QueryError(frontend.InvalidQueryParameterValue, "restype", r.Query("restype"), "no operation of this resource has this value")
}

func (o *Operations) routeService(r *frontend.Request) (*frontend.Operation, error) {
	t := &o.ops
	switch r.Restype + "/" + r.Comp {
	case "/list":
		return only(r, t.listContainers, http.MethodGet)
	case "/batch":
		return only(r, t.batch, http.MethodPost)
	case "/blobs":
		return only(r, t.findBlobsByTags, http.MethodGet)
	case "service/properties":
		if r.HTTP.Method == http.MethodPut {
			return t.setServiceProperties, nil
		}
		return only(r, t.getServiceProperties, http.MethodGet)
	case "service/stats":
		return only(r, t.getServiceStats, http.MethodGet)
	case "service/userdelegationkey":
		return only(r, t.getUserDelegationKey, http.MethodPost)
	case "/":
		return nil, frontend.Errorf(frontend.InvalidQueryParameterValue, "the service itself has no operation without comp")
	}
	return nil, unknownQuery(r)
}

func (o *Operations) routeContainer(r *frontend.Request) (*frontend.Operation, error) {
	t := &o.ops
	if r.Restype != "container" {
		if r.Comp == "list" && r.Restype == "" {
			return nil, frontend.QueryError(frontend.InvalidQueryParameterValue, "restype", "", "restype=container is missing")
		}
		if r.Restype == "" {
			return nil, frontend.Errorf(frontend.InvalidURI, "the name of the blob is empty")
		}
		return nil, unknownQuery(r)
	}
	switch r.Comp {
	case "":
		switch r.HTTP.Method {
		case http.MethodPut:
			return t.createContainer, nil
		case http.MethodDelete:
			return t.deleteContainer, nil
		}
		return only(r, t.getContainerProperties, http.MethodGet, http.MethodHead)
	case "metadata":
		if r.HTTP.Method == http.MethodPut {
			return t.setContainerMetadata, nil
		}
		return only(r, t.getContainerMetadata, http.MethodGet, http.MethodHead)
	case "acl":
		if r.HTTP.Method == http.MethodPut {
			return t.setContainerACL, nil
		}
		return only(r, t.getContainerACL, http.MethodGet, http.MethodHead)
	case "list":
		return only(r, t.listBlobs, http.MethodGet)
	case "lease":
		return only(r, t.leaseContainer, http.MethodPut)
	case "undelete":
		return only(r, t.restoreContainer, http.MethodPut)
	case "batch":
		return only(r, t.batch, http.MethodPost)
	case "blobs":
		return only(r, t.findBlobsInContainer, http.MethodGet)
	}
	return nil, unknownQuery(r)
}

func (o *Operations) routeBlob(r *frontend.Request) (*frontend.Operation, error) {
	t := &o.ops
	if r.Restype != "" {
		return nil, unknownQuery(r)
	}
	put := r.HTTP.Method == http.MethodPut
	fromURL := r.Header("X-Ms-Copy-Source") != ""
	choose := func(yes bool, a, b *frontend.Operation) *frontend.Operation {
		if yes {
			return a
		}
		return b
	}
	switch r.Comp {
	case "":
		switch r.HTTP.Method {
		case http.MethodGet:
			return t.getBlob, nil
		case http.MethodHead:
			return t.getBlobProperties, nil
		case http.MethodDelete:
			return t.deleteBlob, nil
		case http.MethodPut:
			return o.routePut(r, fromURL)
		}
		return nil, wrongMethod(r)
	case "block":
		return only(r, choose(fromURL, t.putBlockFromURL, t.putBlock), http.MethodPut)
	case "blocklist":
		return only(r, choose(put, t.putBlockList, t.getBlockList), http.MethodPut, http.MethodGet)
	case "metadata":
		return only(r, choose(put, t.setBlobMetadata, t.getBlobMetadata), http.MethodPut, http.MethodGet, http.MethodHead)
	case "properties":
		return only(r, t.setBlobProperties, http.MethodPut)
	case "tags":
		return only(r, choose(put, t.setBlobTags, t.getBlobTags), http.MethodPut, http.MethodGet)
	case "page":
		return only(r, choose(fromURL, t.putPageFromURL, t.putPage), http.MethodPut)
	case "appendblock":
		return only(r, choose(fromURL, t.appendBlockFromURL, t.appendBlock), http.MethodPut)
	case "immutabilitypolicies":
		return only(r, choose(put, t.setImmutabilityPolicy, t.deleteImmutabilityPolicy), http.MethodPut, http.MethodDelete)
	case "pagelist":
		return only(r, t.getPageRanges, http.MethodGet)
	case "query":
		return only(r, t.queryBlobContents, http.MethodPost)
	}
	if op := t.putOnly(r.Comp); op != nil {
		return only(r, op, http.MethodPut)
	}
	return nil, unknownQuery(r)
}

// putOnly returns the operation of a comp that has PUT alone.
func (t *operations) putOnly(comp string) *frontend.Operation {
	switch comp {
	case "lease":
		return t.leaseBlob
	case "snapshot":
		return t.snapshotBlob
	case "copy":
		return t.abortCopyBlob
	case "incrementalcopy":
		return t.incrementalCopyBlob
	case "undelete":
		return t.undeleteBlob
	case "tier":
		return t.setBlobTier
	case "expiry":
		return t.setBlobExpiry
	case "legalhold":
		return t.setLegalHold
	case "seal":
		return t.sealAppendBlob
	}
	return nil
}

// routePut tells apart the operations that are a PUT of a blob without comp.
func (o *Operations) routePut(r *frontend.Request, fromURL bool) (*frontend.Operation, error) {
	t := &o.ops
	kind := r.Header("X-Ms-Blob-Type")
	if fromURL {
		switch {
		case kind != "":
			return t.putBlobFromURL, nil
		case strings.EqualFold(r.Header("X-Ms-Requires-Sync"), "true"):
			return t.copyBlobFromURL, nil
		}
		return t.copyBlob, nil
	}
	switch kind {
	case "BlockBlob":
		return t.putBlob, nil
	case "PageBlob":
		return t.putPageBlob, nil
	case "AppendBlob":
		return t.putAppendBlob, nil
	case "":
		return nil, frontend.MissingHeader("x-ms-blob-type")
	}
	return nil, frontend.HeaderError(frontend.InvalidHeaderValue, "x-ms-blob-type", kind)
}
