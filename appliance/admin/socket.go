package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"stamp"
	"stamp/extentstore"
)

// through gives fn a name for the socket of a location that is short enough
// for a unix socket address (107 bytes), however deep the location lies: its
// directory is opened, and named by the descriptor.
func through(location string, fn func(name string) error) error {
	dir, err := os.Open(location)
	if err != nil {
		return err
	}
	defer dir.Close()
	return fn(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), SocketName))
}

// Listen opens the socket of a location, mode 0600. The caller holds the
// location's lock, so what stands there is left from a process that is gone.
// The caller removes the file when it has closed the listener.
func Listen(location string) (net.Listener, error) {
	name := filepath.Join(location, SocketName)
	if err := os.Remove(name); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	var l *net.UnixListener
	err := through(location, func(short string) (err error) {
		if l, err = net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"}); err == nil {
			// Close would remove the name through a descriptor that is no more.
			l.SetUnlinkOnClose(false)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", name, err)
	}
	if err := os.Chmod(name, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Client speaks to the stamp that runs on a location.
type Client struct {
	location string
	http     *http.Client
}

var _ StreamLayer = (*Client)(nil)

// NewClient makes a client. It connects with the first call.
func NewClient(location string) *Client {
	c := &Client{location: location}
	c.http = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (conn net.Conn, err error) {
		err = through(location, func(short string) error {
			conn, err = new(net.Dialer).DialContext(ctx, "unix", short)
			return err
		})
		return conn, err
	}}}
	return c
}

// do sends a request and returns the body of a good answer.
func (c *Client) do(ctx context.Context, method, path string, q url.Values) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: "stamp", Path: "/v1" + path, RawQuery: q.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, stamp.Errorf(stamp.Unavailable, "admin", "no stamp runs on location %s (start it with stamp dev --location %s): %w", c.location, c.location, cause(err))
	}
	if resp.StatusCode < 400 {
		return resp, nil
	}
	defer resp.Body.Close()
	var e Error
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&e); err != nil {
		return nil, stamp.Errorf(stamp.Other, "admin", "%s %s: status %d", method, path, resp.StatusCode)
	}
	return nil, e.Err()
}

// cause drops the URL that net/http puts around an error.
func cause(err error) error {
	if u, ok := err.(*url.Error); ok {
		return u.Err
	}
	return err
}

func call[T any](ctx context.Context, c *Client, method, path string, q url.Values) (T, error) {
	var v T
	resp, err := c.do(ctx, method, path, q)
	if err != nil {
		return v, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		return v, stamp.Errorf(stamp.Unavailable, "admin", "%s %s: answer broke off: %w", method, path, err)
	}
	return v, nil
}

// Status describes the running stamp.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, "GET", "/status", nil)
}

// Accounts lists the accounts without their keys.
func (c *Client) Accounts(ctx context.Context) ([]Account, error) {
	return call[[]Account](ctx, c, "GET", "/accounts", nil)
}

// CreateAccount makes an account with new keys.
func (c *Client) CreateAccount(ctx context.Context, name string) (Account, error) {
	return call[Account](ctx, c, "POST", "/accounts/"+name, nil)
}

// Account gives an account with its keys.
func (c *Client) Account(ctx context.Context, name string) (Account, error) {
	return call[Account](ctx, c, "GET", "/accounts/"+name, nil)
}

// Streams gives the streams whose names begin with prefix, in order, to fn.
func (c *Client) Streams(ctx context.Context, prefix string, fn func(Stream) error) error {
	after := ""
	for {
		page, err := call[[]Stream](ctx, c, "GET", "/streams", url.Values{"prefix": {prefix}, "after": {after}})
		if err != nil || len(page) == 0 {
			return err
		}
		for _, s := range page {
			if err := fn(s); err != nil {
				return err
			}
		}
		after = page[len(page)-1].Name
	}
}

// Stream describes a stream with its extents.
func (c *Client) Stream(ctx context.Context, name string) (Stream, error) {
	return call[Stream](ctx, c, "GET", "/stream", url.Values{"name": {name}})
}

// Content reads a stream from offset on, at most length bytes; a negative
// length means to its end.
func (c *Client) Content(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	q := url.Values{"name": {name}, "offset": {strconv.FormatInt(offset, 10)}}
	if length >= 0 {
		q.Set("length", strconv.FormatInt(length, 10))
	}
	resp, err := c.do(ctx, "GET", "/content", q)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Extents gives all extents, in order, to fn.
func (c *Client) Extents(ctx context.Context, fn func(Extent) error) error {
	after := ""
	for {
		page, err := call[[]Extent](ctx, c, "GET", "/extents", url.Values{"after": {after}})
		if err != nil || len(page) == 0 {
			return err
		}
		for _, x := range page {
			if err := fn(x); err != nil {
				return err
			}
		}
		after = page[len(page)-1].ID
	}
}

// Extent describes an extent.
func (c *Client) Extent(ctx context.Context, id string) (Extent, error) {
	return call[Extent](ctx, c, "GET", "/extents/"+url.PathEscape(id), nil)
}

// Replicas asks every place of an extent what it holds.
func (c *Client) Replicas(ctx context.Context, id string) ([]Replica, error) {
	return call[[]Replica](ctx, c, "GET", "/extents/"+url.PathEscape(id)+"/replicas", nil)
}

// Where says where the places of an extent are.
func (c *Client) Where(ctx context.Context, id string) ([]Place, error) {
	return call[[]Place](ctx, c, "GET", "/extents/"+url.PathEscape(id)+"/where", nil)
}

// Verify reads all replicas of an extent and checks them.
func (c *Client) Verify(ctx context.Context, id string) ([]Replica, error) {
	return call[[]Replica](ctx, c, "POST", "/extents/"+url.PathEscape(id)+"/verify", nil)
}

// Repair makes good what is wrong with an extent.
func (c *Client) Repair(ctx context.Context, id string) ([]string, error) {
	return call[[]string](ctx, c, "POST", "/extents/"+url.PathEscape(id)+"/repair", nil)
}

// Layer is the state of the stream layer.
func (c *Client) Layer(ctx context.Context) (Layer, error) {
	return call[Layer](ctx, c, "GET", "/layer", nil)
}

// Drain begins or ends moving everything off a disk or a node.
func (c *Client) Drain(ctx context.Context, what string, on bool) error {
	return c.change(ctx, "POST", "/drain", url.Values{"what": {what}, "on": {strconv.FormatBool(on)}})
}

// Trash gives what is in the trash of a disk.
func (c *Client) Trash(ctx context.Context, disk extentstore.DiskID, fn func(Trashed) error) error {
	after := ""
	for {
		page, err := call[[]Trashed](ctx, c, "GET", "/trash", url.Values{"disk": {string(disk)}, "after": {after}})
		if err != nil || len(page) == 0 {
			return err
		}
		for _, t := range page {
			if err := fn(t); err != nil {
				return err
			}
		}
		after = page[len(page)-1].Extent
	}
}

// Restore takes a replica back from the trash of a disk.
func (c *Client) Restore(ctx context.Context, disk extentstore.DiskID, id string) error {
	return c.change(ctx, "POST", "/restore", url.Values{"disk": {string(disk)}, "extent": {id}})
}

// SetPolicy chooses the code of a kind of stream.
func (c *Client) SetPolicy(ctx context.Context, kind, code string) error {
	return c.change(ctx, "POST", "/policy", url.Values{"kind": {kind}, "code": {code}})
}

// AddMember adds a replica of the StreamManager.
func (c *Client) AddMember(ctx context.Context, id, address string) error {
	return c.change(ctx, "POST", "/members/"+url.PathEscape(id), url.Values{"address": {address}})
}

// RemoveMember removes one.
func (c *Client) RemoveMember(ctx context.Context, id string) error {
	return c.change(ctx, "DELETE", "/members/"+url.PathEscape(id), nil)
}

func (c *Client) change(ctx context.Context, method, path string, q url.Values) error {
	_, err := call[any](ctx, c, method, path, q)
	return err
}
