package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/urfave/cli/v2"

	"stamp"
)

func TestFlagsFirst(t *testing.T) {
	app := newApp(nil, nil)
	for _, tc := range []struct{ in, want string }{
		{"stamp", "stamp"},
		{"stamp blob", "stamp blob"},
		{"stamp blob ls", "stamp blob ls --"},
		{"stamp blob ls box -o json", "stamp blob ls -o json -- box"},
		{"stamp blob ls box -r", "stamp blob ls -r -- box"},
		{"stamp blob cp -r a az://b -o=json", "stamp blob cp -r -o=json -- a az://b"},
		{"stamp blob cp - az://b/c", "stamp blob cp -- - az://b/c"},
		{"stamp blob cat -- -r", "stamp blob cat -- -r"},
		{"stamp stream cat /a/1/x --offset 5 --length 6", "stamp stream cat --offset 5 --length 6 -- /a/1/x"},
		{"stamp --help", "stamp --help"},
		{"stamp bench --op put", "stamp bench --op put"},
		{"stamp dev --location", "stamp dev --location --"},
	} {
		got := strings.Join(flagsFirst(app, strings.Fields(tc.in)), " ")
		if got != tc.want {
			t.Errorf("flagsFirst(%q) = %q, want %q", tc.in, got, tc.want)
		}
	}
}

func TestExitCode(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want int
	}{
		{errors.New("x"), exitFailed},
		{usageError("x"), exitUsage},
		{fmt.Errorf("open: %w", fs.ErrNotExist), exitNotFound},
		{fmt.Errorf("open: %w", fs.ErrPermission), exitDenied},
		{stamp.Errorf(stamp.NotFound, "a", "b"), exitNotFound},
		{stamp.Errorf(stamp.Denied, "a", "b"), exitDenied},
		{stamp.Errorf(stamp.Unavailable, "a", "b"), exitUnreachable},
		{stamp.Errorf(stamp.Full, "a", "b"), exitFailed},
		{&azcore.ResponseError{StatusCode: 404}, exitNotFound},
		{&azcore.ResponseError{StatusCode: 403}, exitDenied},
		{&azcore.ResponseError{StatusCode: 409}, exitFailed},
		{&azcore.ResponseError{StatusCode: 503}, exitUnreachable},
		{fmt.Errorf("get: %w", &net.OpError{Op: "dial", Err: errors.New("refused")}), exitUnreachable},
		{errors.Join(usageError("x"), errors.New("y")), exitUsage},
	} {
		if got := exitCode(tc.err); got != tc.want {
			t.Errorf("exitCode(%v) = %d, want %d", tc.err, got, tc.want)
		}
	}
}

// Every command that can be run takes -o, and rejects what it does not know.
func TestEveryCommandTakesOutput(t *testing.T) {
	var walk func(path []string, c *cli.Command)
	walk = func(path []string, c *cli.Command) {
		path = append(slices.Clone(path), c.Name)
		for _, sub := range c.Subcommands {
			walk(path, sub)
		}
		if len(c.Subcommands) > 0 {
			return
		}
		var out, errOut bytes.Buffer
		code := run(context.Background(), append(slices.Clone(path), "-o", "yaml"), &out, &errOut)
		if code != exitUsage || !strings.Contains(errOut.String(), "yaml") {
			t.Errorf("%v -o yaml: exit code %d, %q; want %d and the word", path, code, errOut.String(), exitUsage)
		}
	}
	for _, c := range newApp(nil, nil).Commands {
		walk([]string{"stamp"}, c)
	}
}
