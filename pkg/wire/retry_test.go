package wire

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"gbatch/pkg/exit"
)

// quiet drops the log, for tests with a thousand attempts.
func quiet(t *testing.T) {
	old := slog.Default()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	t.Cleanup(func() { slog.SetDefault(old) })
}

// Pause waits as long as Google asks for, and not much longer.
func TestPauseAsAsked(t *testing.T) {
	quiet(t)
	for _, said := range []struct{ header, body string }{
		{"30", `{}`},
		{"", `{"error":{"details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"30s"}]}}`},
		{"10", `{"error":{"details":[{"retryDelay":"30s"}]}}`},
		{time.Date(2000, 1, 1, 0, 0, 30, 0, time.UTC).Format(http.TimeFormat), ``},
	} {
		synctest.Test(t, func(t *testing.T) { // its clock begins at 2000-01-01
			cause := NewError(&http.Response{StatusCode: 429, Header: http.Header{"Retry-After": {said.header}}}, []byte(said.body), Credential{})
			b := NewBackoff(time.Hour)
			begun := time.Now()
			if err := b.Pause(t.Context(), cause); err != nil {
				t.Fatal(err)
			}
			if waited := time.Since(begun); waited < 30*time.Second || waited > 40*time.Second {
				t.Errorf("%+v: waited %v", said, waited)
			}
		})
	}
}

// If Google gives no time, the pauses grow, are never equal, and end in time.
func TestPauseJitters(t *testing.T) {
	quiet(t)
	synctest.Test(t, func(t *testing.T) {
		cause := &Error{HTTP: 503}
		firsts := map[time.Duration]bool{}
		for range 20 {
			b := NewBackoff(time.Hour)
			step, begun, n := time.Second, time.Now(), 0
			for ; ; n++ {
				before := time.Now()
				err := b.Pause(t.Context(), cause)
				waited := time.Since(before)
				if err != nil {
					if exit.Code(err) != exit.TryLater || !errors.Is(err, cause) || waited > 0 {
						t.Errorf("%v, after another %v", err, waited)
					}
					break
				}
				if waited > step {
					t.Errorf("attempt %d: waited %v, at most %v is meant", n, waited, step)
				}
				if n == 0 {
					firsts[waited] = true
				}
				step = min(2*step+1, time.Minute)
			}
			if took := time.Since(begun); took > time.Hour || took < 59*time.Minute || n < 50 || n > 400 {
				t.Errorf("%d attempts in %v", n, took)
			}
		}
		if len(firsts) < 10 {
			t.Errorf("the first pauses are alike: %v", firsts)
		}
	})
}

// A base URL may have a typing error in its host. The name is looked up again,
// but the error is not transient.
func TestUnknownHost(t *testing.T) {
	quiet(t)
	b := NewBackoff(0)
	err := b.Pause(t.Context(), &net.OpError{Op: "dial", Err: &net.DNSError{Name: "gemini.example", IsNotFound: true}})
	if exit.Code(err) != exit.Failed {
		t.Errorf("exit %d: %v", exit.Code(err), err)
	}
	if err := NewBackoff(0).Pause(t.Context(), &net.DNSError{IsTimeout: true}); exit.Code(err) != exit.TryLater {
		t.Errorf("exit %d: %v", exit.Code(err), err)
	}
}
