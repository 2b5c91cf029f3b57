package main

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync/atomic"

	"gbatch/pkg/emulator"
)

// A google is an emulator behind a server that can be stopped and started
// again with the same state and address.
type google struct {
	*emulator.Server
	options emulator.Options
	web     *http.Server
	address string
	// late makes a create continue after its client has disconnected, as it may at
	// Google.
	late atomic.Bool
}

func newGoogle(options emulator.Options) (*google, error) {
	g := &google{options: options, address: "127.0.0.1:0"}
	return g, g.start()
}

func (g *google) start() (err error) {
	if g.Server, err = emulator.New(g.options); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", g.address)
	if err != nil {
		return errors.Join(err, g.Server.Close())
	}
	g.address = listener.Addr().String()
	server := g.Server
	g.web = &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.late.Load() && strings.HasSuffix(r.URL.Path, ":asyncBatchEmbedContent") {
			r = r.WithContext(context.WithoutCancel(r.Context()))
		}
		server.ServeHTTP(w, r)
	})}
	go g.web.Serve(listener)
	return nil
}

func (g *google) stop() error {
	return errors.Join(g.web.Close(), g.Server.Close())
}

// creates is how many creates were received, whatever their outcome.
func creates(b *emulator.Books) (n int64) {
	for _, count := range b.Operations["create"] {
		n += count
	}
	return n
}
