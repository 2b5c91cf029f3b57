package wire

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"gbatch/pkg/cli"
)

// An Error is a reply whose status is not 2xx.
type Error struct {
	HTTP    int
	google  bool          // the body has the form of Google's errors
	Status  string        // name of the google.rpc.Code, if the body has one
	Message string        // one line
	reason  string        // of google.rpc.ErrorInfo, such as API_KEY_INVALID
	Wait    time.Duration // how long the server asks to wait
	size    int64         // of the file that a 416 is about; -1: unknown
	advice  string        // what the user should check if the credential was refused
}

// NewError reads {"error":{code,message,status,details}}. Proxies send other
// bodies.
func NewError(resp *http.Response, body []byte, c Credential) *Error {
	e := &Error{HTTP: resp.StatusCode, size: -1, advice: c.Refused}
	var doc struct {
		Error struct {
			Code    int
			Message string
			Status  string
			Details []struct{ RetryDelay, Reason string }
		}
	}
	if json.Unmarshal(body, &doc) == nil {
		e.google = doc.Error.Code == e.HTTP || doc.Error.Status != ""
		e.Status, e.Message = OneLine(c.Hide(doc.Error.Status)), doc.Error.Message
		for _, d := range doc.Error.Details {
			if wait, err := time.ParseDuration(d.RetryDelay); err == nil {
				e.Wait = max(e.Wait, wait)
			}
			if d.Reason != "" {
				e.reason = d.Reason
			}
		}
	} else if !strings.HasPrefix(strings.TrimSpace(string(body)), "<") {
		e.Message = string(body)
	}
	if e.Message = OneLine(c.Hide(e.Message)); e.Message == "" {
		e.Message = http.StatusText(e.HTTP)
	}
	after := resp.Header.Get("Retry-After") // seconds or a date (RFC 9110, 10.2.3)
	if seconds, err := strconv.ParseFloat(after, 64); err == nil && seconds >= 0 && seconds < 1e6 {
		e.Wait = max(e.Wait, time.Duration(seconds*float64(time.Second)))
	} else if at, err := http.ParseTime(after); err == nil {
		e.Wait = max(e.Wait, time.Until(at))
	}
	e.Wait = min(e.Wait, 24*time.Hour)
	if total, ok := strings.CutPrefix(resp.Header.Get("Content-Range"), "bytes */"); ok {
		if size, err := strconv.ParseInt(total, 10, 64); err == nil {
			e.size = size
		}
	}
	return e
}

func (e *Error) Error() string {
	text := fmt.Sprintf("google answered %d", e.HTTP)
	if e.Status != "" {
		text += " " + e.Status
	}
	text += ": " + e.Message
	if e.Auth() {
		text = e.advice + ": " + text
	}
	return text
}

// Auth reports whether the credential was refused.
func (e *Error) Auth() bool {
	return e.HTTP == 401 || e.HTTP == 403 && !e.Missing() || e.reason == "API_KEY_INVALID"
}

// Missing reports whether the object does not exist, or this credential may not
// see it. For files Google answers 403 in both cases.
func (e *Error) Missing() bool {
	return e.HTTP == 404 || e.HTTP == 403 && strings.Contains(e.Message, "may not exist")
}

// Missing is [Error.Missing] of any error.
func Missing(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Missing()
}

// Refused reports whether a create that failed with err has certainly created
// nothing, and would fail again. Only these codes say so. Gateways answer with
// other codes, such as 3xx, 409 and 499, even after Google has done the work.
func Refused(err error) bool {
	var e *Error
	return errors.As(err, &e) && slices.Contains([]int{400, 401, 403, 404, 405, 413}, e.HTTP)
}

// NotDone reports whether a create that failed with err has certainly created
// nothing, and may be sent again later.
func NotDone(err error) bool {
	var e *Error
	return IsNotSent(err) || errors.As(err, &e) && e.HTTP == 429 && e.google
}

// Transient reports whether the next attempt may succeed. All other errors are
// permanent.
func Transient(err error) bool {
	var e *Error
	if errors.As(err, &e) {
		return e.HTTP >= 500 || slices.Contains([]int{408, 409, 425, 429, 499}, e.HTTP)
	}
	var cert *tls.CertificateVerificationError
	return !errors.As(err, &cert) && !errors.As(err, new(tls.RecordHeaderError)) && !errors.Is(err, http.ErrSchemeMismatch) && !IsPermanent(err)
}

type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// Permanent marks an error that will be the same at the next attempt.
func Permanent(err error) error { return permanent{err} }

// IsPermanent reports whether an error was marked by [Permanent].
func IsPermanent(err error) bool { return errors.As(err, new(permanent)) }

type notSent struct{ error }

func (e notSent) Unwrap() error { return e.error }

// IsNotSent reports whether no part of a request of [Transport.Once] was sent.
func IsNotSent(err error) bool { return errors.As(err, new(notSent)) }

// A hidden error shows another text than that of the error it wraps.
type hidden struct {
	error
	text string
}

func (h hidden) Error() string { return h.text }
func (h hidden) Unwrap() error { return h.error }

// redacted returns err on one line and without the secrets.
// A bare container has no certificates: then it also says what to install.
func (c Credential) redacted(err error) error {
	text := OneLine(c.Hide(err.Error()))
	if errors.As(err, new(x509.UnknownAuthorityError)) && !errors.As(err, new(hidden)) {
		text += "; install the system's certificates (Debian's package ca-certificates), or set SSL_CERT_FILE to a file that has the certificate of the server"
	}
	if text != err.Error() {
		return hidden{err, text}
	}
	return err
}

// Hide removes the secrets from a text.
func (c Credential) Hide(s string) string {
	s = Redact(s, c.Secret)
	for _, secret := range c.more {
		s = replaced(s, secret, "[secret]")
	}
	return s
}

// Redact removes an API key from a text, also where it is part of a URL.
func Redact(s, key string) string { return replaced(s, key, "[API key]") }

func replaced(s, secret, by string) string {
	if len(secret) < cli.ShortestSecret {
		return s
	}
	for _, k := range []string{secret, url.QueryEscape(secret), url.PathEscape(secret)} {
		s = strings.ReplaceAll(s, k, by)
	}
	return s
}

// OneLine puts s on one line and shortens it: Google reports every bad line of
// an input file on a separate line.
func OneLine(s string) string {
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
