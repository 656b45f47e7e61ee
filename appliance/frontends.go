package appliance

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"

	"stamp"
	"stamp/frontend"
	blobrest "stamp/frontend/blob"
	"stamp/frontend/file"
	"stamp/frontend/queue"
	"stamp/frontend/table"
)

// serveFrontEnd begins to answer REST requests.
func (d *Dev) serveFrontEnd(context.Context) error {
	fe, err := frontend.New(frontend.Options{
		Accounts: d.accounts, StopGrace: requestGrace, TLS: d.tls(), Log: d.log, Metrics: d.registry,
	})
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
	run("blob", d.ports.blob, blobrest.New(blobrest.Options{Service: d.blobs, BufferMemory: uploadBuffers, Metrics: d.registry}))
	run("queue", d.ports.queue, queue.New())
	run("table", d.ports.table, table.New())
	d.onClose("front end", func(context.Context) error {
		stop()
		group.Wait()
		return nil
	})
	return nil
}

// tls is how clients are spoken to; nil means plainly.
func (d *Dev) tls() *tls.Config {
	if d.opts.Certificate == nil {
		return nil
	}
	return &tls.Config{Certificates: []tls.Certificate{*d.opts.Certificate}, MinVersion: tls.VersionTLS12}
}

// serveFiles offers the file service to mounts of other processes.
func (d *Dev) serveFiles(context.Context) error {
	s, err := file.NewServer(file.ServerOptions{
		Files: d.files, Keys: d.accountKeys, TLS: d.tls(), Log: d.log, Metrics: d.registry,
	})
	if err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(d.ports.file); err != nil {
			d.fail(err)
		}
	}()
	d.onClose("mount service", func(context.Context) error {
		s.Close()
		<-done
		return nil
	})
	return nil
}

// accountKeys are the keys of an account.
func (d *Dev) accountKeys(ctx context.Context, name stamp.AccountName) ([][]byte, error) {
	a, err := d.accounts.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	return a.Keys[:], nil
}
