package appliance

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// endpointsName is the file in the location that tells programs where a
// running stamp serves. It is written once everything serves and removed at
// stop; with the process killed it stays, so pid is there to be checked.
const endpointsName = "endpoints.json"

// Endpoints are the addresses, host:port, on which a stamp serves. An empty
// one is not served.
type Endpoints struct {
	Blob    string `json:"blob"`
	Queue   string `json:"queue"`
	Table   string `json:"table"`
	File    string `json:"file"`
	Metrics string `json:"metrics"`
}

func writeEndpoints(dir string, info DevInfo) error {
	b, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return err
	}
	name := filepath.Join(dir, endpointsName)
	if err := os.WriteFile(name+".tmp", append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(name+".tmp", name)
}

// ConnectionString is what Azure's SDKs and tools take for an account.
func ConnectionString(scheme, account, key string, e Endpoints) string {
	s := fmt.Sprintf("DefaultEndpointsProtocol=%s;AccountName=%s;AccountKey=%s;", scheme, account, key)
	for _, service := range []struct{ name, addr string }{{"Blob", e.Blob}, {"Queue", e.Queue}, {"Table", e.Table}} {
		if service.addr != "" {
			s += fmt.Sprintf("%sEndpoint=%s://%s/%s;", service.name, scheme, service.addr, account)
		}
	}
	return s
}

func (d *Dev) scheme() string {
	if d.opts.Certificate != nil {
		return "https"
	}
	return "http"
}
