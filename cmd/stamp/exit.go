package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"stamp"
)

// Exit codes, part of the command's interface.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitDenied      = 4
	exitUnreachable = 5
)

// errReported goes with an exit code when all has been said already.
var errReported = errors.New("reported")

// exitError is an error with a given exit code.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func usageError(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// exitCode says how a command that failed with err ends.
func exitCode(err error) int {
	var exit *exitError
	var resp *azcore.ResponseError
	var netErr *net.OpError
	switch {
	case errors.As(err, &exit):
		return exit.code
	case errors.As(err, &resp):
		return httpExitCode(resp.StatusCode)
	}
	switch stamp.KindOf(err) {
	case stamp.NotFound, stamp.AccountNotFound, stamp.ContainerNotFound, stamp.BlobNotFound:
		return exitNotFound
	case stamp.Denied:
		return exitDenied
	case stamp.Unavailable, stamp.Timeout:
		return exitUnreachable
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return exitNotFound
	case errors.Is(err, fs.ErrPermission):
		return exitDenied
	case errors.As(err, &netErr) && netErr.Op != "listen":
		return exitUnreachable
	}
	return exitFailed
}

func httpExitCode(status int) int {
	switch status {
	case http.StatusNotFound:
		return exitNotFound
	case http.StatusUnauthorized, http.StatusForbidden:
		return exitDenied
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return exitUnreachable
	}
	return exitFailed
}

// message is the text of an error for people. The SDK's errors are pages of
// headers; their code and status say the same.
func message(err error) string {
	var resp *azcore.ResponseError
	if errors.As(err, &resp) {
		where := ""
		if resp.RawResponse != nil && resp.RawResponse.Request != nil {
			where = " " + resp.RawResponse.Request.Method + " " + resp.RawResponse.Request.URL.Path
		}
		if resp.ErrorCode == "" {
			return fmt.Sprintf("status %d%s", resp.StatusCode, where)
		}
		return fmt.Sprintf("%s (status %d)%s", resp.ErrorCode, resp.StatusCode, where)
	}
	return err.Error()
}
