package server

import (
	"bytes"
	"encoding/hex"
	"os"
	"testing"

	"stamp"
)

func TestCatalogueFormat(t *testing.T) {
	c := catalogue{generation: 9, next: 300}
	text, err := os.ReadFile("testdata/catalogue.golden")
	check(t, err)
	if got := hex.Dump(c.encode()); got != string(text) {
		t.Errorf("got\n%swant\n%s", got, text)
	}
	if got, err := decodeCatalogue(c.encode()); got != c || err != nil {
		t.Errorf("got %+v, %v", got, err)
	}
}

func FuzzCatalogue(f *testing.F) {
	f.Add(catalogue{generation: 9, next: 300}.encode())
	f.Fuzz(func(t *testing.T, p []byte) {
		c, err := decodeCatalogue(p)
		if err != nil {
			if stamp.KindOf(err) != stamp.Corrupt {
				t.Error(err)
			}
			return
		}
		if !bytes.Equal(c.encode(), p) {
			t.Errorf("%x is read as %+v", p, c)
		}
	})
}
