package appliance

import (
	"crypto/tls"
	"log/slog"
)

// DevOptions configures OpenDev. The zero value of a field is usable except
// where it says Required.
type DevOptions struct {
	Location string   // Required: directory of the stamp, made if missing.
	Disks    []string // One ExtentNode each; nil means what the location has, and one directory in a new one.

	// Where to serve. Port 0 means any free one.
	BlobHost, QueueHost, TableHost, FileHost, MetricsHost string // "" means 127.0.0.1
	BlobPort, QueuePort, TablePort, FilePort, MetricsPort int

	Certificate *tls.Certificate // nil means plain HTTP.
	Mount       string           // Directory to mount DevAccount on; "" means none.
	Accounts    []AccountKeys    // Accounts beside DevAccount, as of AZURITE_ACCOUNTS.

	Version string       // Of the binary, for status and metrics.
	Log     *slog.Logger // nil means discard. Requests are logged at level Debug.
}

func (o *DevOptions) fill() {
	for _, host := range []*string{&o.BlobHost, &o.QueueHost, &o.TableHost, &o.FileHost, &o.MetricsHost} {
		if *host == "" {
			*host = "127.0.0.1"
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// Azurite's ports, and those of what it does not have.
const (
	DefaultBlobPort    = 10000
	DefaultQueuePort   = 10001
	DefaultTablePort   = 10002
	DefaultFilePort    = 10003
	DefaultMetricsPort = 10004
)
