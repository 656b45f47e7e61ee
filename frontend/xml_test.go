package frontend

import (
	"encoding/xml"
	"io"
	"net/url"
	"strings"
	"testing"
)

func TestXMLEscape(t *testing.T) {
	tests := []struct{ in, want string }{
		{"plain", "plain"},
		{`a<b>&"c"`, "a&lt;b&gt;&amp;&quot;c&quot;"},
		{"ä😀", "ä😀"},
		{"a\rb\nc\td", "a&#xD;b\nc\td"},
		{"a\x00b\x1f", "a\uFFFDb\uFFFD"},
		{"a\xffb", "a\uFFFDb"},
		{"a\uFFFEb\uFFFFc", "a\uFFFDb\uFFFDc"},
		{"\uFFFD", "\uFFFD"},
	}
	for _, tt := range tests {
		x := &XML{}
		x.Escape(tt.in)
		if got := string(x.Bytes()); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestXMLName(t *testing.T) {
	x := &XML{}
	x.Name("Name", "a\x01b/c ä\uFFFE")
	if got, want := string(x.Bytes()), `<Name Encoded="true">a%01b/c%20%C3%A4%EF%BF%BE</Name>`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	x.Reset()
	x.Name("Name", "cr\rx")
	if got, want := string(x.Bytes()), `<Name Encoded="true">cr%0Dx</Name>`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// FuzzXMLName reads back whatever name was written.
func FuzzXMLName(f *testing.F) {
	f.Add("a<b\x01\uFFFEä")
	f.Fuzz(func(t *testing.T, name string) {
		x := NewXML(nil)
		x.Name("Name", name)
		var got struct {
			Encoded bool   `xml:"Encoded,attr"`
			Text    string `xml:",chardata"`
		}
		d := xml.NewDecoder(strings.NewReader(string(x.Bytes())))
		if err := d.Decode(&got); err != nil {
			t.Fatalf("%q: %v", x.Bytes(), err)
		}
		if _, err := d.Token(); err != io.EOF {
			t.Fatalf("%q: more than one element", x.Bytes())
		}
		if got.Encoded {
			text, err := url.PathUnescape(got.Text)
			if err != nil {
				t.Fatal(err)
			}
			got.Text = text
		}
		if got.Text != name {
			t.Fatalf("wrote %q, read %q", name, got.Text)
		}
	})
}
