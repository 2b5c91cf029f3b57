package gbatch

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"gbatch/pkg/cli"
	"gbatch/pkg/exit"
	"gbatch/pkg/record"
)

// An apiError is a reply whose status is not 2xx.
type apiError struct {
	http    int
	google  bool   // the body has the form of Google's errors
	status  string // name of the google.rpc.Code, if the body has one
	message string // one line
	reason  string // of google.rpc.ErrorInfo, such as API_KEY_INVALID
	wait    time.Duration
	size    int64  // of the file that a 416 is about; -1: unknown
	advice  string // what the user should check if the credential was refused
}

// newAPIError reads {"error":{code,message,status,details}}. Proxies send other
// bodies.
func newAPIError(resp *http.Response, body []byte, c credential) *apiError {
	e := &apiError{http: resp.StatusCode, size: -1, advice: c.refused}
	var doc struct {
		Error struct {
			Code    int
			Message string
			Status  string
			Details []struct{ RetryDelay, Reason string }
		}
	}
	if json.Unmarshal(body, &doc) == nil {
		e.google = doc.Error.Code == e.http || doc.Error.Status != ""
		e.status, e.message = oneLine(redact(doc.Error.Status, c.secret)), doc.Error.Message
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
	if e.message = oneLine(redact(e.message, c.secret)); e.message == "" {
		e.message = http.StatusText(e.http)
	}
	after := resp.Header.Get("Retry-After") // seconds or a date (RFC 9110, 10.2.3)
	if seconds, err := strconv.ParseFloat(after, 64); err == nil && seconds >= 0 && seconds < 1e6 {
		e.wait = max(e.wait, time.Duration(seconds*float64(time.Second)))
	} else if at, err := http.ParseTime(after); err == nil {
		e.wait = max(e.wait, time.Until(at))
	}
	e.wait = min(e.wait, 24*time.Hour)
	if total, ok := strings.CutPrefix(resp.Header.Get("Content-Range"), "bytes */"); ok {
		if size, err := strconv.ParseInt(total, 10, 64); err == nil {
			e.size = size
		}
	}
	return e
}

func (e *apiError) Error() string {
	text := fmt.Sprintf("google answered %d", e.http)
	if e.status != "" {
		text += " " + e.status
	}
	text += ": " + e.message
	if e.auth() {
		text = e.advice + ": " + text
	}
	return text
}

// auth reports whether the credential was refused.
func (e *apiError) auth() bool {
	return e.http == 401 || e.http == 403 && !e.missing() || e.reason == "API_KEY_INVALID"
}

// missing reports whether the object does not exist, or this credential may not
// see it. For files Google answers 403 in both cases.
func (e *apiError) missing() bool {
	return e.http == 404 || e.http == 403 && strings.Contains(e.message, "may not exist")
}

// missing is [apiError.missing] of any error.
func missing(err error) bool {
	var e *apiError
	return errors.As(err, &e) && e.missing()
}

// refused reports whether a create that failed with err has certainly created
// nothing, and would fail again. Only these codes say so. Gateways answer with
// other codes, such as 3xx, 409 and 499, even after Google has done the work.
func refused(err error) bool {
	var e *apiError
	return errors.As(err, &e) && slices.Contains([]int{400, 401, 403, 404, 405, 413}, e.http)
}

// notDone reports whether a create that failed with err has certainly created
// nothing, and may be sent again later.
func notDone(err error) bool {
	var e *apiError
	return errors.As(err, new(notSent)) || errors.As(err, &e) && e.http == 429 && e.google
}

// transient reports whether the next attempt may succeed. All other errors are
// permanent.
func transient(err error) bool {
	var e *apiError
	if errors.As(err, &e) {
		return e.http >= 500 || slices.Contains([]int{408, 409, 425, 429, 499}, e.http)
	}
	var cert *tls.CertificateVerificationError
	return !errors.As(err, &cert) && !errors.As(err, new(tls.RecordHeaderError)) && !errors.Is(err, http.ErrSchemeMismatch) && !errors.As(err, new(permanent))
}

// A permanent error will be the same at the next attempt.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// A notSent error means that no part of the request was sent.
type notSent struct{ error }

func (e notSent) Unwrap() error { return e.error }

// A oneBatch error is about one batch or job. The other batches and jobs are
// still handled.
type oneBatch struct{ error }

func (e *oneBatch) Unwrap() error { return e.error }

// refusals keeps an error that is about one batch or job until the end of a run.
// It keeps the first error that is not exit.TryLater, or else the first error.
// The other errors become warnings.
type refusals struct{ first error }

func (r *refusals) add(err error) {
	if r.first == nil {
		r.first = err
		return
	}
	if exit.Code(r.first) == exit.TryLater && exit.Code(err) != exit.TryLater {
		r.first, err = err, r.first
	}
	slog.Warn("another was refused", "error", err)
}

// A hidden error shows another text than that of the error it wraps.
type hidden struct {
	error
	text string
}

func (h hidden) Error() string { return h.text }
func (h hidden) Unwrap() error { return h.error }

// redacted returns err on one line and without the secret. A bare container has no
// certificates: then it also says what to install.
func (c credential) redacted(err error) error {
	text := oneLine(redact(err.Error(), c.secret))
	if errors.As(err, new(x509.UnknownAuthorityError)) && !errors.As(err, new(hidden)) {
		text += "; install the system's certificates (Debian's package ca-certificates), or set SSL_CERT_FILE to a file that has the certificate of the server"
	}
	if text != err.Error() {
		return hidden{err, text}
	}
	return err
}

// hide removes the secret from a text.
func (c credential) hide(s string) string { return redact(s, c.secret) }

// redact removes a secret from a text, also where it is part of a URL.
func redact(s, secret string) string {
	if len(secret) < cli.ShortestSecret {
		return s
	}
	for _, k := range []string{secret, url.QueryEscape(secret), url.PathEscape(secret)} {
		s = strings.ReplaceAll(s, k, "[API key]")
	}
	return s
}

// oneLine puts s on one line and shortens it: Google reports every bad line of
// an input file on a separate line.
func oneLine(s string) string {
	const most = 500
	var lines []string
	for l := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == '\n' || r == '\r' }) {
		if l = strings.TrimSpace(l); l != "" {
			lines = append(lines, l)
		}
	}
	if more := len(lines) - 4; more > 0 {
		lines = append(lines[:4], fmt.Sprintf("and %d more lines", more))
	}
	s = strings.ToValidUTF8(strings.Join(lines, "; "), "\uFFFD")
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "…"
	}
	return s
}

var codeNames = strings.Fields(`OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS
	PERMISSION_DENIED RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE
	DATA_LOSS UNAUTHENTICATED`)

// codeName returns the name of a google.rpc.Code, or "".
func codeName(code int) string {
	if code < 0 || code >= len(codeNames) {
		return ""
	}
	return codeNames[code]
}

// httpCodes maps HTTP codes to codes of google.rpc.Code.
var httpCodes = map[int]int{400: 3, 401: 16, 403: 7, 404: 5, 408: 4, 409: 10, 412: 9, 413: 3, 416: 11, 425: 14, 429: 8, 499: 1,
	500: 13, 501: 12, 502: 14, 503: 14, 504: 4}

// canonical returns a status with the code and the name of a google.rpc.Code.
// The name takes precedence over the code, which may be an HTTP code.
func canonical(s record.Status) *record.Status {
	if code := slices.Index(codeNames, s.Status); code > 0 {
		s.Code = code
		return &s
	}
	if s.Code >= len(codeNames) {
		code, known := httpCodes[s.Code]
		switch {
		case !known && s.Code/100 == 5:
			code = 13
		case !known:
			code = 2
		}
		s.Code = code
	}
	if s.Code <= 0 { // an error is not OK
		s.Code = 2
	}
	if s.Status == "" || s.Status == "OK" {
		s.Status = codeName(s.Code)
	}
	return &s
}
