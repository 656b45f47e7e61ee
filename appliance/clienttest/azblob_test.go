//go:build clients

package clienttest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"

	"stamp/appliance"
)

func TestGoSDK(t *testing.T) {
	p := start(t)
	credential, err := azblob.NewSharedKeyCredential(string(appliance.DevAccount), appliance.DevKey)
	if err != nil {
		t.Fatal(err)
	}
	client, err := azblob.NewClientWithSharedKeyCredential(p.Endpoint(), credential, nil)
	if err != nil {
		t.Fatal(err)
	}
	box := client.ServiceClient().NewContainerClient("golang")
	if _, err := box.Create(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []struct {
		name string
		run  func(*testing.T, *container.Client)
	}{
		{"BigBlob", goBigBlob}, {"Blocks", goBlocks}, {"Ranges", goRanges}, {"Conditions", goConditions},
		{"Lists", goLists}, {"Checksums", goChecksums}, {"Signatures", goSignatures}, {"Copies", goUnsupported},
	} {
		t.Run(sub.name, func(t *testing.T) { sub.run(t, box) })
	}
	if _, err := box.Delete(t.Context(), nil); err != nil {
		t.Error(err)
	}
	_, err = box.GetProperties(t.Context(), nil)
	wantCode(t, err, 404, "")
}

// wantCode checks that a call was refused with a status and Azure's code.
func wantCode(t *testing.T, err error, status int, code bloberror.Code) {
	t.Helper()
	var resp *azcore.ResponseError
	if !errors.As(err, &resp) {
		t.Errorf("got %v, want status %d %s", err, status, code)
		return
	}
	if resp.StatusCode != status || code != "" && resp.ErrorCode != string(code) {
		t.Errorf("got status %d %s, want %d %s", resp.StatusCode, resp.ErrorCode, status, code)
	}
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pseudo is a stream of n bytes that follow from a seed.
func pseudo(seed byte, n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{seed}), n)
}

func goBigBlob(t *testing.T, box *container.Client) {
	b := box.NewBlockBlobClient("big/in blocks")
	up, down := sha256.New(), sha256.New()
	_, err := b.UploadStream(t.Context(), io.TeeReader(pseudo(1, bigBlob()), up),
		&blockblob.UploadStreamOptions{BlockSize: 8 << 20, Concurrency: 4})
	noError(t, err)
	got, err := b.DownloadStream(t.Context(), nil)
	noError(t, err)
	n, err := io.Copy(down, got.NewRetryReader(t.Context(), nil))
	noError(t, err)
	noError(t, got.Body.Close())
	if n != bigBlob() || !bytes.Equal(up.Sum(nil), down.Sum(nil)) {
		t.Errorf("%d bytes came back with SHA-256 %x, want %d and %x", n, down.Sum(nil), bigBlob(), up.Sum(nil))
	}
	// In parallel ranges, too.
	size := min(bigBlob(), 128<<20)
	whole := make([]byte, size)
	_, err = b.DownloadBuffer(t.Context(), whole, &blob.DownloadBufferOptions{Range: blob.HTTPRange{Count: size}, BlockSize: 5 << 20, Concurrency: 4})
	noError(t, err)
	want := sha256.New()
	io.Copy(want, pseudo(1, size))
	if sum := sha256.Sum256(whole); !bytes.Equal(sum[:], want.Sum(nil)) {
		t.Error("ranges differ from what was uploaded")
	}
}

func body(s string) io.ReadSeekCloser { return streaming.NopCloser(bytes.NewReader([]byte(s))) }

func goBlocks(t *testing.T, box *container.Client) {
	b := box.NewBlockBlobClient("blocks")
	ids := []string{"YWFh", "YmJi", "Y2Nj"}
	for i, id := range ids {
		_, err := b.StageBlock(t.Context(), id, body(fmt.Sprint("part", i, ".")), nil)
		noError(t, err)
	}
	_, err := b.GetProperties(t.Context(), nil)
	wantCode(t, err, 404, "") // HEAD has no body to hold a code
	list, err := b.GetBlockList(t.Context(), blockblob.BlockListTypeAll, nil)
	noError(t, err)
	if len(list.UncommittedBlocks) != 3 || len(list.CommittedBlocks) != 0 {
		t.Errorf("%d uncommitted and %d committed blocks, want 3 and 0", len(list.UncommittedBlocks), len(list.CommittedBlocks))
	}
	_, err = b.CommitBlockList(t.Context(), []string{"eHh4"}, nil)
	wantCode(t, err, 400, bloberror.InvalidBlockList)
	_, err = b.CommitBlockList(t.Context(), []string{ids[2], ids[0], ids[2]}, nil)
	noError(t, err)
	if got := read(t, b.BlobClient(), blob.HTTPRange{}); got != "part2.part0.part2." {
		t.Errorf("committed blob reads %q", got)
	}
	// Blocks of the blob can be used again, with a new one between.
	_, err = b.StageBlock(t.Context(), ids[1], body("new."), nil)
	noError(t, err)
	_, err = b.CommitBlockList(t.Context(), []string{ids[0], ids[1]}, &blockblob.CommitBlockListOptions{Metadata: map[string]*string{"k": to.Ptr("v")}})
	noError(t, err)
	if got := read(t, b.BlobClient(), blob.HTTPRange{}); got != "part0.new." {
		t.Errorf("blob committed again reads %q", got)
	}
	// All uncommitted blocks of a blob have ids of one length.
	_, err = b.StageBlock(t.Context(), "bG9uZ2VyIGlk", body("x"), nil)
	noError(t, err)
	_, err = b.StageBlock(t.Context(), ids[0], body("x"), nil)
	wantCode(t, err, 400, bloberror.InvalidBlobOrBlock)
}

func read(t *testing.T, b *blob.Client, r blob.HTTPRange) string {
	t.Helper()
	got, err := b.DownloadStream(t.Context(), &blob.DownloadStreamOptions{Range: r})
	noError(t, err)
	defer got.Body.Close()
	p, err := io.ReadAll(got.Body)
	noError(t, err)
	return string(p)
}

func goRanges(t *testing.T, box *container.Client) {
	b := box.NewBlockBlobClient("ranges")
	_, err := b.Upload(t.Context(), body("0123456789"), nil)
	noError(t, err)
	for _, tc := range []struct {
		r    blob.HTTPRange
		want string
	}{{blob.HTTPRange{Offset: 3}, "3456789"}, {blob.HTTPRange{Offset: 3, Count: 2}, "34"}, {blob.HTTPRange{Offset: 8, Count: 50}, "89"}} {
		if got := read(t, b.BlobClient(), tc.r); got != tc.want {
			t.Errorf("range %+v reads %q, want %q", tc.r, got, tc.want)
		}
	}
	_, err = b.DownloadStream(t.Context(), &blob.DownloadStreamOptions{Range: blob.HTTPRange{Offset: 10, Count: 1}})
	wantCode(t, err, 416, bloberror.InvalidRange)
	got, err := b.DownloadStream(t.Context(), &blob.DownloadStreamOptions{Range: blob.HTTPRange{Offset: 2, Count: 4}, RangeGetContentMD5: to.Ptr(true)})
	noError(t, err)
	got.Body.Close()
	if len(got.ContentMD5) != 16 {
		t.Errorf("range with MD5: %d bytes of it", len(got.ContentMD5))
	}
}

func goConditions(t *testing.T, box *container.Client) {
	b := box.NewBlockBlobClient("conditions")
	match := func(tag azcore.ETag) *blob.AccessConditions {
		return &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfMatch: &tag}}
	}
	none := func(tag azcore.ETag) *blob.AccessConditions {
		return &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfNoneMatch: &tag}}
	}
	put := func(s string, c *blob.AccessConditions) (azcore.ETag, error) {
		r, err := b.Upload(t.Context(), body(s), &blockblob.UploadOptions{AccessConditions: c})
		if err != nil {
			return "", err
		}
		return *r.ETag, nil
	}
	first, err := put("1", none("*"))
	noError(t, err)
	_, err = put("2", none("*"))
	wantCode(t, err, 409, bloberror.BlobAlreadyExists)
	second, err := put("2", match(first))
	noError(t, err)
	_, err = put("3", match(first))
	wantCode(t, err, 412, bloberror.ConditionNotMet)
	if first == second {
		t.Error("an overwrite kept the ETag")
	}
	// The SDK takes 304 for a success and leaves it to the reader.
	unchanged, err := b.DownloadStream(t.Context(), &blob.DownloadStreamOptions{AccessConditions: none(second)})
	noError(t, err)
	if unchanged.ErrorCode == nil || *unchanged.ErrorCode != string(bloberror.ConditionNotMet) {
		t.Errorf("read of what is unchanged: code %v, want ConditionNotMet", unchanged.ErrorCode)
	}
	_, err = b.SetMetadata(t.Context(), map[string]*string{"a": to.Ptr("b")}, &blob.SetMetadataOptions{AccessConditions: match(first)})
	wantCode(t, err, 412, bloberror.ConditionNotMet)
	_, err = b.SetMetadata(t.Context(), map[string]*string{"a": to.Ptr("b")}, &blob.SetMetadataOptions{AccessConditions: match(second)})
	noError(t, err)
	_, err = b.Delete(t.Context(), &blob.DeleteOptions{AccessConditions: match(second)})
	wantCode(t, err, 412, bloberror.ConditionNotMet)
	props, err := b.GetProperties(t.Context(), nil)
	noError(t, err)
	before := props.LastModified.Add(-time.Hour)
	_, err = b.Delete(t.Context(), &blob.DeleteOptions{AccessConditions: &blob.AccessConditions{
		ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfUnmodifiedSince: &before}}})
	wantCode(t, err, 412, bloberror.ConditionNotMet)
	_, err = b.Delete(t.Context(), &blob.DeleteOptions{AccessConditions: match(*props.ETag)})
	noError(t, err)
	_, err = b.Delete(t.Context(), nil)
	wantCode(t, err, 404, bloberror.BlobNotFound)
}

func goLists(t *testing.T, box *container.Client) {
	for i := range 30 {
		_, err := box.NewBlockBlobClient(fmt.Sprintf("lists/%d/%02d", i%3, i)).Upload(t.Context(), body("x"), nil)
		noError(t, err)
	}
	var sizes []int
	var last string
	flat := box.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Prefix: to.Ptr("lists/"), MaxResults: to.Ptr[int32](7)})
	for flat.More() {
		page, err := flat.NextPage(t.Context())
		noError(t, err)
		sizes = append(sizes, len(page.Segment.BlobItems))
		for _, item := range page.Segment.BlobItems {
			if *item.Name <= last {
				t.Errorf("%s is listed after %s", *item.Name, last)
			}
			last = *item.Name
		}
	}
	if fmt.Sprint(sizes) != "[7 7 7 7 2]" {
		t.Errorf("pages of %v names, want [7 7 7 7 2]", sizes)
	}
	prefixes := 0
	tree := box.NewListBlobsHierarchyPager("/", &container.ListBlobsHierarchyOptions{Prefix: to.Ptr("lists/"), MaxResults: to.Ptr[int32](2)})
	for tree.More() {
		page, err := tree.NextPage(t.Context())
		noError(t, err)
		prefixes += len(page.Segment.BlobPrefixes)
	}
	if prefixes != 3 {
		t.Errorf("%d prefixes, want 3", prefixes)
	}
}

func goChecksums(t *testing.T, box *container.Client) {
	b := box.NewBlockBlobClient("checksums")
	_, err := b.Upload(t.Context(), body("meow"), &blockblob.UploadOptions{TransactionalValidation: blob.TransferValidationTypeComputeCRC64()})
	noError(t, err)
	_, err = b.Upload(t.Context(), body("meow"), &blockblob.UploadOptions{TransactionalValidation: blob.TransferValidationTypeCRC64(7)})
	wantCode(t, err, 400, bloberror.CRC64Mismatch)
	_, err = b.StageBlock(t.Context(), "YWFh", body("meow"), &blockblob.StageBlockOptions{TransactionalValidation: blob.TransferValidationTypeMD5(make([]byte, 16))})
	wantCode(t, err, 400, bloberror.MD5Mismatch)
	if got := read(t, b.BlobClient(), blob.HTTPRange{}); got != "meow" {
		t.Errorf("after refused writes the blob reads %q", got)
	}
}

func goSignatures(t *testing.T, box *container.Client) {
	b := box.NewBlockBlobClient("signed")
	_, err := b.Upload(t.Context(), body("secret"), nil)
	noError(t, err)
	until := time.Now().Add(time.Hour)
	url, err := b.GetSASURL(sas.BlobPermissions{Read: true}, until, nil)
	noError(t, err)
	signed, err := blockblob.NewClientWithNoCredential(url, nil)
	noError(t, err)
	if got := read(t, signed.BlobClient(), blob.HTTPRange{}); got != "secret" {
		t.Errorf("by signature: %q", got)
	}
	_, err = signed.Upload(t.Context(), body("x"), nil)
	wantCode(t, err, 403, "")
	url, err = box.GetSASURL(sas.ContainerPermissions{List: true}, until, nil)
	noError(t, err)
	lister, err := container.NewClientWithNoCredential(url, nil)
	noError(t, err)
	_, err = lister.NewListBlobsFlatPager(nil).NextPage(t.Context())
	noError(t, err)
	_, err = lister.NewBlobClient("signed").DownloadStream(t.Context(), nil)
	wantCode(t, err, 403, "")

	// Nobody without a key or a signature.
	anonymous, err := blockblob.NewClientWithNoCredential(b.URL(), nil)
	noError(t, err)
	_, err = anonymous.DownloadStream(t.Context(), nil)
	var resp *azcore.ResponseError
	if !errors.As(err, &resp) || resp.StatusCode < 400 || resp.StatusCode >= 500 {
		t.Errorf("without credentials: %v", err)
	}
}

// What is not there yet says so, and changes nothing.
func goUnsupported(t *testing.T, box *container.Client) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	b := box.NewPageBlobClient("page")
	_, err := b.Create(ctx, 512, nil)
	var resp *azcore.ResponseError
	if err != nil && (!errors.As(err, &resp) || resp.StatusCode != http.StatusNotImplemented) {
		t.Errorf("page blob: %v, want success or status 501", err)
	}
}
