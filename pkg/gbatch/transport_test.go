package gbatch

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gbatch/pkg/emulator"
	"gbatch/pkg/exit"
	"gbatch/pkg/wire"
)

// quiet drops the log, for tests with a thousand attempts.
func quiet(t *testing.T) {
	old := slog.Default()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	t.Cleanup(func() { slog.SetDefault(old) })
}

// If another process creates the job while this one waits for the quota, that
// job is adopted.
func TestLookAfterQuota(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	var creates atomic.Int32
	g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ":asyncBatchEmbedContent") && creates.Add(1) == 1 {
			g.ServeHTTP(httptest.NewRecorder(), r)
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		g.ServeHTTP(w, r)
	}))
	g.ok(newSubmit(), batch("b1", 3, 4))
	g.jobs(1)
}

// Without a page size Google chooses one.
func TestPageSize(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	var lists atomic.Int32
	g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && r.URL.Path == "/v1beta/batches" {
			lists.Add(1)
			if size := r.URL.Query().Get("pageSize"); size != "100" {
				t.Errorf("pageSize is %q", size)
			}
		}
		g.ServeHTTP(w, r)
	}))
	g.ok(newSubmit(), batch("b1", 1, 4))
	if lists.Load() == 0 {
		t.Error("no list was asked for")
	}
}

// Following a redirect would send a create twice.
func TestRedirects(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	var followed atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		followed.Add(1)
		g.ServeHTTP(w, r)
	}))
	defer elsewhere.Close()
	for _, path := range []string{":asyncBatchEmbedContent", "/batches", "/upload/v1beta/files"} {
		g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, path) {
				http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
				return
			}
			g.ServeHTTP(w, r)
		}))
		submit := newSubmit()
		submit.RetryFor = time.Millisecond
		if _, err := g.run(submit, batch("b"+path[len(path)-3:], 1, 4)); err == nil {
			t.Errorf("%s: no error", path)
		}
	}
	if followed.Load() > 0 {
		t.Errorf("%d redirects were followed", followed.Load())
	}
	g.jobs(0)
}

// A silent server ends the request, before a reply and during one, and the
// request is retried.
func TestSilence(t *testing.T) {
	old := wire.ReplyTimeout
	wire.ReplyTimeout = 300 * time.Millisecond
	defer func() { wire.ReplyTimeout = old }()
	g := newGoogle(t, emulator.Options{})
	const n, dim = 60, 768
	var lists, gets, downloads atomic.Int32
	g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		silent := func(head string) {
			io.WriteString(w, head)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
		switch {
		case r.Method == http.MethodGet && r.URL.Path == "/v1beta/batches" && lists.Add(1) == 1:
			<-r.Context().Done()
		case strings.HasPrefix(r.URL.Path, "/v1beta/batches/") && gets.Add(1) == 1:
			silent(`{"name":`)
		case strings.HasSuffix(r.URL.Path, ":download") && downloads.Add(1) <= 2:
			// The server sends as much as fits, and then nothing.
			g.ServeHTTP(&stuck{ResponseWriter: w, left: 200_000, done: r.Context().Done()}, r)
		default:
			g.ServeHTTP(w, r)
		}
	}))
	jobs := g.ok(newWait(), g.ok(newSubmit(), batch("b1", n, dim)))
	vectors, _ := answersOf(t, g.ok(newFetch(), jobs))
	checkVectors(t, vectors, "b1", n, dim)
	g.jobs(1)
	if lists.Load() < 2 || gets.Load() < 2 || downloads.Load() < 3 {
		t.Errorf("%d lists, %d statuses, %d downloads", lists.Load(), gets.Load(), downloads.Load())
	}
	if !strings.Contains(g.log.String(), "sent nothing for 300ms") {
		t.Error("the silence is not in the log")
	}
}

// A stuck reply sends nothing more after some bytes.
type stuck struct {
	http.ResponseWriter
	left int
	done <-chan struct{}
}

func (s *stuck) Write(p []byte) (int, error) {
	n, _ := s.ResponseWriter.Write(p[:min(s.left, len(p))])
	if s.left -= n; s.left == 0 {
		s.ResponseWriter.(http.Flusher).Flush()
		<-s.done
		return n, context.Canceled
	}
	return n, nil
}

// Ranges count bytes as they are transferred.
func TestNoCompression(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	jobs := g.ended(newSubmit(), batch("b1", 3, 4))
	g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ":download") && r.Header.Get("Accept-Encoding") != "" {
			t.Errorf("a download may come as %q", r.Header.Get("Accept-Encoding"))
		}
		g.ServeHTTP(w, r)
	}))
	g.ok(newFetch(), jobs)
}

// The message names the variable that the key came from.
func TestRefusedKey(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	t.Setenv("GEMINI_API_KEY", "a-key-that-is-wrong")
	g.fails(newSubmit(), batch("b1", 1, 4), exit.Failed, "check GEMINI_API_KEY: ")
	t.Setenv("GOOGLE_API_KEY", "a-key-that-is-wrong")
	t.Setenv("GEMINI_API_KEY", testKey)
	g.fails(newSubmit(), batch("b1", 1, 4), exit.Failed, "check GOOGLE_API_KEY: ")
}
