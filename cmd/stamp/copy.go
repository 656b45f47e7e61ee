package main

import (
	"bytes"
	"context"
	"crypto/md5"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"mime"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/dustin/go-humanize"
	"github.com/schollz/progressbar/v3"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

const (
	copyBlock       = 4 << 20
	copyConcurrency = 4
	maxBlocks       = 50000
)

// A copied is one finished copy.
type copied struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
	Bytes       int64  `json:"bytes"`
}

// A copier copies files one after the other and tells of each.
type copier struct {
	client *azblob.Client
	stdin  io.Reader
	stdout io.Writer
	out    *list[copied]
	bar    bool // draw a progress bar
	quiet  bool // stdout carries content
}

func blobCp(c *cli.Context) error {
	if err := wantArgs(c, 2, 2); err != nil {
		return err
	}
	src, dst := c.Args().Get(0), c.Args().Get(1)
	up, down := strings.HasPrefix(dst, "az://"), strings.HasPrefix(src, "az://")
	if up == down {
		return usageError("one of %s and %s must be az://CONTAINER/NAME, the other a file", src, dst)
	}
	client, err := blobClient()
	if err != nil {
		return err
	}
	cp := &copier{client: client, stdin: c.App.Reader, stdout: c.App.Writer, quiet: dst == "-"}
	cp.bar = !asJSON(c) && isTerminal(os.Stderr)
	cp.out = newList(c, nil, func(r copied) []string {
		return []string{r.Source + " -> " + r.Destination, humanize.IBytes(uint64(r.Bytes))}
	})
	recursive := c.Bool("recursive")
	switch {
	case up && recursive:
		err = cp.uploadTree(c.Context, src, dst)
	case up:
		err = cp.uploadOne(c.Context, src, dst)
	case recursive:
		err = cp.downloadTree(c.Context, src, dst)
	default:
		err = cp.downloadOne(c.Context, src, dst)
	}
	if cp.quiet {
		return err
	}
	if cerr := cp.out.close(); err == nil {
		err = cerr
	}
	return err
}

func (cp *copier) done(source, destination string, n int64) error {
	if cp.quiet {
		return nil
	}
	return cp.out.add(copied{source, destination, n})
}

func (cp *copier) uploadOne(ctx context.Context, src, dst string) error {
	box, name, err := blobPath(dst)
	if err != nil {
		return err
	}
	if name == "" || strings.HasSuffix(name, "/") {
		if src == "-" {
			return usageError("%s: stdin needs the name of a blob", dst)
		}
		name += filepath.Base(src)
	}
	if err := cp.ensureContainer(ctx, box); err != nil {
		return err
	}
	return cp.upload(ctx, src, box, name)
}

func (cp *copier) uploadTree(ctx context.Context, src, dst string) error {
	box, prefix, err := blobPath(dst)
	if err != nil {
		return err
	}
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		prefix += "/"
	}
	if info, err := os.Stat(src); err != nil {
		return err
	} else if !info.IsDir() {
		return usageError("%s is not a directory: leave -r out", src)
	}
	if err := cp.ensureContainer(ctx, box); err != nil {
		return err
	}
	return filepath.WalkDir(src, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(src, file)
		if err != nil {
			return err
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("%s is not a regular file", file)
		}
		return cp.upload(ctx, file, box, prefix+filepath.ToSlash(rel))
	})
}

// ensureContainer makes the container of an upload if it is missing.
func (cp *copier) ensureContainer(ctx context.Context, box string) error {
	_, err := cp.client.ServiceClient().NewContainerClient(box).GetProperties(ctx, nil)
	if !bloberror.HasCode(err, bloberror.ContainerNotFound) {
		return err
	}
	_, err = cp.client.CreateContainer(ctx, box, nil)
	if bloberror.HasCode(err, bloberror.ContainerAlreadyExists) {
		return nil
	}
	return err
}

func (cp *copier) upload(ctx context.Context, src, box, name string) error {
	headers := &blob.HTTPHeaders{}
	if t := mime.TypeByExtension(path.Ext(name)); t != "" {
		headers.BlobContentType = &t
	}
	dst := "az://" + box + "/" + name
	if src == "-" {
		counted := &countingReader{r: cp.stdin}
		_, err := cp.client.UploadStream(ctx, box, name, counted, &azblob.UploadStreamOptions{
			BlockSize: copyBlock, Concurrency: copyConcurrency, HTTPHeaders: headers,
			TransactionalValidation: blob.TransferValidationTypeComputeCRC64(),
		})
		if err != nil {
			return err
		}
		return cp.done(src, dst, counted.n)
	}
	f, err := os.Open(src)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return usageError("%s is a directory: give -r", src)
	}
	progress, finish := cp.progress(src, info.Size())
	defer finish()
	_, err = cp.client.UploadFile(ctx, box, name, f, &azblob.UploadFileOptions{
		BlockSize: max(copyBlock, info.Size()/maxBlocks+1), Concurrency: copyConcurrency, HTTPHeaders: headers,
		TransactionalValidation: blob.TransferValidationTypeComputeCRC64(),
		Progress:                progress,
	})
	if err != nil {
		return err
	}
	finish()
	return cp.done(src, dst, info.Size())
}

func (cp *copier) downloadOne(ctx context.Context, src, dst string) error {
	box, name, err := blobPath(src)
	if err != nil {
		return err
	}
	if name == "" {
		return usageError("%s is a container: give -r", src)
	}
	if dst == "-" {
		_, err := download(ctx, cp.client, box, name, cp.stdout, func(int64) {})
		return err
	}
	if info, err := os.Stat(dst); err == nil && info.IsDir() || strings.HasSuffix(dst, "/") {
		dst = filepath.Join(dst, path.Base(name))
	}
	return cp.download(ctx, box, name, dst)
}

func (cp *copier) downloadTree(ctx context.Context, src, dst string) error {
	box, prefix, err := blobPath(src)
	if err != nil {
		return err
	}
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		prefix += "/"
	}
	n := 0
	err = eachBlob(ctx, cp.client, box, prefix, func(e blobEntry) error {
		n++
		rel := strings.TrimPrefix(e.Name, prefix)
		local := filepath.FromSlash(rel)
		if rel == "" || strings.HasSuffix(rel, "/") {
			return nil // the marker of an empty directory
		}
		if !filepath.IsLocal(local) {
			return fmt.Errorf("blob %q would be written outside of %s", e.Name, dst)
		}
		return cp.download(ctx, box, e.Name, filepath.Join(dst, local))
	})
	if err == nil && n == 0 {
		return &exitError{exitNotFound, fmt.Errorf("no blob under %s", src)}
	}
	return err
}

// download writes to a file beside dst and renames it, so that dst is never
// half a blob.
func (cp *copier) download(ctx context.Context, box, name, dst string) error {
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(dst), "."+filepath.Base(dst)+".*.part")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails after the rename, as it should
	defer f.Close()
	size := int64(-1)
	if cp.bar {
		p, err := cp.client.ServiceClient().NewContainerClient(box).NewBlobClient(name).GetProperties(ctx, nil)
		if err != nil {
			return err
		}
		size = deref(p.ContentLength)
	}
	progress, finish := cp.progress(name, size)
	defer finish()
	n, err := download(ctx, cp.client, box, name, f, progress)
	if err != nil {
		return err
	}
	finish()
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), dst); err != nil {
		return err
	}
	return cp.done("az://"+box+"/"+name, dst, n)
}

// progress draws a bar for one copy on a terminal. The function that it
// returns is told how many bytes have gone in all.
func (cp *copier) progress(what string, size int64) (progress func(int64), finish func()) {
	if !cp.bar {
		return func(int64) {}, func() {}
	}
	bar := progressbar.NewOptions64(size,
		progressbar.OptionSetDescription(filepath.Base(what)), progressbar.OptionSetWriter(os.Stderr),
		progressbar.OptionShowBytes(true), progressbar.OptionClearOnFinish(), progressbar.OptionSetWidth(30))
	return func(n int64) { _ = bar.Set64(n) }, func() { _ = bar.Finish() } // a bar that cannot be drawn is no failure
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// progressWriter calls fn with the bytes written so far.
func progressWriter(fn func(int64)) io.Writer { return &writeCounter{fn: fn} }

type writeCounter struct {
	n  int64
	fn func(int64)
}

func (w *writeCounter) Write(p []byte) (int, error) {
	w.n += int64(len(p))
	w.fn(w.n)
	return len(p), nil
}

// md5Check compares what was read with a Content-MD5, if there is one.
type md5Check struct {
	want []byte
	hash hash.Hash
}

func newMD5(want []byte) *md5Check { return &md5Check{want: want, hash: md5.New()} }

func (m *md5Check) Write(p []byte) (int, error) {
	if len(m.want) == 0 {
		return len(p), nil
	}
	return m.hash.Write(p)
}

func (m *md5Check) verify(what string) error {
	if got := m.hash.Sum(nil); len(m.want) > 0 && !bytes.Equal(got, m.want) {
		return fmt.Errorf("%s: what arrived has MD5 %x, the blob's Content-MD5 is %x", what, got, m.want)
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
