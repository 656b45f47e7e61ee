package server

import (
	"testing"

	"go.uber.org/goleak"

	"stamp/partition/rangestore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOptions(t *testing.T) {
	if _, err := Open(t.Context(), Options{}); err == nil {
		t.Error("opened without a client")
	}
	if Folder(Blob) != "/blob/1/" || len(Ranges()) != 4 || rangestore.DefaultMemTableSize != 32<<20 {
		t.Error("names and sizes changed")
	}
}
