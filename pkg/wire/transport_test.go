package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A create uses a new connection also with a server that speaks HTTP/2, as
// Google's servers do.
func TestCreateOverTLS(t *testing.T) {
	var mu sync.Mutex
	creates := map[string]int{} // by protocol and address
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		io.WriteString(w, "{}")
		if r.Method == http.MethodPost {
			creates[r.Proto+" "+r.RemoteAddr]++
		} else if r.ProtoMajor != 2 {
			t.Errorf("%s over %s", r.URL, r.Proto)
		}
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	transport := NewTransport(Credential{})
	for _, tr := range []*http.Transport{transport.pooled, transport.fresh} {
		tr.TLSClientConfig.RootCAs = server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	}
	c := http.Client{Transport: transport}
	for range 2 {
		for _, method := range []string{"GET", "POST"} {
			path := map[string]string{"GET": "/v1beta/batches", "POST": "/v1beta/models/m:asyncBatchEmbedContent"}[method]
			req, err := http.NewRequest(method, server.URL+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			send := func(ctx context.Context) error {
				resp, err := c.Do(req.WithContext(ctx))
				if err == nil {
					resp.Body.Close()
				}
				return err
			}
			if method == "POST" {
				err = transport.Once(t.Context(), send)
			} else {
				err = transport.Do(t.Context(), send)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(creates) != 2 || strings.Contains(fmt.Sprint(creates), "HTTP/2") {
		t.Errorf("creates: %v", creates)
	}
}

// If no connection can be made, nothing was sent: the outcome is not unknown.
func TestCreateNotSent(t *testing.T) {
	tr := NewTransport(Credential{})
	err := tr.Once(t.Context(), func(ctx context.Context) error {
		req, _ := http.NewRequestWithContext(ctx, "POST", "http://127.0.0.1:1/v1beta/models/m:asyncBatchEmbedContent", nil)
		_, err := tr.Client().Do(req)
		return err
	})
	if !IsNotSent(err) || !NotDone(err) {
		t.Error(err)
	}
}

// If a server takes no bytes of a request, the command does not wait for ever.
func TestSendingHasALimit(t *testing.T) {
	old := ReplyTimeout
	ReplyTimeout = 200 * time.Millisecond
	defer func() { ReplyTimeout = old }()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept() // the test reads nothing from it
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	for _, once := range []bool{false, true} {
		tr := NewTransport(Credential{})
		send := func(ctx context.Context) error {
			req, _ := http.NewRequestWithContext(ctx, "POST", "http://"+l.Addr().String()+"/", bytes.NewReader(make([]byte, 64<<20)))
			_, err := tr.Client().Do(req)
			return err
		}
		if once {
			err = tr.Once(t.Context(), send)
		} else {
			err = tr.Do(t.Context(), send)
		}
		if err == nil || !strings.Contains(err.Error(), "took no bytes of the request for 200ms") || !Transient(err) {
			t.Errorf("%v", err)
		}
	}
}

// A server that reads slowly is waited for.
func TestSendingSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		s := newSending(io.NopCloser(bytes.NewReader(make([]byte, 100))), cancel)
		for range 10 {
			time.Sleep(ReplyTimeout - time.Second)
			if _, err := s.Read(make([]byte, 1)); err != nil || ctx.Err() != nil {
				t.Fatal(err, context.Cause(ctx))
			}
		}
		time.Sleep(ReplyTimeout + time.Second)
		if !errors.As(context.Cause(ctx), new(silence)) {
			t.Errorf("the sending did not end: %v", context.Cause(ctx))
		}
		s.Close()
	})
}

// A reply that is read whole is whole, or an error says so.
func TestWhole(t *testing.T) {
	defer func(n int64) { maxReply = n }(maxReply)
	maxReply = 100
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/limit":
			io.WriteString(w, strings.Repeat("x", 100))
		case "/large":
			io.WriteString(w, strings.Repeat("x", 101))
		case "/accepted":
			w.WriteHeader(http.StatusPermanentRedirect)
			io.WriteString(w, "go on")
		case "/refused":
			http.Error(w, "no", http.StatusNotFound)
		case "/cut", "/chunked", "/cancelled":
			if r.URL.Path == "/cut" {
				w.Header().Set("Content-Length", "50")
			}
			io.WriteString(w, "half")
			w.(http.Flusher).Flush()
			if r.URL.Path == "/cancelled" {
				cancel(stopped)
				<-r.Context().Done()
			}
			panic(http.ErrAbortHandler)
		}
	}))
	defer server.Close()
	for _, c := range []struct {
		path   string
		size   int
		status int
		ok     func(error) bool
	}{
		{"/limit", 100, 200, nil},
		{"/accepted", 2, 308, nil}, // its body became {}
		{"/empty", 0, 200, nil},
		{"/large", 0, 0, func(err error) bool { return IsPermanent(err) && strings.Contains(err.Error(), "more than 100 bytes") }},
		{"/cut", 0, 0, func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) && Transient(err) }},
		{"/chunked", 0, 0, func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) && Transient(err) }},
		{"/refused", 0, 0, Missing},
		{"/cancelled", 0, 0, func(err error) bool { return err == stopped }},
	} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, resp, err := NewTransport(Credential{}).Whole(req, http.StatusPermanentRedirect)
		switch {
		case c.ok == nil && (err != nil || len(body) != c.size || resp.StatusCode != c.status):
			t.Errorf("%s: %q, %v", c.path, body, err)
		case c.ok != nil && (err == nil || !c.ok(err) || body != nil):
			t.Errorf("%s: %q, %v", c.path, body, err)
		}
	}
	// A connection that ends early without an error of net/http.
	short := &http.Response{Body: io.NopCloser(strings.NewReader("half")), ContentLength: 8}
	if _, err := ReadAll(short); err != io.ErrUnexpectedEOF {
		t.Error(err)
	}
}
