//go:build clients

package clienttest

import (
	"bytes"
	"crypto/sha256"
	"io"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"

	"stamp/appliance"
)

// A blob of 5 GiB goes up and down through a process that stays small.
func TestHugeBlobInLittleMemory(t *testing.T) {
	size := int64(5) << 30
	if short() {
		size = 1 << 30
	}
	const limit = 512 << 20
	p := start(t)
	credential, err := azblob.NewSharedKeyCredential(string(appliance.DevAccount), appliance.DevKey)
	noError(t, err)
	client, err := azblob.NewClientWithSharedKeyCredential(p.Endpoint(), credential, nil)
	noError(t, err)
	_, err = client.CreateContainer(t.Context(), "huge", nil)
	noError(t, err)
	up, down := sha256.New(), sha256.New()
	_, err = client.UploadStream(t.Context(), "huge", "blob", io.TeeReader(pseudo(3, size), up),
		&blockblob.UploadStreamOptions{BlockSize: 64 << 20, Concurrency: 4})
	noError(t, err)
	got, err := client.DownloadStream(t.Context(), "huge", "blob", nil)
	noError(t, err)
	n, err := io.Copy(down, got.Body)
	noError(t, err)
	noError(t, got.Body.Close())
	if n != size || !bytes.Equal(up.Sum(nil), down.Sum(nil)) {
		t.Errorf("%d bytes came back with SHA-256 %x, want %d and %x", n, down.Sum(nil), size, up.Sum(nil))
	}
	peak := p.PeakMemory()
	t.Logf("peak of resident memory: %d MiB", peak>>20)
	if peak > limit {
		t.Errorf("stamp had %d MiB resident, want at most %d", peak>>20, limit>>20)
	}
}
