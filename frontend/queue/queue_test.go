package queue

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
	r, err := frontend.NewRequest(httptest.NewRecorder(), hr, auth.Queue)
	if err != nil {
		t.Fatal(err)
	}
	return New().Route(r)
}

func TestEveryOperationByName(t *testing.T) {
	tests := map[string]string{
		"ListQueues":                "GET /acct?comp=list",
		"GetQueueServiceProperties": "GET /acct?restype=service&comp=properties",
		"SetQueueServiceProperties": "PUT /acct/?restype=service&comp=properties",
		"GetQueueServiceStats":      "GET /acct?restype=service&comp=stats",
		"PreflightQueueRequest":     "OPTIONS /acct/q",
		"CreateQueue":               "PUT /acct/q",
		"DeleteQueue":               "DELETE /acct/q",
		"GetQueueMetadata":          "HEAD /acct/q?comp=metadata",
		"SetQueueMetadata":          "PUT /acct/q?comp=metadata",
		"GetQueueACL":               "GET /acct/q?comp=acl",
		"SetQueueACL":               "PUT /acct/q?comp=acl",
		"PutMessage":                "POST /acct/q/messages?messagettl=7",
		"GetMessages":               "GET /acct/q/messages?numofmessages=2",
		"PeekMessages":              "GET /acct/q/messages?peekonly=true",
		"DeleteMessage":             "DELETE /acct/q/messages/id?popreceipt=x",
		"ClearMessages":             "DELETE /acct/q/messages",
		"UpdateMessage":             "PUT /acct/q/messages/id?popreceipt=x&visibilitytimeout=0",
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
	for _, request := range []string{"POST /acct/q?comp=nonsense", "GET /acct", "PUT /acct/q/other"} {
		if op, err := route(t, request); err == nil {
			t.Errorf("%s: got %s", request, op.Name)
		}
	}
}
