package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/urfave/cli/v2"

	"stamp/appliance"
)

// The blob commands are clients of the Blob service like any other: they work
// against every endpoint that speaks Azure's REST.

const connectionStringEnv = "AZURE_STORAGE_CONNECTION_STRING"

func blobCommand() *cli.Command {
	recursive := func(usage string) cli.Flag {
		return &cli.BoolFlag{Name: "recursive", Aliases: []string{"r"}, Usage: usage}
	}
	return &cli.Command{
		Name: "blob", Usage: "copy, list and remove blobs",
		Description: "A blob is written CONTAINER/NAME or az://CONTAINER/NAME. The endpoint and key are those of\n" +
			connectionStringEnv + "; without it, those of stamp dev with its default port.",
		Subcommands: []*cli.Command{
			{Name: "ls", Usage: "list containers, or the blobs under a prefix", ArgsUsage: "[CONTAINER[/PREFIX]]",
				Flags: []cli.Flag{recursive("list what lies under virtual directories too")}, Action: blobLs},
			{Name: "cp", Usage: "copy files to blobs or blobs to files", ArgsUsage: "SOURCE DESTINATION",
				Description: "One side is az://CONTAINER/NAME, the other a file; - is stdin or stdout. With -r both sides\n" +
					"are directories, and what lies in SOURCE comes to lie in DESTINATION.",
				Flags: []cli.Flag{recursive("copy a whole directory or prefix")}, Action: blobCp},
			{Name: "cat", Usage: "write blobs to stdout", ArgsUsage: "CONTAINER/NAME...", Action: blobCat},
			{Name: "rm", Usage: "delete blobs", ArgsUsage: "CONTAINER/NAME...",
				Flags: []cli.Flag{recursive("delete all blobs under a prefix, or the whole CONTAINER")}, Action: blobRm},
			{Name: "stat", Usage: "print the properties of a blob or container", ArgsUsage: "CONTAINER[/NAME]", Action: blobStat},
		},
	}
}

// blobClient connects to the endpoint of the environment.
func blobClient() (*azblob.Client, error) {
	cs := os.Getenv(connectionStringEnv)
	if cs == "" || strings.EqualFold(strings.TrimSuffix(cs, ";"), "UseDevelopmentStorage=true") {
		cs = appliance.ConnectionString("http", appliance.DevAccount, appliance.DevKey, appliance.Endpoints{Blob: "127.0.0.1:10000"})
	}
	client, err := azblob.NewClientFromConnectionString(cs, &azblob.ClientOptions{ClientOptions: policy.ClientOptions{
		Retry:     policy.RetryOptions{MaxRetries: 4, RetryDelay: 100 * time.Millisecond, MaxRetryDelay: 2 * time.Second},
		Telemetry: policy.TelemetryOptions{ApplicationID: "stamp"},
	}})
	if err != nil {
		// The SDK's error may quote what it could not parse, key included.
		return nil, usageError("%s is not a connection string", connectionStringEnv)
	}
	return client, nil
}

// blobPath takes CONTAINER[/NAME] apart.
func blobPath(s string) (box, name string, err error) {
	box, name, _ = strings.Cut(strings.TrimPrefix(s, "az://"), "/")
	if box == "" {
		return "", "", usageError("%q: want CONTAINER/NAME", s)
	}
	return box, name, nil
}

// A blobEntry is a line of `blob ls` and the answer of `blob stat`.
type blobEntry struct {
	Container    string            `json:"container"`
	Name         string            `json:"name,omitempty"`
	Directory    bool              `json:"directory,omitempty"` // a common prefix
	Size         *int64            `json:"size,omitempty"`
	LastModified *time.Time        `json:"lastModified,omitempty"`
	ETag         string            `json:"etag,omitempty"`
	ContentType  string            `json:"contentType,omitempty"`
	ContentMD5   string            `json:"contentMD5,omitempty"`
	BlobType     string            `json:"blobType,omitempty"`
	Metadata     map[string]string `json:"metadata,omitempty"`
}

func (e blobEntry) row() []string {
	size, date := "", ""
	if e.Size != nil {
		size = strconv.FormatInt(*e.Size, 10)
	}
	if e.LastModified != nil {
		date = e.LastModified.UTC().Format("2006-01-02 15:04:05")
	}
	name := e.Name
	if name == "" {
		name = e.Container
	}
	return []string{size, date, name}
}

func blobLs(c *cli.Context) error {
	if err := wantArgs(c, 0, 1); err != nil {
		return err
	}
	client, err := blobClient()
	if err != nil {
		return err
	}
	l := newList(c, nil, blobEntry.row)
	if !c.Args().Present() {
		err = eachContainer(c.Context, client, l.add)
	} else {
		box, prefix, perr := blobPath(c.Args().First())
		if perr != nil {
			return perr
		}
		if c.Bool("recursive") {
			err = eachBlob(c.Context, client, box, prefix, l.add)
		} else {
			err = eachInDirectory(c.Context, client, box, prefix, l.add)
		}
	}
	if err != nil {
		return err
	}
	return l.close()
}

func eachContainer(ctx context.Context, client *azblob.Client, fn func(blobEntry) error) error {
	pager := client.NewListContainersPager(nil)
	for pager.More() {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, item := range page.ContainerItems {
			e := blobEntry{Container: *item.Name}
			if p := item.Properties; p != nil {
				e.LastModified, e.ETag = p.LastModified, string(deref(p.ETag))
			}
			if err := fn(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// eachBlob gives all blobs under a prefix to fn, in order.
func eachBlob(ctx context.Context, client *azblob.Client, box, prefix string, fn func(blobEntry) error) error {
	pager := client.NewListBlobsFlatPager(box, &azblob.ListBlobsFlatOptions{Prefix: &prefix})
	for pager.More() {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, item := range page.Segment.BlobItems {
			if err := fn(itemEntry(box, item)); err != nil {
				return err
			}
		}
	}
	return nil
}

// eachInDirectory gives blobs and virtual directories under a prefix to fn.
func eachInDirectory(ctx context.Context, client *azblob.Client, box, prefix string, fn func(blobEntry) error) error {
	pager := client.ServiceClient().NewContainerClient(box).NewListBlobsHierarchyPager("/", &container.ListBlobsHierarchyOptions{Prefix: &prefix})
	for pager.More() {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, p := range page.Segment.BlobPrefixes {
			if err := fn(blobEntry{Container: box, Name: *p.Name, Directory: true}); err != nil {
				return err
			}
		}
		for _, item := range page.Segment.BlobItems {
			if err := fn(itemEntry(box, item)); err != nil {
				return err
			}
		}
	}
	return nil
}

func itemEntry(box string, item *container.BlobItem) blobEntry {
	e := blobEntry{Container: box, Name: *item.Name}
	if p := item.Properties; p != nil {
		e.Size, e.LastModified = p.ContentLength, p.LastModified
		e.ETag, e.ContentType = string(deref(p.ETag)), deref(p.ContentType)
		e.ContentMD5 = base64.StdEncoding.EncodeToString(p.ContentMD5)
		e.BlobType = string(deref(p.BlobType))
	}
	return e
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func blobCat(c *cli.Context) error {
	if err := wantArgs(c, 1, -1); err != nil {
		return err
	}
	client, err := blobClient()
	if err != nil {
		return err
	}
	for _, arg := range c.Args().Slice() {
		box, name, err := blobPath(arg)
		if err != nil {
			return err
		}
		if _, err := download(c.Context, client, box, name, c.App.Writer, func(int64) {}); err != nil {
			return err
		}
	}
	return nil
}

func blobRm(c *cli.Context) error {
	if err := wantArgs(c, 1, -1); err != nil {
		return err
	}
	client, err := blobClient()
	if err != nil {
		return err
	}
	l := newList(c, nil, func(e blobEntry) []string { return []string{"deleted", e.Container + "/" + e.Name} })
	for _, arg := range c.Args().Slice() {
		if err := remove(c, client, arg, l.add); err != nil {
			return errors.Join(err, l.close())
		}
	}
	return l.close()
}

func remove(c *cli.Context, client *azblob.Client, arg string, done func(blobEntry) error) error {
	box, name, err := blobPath(arg)
	if err != nil {
		return err
	}
	switch {
	case name == "" && c.Bool("recursive"):
		if _, err := client.DeleteContainer(c.Context, box, nil); err != nil {
			return err
		}
		return done(blobEntry{Container: box})
	case name == "":
		return usageError("%s is a container: give -r to delete it with all it holds", box)
	case !c.Bool("recursive"):
		if _, err := client.DeleteBlob(c.Context, box, name, nil); err != nil {
			return err
		}
		return done(blobEntry{Container: box, Name: name})
	}
	n := 0
	err = eachBlob(c.Context, client, box, name, func(e blobEntry) error {
		n++
		if _, err := client.DeleteBlob(c.Context, box, e.Name, nil); err != nil && !bloberror.HasCode(err, bloberror.BlobNotFound) {
			return err
		}
		return done(e)
	})
	if err == nil && n == 0 {
		return &exitError{exitNotFound, fmt.Errorf("no blob under %s/%s", box, name)}
	}
	return err
}

func blobStat(c *cli.Context) error {
	if err := wantArgs(c, 1, 1); err != nil {
		return err
	}
	client, err := blobClient()
	if err != nil {
		return err
	}
	box, name, err := blobPath(c.Args().First())
	if err != nil {
		return err
	}
	e := blobEntry{Container: box, Name: name}
	boxClient := client.ServiceClient().NewContainerClient(box)
	var metadata map[string]*string
	if name == "" {
		p, err := boxClient.GetProperties(c.Context, nil)
		if err != nil {
			return err
		}
		e.LastModified, e.ETag, metadata = p.LastModified, string(deref(p.ETag)), p.Metadata
	} else {
		p, err := boxClient.NewBlobClient(name).GetProperties(c.Context, nil)
		if err != nil {
			return err
		}
		e.Size, e.LastModified, e.ETag, metadata = p.ContentLength, p.LastModified, string(deref(p.ETag)), p.Metadata
		e.ContentType, e.BlobType = deref(p.ContentType), string(deref(p.BlobType))
		e.ContentMD5 = base64.StdEncoding.EncodeToString(p.ContentMD5)
	}
	for k, v := range metadata {
		if e.Metadata == nil {
			e.Metadata = map[string]string{}
		}
		e.Metadata[strings.ToLower(k)] = deref(v)
	}
	return printStat(c, e)
}

func printStat(c *cli.Context, e blobEntry) error {
	if asJSON(c) {
		return printJSON(c, e)
	}
	l := newList(c, nil, func(kv [2]string) []string { return kv[:] })
	pairs := [][2]string{{"container", e.Container}, {"name", e.Name}}
	if e.Size != nil {
		pairs = append(pairs, [2]string{"size", strconv.FormatInt(*e.Size, 10)})
	}
	if e.LastModified != nil {
		pairs = append(pairs, [2]string{"modified", e.LastModified.UTC().Format(time.RFC3339)})
	}
	pairs = append(pairs, [2]string{"etag", e.ETag}, [2]string{"type", e.ContentType}, [2]string{"md5", e.ContentMD5}, [2]string{"blob", e.BlobType})
	for _, k := range sortedKeys(e.Metadata) {
		pairs = append(pairs, [2]string{"metadata " + k, e.Metadata[k]})
	}
	for _, kv := range pairs {
		if kv[1] == "" {
			continue
		}
		if err := l.add(kv); err != nil {
			return err
		}
	}
	return l.close()
}

// download writes a blob to w and checks its Content-MD5, if it has one.
// Broken connections are taken up where they broke off, under the same ETag.
func download(ctx context.Context, client *azblob.Client, box, name string, w io.Writer, progress func(int64)) (int64, error) {
	resp, err := client.DownloadStream(ctx, box, name, nil)
	if err != nil {
		return 0, err
	}
	body := resp.NewRetryReader(ctx, &blob.RetryReaderOptions{MaxRetries: 3})
	defer body.Close()
	check := newMD5(resp.ContentMD5)
	n, err := io.Copy(io.MultiWriter(w, check, progressWriter(progress)), body)
	if err != nil {
		return n, fmt.Errorf("%s/%s: %w", box, name, err)
	}
	return n, check.verify(box + "/" + name)
}
