package blob

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"strings"

	"stamp/frontend"
	"stamp/partition/blob"
)

// maxBlockListBody has room for 50,000 of the longest ids, and some white
// space.
const maxBlockListBody = 8 << 20

// putBlockList makes a blob of the blocks that the body lists.
func (o *Operations) putBlockList(r *frontend.Request) error {
	n, err := bodyLength(r, maxBlockListBody)
	if err != nil {
		return err
	}
	req := blob.PutBlockListRequest{Ref: ref(r)}
	if err := blockListHeaders(r, &req); err != nil {
		return err
	}
	s, err := newSums(r, false)
	if err != nil {
		return err
	}
	defer s.free()
	body := make([]byte, n)
	if err := readBody(r, body); err != nil {
		return err
	}
	s.add(body)
	if err := s.check(); err != nil {
		return err
	}
	if req.Blocks, err = parseBlockList(body); err != nil {
		return err
	}
	written, err := o.blobs.PutBlockList(r.Context(), &req)
	if err != nil {
		return err
	}
	setWritten(r, written)
	if s.want.md5 != nil {
		r.Set("Content-Md5", encodeBase64(s.sum[:]))
	} else {
		s.setCRC(r)
	}
	r.Set("X-Ms-Request-Server-Encrypted", "false")
	r.WriteHead(http.StatusCreated)
	return nil
}

func blockListHeaders(r *frontend.Request, req *blob.PutBlockListRequest) (err error) {
	if req.Conditions, err = conditions(r); err != nil {
		return err
	}
	if req.Headers, err = blobHeaders(r); err != nil {
		return err
	}
	if req.Headers.ContentType == "" {
		req.Headers.ContentType = defaultContentType
	}
	if req.Metadata, err = metadata(r); err != nil {
		return err
	}
	req.AccessTier, err = accessTier(r)
	return err
}

var errNotPlain = errors.New("not plain")

// parseBlockList reads
//
//	<BlockList><Latest>id</Latest><Committed>id</Committed>...</BlockList>
//
// A list as SDKs write it is read by hand, anything else that is XML by
// encoding/xml, which takes a hundred times as long.
func parseBlockList(body []byte) ([]blob.BlockRef, error) {
	list, err := parsePlainBlockList(body)
	if errors.Is(err, errNotPlain) {
		list, err = parseAnyBlockList(body)
	}
	return list, err
}

func source(element string) (blob.BlockSource, bool) {
	switch element {
	case "Latest":
		return blob.Latest, true
	case "Committed":
		return blob.Committed, true
	case "Uncommitted":
		return blob.Uncommitted, true
	}
	return 0, false
}

func tooLong() error {
	return frontend.Errorf(frontend.BlockListTooLong, "at most %d blocks", blob.MaxCommittedBlocks)
}

// parsePlainBlockList reads a list without attributes, entities, comments and
// such; for others it fails with errNotPlain.
func parsePlainBlockList(body []byte) ([]blob.BlockRef, error) {
	s := bytes.TrimPrefix(body, []byte("\xEF\xBB\xBF"))
	s = bytes.TrimSpace(s)
	if bytes.HasPrefix(s, []byte("<?xml")) {
		end := bytes.Index(s, []byte("?>"))
		if end < 0 {
			return nil, errNotPlain
		}
		declaration := bytes.ToLower(s[:end])
		if bytes.Contains(declaration, []byte("encoding")) && !bytes.Contains(declaration, []byte("utf-8")) {
			return nil, errNotPlain
		}
		s = bytes.TrimSpace(s[end+2:])
	}
	s, ok := bytes.CutPrefix(s, []byte("<BlockList>"))
	if !ok {
		return nil, errNotPlain
	}
	list := make([]blob.BlockRef, 0, min(len(s)/40+1, blob.MaxCommittedBlocks))
	for {
		s = bytes.TrimLeft(s, " \t\r\n")
		if len(s) < 2 || s[0] != '<' {
			return nil, errNotPlain
		}
		end := bytes.IndexByte(s, '>')
		if end < 0 {
			return nil, errNotPlain
		}
		element := string(s[1:end])
		if element == "/BlockList" {
			if len(bytes.TrimSpace(s[end+1:])) != 0 {
				return nil, errNotPlain
			}
			return list, nil
		}
		from, ok := source(element)
		if !ok {
			return nil, errNotPlain
		}
		s = s[end+1:]
		stop := bytes.IndexByte(s, '<')
		if stop < 0 || bytes.IndexByte(s[:stop], '&') >= 0 {
			return nil, errNotPlain
		}
		id := string(bytes.TrimSpace(s[:stop]))
		s = s[stop:]
		if len(s) < len(element)+3 || s[1] != '/' || string(s[2:2+len(element)]) != element || s[2+len(element)] != '>' {
			return nil, errNotPlain
		}
		s = s[len(element)+3:]
		if len(list) == blob.MaxCommittedBlocks {
			return nil, tooLong()
		}
		list = append(list, blob.BlockRef{ID: id, From: from})
	}
}

func invalidXML(reason string) error {
	return frontend.Errorf(frontend.InvalidXMLDocument, "%s", reason)
}

func parseAnyBlockList(body []byte) ([]blob.BlockRef, error) {
	d := xml.NewDecoder(bytes.NewReader(body))
	list := []blob.BlockRef{}
	var text strings.Builder
	depth, opened := 0, false
	for {
		t, err := d.Token()
		if err == io.EOF && opened && depth == 0 {
			return list, nil
		}
		if err != nil {
			return nil, invalidXML("the body is not XML")
		}
		switch t := t.(type) {
		case xml.StartElement:
			depth++
			text.Reset()
			_, known := source(t.Name.Local)
			if depth == 1 && (opened || t.Name.Local != "BlockList") || depth == 2 && !known || depth > 2 {
				return nil, invalidXML("element " + t.Name.Local + " is not expected")
			}
			opened = true
		case xml.CharData:
			text.Write(t)
		case xml.EndElement:
			if depth == 2 {
				if len(list) == blob.MaxCommittedBlocks {
					return nil, tooLong()
				}
				from, _ := source(t.Name.Local)
				list = append(list, blob.BlockRef{ID: strings.TrimSpace(text.String()), From: from})
			}
			depth--
		case xml.Directive:
			return nil, invalidXML("a document type is not allowed")
		}
	}
}
