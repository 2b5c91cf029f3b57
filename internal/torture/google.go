package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

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
	// For a moment a connection of a client to another server may have this port.
	for end := time.Now().Add(patience); err != nil && time.Now().Before(end); listener, err = net.Listen("tcp", g.address) {
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		err = errors.Join(err, g.Server.Close())
		g.Server = nil
		return err
	}
	g.address = listener.Addr().String()
	server := g.Server
	g.web = &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.late.Load() && r.Method == http.MethodPost && (strings.HasSuffix(r.URL.Path, ":asyncBatchEmbedContent") || strings.HasSuffix(r.URL.Path, "/batchPredictionJobs")) {
			r = r.WithContext(context.WithoutCancel(r.Context()))
		}
		server.ServeHTTP(w, r)
	})}
	go g.web.Serve(listener)
	return nil
}

func (g *google) stop() error {
	if g.Server == nil { // it could not be started again
		return nil
	}
	return errors.Join(g.web.Close(), g.Server.Close())
}

// These are where Vertex AI has its inputs and results.
const (
	bucket = "torture"
	folder = "kb"
)

// objects are the objects of a folder, by name.
func (g *google) objects(below string) (map[string][]byte, error) {
	at := "http://" + g.address + "/storage/v1/b/" + bucket + "/o"
	list, err := fetch(at + "?prefix=" + url.QueryEscape(folder+"/"+below+"/"))
	if err != nil {
		return nil, err
	}
	var page struct{ Items []struct{ Name string } }
	if err := json.Unmarshal(list, &page); err != nil {
		return nil, err
	}
	objects := map[string][]byte{}
	for _, o := range page.Items {
		if objects[o.Name], err = fetch(at + "/" + url.PathEscape(o.Name) + "?alt=media"); err != nil {
			return nil, err
		}
	}
	return objects, nil
}

func fetch(url string) ([]byte, error) {
	r, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, r.Status)
	}
	return io.ReadAll(r.Body)
}

// inputs are the names of the inputs that are at Google.
func (g *google) inputs() (names []string, err error) {
	books, err := g.Books()
	if err != nil {
		return nil, err
	}
	for _, f := range books.Uploaded {
		names = append(names, f.Name)
	}
	objects, err := g.objects("in")
	return slices.AppendSeq(names, maps.Keys(objects)), err
}

// creates is how many creates were received, whatever their outcome.
func creates(b *emulator.Books) (n int64) {
	for _, count := range b.Operations["create"] {
		n += count
	}
	return n
}
