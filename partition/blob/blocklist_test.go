package blob

import (
	"encoding/hex"
	"os"
	"reflect"
	"testing"
)

func TestBlockListFormatIsForEver(t *testing.T) {
	blocks := []committedBlock{{"a", 1}, {"block-000002", 4 << 20}, {"\x00\xff", 4000 << 20}}
	enc := encodeBlocks(blocks)
	want, err := os.ReadFile("testdata/blocks.golden")
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(enc) + "\n"; got != string(want) {
		t.Errorf("testdata/blocks.golden is for ever, but the code now makes\n%s", got)
	}
	back, err := decodeBlocks(enc, nil)
	if err != nil || !reflect.DeepEqual(back, blocks) {
		t.Errorf("comes back as %v, %v", back, err)
	}
}

func FuzzDecodeBlocks(f *testing.F) {
	f.Add(encodeBlocks([]committedBlock{{"a", 1}, {"bcd", 1 << 40}}))
	f.Add([]byte{blocksVersion})
	f.Fuzz(func(t *testing.T, data []byte) {
		blocks, err := decodeBlocks(data, nil)
		if err != nil {
			return
		}
		back, err := decodeBlocks(encodeBlocks(blocks), nil)
		if err != nil || !reflect.DeepEqual(back, blocks) {
			t.Fatalf("%v comes back as %v, %v", blocks, back, err)
		}
	})
}
