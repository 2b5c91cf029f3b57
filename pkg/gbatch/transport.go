package gbatch

import (
	"context"
	"crypto/tls"
	"errors"
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

// replyTimeout is how long a server may take no bytes of a request, and how long
// it may send nothing before and during a reply.
var replyTimeout = 2 * time.Minute

// slowest is the lowest rate of a reply in bytes per second. It is the average
// over the time spent waiting for the reply, and counts once that is
// replyTimeout.
const slowest = 1 << 10

// A credential is what the caller authenticates with.
type credential struct {
	secret  string // never part of a message
	refused string // the message if the server refuses the secret: it says what to check
}

// A transport sends the requests of one command and keeps the outcome of each
// request for [transport.do].
type transport struct {
	pooled, fresh *http.Transport
	credential
}

func newTransport(c credential) *transport {
	pooled := http.DefaultTransport.(*http.Transport).Clone()
	pooled.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext
	pooled.ResponseHeaderTimeout = replyTimeout
	// A Range counts bytes as they are transferred. So a download that continues
	// after a break must not be compressed.
	pooled.DisableCompression = true
	// net/http sends a request again if a kept connection turns out to be closed.
	// So a create never uses a kept connection.
	fresh := pooled.Clone()
	fresh.DisableKeepAlives = true
	fresh.Protocols = new(http.Protocols)
	fresh.Protocols.SetHTTP1(true)
	fresh.TLSClientConfig = new(tls.Config) // the cloned configuration still offers HTTP/2
	return &transport{pooled, fresh, c}
}

// client returns an HTTP client that follows no redirect: a redirect would send
// the credential to another server, or a create twice.
func (t *transport) client() *http.Client {
	return &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// An outcome is the result of the last request made under a context. A library
// between the caller and the transport may hide it.
type outcome struct {
	once bool  // the request uses a new connection
	sent bool  // the request may have reached the server
	err  error // an *apiError, or the reason why there was no reply
}

type outcomeKey struct{}

// do makes one call. Its error is that of the last request, or the cause if ctx
// has ended.
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
	ctx, cancel := context.WithCancelCause(req.Context())
	req = req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { o.sent = true },
	}))
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = newSending(req.Body, cancel)
		req.GetBody = nil // a copy of the body would have no time limit
	}
	resp, err := via.RoundTrip(req)
	took, path := time.Since(begun).Round(time.Millisecond), redact(req.URL.Path, t.secret)
	if err != nil {
		if cause := context.Cause(ctx); errors.As(cause, new(silence)) {
			err = cause
		}
		cancel(nil)
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
		resp.Body = io.NopCloser(strings.NewReader("{}")) // the SDK makes its own error from any body
	}
	return resp, nil
}

// A silence is the error of a request that was ended because the server was too
// slow.
type silence struct{ error }

// A sending is the body of a request. It ends the request if the server takes no
// bytes of it for replyTimeout.
type sending struct {
	io.ReadCloser
	timer *time.Timer
}

func newSending(body io.ReadCloser, cancel context.CancelCauseFunc) *sending {
	return &sending{body, time.AfterFunc(replyTimeout, func() {
		cancel(silence{fmt.Errorf("the server took no bytes of the request for %v", replyTimeout)})
	})}
}

// Read is called after the bytes of the previous call have been sent.
func (s *sending) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if err != nil {
		s.timer.Stop() // the wait for the reply has its own limit
	} else {
		s.timer.Reset(replyTimeout)
	}
	return n, err
}

func (s *sending) Close() error {
	s.timer.Stop()
	return s.ReadCloser.Close()
}

// A reply is the body of a reply. It ends if the server sends nothing for
// replyTimeout, or if it is slower than slowest.
type reply struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
	timer  *time.Timer
	silent atomic.Bool
	bytes  int64
	waited time.Duration
}

func newReply(body io.ReadCloser, cancel context.CancelCauseFunc) *reply {
	r := &reply{ReadCloser: body, cancel: cancel}
	r.timer = time.AfterFunc(replyTimeout, func() {
		r.silent.Store(true)
		cancel(nil)
	})
	r.timer.Stop()
	return r
}

func (r *reply) Read(p []byte) (int, error) {
	begun := time.Now()
	r.timer.Reset(replyTimeout)
	n, err := r.ReadCloser.Read(p)
	r.timer.Stop()
	r.bytes += int64(n)
	r.waited += time.Since(begun)
	switch {
	case err != nil && err != io.EOF && r.silent.Load():
		err = fmt.Errorf("the server sent nothing for %v within a reply", replyTimeout)
	case err == nil && r.waited > replyTimeout && float64(r.bytes) < slowest*r.waited.Seconds():
		err = fmt.Errorf("only %d bytes of a reply arrived in %v", r.bytes, r.waited.Round(time.Second))
	}
	return n, err
}

func (r *reply) Close() error {
	r.timer.Stop()
	err := r.ReadCloser.Close()
	r.cancel(nil)
	return err
}
