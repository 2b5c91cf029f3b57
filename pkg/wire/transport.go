// Package wire sends the calls to Google's services over HTTP.
//
// It sends a call that must not be repeated once, says what its error means, removes
// secrets from messages, and retries the other calls. download reads a long reply
// to its end although connections break; list reads the pages of a list.
package wire

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
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

const (
	dialTimeout  = 10 * time.Second
	maxErrorBody = 64 << 10
)

// maxReply bounds the size of a reply that is read whole. The status of a job may
// hold all its answers.
var maxReply int64 = 256 << 20

// ReplyTimeout is how long a server may take no bytes of a request, and how long
// it may send nothing before and during a reply.
var ReplyTimeout = 2 * time.Minute

// slowest is the lowest rate of a reply in bytes per second. It is the average
// over the time spent waiting for the reply, and counts once that is
// ReplyTimeout.
const slowest = 1 << 10

// A Credential is what the caller authenticates with.
type Credential struct {
	Secret  string                                    // never part of a message
	Token   func(ctx context.Context) (string, error) // returns the bearer token of a request; nil for none
	Refused string                                    // the message if the server refuses the credential: it says what to check
	more    []string                                  // secrets of one request
}

// of returns c with the secrets of a request: its token, and the id of an upload,
// which is sufficient to write to it.
func (c Credential) of(req *http.Request) Credential {
	c.more = nil
	if token, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer "); ok {
		c.more = append(c.more, token)
	}
	if id := req.URL.Query().Get("upload_id"); id != "" {
		c.more = append(c.more, id)
	}
	return c
}

// A Transport sends the requests of one command and keeps the outcome of each
// request for [Transport.Do].
type Transport struct {
	pooled, fresh *http.Transport
	Credential
}

// NewTransport returns a transport that authenticates with c.
func NewTransport(c Credential) *Transport {
	pooled := http.DefaultTransport.(*http.Transport).Clone()
	pooled.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext
	pooled.ResponseHeaderTimeout = ReplyTimeout
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
	return &Transport{pooled, fresh, c}
}

// NewStreams is [NewTransport] for several long transfers at a time: each has a
// connection of its own, since those of HTTP/2 would share one.
func NewStreams(c Credential) *Transport {
	t := NewTransport(c)
	t.pooled.Protocols = new(http.Protocols)
	t.pooled.Protocols.SetHTTP1(true)
	t.pooled.TLSClientConfig = new(tls.Config)
	t.pooled.MaxIdleConnsPerHost = 16
	return t
}

// Client returns an HTTP client that follows no redirect: a redirect would send
// the credential to another server, or a create twice.
func (t *Transport) Client() *http.Client {
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
	err  error // an *[Error], or the reason why there was no reply
}

type outcomeKey struct{}

// Do makes one call. Its error is that of the last request, or the cause if ctx
// has ended.
func (t *Transport) Do(ctx context.Context, call func(ctx context.Context) error) error {
	return t.call(ctx, new(outcome), call)
}

// Once is Do for a call that must not be repeated. [IsNotSent] reports whether its
// error means that nothing reached the server.
func (t *Transport) Once(ctx context.Context, call func(ctx context.Context) error) error {
	o := &outcome{once: true}
	err := t.call(ctx, o, call)
	if err != nil && !o.sent && ctx.Err() == nil {
		return notSent{err}
	}
	return err
}

// Fail sets the error that [Transport.Do] returns for the last request, if that
// has no error yet.
func Fail(req *http.Request, err error) {
	if o, _ := req.Context().Value(outcomeKey{}).(*outcome); o != nil && o.err == nil {
		o.err = err
	}
}

// Send sends one request. A reply whose status is neither 2xx nor in accept is an
// [Error].
func (t *Transport) Send(req *http.Request, accept ...int) (resp *http.Response, err error) {
	err = t.Do(req.Context(), func(ctx context.Context) error {
		resp, err = t.Client().Do(req.WithContext(ctx))
		if err == nil && resp.StatusCode/100 != 2 && !slices.Contains(accept, resp.StatusCode) {
			resp.Body.Close()
			err = fmt.Errorf("status %d", resp.StatusCode) // the outcome's error says more
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// Whole is Send, and returns the whole body of the reply.
func (t *Transport) Whole(req *http.Request, accept ...int) (body []byte, resp *http.Response, err error) {
	if resp, err = t.Send(req, accept...); err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err = ReadAll(resp)
	if req.Context().Err() != nil {
		err = context.Cause(req.Context())
	}
	if err != nil {
		return nil, nil, err
	}
	return body, resp, nil
}

// ReadAll returns the whole body of a reply. A body that was cut short is an error,
// and so is one that is too large.
func ReadAll(resp *http.Response) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(body)) > maxReply:
		return nil, Permanent(fmt.Errorf("a reply has more than %d bytes", maxReply))
	case int64(len(body)) < resp.ContentLength:
		return nil, io.ErrUnexpectedEOF
	}
	return body, nil
}

func (t *Transport) call(ctx context.Context, o *outcome, call func(ctx context.Context) error) error {
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

func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	o, _ := req.Context().Value(outcomeKey{}).(*outcome)
	if o == nil {
		o = new(outcome)
	}
	o.sent, o.err = false, nil
	via := t.pooled
	if o.once {
		via = t.fresh
	}
	if t.Token != nil {
		token, err := t.Token(req.Context())
		if err != nil {
			o.err = t.redacted(err)
			return nil, o.err
		}
		req = req.Clone(req.Context())
		req.Header.Set("Authorization", "Bearer "+token)
	}
	c := t.of(req)
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
	took, path := time.Since(begun).Round(time.Millisecond), c.Hide(req.URL.Path)
	if err != nil {
		if cause := context.Cause(ctx); errors.As(cause, new(silence)) {
			err = cause
		}
		cancel(nil)
		o.err = c.redacted(err)
		slog.Debug("call failed", "method", req.Method, "path", path, "error", o.err, "took", took)
		return nil, o.err
	}
	slog.Debug("call", "method", req.Method, "path", path, "status", resp.StatusCode, "took", took)
	resp.Body = newReply(resp.Body, cancel)
	if resp.StatusCode/100 != 2 {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
		resp.Body.Close()
		o.err = NewError(resp, body, c)
		resp.Body, resp.ContentLength = io.NopCloser(strings.NewReader("{}")), 2 // the SDK makes its own error from any body
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
	return &sending{body, time.AfterFunc(ReplyTimeout, func() {
		cancel(silence{fmt.Errorf("the server took no bytes of the request for %v", ReplyTimeout)})
	})}
}

// Read is called after the bytes of the previous call have been sent.
func (s *sending) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if err != nil {
		s.timer.Stop() // the wait for the reply has its own limit
	} else {
		s.timer.Reset(ReplyTimeout)
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
	r.timer = time.AfterFunc(ReplyTimeout, func() {
		r.silent.Store(true)
		cancel(nil)
	})
	r.timer.Stop()
	return r
}

func (r *reply) Read(p []byte) (int, error) {
	begun := time.Now()
	r.timer.Reset(ReplyTimeout)
	n, err := r.ReadCloser.Read(p)
	r.timer.Stop()
	r.bytes += int64(n)
	r.waited += time.Since(begun)
	switch {
	case err != nil && err != io.EOF && r.silent.Load():
		err = fmt.Errorf("the server sent nothing for %v within a reply", ReplyTimeout)
	case err == nil && r.waited > ReplyTimeout && float64(r.bytes) < slowest*r.waited.Seconds():
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
