package appliance

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"

	"stamp/frontend"
	blobrest "stamp/frontend/blob"
	"stamp/frontend/queue"
	"stamp/frontend/table"
)

// serveFrontEnd begins to answer REST requests.
func (d *Dev) serveFrontEnd(context.Context) error {
	opts := frontend.Options{Accounts: d.accounts, StopGrace: requestGrace, Log: d.log, Metrics: d.registry}
	if d.opts.Certificate != nil {
		opts.TLS = &tls.Config{Certificates: []tls.Certificate{*d.opts.Certificate}, MinVersion: tls.VersionTLS12}
	}
	fe, err := frontend.New(opts)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	var group sync.WaitGroup
	run := func(what string, l net.Listener, service frontend.Service) {
		group.Go(func() {
			if err := fe.Serve(ctx, l, service); err != nil {
				d.fail(fmt.Errorf("%s service: %w", what, err))
			}
		})
	}
	run("blob", d.ports.blob, blobrest.New(blobrest.Options{Service: d.blobs, BufferMemory: uploadBuffers}))
	run("queue", d.ports.queue, queue.New())
	run("table", d.ports.table, table.New())
	d.onClose("front end", func(context.Context) error {
		stop()
		group.Wait()
		return nil
	})
	return nil
}
