package file

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"stamp"
	"stamp/frontend/file/filepb"
)

// codeOf is the gRPC code that goes with a kind, for tools that look at
// nothing else. Unavailable is left to gRPC itself: a client sends such a call
// again.
func codeOf(kind stamp.Kind) codes.Code {
	switch kind {
	case stamp.NotFound, stamp.ContainerNotFound, stamp.BlobNotFound, stamp.AccountNotFound, stamp.Stale:
		return codes.NotFound
	case stamp.Exists, stamp.ContainerExists, stamp.BlobExists:
		return codes.AlreadyExists
	case stamp.Denied:
		return codes.PermissionDenied
	case stamp.Invalid, stamp.NameTooLong, stamp.InvalidRange:
		return codes.InvalidArgument
	case stamp.Busy, stamp.Full, stamp.TooLarge:
		return codes.ResourceExhausted
	case stamp.Timeout:
		return codes.DeadlineExceeded
	case stamp.Unsupported:
		return codes.Unimplemented
	case stamp.NotDir, stamp.IsDir, stamp.NotEmpty, stamp.Loop:
		return codes.FailedPrecondition
	}
	return codes.Internal
}

// toStatus makes an error one that travels.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	f := &filepb.Failure{Kind: uint32(stamp.KindOf(err)), What: err.Error()}
	if e := (*stamp.Error)(nil); errors.As(err, &e) {
		f.Op, f.What = e.Op, e.What
		if f.What == "" && e.Err != nil {
			f.What = e.Err.Error()
		}
	}
	st, serr := status.New(codeOf(stamp.Kind(f.Kind)), err.Error()).WithDetails(f)
	if serr != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return st.Err()
}

// fromStatus makes a remote error read like a local one. sent tells whether
// the server has answered: if not, the call may be made again.
func fromStatus(op string, err error) (_ error, answered bool) {
	if err == nil {
		return nil, true
	}
	st := status.Convert(err)
	for _, d := range st.Details() {
		if f, ok := d.(*filepb.Failure); ok {
			return &stamp.Error{Op: f.Op, What: f.What, Kind: stamp.Kind(f.Kind)}, true
		}
	}
	kind := stamp.Other
	switch st.Code() {
	case codes.Unavailable:
		return stamp.Errorf(stamp.Unavailable, op, "%s", st.Message()), false
	case codes.DeadlineExceeded, codes.Canceled:
		kind = stamp.Timeout
	case codes.Unimplemented:
		kind = stamp.Unsupported
	case codes.ResourceExhausted:
		kind = stamp.TooLarge
	}
	if errors.Is(err, context.Canceled) {
		kind = stamp.Timeout
	}
	return stamp.Errorf(kind, op, "%s", st.Message()), true
}
