// Package table is the Table service's REST operations. It knows all of them
// by name and has none yet: each answers 501, to senders who may do it.
package table

import (
	"net/http"
	"strings"

	"stamp/frontend"
	"stamp/frontend/auth"
)

// Operations are the operations of the Table service.
type Operations struct {
	all []*frontend.Operation

	queryTables, createTable, deleteTable, getACL, setACL          *frontend.Operation
	getProperties, setProperties, getStats, preflight              *frontend.Operation
	queryEntities, insertEntity, updateEntity, mergeEntity         *frontend.Operation
	insertOrReplace, insertOrMerge, deleteEntity, groupTransaction *frontend.Operation
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
	o.queryTables = op("QueryTables", 'c', "l", "")
	o.createTable = op("CreateTable", 'c', "cw", "")
	o.deleteTable = op("DeleteTable", 'c', "d", "")
	o.getACL = op("GetTableACL", 'c', "", "")
	o.setACL = op("SetTableACL", 'c', "", "")
	o.getProperties = op("GetTableServiceProperties", 's', "r", "")
	o.setProperties = op("SetTableServiceProperties", 's', "w", "")
	o.getStats = op("GetTableServiceStats", 's', "r", "")
	o.preflight = op("PreflightTableRequest", 0, "", "")
	o.queryEntities = op("QueryEntities", 'o', "r", "r")
	o.insertEntity = op("InsertEntity", 'o', "a", "a")
	o.updateEntity = op("UpdateEntity", 'o', "u", "u")
	o.mergeEntity = op("MergeEntity", 'o', "u", "u")
	o.deleteEntity = op("DeleteEntity", 'o', "d", "d")
	o.insertOrReplace = op("InsertOrReplaceEntity", 'o', "au", "au")
	o.insertOrMerge = op("InsertOrMergeEntity", 'o', "au", "au")
	o.groupTransaction = op("EntityGroupTransaction", 0, "*", "*")
	return o
}

// Kind implements frontend.Service.
func (o *Operations) Kind() auth.Service { return auth.Table }

// All returns every documented operation.
func (o *Operations) All() []*frontend.Operation { return o.all }

// Route implements frontend.Service.
func (o *Operations) Route(r *frontend.Request) (*frontend.Operation, error) {
	method := r.HTTP.Method
	if method == http.MethodOptions {
		return o.preflight, nil
	}
	if override := r.Header("X-Http-Method"); override != "" && method == http.MethodPost {
		method = override // how clients of old say MERGE
	}
	var op *frontend.Operation
	name, key, _ := strings.Cut(r.Container, "(")
	switch {
	case r.Container == "":
		op = o.service(method, r)
	case r.Comp != "":
		op = o.acl(method, r)
	case strings.EqualFold(r.Container, "$batch") && method == http.MethodPost:
		op = o.groupTransaction
	case strings.EqualFold(name, "Tables"):
		op = o.tables(method)
	default:
		op = o.entities(method, key != "" && key != ")", r)
	}
	if op == nil {
		return nil, frontend.QueryError(frontend.InvalidQueryParameterValue, "comp", r.Query("comp"),
			"no operation has this method, resource and query")
	}
	return op, nil
}

func (o *Operations) service(method string, r *frontend.Request) *frontend.Operation {
	switch method + " " + r.Restype + "/" + r.Comp {
	case "GET service/properties":
		return o.getProperties
	case "PUT service/properties":
		return o.setProperties
	case "GET service/stats":
		return o.getStats
	}
	return nil
}

func (o *Operations) acl(method string, r *frontend.Request) *frontend.Operation {
	switch method + " " + r.Comp {
	case "GET acl", "HEAD acl":
		return o.getACL
	case "PUT acl":
		return o.setACL
	}
	return nil
}

func (o *Operations) tables(method string) *frontend.Operation {
	switch method {
	case http.MethodGet:
		return o.queryTables
	case http.MethodPost:
		return o.createTable
	case http.MethodDelete:
		return o.deleteTable
	}
	return nil
}

func (o *Operations) entities(method string, one bool, r *frontend.Request) *frontend.Operation {
	conditional := r.Header("If-Match") != ""
	switch {
	case method == http.MethodGet:
		return o.queryEntities
	case method == http.MethodPost && !one:
		return o.insertEntity
	case !one:
		return nil
	case method == http.MethodDelete:
		return o.deleteEntity
	case method == http.MethodPut && conditional:
		return o.updateEntity
	case method == http.MethodPut:
		return o.insertOrReplace
	case method == "MERGE" || method == http.MethodPatch:
		if conditional {
			return o.mergeEntity
		}
		return o.insertOrMerge
	}
	return nil
}
