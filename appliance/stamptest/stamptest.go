package stamptest

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"testing"

	"stamp/appliance"
	"stamp/appliance/blobclient"
)

// Options configures a Stamp. The zero value is one disk and the well-known
// account.
type Options struct {
	Disks    int                     // ExtentNodes, each on a directory of its own; 0 means one
	Accounts []appliance.AccountKeys // beside the well-known one
	Mount    bool                    // mount the containers, see Stamp.Mount
	Verbose  bool                    // log to the test's own log
}

// Stamp is a whole stamp in the test's process, on free ports of loopback and
// in a directory of the test's own. It is closed when the test ends.
type Stamp struct {
	t    testing.TB
	opts appliance.DevOptions
	dev  *appliance.Dev
}

// New opens a stamp.
func New(t testing.TB, opts Options) *Stamp {
	t.Helper()
	dir := t.TempDir()
	s := &Stamp{t: t, opts: appliance.DevOptions{Location: filepath.Join(dir, "stamp"), Accounts: opts.Accounts, Version: "test"}}
	for i := range opts.Disks {
		s.opts.Disks = append(s.opts.Disks, filepath.Join(dir, fmt.Sprintf("disk-%d", i+1)))
	}
	if opts.Mount {
		s.opts.Mount = t.TempDir()
	}
	if opts.Verbose {
		s.opts.Log = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	s.open()
	t.Cleanup(func() {
		if err := s.dev.Close(); err != nil {
			t.Errorf("close stamp: %v", err)
		}
	})
	return s
}

func (s *Stamp) open() {
	s.t.Helper()
	var err error
	if s.dev, err = appliance.OpenDev(s.t.Context(), s.opts); err != nil {
		s.t.Fatalf("open stamp: %v", err)
	}
}

// Restart closes the stamp and opens it again on the same data. Its ports are
// others then.
func (s *Stamp) Restart() {
	s.t.Helper()
	if err := s.dev.Close(); err != nil {
		s.t.Fatalf("close stamp: %v", err)
	}
	s.open()
}

// Dev is the stamp itself.
func (s *Stamp) Dev() *appliance.Dev { return s.dev }

// Mount is where the containers are mounted, "" if they are not.
func (s *Stamp) Mount() string { return s.opts.Mount }

// Endpoint is the URL of the blob service of the well-known account.
func (s *Stamp) Endpoint() string {
	return fmt.Sprintf("http://%s/%s", s.dev.Info().Blob, appliance.DevAccount)
}

// Client is what a blobclient needs to speak to the stamp.
func (s *Stamp) Client() blobclient.Options {
	return blobclient.Options{Endpoint: s.Endpoint(), Account: string(appliance.DevAccount), Key: appliance.DevKey}
}

// do sends one request as the well-known account. An error ends the test.
func (s *Stamp) do(fn func(c *blobclient.Client) error) {
	s.t.Helper()
	c, err := blobclient.New(s.Client())
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	if err := fn(c); err != nil {
		s.t.Fatal(err)
	}
}

// CreateContainer makes a container of the well-known account.
func (s *Stamp) CreateContainer(name string) {
	s.t.Helper()
	s.do(func(c *blobclient.Client) error { return c.CreateContainer(name) })
}

// Blob names a blob of the well-known account.
func (s *Stamp) Blob(container, name string) Blob { return Blob{s, container + "/" + name} }

// Blob is one name in a container. What its methods are asked to do must
// succeed, or the test ends.
type Blob struct {
	stamp *Stamp
	path  string
}

// Put writes the blob.
func (b Blob) Put(content string) {
	b.stamp.t.Helper()
	b.stamp.do(func(c *blobclient.Client) error { return c.Put(b.path, []byte(content)) })
}

// Get reads the blob.
func (b Blob) Get() string {
	b.stamp.t.Helper()
	var body bytes.Buffer
	b.stamp.do(func(c *blobclient.Client) error { return c.Get(b.path, &body) })
	return body.String()
}

// Exists reports whether the blob is there.
func (b Blob) Exists() (exists bool) {
	b.stamp.t.Helper()
	b.stamp.do(func(c *blobclient.Client) error {
		err := c.Get(b.path, nil)
		var status *blobclient.StatusError
		if errors.As(err, &status) && status.Status == http.StatusNotFound {
			return nil
		}
		exists = err == nil
		return err
	})
	return exists
}

// Delete deletes the blob.
func (b Blob) Delete() {
	b.stamp.t.Helper()
	b.stamp.do(func(c *blobclient.Client) error { return c.Delete(b.path) })
}

// testWriter writes lines to a test's log.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}
