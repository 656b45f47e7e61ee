package frontend

import (
	"errors"
	"fmt"
	"net/http"

	"stamp"
	"stamp/frontend/auth"
)

// Code is an error code of the Azure Storage services.
type Code string

// The codes that this FrontEnd answers with.
const (
	AuthenticationFailed                 Code = "AuthenticationFailed"
	AuthorizationFailure                 Code = "AuthorizationFailure"
	AuthorizationPermissionMismatch      Code = "AuthorizationPermissionMismatch"
	AuthorizationProtocolMismatch        Code = "AuthorizationProtocolMismatch"
	AuthorizationResourceTypeMismatch    Code = "AuthorizationResourceTypeMismatch"
	AuthorizationServiceMismatch         Code = "AuthorizationServiceMismatch"
	AuthorizationSourceIPMismatch        Code = "AuthorizationSourceIPMismatch"
	BlobAlreadyExists                    Code = "BlobAlreadyExists"
	BlobNotFound                         Code = "BlobNotFound"
	BlockCountExceedsLimit               Code = "BlockCountExceedsLimit"
	BlockListTooLong                     Code = "BlockListTooLong"
	BothCRC64AndMD5                      Code = "BothCrc64AndMd5HeaderPresent"
	ConditionNotMet                      Code = "ConditionNotMet"
	ContainerAlreadyExists               Code = "ContainerAlreadyExists"
	ContainerBeingDeleted                Code = "ContainerBeingDeleted"
	ContainerNotFound                    Code = "ContainerNotFound"
	CorsPreflightFailure                 Code = "CorsPreflightFailure"
	Crc64Mismatch                        Code = "Crc64Mismatch"
	EmptyMetadataKey                     Code = "EmptyMetadataKey"
	InsufficientStorage                  Code = "InsufficientStorage"
	InternalError                        Code = "InternalError"
	InvalidAuthenticationInfo            Code = "InvalidAuthenticationInfo"
	InvalidBlobOrBlock                   Code = "InvalidBlobOrBlock"
	InvalidBlobType                      Code = "InvalidBlobType"
	InvalidBlockList                     Code = "InvalidBlockList"
	InvalidHeaderValue                   Code = "InvalidHeaderValue"
	InvalidInput                         Code = "InvalidInput"
	InvalidMd5                           Code = "InvalidMd5"
	InvalidMetadata                      Code = "InvalidMetadata"
	InvalidQueryParameterValue           Code = "InvalidQueryParameterValue"
	InvalidRange                         Code = "InvalidRange"
	InvalidResourceName                  Code = "InvalidResourceName"
	InvalidURI                           Code = "InvalidUri"
	InvalidXMLDocument                   Code = "InvalidXmlDocument"
	LeaseNotPresentWithBlobOperation     Code = "LeaseNotPresentWithBlobOperation"
	LeaseNotPresentWithContainer         Code = "LeaseNotPresentWithContainerOperation"
	Md5Mismatch                          Code = "Md5Mismatch"
	MetadataTooLarge                     Code = "MetadataTooLarge"
	MissingContentLengthHeader           Code = "MissingContentLengthHeader"
	MissingRequiredHeader                Code = "MissingRequiredHeader"
	MissingRequiredQueryParameter        Code = "MissingRequiredQueryParameter"
	MultipleConditionHeadersNotSupported Code = "MultipleConditionHeadersNotSupported"
	NoAuthenticationInformation          Code = "NoAuthenticationInformation"
	NotImplemented                       Code = "NotImplemented"
	OperationTimedOut                    Code = "OperationTimedOut"
	OutOfRangeInput                      Code = "OutOfRangeInput"
	OutOfRangeQueryParameterValue        Code = "OutOfRangeQueryParameterValue"
	PublicAccessNotPermitted             Code = "PublicAccessNotPermitted"
	RequestBodyTooLarge                  Code = "RequestBodyTooLarge"
	ResourceAlreadyExists                Code = "ResourceAlreadyExists"
	ResourceNotFound                     Code = "ResourceNotFound"
	ServerBusy                           Code = "ServerBusy"
	UnauthorizedBlobOverwrite            Code = "UnauthorizedBlobOverwrite"
	UnsatisfiableCondition               Code = "UnsatisfiableCondition"
	UnsupportedHeader                    Code = "UnsupportedHeader"
	UnsupportedHTTPVerb                  Code = "UnsupportedHttpVerb"
)

// answer is the HTTP status and the message of a code.
type answer struct {
	status  int
	message string
}

var answers = map[Code]answer{
	AuthenticationFailed:                 {403, "Server failed to authenticate the request. Check the Authorization header or the shared access signature."},
	AuthorizationFailure:                 {403, "This request is not authorized to perform this operation."},
	AuthorizationPermissionMismatch:      {403, "This request is not authorized to perform this operation using this permission."},
	AuthorizationProtocolMismatch:        {403, "This request is not authorized to perform this operation using this protocol."},
	AuthorizationResourceTypeMismatch:    {403, "This request is not authorized to perform this operation using this resource type."},
	AuthorizationServiceMismatch:         {403, "This request is not authorized to perform this operation using this service."},
	AuthorizationSourceIPMismatch:        {403, "This request is not authorized to perform this operation using this source IP."},
	BlobAlreadyExists:                    {409, "The specified blob already exists."},
	BlobNotFound:                         {404, "The specified blob does not exist."},
	BlockCountExceedsLimit:               {409, "The number of blocks is over the limit."},
	BlockListTooLong:                     {400, "The block list may not contain more than 50,000 blocks."},
	BothCRC64AndMD5:                      {400, "Content-MD5 and x-ms-content-crc64 are both present. Only one of them is allowed."},
	ConditionNotMet:                      {412, "The condition specified using HTTP conditional header(s) is not met."},
	ContainerAlreadyExists:               {409, "The specified container already exists."},
	ContainerBeingDeleted:                {409, "The specified container is being deleted. Try the operation later."},
	ContainerNotFound:                    {404, "The specified container does not exist."},
	CorsPreflightFailure:                 {403, "CORS not enabled or no matching rule found for this request."},
	Crc64Mismatch:                        {400, "The CRC64 value specified in the request did not match the CRC64 value calculated by the server."},
	EmptyMetadataKey:                     {400, "The key for one of the metadata key-value pairs is empty."},
	InsufficientStorage:                  {507, "There is no space left for user data. Delete something or add disks."},
	InternalError:                        {500, "The server encountered an internal error. Please retry the request."},
	InvalidAuthenticationInfo:            {400, "The authentication information was not provided in the correct format. Verify the value of the Authorization header."},
	InvalidBlobOrBlock:                   {400, "The specified blob or block content is invalid."},
	InvalidBlobType:                      {409, "The blob type is invalid for this operation."},
	InvalidBlockList:                     {400, "The specified block list is invalid."},
	InvalidHeaderValue:                   {400, "The value for one of the HTTP headers is not in the correct format."},
	InvalidInput:                         {400, "One of the request inputs is not valid."},
	InvalidMd5:                           {400, "The MD5 value specified in the request is invalid. It must be 128 bits, base64-encoded."},
	InvalidMetadata:                      {400, "The metadata specified is invalid. It has characters that are not permitted."},
	InvalidQueryParameterValue:           {400, "Value for one of the query parameters specified in the request URI is invalid."},
	InvalidRange:                         {416, "The range specified is invalid for the current size of the resource."},
	InvalidResourceName:                  {400, "The specified resource name contains invalid characters."},
	InvalidURI:                           {400, "The requested URI does not represent any resource on the server."},
	InvalidXMLDocument:                   {400, "XML specified is not syntactically valid."},
	LeaseNotPresentWithBlobOperation:     {412, "There is currently no lease on the blob."},
	LeaseNotPresentWithContainer:         {412, "There is currently no lease on the container."},
	Md5Mismatch:                          {400, "The MD5 value specified in the request did not match the MD5 value calculated by the server."},
	MetadataTooLarge:                     {400, "The size of the specified metadata exceeds the maximum size permitted."},
	MissingContentLengthHeader:           {411, "The Content-Length header was not specified."},
	MissingRequiredHeader:                {400, "An HTTP header that's mandatory for this request is not specified."},
	MissingRequiredQueryParameter:        {400, "A query parameter that's mandatory for this request is not specified."},
	MultipleConditionHeadersNotSupported: {400, "Multiple condition headers are not supported."},
	NoAuthenticationInformation:          {401, "Server failed to authenticate the request. Please refer to the information in the www-authenticate header."},
	NotImplemented:                       {501, "The requested operation is not implemented on the specified resource."},
	OperationTimedOut:                    {500, "The operation could not be completed within the permitted time."},
	OutOfRangeInput:                      {400, "One of the request inputs is out of range."},
	OutOfRangeQueryParameterValue:        {400, "One of the query parameters specified in the request URI is outside the permissible range."},
	PublicAccessNotPermitted:             {409, "Public access is not permitted on this storage account."},
	RequestBodyTooLarge:                  {413, "The request body is too large and exceeds the maximum permissible limit."},
	ResourceAlreadyExists:                {409, "The specified resource already exists."},
	ResourceNotFound:                     {404, "The specified resource does not exist."},
	ServerBusy:                           {503, "The server is currently unable to receive requests. Please retry your request."},
	UnauthorizedBlobOverwrite:            {403, "This request is not authorized to perform blob overwrites."},
	UnsatisfiableCondition:               {400, "The request has a condition that can never hold for this operation."},
	UnsupportedHeader:                    {400, "One of the HTTP headers specified in the request is not supported."},
	UnsupportedHTTPVerb:                  {405, "The resource doesn't support specified Http Verb."},
}

// kinds is the Azure code of each kind of error. NotModified has the code of
// ConditionNotMet, but the status 304.
var kinds = map[stamp.Kind]Code{
	stamp.Other:                 InternalError,
	stamp.NotFound:              ResourceNotFound,
	stamp.Exists:                ResourceAlreadyExists,
	stamp.Sealed:                InternalError,
	stamp.Fenced:                ServerBusy,
	stamp.NotOwner:              ServerBusy,
	stamp.Corrupt:               InternalError,
	stamp.Busy:                  ServerBusy,
	stamp.Full:                  InsufficientStorage,
	stamp.Invalid:               InvalidInput,
	stamp.Unavailable:           ServerBusy,
	stamp.Timeout:               OperationTimedOut,
	stamp.Denied:                AuthorizationFailure,
	stamp.ConditionNotMet:       ConditionNotMet,
	stamp.NotModified:           ConditionNotMet,
	stamp.Unsupported:           NotImplemented,
	stamp.AccountNotFound:       ResourceNotFound,
	stamp.ContainerNotFound:     ContainerNotFound,
	stamp.ContainerExists:       ContainerAlreadyExists,
	stamp.ContainerBeingDeleted: ContainerBeingDeleted,
	stamp.BlobNotFound:          BlobNotFound,
	stamp.BlobExists:            BlobAlreadyExists,
	stamp.InvalidBlockList:      InvalidBlockList,
	stamp.InvalidBlobType:       InvalidBlobType,
	stamp.BlockCountExceeds:     BlockCountExceedsLimit,
	stamp.TooLarge:              RequestBodyTooLarge,
	stamp.ChecksumMismatch:      Md5Mismatch,
	stamp.InvalidRange:          InvalidRange,
	stamp.InvalidBlockID:        InvalidBlobOrBlock,
	stamp.NameTooLong:           OutOfRangeInput,
}

// failures is the Azure code of each reason to refuse a sender.
var failures = map[auth.Failure]Code{
	auth.NoCredentials:       NoAuthenticationInformation,
	auth.Malformed:           InvalidAuthenticationInfo,
	auth.Unsupported:         AuthenticationFailed,
	auth.Failed:              AuthenticationFailed,
	auth.PermissionMismatch:  AuthorizationPermissionMismatch,
	auth.ServiceMismatch:     AuthorizationServiceMismatch,
	auth.ResourceMismatch:    AuthorizationResourceTypeMismatch,
	auth.ProtocolMismatch:    AuthorizationProtocolMismatch,
	auth.SourceIPMismatch:    AuthorizationSourceIPMismatch,
	auth.OperationNotAllowed: AuthorizationFailure,
}

// Field is an element that an error body has beside code and message, such as
// HeaderName.
type Field struct{ Name, Value string }

// Error is an error of the REST protocol itself: what is wrong with a request
// before it means anything to the layer below.
type Error struct {
	Code   Code
	Status int // 0 is the code's own
	Fields []Field
	Header Field // a header that goes with the error; no Name is none
}

func (e *Error) Error() string {
	s := "frontend: " + string(e.Code)
	for _, f := range e.Fields {
		s += fmt.Sprintf(", %s %q", f.Name, f.Value)
	}
	return s
}

// Errorf makes an Error whose body tells the reason.
func Errorf(code Code, format string, args ...any) error {
	return &Error{Code: code, Fields: []Field{{"Reason", fmt.Sprintf(format, args...)}}}
}

// HeaderError says which header's value is wrong.
func HeaderError(code Code, header, value string) error {
	return &Error{Code: code, Fields: []Field{{"HeaderName", header}, {"HeaderValue", value}}}
}

// MissingHeader says which header is missing.
func MissingHeader(header string) error {
	return &Error{Code: MissingRequiredHeader, Fields: []Field{{"HeaderName", header}}}
}

// QueryError says which query parameter's value is wrong, and why.
func QueryError(code Code, name, value, reason string) error {
	return &Error{Code: code, Fields: []Field{
		{"QueryParameterName", name}, {"QueryParameterValue", value}, {"Reason", reason},
	}}
}

// resolve finds what to answer to err. It always has a code and a status.
func resolve(err error) Error {
	var own *Error
	var refused *auth.Error
	switch {
	case errors.As(err, &own):
		e := *own
		if e.Status == 0 {
			e.Status = statusOf(e.Code)
		}
		return e
	case errors.As(err, &refused):
		code := failures[refused.Failure]
		return Error{Code: code, Status: statusOf(code), Fields: []Field{{"AuthenticationErrorDetail", refused.Detail}}}
	}
	kind := stamp.KindOf(err)
	code, ok := kinds[kind]
	if !ok {
		code = InternalError
	}
	e := Error{Code: code, Status: statusOf(code)}
	if kind == stamp.NotModified {
		e.Status = http.StatusNotModified
	}
	return e
}

func statusOf(code Code) int {
	if a, ok := answers[code]; ok {
		return a.status
	}
	return http.StatusInternalServerError
}
