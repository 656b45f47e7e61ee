package table

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"stamp/frontend"
	"stamp/frontend/auth"
)

// route routes "METHOD target [If-Match]".
func route(t *testing.T, request string) (*frontend.Operation, error) {
	method, target, _ := strings.Cut(request, " ")
	target, match, _ := strings.Cut(target, " ")
	hr := &http.Request{Method: method, RequestURI: target, Host: "127.0.0.1", Header: http.Header{}}
	if match != "" {
		hr.Header.Set("If-Match", match)
	}
	r, err := frontend.NewRequest(httptest.NewRecorder(), hr, auth.Table)
	if err != nil {
		t.Fatal(err)
	}
	return New().Route(r)
}

func TestEveryOperationByName(t *testing.T) {
	tests := map[string]string{
		"QueryTables":               "GET /acct/Tables",
		"CreateTable":               "POST /acct/Tables",
		"DeleteTable":               "DELETE /acct/Tables('t')",
		"GetTableACL":               "GET /acct/t?comp=acl",
		"SetTableACL":               "PUT /acct/t?comp=acl",
		"GetTableServiceProperties": "GET /acct?restype=service&comp=properties",
		"SetTableServiceProperties": "PUT /acct?restype=service&comp=properties",
		"GetTableServiceStats":      "GET /acct?restype=service&comp=stats",
		"PreflightTableRequest":     "OPTIONS /acct/t",
		"QueryEntities":             "GET /acct/t()?$filter=x",
		"InsertEntity":              "POST /acct/t",
		"UpdateEntity":              "PUT /acct/t(PartitionKey='a',RowKey='b') *",
		"MergeEntity":               "MERGE /acct/t(PartitionKey='a',RowKey='b') *",
		"DeleteEntity":              "DELETE /acct/t(PartitionKey='a',RowKey='b') *",
		"InsertOrReplaceEntity":     "PUT /acct/t(PartitionKey='a',RowKey='b')",
		"InsertOrMergeEntity":       "PATCH /acct/t(PartitionKey='a',RowKey='b')",
		"EntityGroupTransaction":    "POST /acct/$batch",
	}
	for name, request := range tests {
		op, err := route(t, request)
		if err != nil || op.Name != name || op.Serve != nil {
			t.Errorf("%s: got %v, %v, want %s", request, op, err, name)
		}
	}
	if got, want := len(New().All()), len(tests); got != want {
		t.Errorf("%d operations, %d of them tested", got, want)
	}
	for _, request := range []string{"PUT /acct/t?comp=nonsense", "GET /acct", "PUT /acct/t"} {
		if op, err := route(t, request); err == nil {
			t.Errorf("%s: got %s", request, op.Name)
		}
	}
}
