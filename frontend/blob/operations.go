package blob

import (
	"stamp/frontend"
	"stamp/frontend/auth"
)

// operations holds every documented operation of the Blob service.
type operations struct {
	listContainers, getServiceProperties, setServiceProperties, getServiceStats *frontend.Operation
	getUserDelegationKey, getAccountInformation, batch, findBlobsByTags         *frontend.Operation
	preflight                                                                   *frontend.Operation

	createContainer, getContainerProperties, deleteContainer *frontend.Operation
	getContainerMetadata, setContainerMetadata               *frontend.Operation
	getContainerACL, setContainerACL, leaseContainer         *frontend.Operation
	restoreContainer, listBlobs, findBlobsInContainer        *frontend.Operation

	putBlob, putPageBlob, putAppendBlob, putBlobFromURL, copyBlob, copyBlobFromURL *frontend.Operation
	abortCopyBlob, incrementalCopyBlob, getBlob, getBlobProperties, deleteBlob     *frontend.Operation
	setBlobProperties, getBlobMetadata, setBlobMetadata, leaseBlob, snapshotBlob   *frontend.Operation
	undeleteBlob, setBlobTier, getBlobTags, setBlobTags, setBlobExpiry             *frontend.Operation
	setImmutabilityPolicy, deleteImmutabilityPolicy, setLegalHold                  *frontend.Operation
	queryBlobContents                                                              *frontend.Operation
	putBlock, putBlockFromURL, putBlockList, getBlockList                          *frontend.Operation
	putPage, putPageFromURL, getPageRanges                                         *frontend.Operation
	appendBlock, appendBlockFromURL, sealAppendBlob                                *frontend.Operation

	all []*frontend.Operation
}

// table makes the operations. The second and third column are what an account
// SAS (resource type and permissions) and a service SAS need, as documented in
// "Create an account SAS" and "Create a service SAS".
func (o *Operations) table() operations {
	var t operations
	op := func(name string, resource byte, account, service string, serve func(*frontend.Request) error) *frontend.Operation {
		made := &frontend.Operation{
			Name:   name,
			Access: auth.Access{Resource: resource, Account: account, Service: service},
			Serve:  serve,
		}
		t.all = append(t.all, made)
		return made
	}
	t.listContainers = op("ListContainers", 's', "l", "", o.listContainers)
	t.getServiceProperties = op("GetBlobServiceProperties", 's', "r", "", o.getServiceProperties)
	t.setServiceProperties = op("SetBlobServiceProperties", 's', "w", "", nil)
	t.getServiceStats = op("GetBlobServiceStats", 's', "r", "", nil)
	t.getUserDelegationKey = op("GetUserDelegationKey", 's', "", "", nil)
	t.getAccountInformation = op("GetAccountInformation", 0, "*", "*", o.getAccountInformation)
	t.batch = op("BlobBatch", 0, "*", "*", nil)
	t.findBlobsByTags = op("FindBlobsByTags", 's', "f", "", nil)
	t.preflight = op("PreflightBlobRequest", 0, "", "", o.preflight)
	t.preflight.Anonymous = true

	t.createContainer = op("CreateContainer", 'c', "cw", "", o.createContainer)
	t.getContainerProperties = op("GetContainerProperties", 'c', "r", "", o.getContainerProperties)
	t.getContainerMetadata = op("GetContainerMetadata", 'c', "r", "", o.getContainerMetadata)
	t.setContainerMetadata = op("SetContainerMetadata", 'c', "w", "", o.setContainerMetadata)
	t.getContainerACL = op("GetContainerACL", 'c', "", "", o.getContainerACL)
	t.setContainerACL = op("SetContainerACL", 'c', "", "", nil)
	t.deleteContainer = op("DeleteContainer", 'c', "d", "", o.deleteContainer)
	t.leaseContainer = op("LeaseContainer", 'c', "wd", "", nil)
	t.restoreContainer = op("RestoreContainer", 'c', "w", "", nil)
	t.listBlobs = op("ListBlobs", 'c', "l", "l", o.listBlobs)
	t.findBlobsInContainer = op("FindBlobsByTagsInContainer", 'c', "f", "f", nil)

	t.putBlob = op("PutBlob", 'o', "cw", "cw", o.putBlob)
	t.putPageBlob = op("PutBlob (page blob)", 'o', "cw", "cw", nil)
	t.putAppendBlob = op("PutBlob (append blob)", 'o', "cw", "cw", nil)
	t.putBlobFromURL = op("PutBlobFromURL", 'o', "cw", "cw", nil)
	t.getBlob = op("GetBlob", 'o', "r", "r", o.getBlob)
	t.getBlobProperties = op("GetBlobProperties", 'o', "r", "r", o.getBlobProperties)
	t.setBlobProperties = op("SetBlobProperties", 'o', "w", "w", o.setBlobProperties)
	t.getBlobMetadata = op("GetBlobMetadata", 'o', "r", "r", o.getBlobMetadata)
	t.setBlobMetadata = op("SetBlobMetadata", 'o', "w", "w", o.setBlobMetadata)
	t.getBlobTags = op("GetBlobTags", 'o', "t", "t", nil)
	t.setBlobTags = op("SetBlobTags", 'o', "t", "t", nil)
	t.leaseBlob = op("LeaseBlob", 'o', "wd", "wd", nil)
	t.snapshotBlob = op("SnapshotBlob", 'o', "cw", "cw", nil)
	t.copyBlob = op("CopyBlob", 'o', "cw", "cw", nil)
	t.copyBlobFromURL = op("CopyBlobFromURL", 'o', "cw", "cw", nil)
	t.abortCopyBlob = op("AbortCopyBlob", 'o', "w", "w", nil)
	t.incrementalCopyBlob = op("IncrementalCopyBlob", 'o', "cw", "cw", nil)
	t.deleteBlob = op("DeleteBlob", 'o', "d", "d", o.deleteBlob)
	t.undeleteBlob = op("UndeleteBlob", 'o', "w", "w", nil)
	t.setBlobTier = op("SetBlobTier", 'o', "w", "w", nil)
	t.setBlobExpiry = op("SetBlobExpiry", 'o', "w", "w", nil)
	t.setImmutabilityPolicy = op("SetBlobImmutabilityPolicy", 'o', "i", "i", nil)
	t.deleteImmutabilityPolicy = op("DeleteBlobImmutabilityPolicy", 'o', "i", "i", nil)
	t.setLegalHold = op("SetBlobLegalHold", 'o', "i", "i", nil)
	t.queryBlobContents = op("QueryBlobContents", 'o', "r", "r", nil)

	t.putBlock = op("PutBlock", 'o', "w", "w", o.putBlock)
	t.putBlockFromURL = op("PutBlockFromURL", 'o', "w", "w", nil)
	t.putBlockList = op("PutBlockList", 'o', "w", "w", o.putBlockList)
	t.getBlockList = op("GetBlockList", 'o', "r", "r", o.getBlockList)
	t.putPage = op("PutPage", 'o', "w", "w", nil)
	t.putPageFromURL = op("PutPageFromURL", 'o', "w", "w", nil)
	t.getPageRanges = op("GetPageRanges", 'o', "r", "r", nil)
	t.appendBlock = op("AppendBlock", 'o', "aw", "aw", nil)
	t.appendBlockFromURL = op("AppendBlockFromURL", 'o', "aw", "aw", nil)
	t.sealAppendBlob = op("AppendBlobSeal", 'o', "aw", "aw", nil)
	return t
}

// All returns every documented operation; the Serve of those that are missing
// is nil.
func (o *Operations) All() []*frontend.Operation { return o.ops.all }
