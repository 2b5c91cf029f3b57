package gbatch

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"
)

const (
	dialTimeout  = 10 * time.Second
	maxErrorBody = 64 << 10
)

// replyTimeout is how long a server may be silent, before a reply and within
// one.
var replyTimeout = 2 * time.Minute

// A credential is what a server knows the caller by.
type credential struct {
	secret  string // kept out of every message
	refused string // what a message says when the server refuses it, with what to check
}

// A transport sends the requests of one command and keeps the outcome of each
// for [transport.do].
type transport struct {
	pooled, fresh *http.Transport
	credential
}

func newTransport(c credential) *transport {
	pooled := http.DefaultTransport.(*http.Transport).Clone()
	pooled.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext
	pooled.ResponseHeaderTimeout = replyTimeout
	// A Range counts bytes as they are on the wire. A download that continues
	// after a break must not be compressed there.
	pooled.DisableCompression = true
	// net/http repeats a request when a kept connection turns out to be closed.
	// A create never uses a kept connection.
	fresh := pooled.Clone()
	fresh.DisableKeepAlives = true
	fresh.Protocols = new(http.Protocols)
	fresh.Protocols.SetHTTP1(true)
	fresh.TLSClientConfig = new(tls.Config) // the clone's still offers HTTP/2
	return &transport{pooled, fresh, c}
}

// client returns an HTTP client that follows no redirect: that would send the
// credential to another server, or a create twice.
func (t *transport) client() *http.Client {
	return &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// An outcome is what became of the last request made under a context. A
// library between the caller and the transport may hide it.
type outcome struct {
	once bool  // the request goes over a connection of its own
	sent bool  // the request may have reached the server
	err  error // an *apiError, or why there was no reply
}

type outcomeKey struct{}

// do makes one call. Its error is the last request's own, or the cause of
// ctx's end.
func (t *transport) do(ctx context.Context, call func(ctx context.Context) error) error {
	return t.call(ctx, new(outcome), call)
}

// once is do for a call that must not be repeated. It also reports whether the
// request may have reached the server.
func (t *transport) once(ctx context.Context, call func(ctx context.Context) error) (sent bool, err error) {
	o := &outcome{once: true}
	err = t.call(ctx, o, call)
	return o.sent, err
}

func (t *transport) call(ctx context.Context, o *outcome, call func(ctx context.Context) error) error {
	err := call(context.WithValue(ctx, outcomeKey{}, o))
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case o.err != nil:
		return o.err
	}
	return t.redacted(err)
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	o, _ := req.Context().Value(outcomeKey{}).(*outcome)
	if o == nil {
		o = new(outcome)
	}
	o.sent, o.err = false, nil
	via := t.pooled
	if o.once {
		via = t.fresh
	}
	begun := time.Now()
	ctx, cancel := context.WithCancel(req.Context())
	resp, err := via.RoundTrip(req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { o.sent = true },
	})))
	took, path := time.Since(begun).Round(time.Millisecond), redact(req.URL.Path, t.secret)
	if err != nil {
		cancel()
		o.err = t.redacted(err)
		slog.Debug("call failed", "method", req.Method, "path", path, "error", o.err, "took", took)
		return nil, o.err
	}
	slog.Debug("call", "method", req.Method, "path", path, "status", resp.StatusCode, "took", took)
	resp.Body = newReply(resp.Body, cancel)
	if resp.StatusCode/100 != 2 {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
		resp.Body.Close()
		o.err = newAPIError(resp, body, t.credential)
		resp.Body = io.NopCloser(strings.NewReader("{}")) // the SDK makes an error of any body
	}
	return resp, nil
}

// A reply is the body of a reply. It ends when the server falls silent.
type reply struct {
	io.ReadCloser
	cancel context.CancelFunc
	timer  *time.Timer
	silent atomic.Bool
}

func newReply(body io.ReadCloser, cancel context.CancelFunc) *reply {
	r := &reply{ReadCloser: body, cancel: cancel}
	r.timer = time.AfterFunc(replyTimeout, func() {
		r.silent.Store(true)
		cancel()
	})
	r.timer.Stop()
	return r
}

func (r *reply) Read(p []byte) (int, error) {
	r.timer.Reset(replyTimeout)
	n, err := r.ReadCloser.Read(p)
	r.timer.Stop()
	if err != nil && err != io.EOF && r.silent.Load() {
		err = fmt.Errorf("the server was silent for %v within a reply", replyTimeout)
	}
	return n, err
}

func (r *reply) Close() error {
	r.timer.Stop()
	err := r.ReadCloser.Close()
	r.cancel()
	return err
}
