package blob

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"stamp/frontend"
	"stamp/partition/blob"
)

func TestParseBlockList(t *testing.T) {
	want := []blob.BlockRef{{ID: "QUFB", From: blob.Latest}, {ID: "QkJC", From: blob.Committed}, {ID: "Q0ND", From: blob.Uncommitted}}
	const list = "<BlockList><Latest>QUFB</Latest><Committed>QkJC</Committed><Uncommitted>Q0ND</Uncommitted></BlockList>"
	same := map[string]string{
		"plain":       list,
		"declaration": `<?xml version="1.0" encoding="utf-8"?>` + "\n" + list,
		"BOM":         "\xEF\xBB\xBF" + list,
		"indented":    strings.ReplaceAll(list, "><", ">\r\n  <"),
		"spaces":      "<BlockList>\n<Latest> QUFB\n</Latest><Committed>QkJC</Committed><Uncommitted>Q0ND</Uncommitted>\n</BlockList>\n",
		"entity":      strings.ReplaceAll(list, "QUFB", "&#81;UFB"),
		"attribute":   strings.ReplaceAll(list, "<BlockList>", `<BlockList xmlns="x">`),
		"comment":     strings.ReplaceAll(list, "<BlockList>", `<!-- a --><BlockList><!-- b -->`),
		"CDATA":       strings.ReplaceAll(list, "QUFB", "<![CDATA[QUFB]]>"),
	}
	for name, body := range same {
		got, err := parseBlockList([]byte(body))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	for _, body := range []string{"<BlockList/>", "<BlockList></BlockList>", "<BlockList />"} {
		if got, err := parseBlockList([]byte(body)); err != nil || len(got) != 0 || got == nil {
			t.Errorf("%s: got %v, %v", body, got, err)
		}
	}
	for _, body := range []string{"", "x", "<BlockList>", "<BlockList><Latest>a</BlockList>", "<Other></Other>",
		"<BlockList><Latest>a</Latest></BlockList><BlockList></BlockList>", "<BlockList><Later>a</Later></BlockList>",
		"<BlockList><Latest><Latest>a</Latest></Latest></BlockList>", "<!DOCTYPE x><BlockList></BlockList>"} {
		_, err := parseBlockList([]byte(body))
		if e, ok := err.(*frontend.Error); !ok || e.Code != frontend.InvalidXMLDocument {
			t.Errorf("%q: got %v, want InvalidXmlDocument", body, err)
		}
	}
	long := "<BlockList>" + strings.Repeat("<Latest>QUFB</Latest>", blob.MaxCommittedBlocks+1) + "</BlockList>"
	for _, body := range []string{long, "<!-- -->" + long} {
		_, err := parseBlockList([]byte(body))
		if e, ok := err.(*frontend.Error); !ok || e.Code != frontend.BlockListTooLong {
			t.Errorf("50,001 blocks: got %v", err)
		}
	}
}

// FuzzBlockList holds the parser by hand against the one of encoding/xml.
func FuzzBlockList(f *testing.F) {
	f.Add([]byte("<BlockList><Latest>QUFB</Latest><Committed>QkJC</Committed></BlockList>"))
	f.Add([]byte(`<?xml version="1.0" encoding="utf-8"?><BlockList> </BlockList>`))
	f.Fuzz(func(t *testing.T, body []byte) {
		plain, err := parsePlainBlockList(body)
		if err != nil {
			parseAnyBlockList(body)
			return
		}
		slow, err := parseAnyBlockList(body)
		if err != nil {
			return // encoding/xml is stricter about characters, which no id has
		}
		if !slices.Equal(plain, slow) {
			t.Fatalf("by hand %q, by encoding/xml %q", plain, slow)
		}
	})
}

func BenchmarkParseBlockList(b *testing.B) {
	var body bytes.Buffer
	body.WriteString(`<?xml version="1.0" encoding="utf-8"?><BlockList>`)
	for i := range 10_000 {
		fmt.Fprintf(&body, "<Latest>%s</Latest>", base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "block-%032d", i)))
	}
	body.WriteString("</BlockList>")
	b.SetBytes(int64(body.Len()))
	for b.Loop() {
		if _, err := parseBlockList(body.Bytes()); err != nil {
			b.Fatal(err)
		}
	}
}

func TestParseRange(t *testing.T) {
	tests := []struct {
		in        string
		ok        bool
		size      int64
		offset, n int64
		valid     bool
	}{
		{"bytes=0-9", true, 100, 0, 10, true},
		{"bytes=10-", true, 100, 10, 90, true},
		{"bytes=90-200", true, 100, 90, 10, true},
		{"bytes=99-99", true, 100, 99, 1, true},
		{"bytes=100-", true, 100, 0, 0, false},
		{"bytes=0-", true, 0, 0, 0, false},
		{"bytes=0-9223372036854775807", true, 100, 0, 100, true},
		{"bytes=9-0", false, 0, 0, 0, false},
		{"bytes=-5", false, 0, 0, 0, false},
		{"bytes=a-b", false, 0, 0, 0, false},
		{"bytes=+1-2", false, 0, 0, 0, false},
		{"bytes=0-1,3-4", false, 0, 0, 0, false},
		{"items=0-1", false, 0, 0, 0, false},
		{"bytes=0-99999999999999999999", false, 0, 0, 0, false},
		{"", false, 0, 0, 0, false},
	}
	for _, tt := range tests {
		b, ok := parseRange(tt.in)
		if ok != tt.ok {
			t.Errorf("%q: got %v", tt.in, ok)
			continue
		}
		if !ok {
			continue
		}
		offset, n, err := b.within(tt.size)
		if (err == nil) != tt.valid || offset != tt.offset || n != tt.n {
			t.Errorf("%q of %d bytes: got %d, %d, %v", tt.in, tt.size, offset, n, err)
		}
	}
}

func FuzzRange(f *testing.F) {
	f.Add("bytes=0-9", int64(100))
	f.Add("bytes=7-", int64(3))
	f.Fuzz(func(t *testing.T, s string, size int64) {
		b, ok := parseRange(s)
		if !ok || size < 0 {
			return
		}
		offset, n, err := b.within(size)
		if err == nil && (offset < 0 || n <= 0 || offset+n > size || offset+n < 0) {
			t.Fatalf("%q of %d bytes: offset %d, length %d", s, size, offset, n)
		}
	})
}

func TestNames(t *testing.T) {
	containers := map[string]bool{"abc": true, "a-b-c": true, "$root": true, "$web": true, "123": true,
		strings.Repeat("a", 63): true, strings.Repeat("a", 64): false, "ab": false, "Abc": false, "a--b": false,
		"-abc": false, "abc-": false, "a_b": false, "a.b": false, "$other": false, "ä-b": false}
	for name, ok := range containers {
		if err := checkContainer(name); (err == nil) != ok {
			t.Errorf("container %q: %v", name, err)
		}
	}
	blobs := map[string]bool{"a": true, strings.Repeat("ä", 1024): true, strings.Repeat("a", 1025): false,
		strings.Repeat("a/", 253): true, strings.Repeat("a/", 255): false, "a\x00b": false, "\uFFFE": true}
	for name, ok := range blobs {
		if err := checkBlob(name); (err == nil) != ok {
			t.Errorf("blob %.20q...: %v", name, err)
		}
	}
	metadata := map[string]bool{"a": true, "_a1": true, "MixedCase": true, "1a": false, "a-b": false, "": false, "a.b": false}
	for name, ok := range metadata {
		if validMetadataName(name) != ok {
			t.Errorf("metadata name %q: got %v", name, !ok)
		}
	}
}
