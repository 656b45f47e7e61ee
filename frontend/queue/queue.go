// Package queue is the Queue service's REST operations. It knows all of them
// by name and has none yet: each answers 501, to senders who may do it.
package queue

import (
	"net/http"
	"strings"

	"stamp/frontend"
	"stamp/frontend/auth"
)

// Operations are the operations of the Queue service.
type Operations struct {
	all []*frontend.Operation

	listQueues, getProperties, setProperties, getStats, preflight      *frontend.Operation
	createQueue, deleteQueue, getMetadata, setMetadata, getACL, setACL *frontend.Operation
	putMessage, getMessages, peekMessages, clearMessages               *frontend.Operation
	deleteMessage, updateMessage                                       *frontend.Operation
}

var _ frontend.Service = (*Operations)(nil)

// New makes the Operations.
func New() *Operations {
	o := new(Operations)
	op := func(name string, resource byte, account, service string) *frontend.Operation {
		made := &frontend.Operation{Name: name, Access: auth.Access{Resource: resource, Account: account, Service: service}}
		o.all = append(o.all, made)
		return made
	}
	o.listQueues = op("ListQueues", 's', "l", "")
	o.getProperties = op("GetQueueServiceProperties", 's', "r", "")
	o.setProperties = op("SetQueueServiceProperties", 's', "w", "")
	o.getStats = op("GetQueueServiceStats", 's', "r", "")
	o.preflight = op("PreflightQueueRequest", 0, "", "")
	o.createQueue = op("CreateQueue", 'c', "cw", "")
	o.deleteQueue = op("DeleteQueue", 'c', "d", "")
	o.getMetadata = op("GetQueueMetadata", 'c', "r", "r")
	o.setMetadata = op("SetQueueMetadata", 'c', "w", "")
	o.getACL = op("GetQueueACL", 'c', "", "")
	o.setACL = op("SetQueueACL", 'c', "", "")
	o.putMessage = op("PutMessage", 'o', "a", "a")
	o.getMessages = op("GetMessages", 'o', "p", "p")
	o.peekMessages = op("PeekMessages", 'o', "r", "r")
	o.deleteMessage = op("DeleteMessage", 'o', "p", "p")
	o.clearMessages = op("ClearMessages", 'o', "d", "")
	o.updateMessage = op("UpdateMessage", 'o', "u", "u")
	return o
}

// Kind implements frontend.Service.
func (o *Operations) Kind() auth.Service { return auth.Queue }

// All returns every documented operation.
func (o *Operations) All() []*frontend.Operation { return o.all }

// Route implements frontend.Service.
func (o *Operations) Route(r *frontend.Request) (*frontend.Operation, error) {
	if r.HTTP.Method == http.MethodOptions {
		return o.preflight, nil
	}
	var op *frontend.Operation
	switch {
	case r.Container == "":
		op = o.service(r)
	case r.Blob == "":
		op = o.queue(r)
	default:
		op = o.messages(r)
	}
	if op == nil {
		return nil, frontend.QueryError(frontend.InvalidQueryParameterValue, "comp", r.Query("comp"),
			"no operation has this method, resource and query")
	}
	return op, nil
}

func (o *Operations) service(r *frontend.Request) *frontend.Operation {
	switch r.HTTP.Method + " " + r.Restype + "/" + r.Comp {
	case "GET /list":
		return o.listQueues
	case "GET service/properties":
		return o.getProperties
	case "PUT service/properties":
		return o.setProperties
	case "GET service/stats":
		return o.getStats
	}
	return nil
}

func (o *Operations) queue(r *frontend.Request) *frontend.Operation {
	switch r.HTTP.Method + " " + r.Comp {
	case "PUT ":
		return o.createQueue
	case "DELETE ":
		return o.deleteQueue
	case "GET metadata", "HEAD metadata":
		return o.getMetadata
	case "PUT metadata":
		return o.setMetadata
	case "GET acl", "HEAD acl":
		return o.getACL
	case "PUT acl":
		return o.setACL
	}
	return nil
}

func (o *Operations) messages(r *frontend.Request) *frontend.Operation {
	first, id, one := strings.Cut(r.Blob, "/")
	if !strings.EqualFold(first, "messages") {
		return nil
	}
	one = one && id != ""
	switch {
	case r.HTTP.Method == http.MethodPost && !one:
		return o.putMessage
	case r.HTTP.Method == http.MethodGet && !one && strings.EqualFold(r.Query("peekonly"), "true"):
		return o.peekMessages
	case r.HTTP.Method == http.MethodGet && !one:
		return o.getMessages
	case r.HTTP.Method == http.MethodDelete && one:
		return o.deleteMessage
	case r.HTTP.Method == http.MethodDelete:
		return o.clearMessages
	case r.HTTP.Method == http.MethodPut && one:
		return o.updateMessage
	}
	return nil
}
