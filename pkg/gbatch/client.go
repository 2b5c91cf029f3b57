// Package gbatch is Google's side of the suite: it submits batches as jobs,
// waits for them and fetches their results, through the Gemini API's Files and
// Batches.
//
// Its promise is that a batch is paid for once. Google's create call is not
// idempotent and takes no request id (ai.google.dev/gemini-api/docs/batch-api,
// best practices), so that everything around it is arranged for the case that
// its reply is lost: see submit.go and intent.go.
package gbatch

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/genai"

	"gbatch/pkg/cli"
	"gbatch/pkg/exit"
)

const (
	dialTimeout  = 10 * time.Second
	maxErrorBody = 64 << 10
	maxReply     = 256 << 20 // of a status: a job may answer inline
)

// replyTimeout is how long a server may be silent, before a reply and within.
var replyTimeout = 2 * time.Minute

// A client makes the calls of one command: most through Google's SDK, those
// where the SDK loses information by themselves, all over one [transport].
type client struct {
	sdk      *genai.Client
	http     *http.Client
	base     *url.URL
	key      string
	retryFor time.Duration // how long failures that may pass are retried
}

// newClient takes the key from GOOGLE_API_KEY, else GEMINI_API_KEY, which is
// the SDK's order, and the base URL from GOOGLE_GEMINI_BASE_URL.
func newClient(ctx context.Context, retryFor time.Duration) (*client, error) {
	key := os.Getenv(keyVariable())
	if key == "" {
		return nil, exit.Errorf(exit.Usage, "no API key: set GEMINI_API_KEY")
	}
	base := os.Getenv("GOOGLE_GEMINI_BASE_URL")
	if base == "" {
		base = "https://generativelanguage.googleapis.com/"
	}
	u, err := url.Parse(base)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, exit.Errorf(exit.Usage, "GOOGLE_GEMINI_BASE_URL is not the URL of a server: set it to https://… or leave it out")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return nil, exit.Errorf(exit.Usage, "GOOGLE_GEMINI_BASE_URL would send the API key to %s unencrypted: use https", u.Hostname())
	}
	// The SDK tells on the standard logger that CreateEmbeddings is
	// experimental, and which of two keys it takes.
	log.SetOutput(io.Discard)
	c := &client{base: u, key: key, retryFor: retryFor}
	c.http = &http.Client{
		Transport: newTransport(key),
		// A redirect would send the key elsewhere, or a create twice.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	c.sdk, err = genai.NewClient(ctx, &genai.ClientConfig{
		APIKey:      key,
		Backend:     genai.BackendGeminiAPI, // else GOOGLE_GENAI_USE_VERTEXAI decides
		HTTPClient:  c.http,
		HTTPOptions: genai.HTTPOptions{BaseURL: base},
	})
	if err != nil { // its text holds the whole configuration, key included
		return nil, errors.New("the client of the Gemini API could not be set up")
	}
	return c, nil
}

// keyVariable is the variable that the key is taken from.
func keyVariable() string {
	if os.Getenv("GOOGLE_API_KEY") != "" {
		return "GOOGLE_API_KEY"
	}
	return "GEMINI_API_KEY"
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// A transport sends requests and keeps what became of each for [client.do].
type transport struct {
	pooled, fresh *http.Transport
	key           string
}

func newTransport(key string) *transport {
	pooled := http.DefaultTransport.(*http.Transport).Clone()
	pooled.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext
	pooled.ResponseHeaderTimeout = replyTimeout
	// Ranges count the bytes on the wire, so a download that goes on where it
	// broke must not be compressed there.
	pooled.DisableCompression = true
	// net/http sends a request again when a connection that it had kept turns
	// out to be closed. A create never meets such a connection.
	fresh := pooled.Clone()
	fresh.DisableKeepAlives = true
	fresh.Protocols = new(http.Protocols)
	fresh.Protocols.SetHTTP1(true)
	fresh.TLSClientConfig = new(tls.Config) // the clone's still offers HTTP/2
	return &transport{pooled, fresh, key}
}

// An outcome is what became of the last request made under a context. The SDK
// wraps errors in ways that hide them.
type outcome struct {
	sent bool  // the request may have reached Google
	err  error // an *apiError, or why there was no reply
}

type outcomeKey struct{}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	o, _ := req.Context().Value(outcomeKey{}).(*outcome)
	if o == nil {
		o = new(outcome)
	}
	*o = outcome{}
	rt := t.pooled
	if strings.HasSuffix(req.URL.Path, ":asyncBatchEmbedContent") || strings.HasSuffix(req.URL.Path, ":batchGenerateContent") {
		rt = t.fresh
	}
	begun := time.Now()
	ctx, cancel := context.WithCancel(req.Context())
	resp, err := rt.RoundTrip(req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { o.sent = true },
	})))
	took, path := time.Since(begun).Round(time.Millisecond), redact(req.URL.Path, t.key)
	if err != nil {
		cancel()
		o.err = redacted(err, t.key)
		slog.Debug("call failed", "method", req.Method, "path", path, "error", o.err, "took", took)
		return nil, o.err
	}
	slog.Debug("call", "method", req.Method, "path", path, "status", resp.StatusCode, "took", took)
	resp.Body = newReply(resp.Body, cancel)
	if resp.StatusCode/100 != 2 {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
		resp.Body.Close()
		o.err = newAPIError(resp, body, t.key)
		resp.Body = io.NopCloser(strings.NewReader("{}")) // the SDK makes an error of any body
	}
	// The SDK takes an empty reply for an empty list, and a job that is not
	// listed is created.
	if resp.StatusCode/100 == 2 && req.Method == http.MethodGet && !strings.HasSuffix(req.URL.Path, ":download") {
		body := bufio.NewReader(resp.Body)
		if _, err := body.Peek(1); err == io.EOF {
			resp.Body.Close()
			o.err = errors.New("the reply is empty")
			return nil, o.err
		}
		resp.Body = struct {
			io.Reader
			io.Closer
		}{body, resp.Body}
	}
	// To a reply without this header the SDK sends the same bytes three times
	// more, sleeps in between, and then loses the error.
	if strings.HasPrefix(req.Header.Get("X-Goog-Upload-Command"), "upload") && resp.Header.Get("X-Goog-Upload-Status") == "" {
		if o.err == nil {
			resp.Body.Close()
			o.err = errors.New("the reply to the upload does not say how it stands")
		}
		return nil, o.err
	}
	return resp, nil
}

// A reply is the body of one, which ends where the server falls silent.
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

// A hidden error reads as its text with the key taken out, on one line.
type hidden struct {
	error
	text string
}

func (h hidden) Error() string { return h.text }
func (h hidden) Unwrap() error { return h.error }

func redacted(err error, key string) error {
	if text := oneLine(redact(err.Error(), key)); text != err.Error() {
		return hidden{err, text}
	}
	return err
}

// redact takes the key out of a text, also where it stands in a URL.
func redact(s, key string) string {
	if len(key) < cli.ShortestSecret {
		return s
	}
	for _, k := range []string{key, url.QueryEscape(key), url.PathEscape(key)} {
		s = strings.ReplaceAll(s, k, "[API key]")
	}
	return s
}

// An apiError is a reply other than 2xx.
type apiError struct {
	http    int
	status  string // google.rpc.Code's name, where the body has one
	message string // one line
	reason  string // of google.rpc.ErrorInfo, API_KEY_INVALID
	wait    time.Duration
}

// newAPIError reads {"error":{code,message,status,details}}; proxies send
// other bodies.
func newAPIError(resp *http.Response, body []byte, key string) *apiError {
	e := &apiError{http: resp.StatusCode}
	var doc struct {
		Error struct {
			Message string
			Status  string
			Details []struct{ RetryDelay, Reason string }
		}
	}
	if json.Unmarshal(body, &doc) == nil {
		e.status, e.message = oneLine(redact(doc.Error.Status, key)), doc.Error.Message
		for _, d := range doc.Error.Details {
			if wait, err := time.ParseDuration(d.RetryDelay); err == nil {
				e.wait = max(e.wait, wait)
			}
			if d.Reason != "" {
				e.reason = d.Reason
			}
		}
	} else if !strings.HasPrefix(strings.TrimSpace(string(body)), "<") {
		e.message = string(body)
	}
	if e.message = oneLine(redact(e.message, key)); e.message == "" {
		e.message = http.StatusText(e.http)
	}
	after := resp.Header.Get("Retry-After") // seconds or a date (RFC 9110, 10.2.3)
	if seconds, err := strconv.ParseFloat(after, 64); err == nil && seconds >= 0 && seconds < 1e6 {
		e.wait = max(e.wait, time.Duration(seconds*float64(time.Second)))
	} else if at, err := http.ParseTime(after); err == nil {
		e.wait = max(e.wait, time.Until(at))
	}
	e.wait = min(e.wait, 24*time.Hour)
	return e
}

// oneLine is s on one line, and not a screenful: Google names every bad line
// of an input file on a line of its own.
func oneLine(s string) string {
	const most = 500
	var lines []string
	for l := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == '\n' || r == '\r' }) {
		if l = strings.TrimSpace(l); l != "" {
			lines = append(lines, l)
		}
	}
	if more := len(lines) - 4; more > 0 {
		lines = append(lines[:4], fmt.Sprintf("and %d lines more", more))
	}
	s = strings.ToValidUTF8(strings.Join(lines, "; "), "\uFFFD")
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "…"
	}
	return s
}

func (e *apiError) Error() string {
	text := fmt.Sprintf("google answered %d", e.http)
	if e.status != "" {
		text += " " + e.status
	}
	text += ": " + e.message
	if e.auth() {
		text = "the API key was refused, check " + keyVariable() + ": " + text
	}
	return text
}

func (e *apiError) auth() bool {
	return e.http == 401 || e.http == 403 && !e.missing() || e.reason == "API_KEY_INVALID"
}

// missing reports whether the thing is not there, or is not this key's to see.
// For files Google answers 403 in both cases.
func (e *apiError) missing() bool {
	return e.http == 404 || e.http == 403 && strings.Contains(e.message, "may not exist")
}

// missing is [apiError.missing] of any error.
func missing(err error) bool {
	var e *apiError
	return errors.As(err, &e) && e.missing()
}

// refused reports whether err is Google's no, after which nothing was done.
func refused(err error) bool {
	var e *apiError
	return errors.As(err, &e) && e.http < 500 && e.http != 408 && e.http != 429
}

// passing reports whether err may be gone at the next attempt.
func passing(err error) bool {
	var cert *tls.CertificateVerificationError
	return !refused(err) && !errors.As(err, &cert) && !errors.As(err, new(lasting))
}

// A lasting error will be the same at the next attempt.
type lasting struct{ error }

func (l lasting) Unwrap() error { return l.error }

// do makes one call of the SDK, or one of the raw ones. Its error is the last
// request's own, or the cause of ctx's end.
func (c *client) do(ctx context.Context, call func(ctx context.Context) error) (o outcome, err error) {
	err = call(context.WithValue(ctx, outcomeKey{}, &o))
	if err == nil {
		return o, nil
	}
	if ctx.Err() != nil {
		return o, context.Cause(ctx)
	}
	if o.err != nil {
		return o, o.err
	}
	return o, redacted(err, c.key)
}

// retry makes a call until it succeeds, fails for good, or has gone on failing
// for as long as it may.
func (c *client) retry(ctx context.Context, call func(ctx context.Context) error) error {
	b := c.backoff()
	for {
		_, err := c.do(ctx, call)
		if err == nil || !passing(err) {
			return err
		}
		if err := b.pause(ctx, err); err != nil {
			return err
		}
	}
}

// A backoff is the pauses between attempts at one thing.
type backoff struct {
	end  time.Time // of all attempts
	step time.Duration
}

func (c *client) backoff() *backoff {
	return &backoff{time.Now().Add(c.retryFor), min(time.Second, c.retryFor/100) + 1}
}

// pause waits before the next attempt after one that failed with cause: as
// long as Google asks for, else a random part of a time that doubles up to a
// minute. When that would be too late it returns cause at once, as exit 5.
func (b *backoff) pause(ctx context.Context, cause error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	wait := rand.N(b.step)
	var e *apiError
	if errors.As(cause, &e) && e.wait > 0 {
		wait = e.wait + rand.N(e.wait/4+1)
	}
	if time.Now().Add(wait).After(b.end) {
		return exit.Errorf(exit.TryLater, "%w; try again later", cause)
	}
	b.step = min(2*b.step, time.Minute)
	slog.Info("trying again", "in", wait.Round(time.Millisecond), "after", cause)
	return sleep(ctx, wait)
}

// sleep waits for d, or returns why ctx ended before.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// until yields what comes until the channel is closed or ctx has ended: whoever
// feeds it may hang in a read.
func until[T any](ctx context.Context, c <-chan T) iter.Seq[T] {
	return func(yield func(T) bool) {
		for {
			select {
			case v, ok := <-c:
				if !ok || !yield(v) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// refusals keeps the first error that is about one batch or job for the end;
// the others are warnings at once.
type refusals struct{ first error }

func (r *refusals) add(err error) {
	if r.first != nil {
		slog.Warn("another was refused", "error", err)
		return
	}
	r.first = err
}

// A oneBatch error is about one batch or job and keeps no other back.
type oneBatch struct{ error }

func (e *oneBatch) Unwrap() error { return e.error }

// get makes a raw GET below v1beta/. A reply other than 2xx is an error.
func (c *client) get(ctx context.Context, path, query string, header http.Header) (*http.Response, error) {
	u := c.base.JoinPath("v1beta", path)
	u.RawQuery = query
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if header != nil {
		req.Header = header
	}
	req.Header.Set("x-goog-api-key", c.key)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		resp.Body.Close()
		return nil, fmt.Errorf("status %d", resp.StatusCode) // [client.do] knows better
	}
	return resp, nil
}

// operation gets a job as it stands, retrying what may pass.
func (c *client) operation(ctx context.Context, name string) (op *operation, err error) {
	err = c.retry(ctx, func(ctx context.Context) error {
		op, err = c.operationOnce(ctx, name)
		return err
	})
	return op, err
}

func (c *client) operationOnce(ctx context.Context, name string) (*operation, error) {
	resp, err := c.get(ctx, name, "", nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return nil, err
	}
	op, err := decodeOperation(body, c.key)
	if err == nil {
		op.name = cmp.Or(op.name, name)
	}
	return op, err
}

const pageSize = 100 // the largest; the default of an unset one is Google's to choose

// everyPage calls f with the items of a list, from the first page, which came
// with err, to the last.
func everyPage[T any](ctx context.Context, page genai.Page[T], err error, f func(*T)) error {
	for last := ""; err == nil; page, err = page.Next(ctx) {
		for _, item := range page.Items {
			f(item)
		}
		if page.NextPageToken == "" {
			return nil
		}
		if page.NextPageToken == last {
			return lasting{errors.New("google's list does not end: a page names itself as the next")}
		}
		last = page.NextPageToken
	}
	return err
}

// deleteInput deletes an uploaded file. It only warns: Google deletes files
// after 48 hours anyway. One that is gone already is well.
func (c *client) deleteInput(ctx context.Context, name string) {
	if name == "" {
		return
	}
	_, err := c.do(ctx, func(ctx context.Context) error {
		_, err := c.sdk.Files.Delete(ctx, name, nil)
		return err
	})
	if err != nil && !missing(err) && ctx.Err() == nil {
		slog.Warn("an input file was not deleted, google does so after 48 hours", "file", name, "error", err)
	}
}
