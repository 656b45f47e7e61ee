package blob_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	azb "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/service"

	"stamp/frontend"
)

func decimal(n int) string { return strconv.Itoa(n) }

func download(t *testing.T, c *azblob.Client, box, name string, rng azb.HTTPRange) []byte {
	t.Helper()
	resp, err := c.DownloadStream(context.Background(), box, name, &azblob.DownloadStreamOptions{Range: rng})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	p, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSDKUploadAndDownload(t *testing.T) {
	s := newServer(t, frontend.Options{})
	c, ctx := s.sdk(), t.Context()
	s.makeContainer("box")
	for i, n := range []int{0, 1, 4096, 16 << 10, 16<<10 + 1, 1 << 20, 4<<20 + 5, 9 << 20} {
		name, want := fmt.Sprintf("size %d/ä+b", n), randomBytes(uint64(i), n)
		if _, err := c.UploadBuffer(ctx, "box", name, want, nil); err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if got := download(t, c, "box", name, azb.HTTPRange{}); !bytes.Equal(got, want) {
			t.Fatalf("%d bytes: got others", n)
		}
		p, err := c.ServiceClient().NewContainerClient("box").NewBlobClient(name).GetProperties(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		sum := md5.Sum(want)
		if *p.ContentLength != int64(n) || !bytes.Equal(p.ContentMD5, sum[:]) || *p.BlobType != azb.BlobTypeBlockBlob ||
			*p.ContentType != "application/octet-stream" || p.ETag == nil || p.CreationTime == nil || *p.LeaseState != "available" {
			t.Errorf("%d bytes: properties %+v", n, p)
		}
		if n > 10 {
			if got := download(t, c, "box", name, azb.HTTPRange{Offset: 3, Count: int64(n) - 7}); !bytes.Equal(got, want[3:n-4]) {
				t.Errorf("%d bytes: a range differs", n)
			}
			if got := download(t, c, "box", name, azb.HTTPRange{Offset: int64(n) - 2}); !bytes.Equal(got, want[n-2:]) {
				t.Errorf("%d bytes: an open range differs", n)
			}
		}
	}
	// In blocks, several at once.
	want := randomBytes(99, 10<<20+7)
	if _, err := c.UploadStream(ctx, "box", "blocks", bytes.NewReader(want), &azblob.UploadStreamOptions{BlockSize: 1 << 20, Concurrency: 4}); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := c.DownloadBuffer(ctx, "box", "blocks", got, &azblob.DownloadBufferOptions{BlockSize: 1 << 20, Concurrency: 4}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("what was uploaded in blocks differs")
	}
	if _, err := c.DeleteBlob(ctx, "box", "blocks", nil); err != nil {
		t.Error(err)
	}
	_, err := c.DownloadStream(ctx, "box", "blocks", nil)
	wantCode(t, err, bloberror.BlobNotFound)
}

func TestSDKBlockList(t *testing.T) {
	s := newServer(t, frontend.Options{})
	ctx := t.Context()
	s.makeContainer("box")
	b := s.sdk().ServiceClient().NewContainerClient("box").NewBlockBlobClient("blob")
	id := func(i int) string { return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "block%03d", i)) }
	stage := func(i int, p string) {
		t.Helper()
		if _, err := b.StageBlock(ctx, id(i), streaming.NopCloser(strings.NewReader(p)), nil); err != nil {
			t.Fatal(err)
		}
	}
	stage(1, "one")
	stage(2, "two")
	list, err := b.GetBlockList(ctx, blockblob.BlockListTypeAll, nil)
	if err != nil || len(list.CommittedBlocks) != 0 || len(list.UncommittedBlocks) != 2 || *list.UncommittedBlocks[1].Size != 3 {
		t.Fatalf("before the commit: %+v, %v", list, err)
	}
	if _, err := b.GetProperties(ctx, nil); !bloberror.HasCode(err, bloberror.BlobNotFound) {
		t.Errorf("uncommitted blocks are no blob: %v", err)
	}
	resp, err := b.CommitBlockList(ctx, []string{id(2), id(1), id(2)}, &blockblob.CommitBlockListOptions{
		Metadata:    map[string]*string{"Key": to.Ptr("value")},
		HTTPHeaders: &azb.HTTPHeaders{BlobContentType: to.Ptr("text/plain"), BlobCacheControl: to.Ptr("no-cache")},
	})
	if err != nil || resp.ETag == nil {
		t.Fatal(err)
	}
	if got := download(t, s.sdk(), "box", "blob", azb.HTTPRange{}); string(got) != "twoonetwo" {
		t.Errorf("got %q", got)
	}
	list, err = b.GetBlockList(ctx, blockblob.BlockListTypeCommitted, nil)
	if err != nil || len(list.CommittedBlocks) != 3 || *list.CommittedBlocks[0].Name != id(2) || *list.BlobContentLength != 9 || *list.ETag != *resp.ETag {
		t.Errorf("after the commit: %+v, %v", list, err)
	}
	p, err := b.GetProperties(ctx, nil)
	if err != nil || *p.ContentType != "text/plain" || *p.CacheControl != "no-cache" || *p.Metadata["Key"] != "value" {
		t.Errorf("properties %+v, %v", p, err)
	}
	_, err = b.CommitBlockList(ctx, []string{id(7)}, nil)
	wantCode(t, err, bloberror.InvalidBlockList)
	_, err = b.StageBlock(ctx, base64.StdEncoding.EncodeToString([]byte("longer than the others")), streaming.NopCloser(strings.NewReader("x")), nil)
	if _, stageErr := b.StageBlock(ctx, id(3), streaming.NopCloser(strings.NewReader("x")), nil); err == nil && stageErr == nil {
		t.Error("two block ids of different length were accepted")
	}
}

func TestSDKConditions(t *testing.T) {
	s := newServer(t, frontend.Options{})
	ctx := t.Context()
	s.makeContainer("box")
	b := s.sdk().ServiceClient().NewContainerClient("box").NewBlockBlobClient("blob")
	body := func() io.ReadSeekCloser { return streaming.NopCloser(strings.NewReader("meow")) }
	up, err := b.Upload(ctx, body(), nil)
	if err != nil {
		t.Fatal(err)
	}
	other := azcore.ETag(`"0x1"`)
	before, after := up.LastModified.Add(-time.Minute), up.LastModified.Add(time.Minute)
	any := azcore.ETagAny
	type modified = azb.ModifiedAccessConditions
	with := func(m modified) *azb.AccessConditions { return &azb.AccessConditions{ModifiedAccessConditions: &m} }
	reads := []struct {
		name string
		m    modified
		code bloberror.Code // "" is success
	}{
		{"If-Match", modified{IfMatch: up.ETag}, ""},
		{"If-Match *", modified{IfMatch: &any}, ""},
		{"If-Match other", modified{IfMatch: &other}, bloberror.ConditionNotMet},
		{"If-None-Match", modified{IfNoneMatch: up.ETag}, bloberror.ConditionNotMet},
		{"If-None-Match other", modified{IfNoneMatch: &other}, ""},
		{"If-Modified-Since before", modified{IfModifiedSince: &before}, ""},
		{"If-Modified-Since after", modified{IfModifiedSince: &after}, bloberror.ConditionNotMet},
		{"If-Unmodified-Since before", modified{IfUnmodifiedSince: &before}, bloberror.ConditionNotMet},
		{"If-Unmodified-Since after", modified{IfUnmodifiedSince: &after}, ""},
		{"both of one kind", modified{IfMatch: up.ETag, IfUnmodifiedSince: &after}, ""},
		{"of two kinds", modified{IfMatch: up.ETag, IfModifiedSince: &before}, ""},
	}
	check := func(name string, err error, code bloberror.Code) {
		t.Helper()
		if code == "" && err != nil || code != "" && !bloberror.HasCode(err, code) {
			t.Errorf("%s: got %v, want %q", name, err, code)
		}
	}
	for _, tt := range reads {
		_, err := b.GetProperties(ctx, &azb.GetPropertiesOptions{AccessConditions: with(tt.m)})
		check("properties, "+tt.name, err, tt.code)
		resp, err := b.DownloadStream(ctx, &azb.DownloadStreamOptions{AccessConditions: with(tt.m)})
		if err == nil {
			resp.Body.Close()
			if resp.ErrorCode != nil { // the SDK takes 304 for success
				err = &azcore.ResponseError{ErrorCode: *resp.ErrorCode}
			}
		}
		check("download, "+tt.name, err, tt.code)
	}
	for _, tt := range reads {
		if tt.code == "" {
			continue
		}
		_, err := b.Upload(ctx, body(), &blockblob.UploadOptions{AccessConditions: with(tt.m)})
		check("upload, "+tt.name, err, tt.code)
		_, err = b.SetMetadata(ctx, nil, &azb.SetMetadataOptions{AccessConditions: with(tt.m)})
		check("metadata, "+tt.name, err, tt.code)
		_, err = b.SetHTTPHeaders(ctx, azb.HTTPHeaders{}, &azb.SetHTTPHeadersOptions{AccessConditions: with(tt.m)})
		check("headers, "+tt.name, err, tt.code)
		_, err = b.Delete(ctx, &azb.DeleteOptions{AccessConditions: with(tt.m)})
		check("delete, "+tt.name, err, tt.code)
	}
	_, err = b.Upload(ctx, body(), &blockblob.UploadOptions{AccessConditions: with(modified{IfMatch: up.ETag, IfModifiedSince: &before})})
	check("upload, of two kinds", err, "MultipleConditionHeadersNotSupported")
	_, err = b.Upload(ctx, body(), &blockblob.UploadOptions{AccessConditions: with(modified{IfNoneMatch: &any})})
	check("upload, If-None-Match *", err, bloberror.BlobAlreadyExists)
	fresh := s.sdk().ServiceClient().NewContainerClient("box").NewBlockBlobClient("fresh")
	_, err = fresh.Upload(ctx, body(), &blockblob.UploadOptions{AccessConditions: with(modified{IfMatch: &any})})
	check("upload of nothing, If-Match *", err, bloberror.ConditionNotMet)
	_, err = fresh.Upload(ctx, body(), &blockblob.UploadOptions{AccessConditions: with(modified{IfNoneMatch: &any})})
	check("first upload, If-None-Match *", err, "")
	_, err = b.Delete(ctx, &azb.DeleteOptions{AccessConditions: with(modified{IfMatch: up.ETag})})
	check("delete, If-Match", err, "")
}

func TestSDKPropertiesAndMetadata(t *testing.T) {
	s := newServer(t, frontend.Options{})
	ctx := t.Context()
	s.makeContainer("box")
	b := s.sdk().ServiceClient().NewContainerClient("box").NewBlockBlobClient("blob")
	headers := azb.HTTPHeaders{
		BlobContentType: to.Ptr("text/plain"), BlobContentEncoding: to.Ptr("gzip"), BlobContentLanguage: to.Ptr("de"),
		BlobContentDisposition: to.Ptr("attachment"), BlobCacheControl: to.Ptr("max-age=1"),
	}
	if _, err := b.Upload(ctx, streaming.NopCloser(strings.NewReader("meow")), &blockblob.UploadOptions{
		HTTPHeaders: &headers, Metadata: map[string]*string{"One": to.Ptr("1")}, Tier: to.Ptr(azb.AccessTierCool)}); err != nil {
		t.Fatal(err)
	}
	p, err := b.GetProperties(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if *p.ContentType != "text/plain" || *p.ContentEncoding != "gzip" || *p.ContentLanguage != "de" ||
		*p.ContentDisposition != "attachment" || *p.CacheControl != "max-age=1" || *p.Metadata["One"] != "1" || *p.AccessTier != "Cool" {
		t.Errorf("got %+v", p)
	}
	if _, err := b.SetMetadata(ctx, map[string]*string{"Two": to.Ptr("2")}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := b.SetHTTPHeaders(ctx, azb.HTTPHeaders{BlobContentType: to.Ptr("a/b")}, nil); err != nil {
		t.Fatal(err)
	}
	q, err := b.GetProperties(ctx, nil)
	if err != nil || *q.ContentType != "a/b" || q.CacheControl != nil || q.ContentMD5 != nil || len(q.Metadata) != 1 || *q.Metadata["Two"] != "2" || *q.ETag == *p.ETag {
		t.Errorf("got %+v, %v", q, err)
	}
	box := s.sdk().ServiceClient().NewContainerClient("box")
	if _, err := box.SetMetadata(ctx, &container.SetMetadataOptions{Metadata: map[string]*string{"Box": to.Ptr("yes")}}); err != nil {
		t.Fatal(err)
	}
	cp, err := box.GetProperties(ctx, nil)
	if err != nil || *cp.Metadata["Box"] != "yes" || *cp.LeaseState != "available" || cp.ETag == nil {
		t.Errorf("got %+v, %v", cp, err)
	}
	if acl, err := box.GetAccessPolicy(ctx, nil); err != nil || len(acl.SignedIdentifiers) != 0 || acl.BlobPublicAccess != nil {
		t.Errorf("got %+v, %v", acl, err)
	}
	svc := s.sdk().ServiceClient()
	if info, err := svc.GetAccountInfo(ctx, nil); err != nil || *info.AccountKind != "StorageV2" {
		t.Errorf("account information: %+v, %v", info, err)
	}
	if props, err := svc.GetProperties(ctx, nil); err != nil || *props.DeleteRetentionPolicy.Enabled {
		t.Errorf("service properties: %+v, %v", props, err)
	}
}

func TestSDKContainers(t *testing.T) {
	s := newServer(t, frontend.Options{})
	c, ctx := s.sdk(), t.Context()
	names := []string{"alpha", "alpine", "beta", "gamma"}
	for _, n := range names {
		if _, err := c.CreateContainer(ctx, n, &azblob.CreateContainerOptions{Metadata: map[string]*string{"Name": to.Ptr(n)}}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.CreateContainer(ctx, "beta", nil)
	wantCode(t, err, bloberror.ContainerAlreadyExists)
	_, err = c.CreateContainer(ctx, "Beta", nil)
	wantCode(t, err, bloberror.InvalidResourceName)
	_, err = c.CreateContainer(ctx, "public", &azblob.CreateContainerOptions{Access: to.Ptr(azblob.PublicAccessTypeBlob)})
	wantCode(t, err, "PublicAccessNotPermitted")
	list := func(opts *azblob.ListContainersOptions) (got []string) {
		t.Helper()
		for pager := c.NewListContainersPager(opts); pager.More(); {
			page, err := pager.NextPage(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, item := range page.ContainerItems {
				got = append(got, *item.Name)
				if opts.Include.Metadata && *item.Metadata["name"] != *item.Name {
					t.Errorf("metadata of %s: %v", *item.Name, item.Metadata)
				}
			}
		}
		return got
	}
	if got := list(&azblob.ListContainersOptions{}); !slices.Equal(got, names) {
		t.Errorf("got %v", got)
	}
	if got := list(&azblob.ListContainersOptions{MaxResults: to.Ptr[int32](1), Include: azblob.ListContainersInclude{Metadata: true}}); !slices.Equal(got, names) {
		t.Errorf("page by page: got %v", got)
	}
	if got := list(&azblob.ListContainersOptions{Prefix: to.Ptr("alp")}); !slices.Equal(got, names[:2]) {
		t.Errorf("by prefix: got %v", got)
	}
	if _, err := c.UploadBuffer(ctx, "beta", "blob", []byte("meow"), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.DeleteContainer(ctx, "beta", nil); err != nil {
		t.Fatal(err)
	}
	_, err = c.DeleteContainer(ctx, "beta", nil)
	wantCode(t, err, bloberror.ContainerNotFound)
	_, err = c.DownloadStream(ctx, "beta", "blob", nil)
	wantCode(t, err, bloberror.ContainerNotFound)
	_, err = c.UploadBuffer(ctx, "beta", "blob", make([]byte, 100<<10), nil)
	wantCode(t, err, bloberror.ContainerNotFound)
	if _, err := c.CreateContainer(ctx, "beta", nil); err != nil {
		t.Fatal(err)
	}
	_, err = c.DownloadStream(ctx, "beta", "blob", nil)
	wantCode(t, err, bloberror.BlobNotFound)
}

func TestSDKLists(t *testing.T) {
	s := newServer(t, frontend.Options{})
	c, ctx := s.sdk(), t.Context()
	s.makeContainer("box")
	names := []string{"a", "a/1", "a/2", "a/b/3", "b&<>\"'", "c//d", "c\x01\uFFFE", "é/ü", "z"}
	slices.Sort(names)
	for _, n := range names {
		if _, err := c.UploadBuffer(ctx, "box", n, []byte(n), &azblob.UploadBufferOptions{Metadata: map[string]*string{"M": to.Ptr("<v>")}}); err != nil {
			t.Fatalf("%q: %v", n, err)
		}
	}
	box := c.ServiceClient().NewContainerClient("box")
	if _, err := box.NewBlockBlobClient("staged").StageBlock(ctx, "QUFB", streaming.NopCloser(strings.NewReader("x")), nil); err != nil {
		t.Fatal(err)
	}
	flat := func(opts *container.ListBlobsFlatOptions) (got []string) {
		t.Helper()
		for pager := box.NewListBlobsFlatPager(opts); pager.More(); {
			page, err := pager.NextPage(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, it := range page.Segment.BlobItems {
				got = append(got, *it.Name)
				if *it.Name == "staged" {
					continue
				}
				sum := md5.Sum([]byte(*it.Name))
				if p := it.Properties; *p.ContentLength != int64(len(*it.Name)) || !bytes.Equal(p.ContentMD5, sum[:]) ||
					*p.BlobType != "BlockBlob" || *p.AccessTier != "Hot" || p.ETag == nil || p.LastModified == nil || p.CreationTime == nil {
					t.Errorf("%q: %+v", *it.Name, p)
				}
				if opts.Include.Metadata && *it.Metadata["m"] != "<v>" {
					t.Errorf("%q: metadata %v", *it.Name, it.Metadata)
				}
			}
		}
		return got
	}
	if got := flat(&container.ListBlobsFlatOptions{}); !slices.Equal(got, names) {
		t.Errorf("got %q\nwant %q", got, names)
	}
	if got := flat(&container.ListBlobsFlatOptions{MaxResults: to.Ptr[int32](2), Include: container.ListBlobsInclude{Metadata: true, Snapshots: true}}); !slices.Equal(got, names) {
		t.Errorf("page by page: got %q", got)
	}
	if got := flat(&container.ListBlobsFlatOptions{Prefix: to.Ptr("a/")}); !slices.Equal(got, []string{"a/1", "a/2", "a/b/3"}) {
		t.Errorf("by prefix: got %q", got)
	}
	if got := flat(&container.ListBlobsFlatOptions{Prefix: to.Ptr("st"), Include: container.ListBlobsInclude{UncommittedBlobs: true}}); !slices.Equal(got, []string{"staged"}) {
		t.Errorf("uncommitted: got %q", got)
	}
	var got []string
	for pager := box.NewListBlobsHierarchyPager("/", &container.ListBlobsHierarchyOptions{MaxResults: to.Ptr[int32](3)}); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range page.Segment.BlobPrefixes {
			got = append(got, *p.Name)
		}
		for _, b := range page.Segment.BlobItems {
			got = append(got, *b.Name)
		}
	}
	slices.Sort(got)
	if want := []string{"a", "a/", "b&<>\"'", "c\x01\uFFFE", "c/", "z", "é/"}; !slices.Equal(got, want) {
		t.Errorf("by delimiter: got %q, want %q", got, want)
	}
	if _, err := s.sdk().ServiceClient().NewContainerClient("nobox").NewListBlobsFlatPager(nil).NextPage(ctx); !bloberror.HasCode(err, bloberror.ContainerNotFound) {
		t.Errorf("no container: %v", err)
	}
}

func TestSDKSharedAccessSignatures(t *testing.T) {
	s := newServer(t, frontend.Options{})
	ctx := t.Context()
	s.makeContainer("box")
	if _, err := s.sdk().UploadBuffer(ctx, "box", "blob", []byte("meow"), nil); err != nil {
		t.Fatal(err)
	}
	cred, err := azblob.NewSharedKeyCredential(testAccount, testKey)
	if err != nil {
		t.Fatal(err)
	}
	expiry := time.Now().Add(time.Hour)
	client := func(query string) *azblob.Client {
		c, err := azblob.NewClientWithNoCredential(s.url+"?"+query, s.clientOptions())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	box := func(perms string, blob string) *azblob.Client {
		v, err := sas.BlobSignatureValues{Protocol: sas.ProtocolHTTPSandHTTP, ExpiryTime: expiry, Permissions: perms,
			ContainerName: "box", BlobName: blob, ContentType: "text/cat"}.SignWithSharedKey(cred)
		if err != nil {
			t.Fatal(err)
		}
		return client(v.Encode())
	}
	acct := func(perms, types string) *azblob.Client {
		v, err := sas.AccountSignatureValues{Protocol: sas.ProtocolHTTPSandHTTP, ExpiryTime: expiry, Permissions: perms,
			ResourceTypes: types}.SignWithSharedKey(cred)
		if err != nil {
			t.Fatal(err)
		}
		return client(v.Encode())
	}
	get := func(c *azblob.Client) error {
		resp, err := c.DownloadStream(ctx, "box", "blob", nil)
		if err == nil {
			if *resp.ContentType != "text/cat" && *resp.ContentType != "application/octet-stream" {
				t.Errorf("content type %q", *resp.ContentType)
			}
			resp.Body.Close()
		}
		return err
	}
	put := func(c *azblob.Client, name string) error {
		_, err := c.ServiceClient().NewContainerClient("box").NewBlockBlobClient(name).
			Upload(ctx, streaming.NopCloser(strings.NewReader("purr")), nil)
		return err
	}
	list := func(c *azblob.Client) error {
		_, err := c.NewListBlobsFlatPager("box", nil).NextPage(ctx)
		return err
	}
	remove := func(c *azblob.Client) error { _, err := c.DeleteContainer(ctx, "box", nil); return err }
	const mismatch = bloberror.AuthorizationPermissionMismatch
	tests := []struct {
		name string
		err  error
		want bloberror.Code
	}{
		{"container r: get", get(box("r", "")), ""},
		{"container r: put", put(box("r", ""), "x"), mismatch},
		{"container r: list", list(box("r", "")), mismatch},
		{"container l: list", list(box("l", "")), ""},
		{"container rwdl: delete container", remove(box("rwdl", "")), bloberror.AuthorizationFailure},
		{"container c: create", put(box("c", ""), "fresh"), ""},
		{"container c: overwrite", put(box("c", ""), "fresh"), bloberror.UnauthorizedBlobOverwrite},
		{"container w: overwrite", put(box("w", ""), "fresh"), ""},
		{"blob r: get", get(box("r", "blob")), ""},
		{"other blob r: get", get(box("r", "other")), bloberror.AuthenticationFailed},
		{"blob r: list", list(box("r", "blob")), bloberror.AuthenticationFailed},
		{"account r, o: get", get(acct("r", "o")), ""},
		{"account r, c: get", get(acct("r", "c")), bloberror.AuthorizationResourceTypeMismatch},
		{"account rl, co: list", list(acct("rl", "co")), ""},
		{"account c, o: overwrite", put(acct("c", "o"), "fresh"), bloberror.UnauthorizedBlobOverwrite},
		{"account r, o: put", put(acct("r", "o"), "fresh"), mismatch},
		{"account d, c: delete container", remove(acct("d", "c")), ""},
	}
	for _, tt := range tests {
		if tt.want == "" && tt.err != nil || tt.want != "" && !bloberror.HasCode(tt.err, tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, tt.err, tt.want)
		}
	}
	anonymous, err := azblob.NewClientWithNoCredential(s.url, s.clientOptions())
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, get(anonymous), "NoAuthenticationInformation")
}

func TestSDKMissingOperations(t *testing.T) {
	s := newServer(t, frontend.Options{})
	ctx := t.Context()
	s.makeContainer("box")
	c := s.sdk()
	if _, err := c.UploadBuffer(ctx, "box", "blob", []byte("meow"), nil); err != nil {
		t.Fatal(err)
	}
	b := c.ServiceClient().NewContainerClient("box").NewBlobClient("blob")
	_, err := b.CreateSnapshot(ctx, nil)
	wantCode(t, err, "NotImplemented")
	_, err = b.SetTier(ctx, azb.AccessTierCool, nil)
	wantCode(t, err, "NotImplemented")
	_, err = b.StartCopyFromURL(ctx, s.url+"/box/blob", nil)
	wantCode(t, err, "NotImplemented")
	_, err = b.SetTags(ctx, map[string]string{"a": "b"}, nil)
	wantCode(t, err, "NotImplemented")
	_, err = c.ServiceClient().NewContainerClient("box").NewAppendBlobClient("log").Create(ctx, nil)
	wantCode(t, err, "NotImplemented")
	_, err = c.ServiceClient().NewContainerClient("box").NewPageBlobClient("disk").Create(ctx, 512, nil)
	wantCode(t, err, "NotImplemented")
	_, err = c.ServiceClient().SetProperties(ctx, &service.SetPropertiesOptions{})
	wantCode(t, err, "NotImplemented")
	_, err = c.ServiceClient().NewContainerClient("box").SetAccessPolicy(ctx, nil)
	wantCode(t, err, "NotImplemented")
}

func TestDiskFull(t *testing.T) {
	s := newServer(t, frontend.Options{})
	c, ctx := s.sdk(), t.Context()
	s.makeContainer("box")
	if _, err := c.UploadBuffer(ctx, "box", "blob", []byte("meow"), nil); err != nil {
		t.Fatal(err)
	}
	s.full.Store(true)
	for _, n := range []int{4 << 10, 64 << 10} {
		_, err := c.UploadBuffer(ctx, "box", "more", make([]byte, n), nil)
		wantCode(t, err, "InsufficientStorage")
	}
	if _, err := c.DeleteBlob(ctx, "box", "blob", nil); err != nil {
		t.Errorf("deleting from a full disk: %v", err)
	}
}
