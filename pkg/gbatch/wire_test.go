package gbatch

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gbatch/pkg/cli"
	"gbatch/pkg/emulator"
	"gbatch/pkg/exit"
	"gbatch/pkg/record"
	"gbatch/pkg/wire"
)

// A reply that drips is ended: that of a list, a status, a create and an error.
func TestDrippingReplies(t *testing.T) {
	quickly(t, 200*time.Millisecond)
	g := newGoogle(t, emulator.Options{})
	jobs := g.ok(newSubmit(), batch("b0", 1, 4))
	drip := func(w http.ResponseWriter, r *http.Request, code int) {
		w.WriteHeader(code)
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, " "); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			time.Sleep(10 * time.Millisecond)
		}
	}
	for _, c := range []struct {
		path string
		code int
		cmd  cli.Command
		in   string
		exit int
	}{
		{"/v1beta/batches", 200, newSubmit(), batch("b1", 1, 4), exit.TryLater},
		{"/v1beta/batches", 503, newSubmit(), batch("b1", 1, 4), exit.TryLater},
		{"/v1beta/batches/", 200, newWait(), jobs, exit.TryLater},
		{createPath, 200, newSubmit(), batch("b1", 1, 4), exit.Unknown},
	} {
		g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, c.path) || strings.HasSuffix(c.path, "/") && strings.HasPrefix(r.URL.Path, c.path) {
				drip(w, r, c.code)
				return
			}
			g.ServeHTTP(w, r)
		}))
		switch cmd := c.cmd.(type) {
		case *Submit:
			cmd.RetryFor = 100 * time.Millisecond
		case *Wait:
			cmd.RetryFor = 100 * time.Millisecond
		}
		g.fails(c.cmd, c.in, c.exit)
	}
}

// gbatch-submit waits while Google processes a file, because a create with it
// would be refused.
func TestFileIsProcessed(t *testing.T) {
	for _, end := range []string{"ACTIVE", "FAILED"} {
		g := newGoogle(t, emulator.Options{})
		var looks atomic.Int32
		g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rec := httptest.NewRecorder()
			g.ServeHTTP(rec, r)
			body := rec.Body.String()
			switch {
			case strings.Contains(r.Header.Get("X-Goog-Upload-Command"), "finalize"):
				body = strings.Replace(body, "ACTIVE", "PROCESSING", 1)
			case r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/v1beta/files/"):
				state := "PROCESSING"
				if looks.Add(1) == 3 {
					state = end
				}
				body = strings.Replace(body, "ACTIVE", state, 1)
			case strings.HasSuffix(r.URL.Path, createPath) && looks.Load() < 3:
				t.Error("created before the file was ready")
			}
			for name, values := range rec.Header() {
				w.Header()[name] = values
			}
			w.Header().Del("Content-Length")
			w.WriteHeader(rec.Code)
			io.WriteString(w, body)
		}))
		if end == "ACTIVE" {
			g.ok(newSubmit(), batch("b1", 1, 4))
			g.jobs(1)
		} else {
			g.fails(newSubmit(), batch("b1", 1, 4), exit.Failed, "could not process")
			g.jobs(0)
		}
		if looks.Load() != 3 {
			t.Errorf("%d looks", looks.Load())
		}
	}
}

// A reply that the API does not document leads to an error message.
func TestOddReplies(t *testing.T) {
	for _, body := range []string{`null`, `[]`, `{}`, `7`, `"x"`, `{"file":null}`, `{"file":"x"}`, `{"file":{"name":"../x"}}`, `{"files":[null]}`, `{"files":{}}`, ``} {
		for _, path := range []string{"list", "files", "start", "data", "delete", "get", "download"} {
			g := newGoogle(t, emulator.Options{})
			jobs := g.ok(newSubmit(), batch("b0", 1, 4))
			if path == "download" {
				jobs = g.ok(newWait(), jobs)
			}
			g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				command := r.Header.Get("X-Goog-Upload-Command")
				var at string
				switch {
				case r.URL.Path == "/v1beta/batches":
					at = "list"
				case r.URL.Path == "/v1beta/files" && r.Method == http.MethodGet:
					at = "files"
				case command == "start":
					at = "start"
				case command != "":
					at = "data"
					if path == "files" { // files are listed only after a failure
						w.WriteHeader(503)
						return
					}
				case r.Method == http.MethodDelete:
					at = "delete"
				case strings.HasPrefix(r.URL.Path, "/v1beta/batches/"):
					at = "get"
				case strings.HasSuffix(r.URL.Path, ":download"):
					at = "download"
				case strings.HasSuffix(r.URL.Path, createPath) && path == "delete":
					w.WriteHeader(400)
					return
				}
				if at != path {
					g.ServeHTTP(w, r)
					return
				}
				if at == "data" {
					w.Header().Set("X-Goog-Upload-Status", "final")
				}
				io.WriteString(w, body)
			}))
			submit, wait, fetch := newSubmit(), newWait(), newFetch()
			submit.RetryFor, wait.RetryFor, fetch.RetryFor = 20*time.Millisecond, 20*time.Millisecond, 20*time.Millisecond
			wait.Once = true
			var err error
			switch path {
			case "get":
				_, err = g.run(wait, jobs)
			case "download":
				_, err = g.run(fetch, jobs)
			default:
				_, err = g.run(submit, batch("b1", 1, 4))
			}
			if err == nil && !(path == "list" && body == `{}`) {
				t.Errorf("%s answered with %s: no error", path, body)
			}
			if creates := g.books().Creates; creates != 1 && !(path == "list" && body == `{}`) {
				t.Errorf("%s answered with %s: %d jobs", path, body, creates)
			}
		}
	}
}

// The base URL of a gateway may have a path: every call is below it.
func TestGatewayWithAPath(t *testing.T) {
	for _, base := range []string{"/proxy/gemini", "/proxy/gemini/", "/v1beta"} {
		g := newGoogle(t, emulator.Options{})
		prefix := strings.TrimSuffix(base, "/")
		var rewrites atomic.Bool // the gateway rewrites the URL of an upload, as some do
		g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			path, ok := strings.CutPrefix(r.URL.Path, prefix)
			if !ok {
				t.Errorf("%s %s", r.Method, r.URL)
			}
			r = r.Clone(r.Context())
			r.URL.Path = path
			rec := httptest.NewRecorder()
			g.ServeHTTP(rec, r)
			for name, values := range rec.Header() {
				w.Header()[name] = values
			}
			if u := w.Header().Get("X-Goog-Upload-Url"); u != "" && rewrites.Load() {
				_, rest, _ := strings.Cut(u, "/upload/")
				w.Header().Set("X-Goog-Upload-Url", "http://gateway.example"+prefix+"/upload/"+rest)
			}
			w.WriteHeader(rec.Code)
			w.Write(rec.Body.Bytes())
		}))
		t.Setenv("GOOGLE_GEMINI_BASE_URL", g.url+base)
		for i := range 2 {
			g.ok(newFetch(), g.ended(newSubmit(), batch(fmt.Sprint("b", i), 2, 4)))
			rewrites.Store(true)
		}
		g.jobs(2)
		g.files(0)
	}
}

// If one job answers with 503 for days, the other jobs are still handled.
func TestOneJobFails(t *testing.T) {
	g := newGoogle(t, emulator.Options{Polls: 3})
	jobs := g.ok(newSubmit(), batch("bad", 2, 4)+batch("good", 2, 4))
	list := jobsOf(t, jobs)
	fault := "get match=" + strings.TrimPrefix(list[0].Job, "batches/") + " status=503"
	g.faults(fault)
	wait := newWait()
	wait.RetryFor, wait.Interval = 50*time.Millisecond, 40*time.Millisecond // the good job takes longer
	out := g.fails(wait, jobs, exit.TryLater, list[0].Job, "503")
	if job := oneJob(t, out); job.Batch != "good" || job.State != record.Succeeded {
		t.Errorf("%+v", job)
	}
	g.faults()
	ended := jobsOf(t, g.ok(newWait(), jobs))
	if ended[0].Batch == "good" {
		ended[0], ended[1] = ended[1], ended[0]
	}
	for _, fault := range []string{fault, "download match=" + strings.TrimPrefix(list[0].Job, "batches/") + " status=503"} {
		g.faults(fault)
		fetch := newFetch()
		fetch.RetryFor = 50 * time.Millisecond
		out := g.fails(fetch, mustLine(ended[0])+mustLine(ended[1]), exit.TryLater, list[0].Job, "503")
		printed := jobsOf(t, out)
		if len(printed) != 2 || printed[0].Job != ended[0].Job || printed[0].Error == nil || printed[0].Whole() || printed[1].Batch != "good" || !printed[1].Whole() {
			t.Errorf("%+v", printed)
		}
		vectors, _ := answersOf(t, out)
		checkVectors(t, vectors, "good", 2, 4)
	}
	// If nothing can be reached, the cause is not one job.
	g.faults("any drop")
	fetch := newFetch()
	fetch.RetryFor = 50 * time.Millisecond
	many := mustLine(ended[0]) + mustLine(ended[1]) + mustLine(ended[0]) + mustLine(ended[1])
	if printed := jobsOf(t, g.fails(fetch, many, exit.TryLater)); len(printed) != 2 {
		t.Errorf("went on after three: %+v", printed)
	}
}

// A permanent error is returned, even if a transient one came first.
func TestRefusals(t *testing.T) {
	quiet(t)
	later, never := exit.Errorf(exit.TryLater, "later"), errors.New("never")
	for _, c := range []struct {
		errs []error
		want error
	}{
		{[]error{later, never}, never}, {[]error{never, later}, never}, {[]error{later}, later},
		{[]error{later, exit.Errorf(exit.TryLater, "x")}, later}, {[]error{never, errors.New("x")}, never},
	} {
		var r refusals
		for _, err := range c.errs {
			r.add(err)
		}
		if r.first != c.want {
			t.Errorf("%v: %v", c.errs, r.first)
		}
	}
}

// Permanent errors do not have code 5.
func TestPermanentErrors(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	secure.Config.ErrorLog = nil
	newGoogle(t, emulator.Options{})
	for _, key := range []string{"a-key\n", "a-key\r\n", "a\tkey-of-tabs", "a key", "ключ-from-a-form", "a-key\x7f"} {
		t.Setenv("GEMINI_API_KEY", key)
		for _, cmd := range []cli.Command{newSubmit(), newWait(), newFetch()} {
			err := cmd.Run(t.Context(), strings.NewReader(""), io.Discard)
			if exit.Code(err) != exit.Usage || !strings.Contains(err.Error(), "GEMINI_API_KEY is not an API key") || strings.Contains(err.Error(), key) {
				t.Errorf("key %q: exit %d, %v", key, exit.Code(err), err)
			}
		}
	}
	t.Setenv("GEMINI_API_KEY", testKey)
	for _, base := range []string{"https" + strings.TrimPrefix(plain.URL, "http"), secure.URL} {
		t.Setenv("GOOGLE_GEMINI_BASE_URL", base)
		err := newSubmit().Run(t.Context(), strings.NewReader(batch("b1", 1, 4)), io.Discard)
		if exit.Code(err) != exit.Failed {
			t.Errorf("%s: exit %d, %v", base, exit.Code(err), err)
		}
		if hints := strings.Count(err.Error(), "ca-certificates"); (hints == 1) != (base == secure.URL) {
			t.Errorf("%s: %d hints: %v", base, hints, err)
		}
	}
	for err, want := range map[error]bool{
		&tls.CertificateVerificationError{}:         false,
		http.ErrSchemeMismatch:                      false,
		wire.Permanent(errors.New("x")):             false,
		&wire.Error{HTTP: 302}:                      false,
		&wire.Error{HTTP: 501}:                      true,
		&wire.Error{HTTP: 425}:                      true,
		&wire.Error{HTTP: 409}:                      true,
		&wire.Error{HTTP: 412}:                      false,
		io.ErrUnexpectedEOF:                         true,
		fmt.Errorf("x: %w", &wire.Error{HTTP: 403}): false,
	} {
		if wire.Transient(err) != want {
			t.Errorf("%T %v: transient %v", err, err, !want)
		}
	}
}

// A result with fewer answers than the operation counts never closes a batch. If
// the operation has no count, the number of requests decides.
func TestShortResults(t *testing.T) {
	const line = `{"key":"k%d","response":{"embedding":{"values":[1,2]}}}` + "\n"
	for _, c := range []struct {
		stats string
		state string
		lines int
		code  int
	}{
		{``, "SUCCEEDED", 0, exit.Malformed},
		{``, "SUCCEEDED", 2, exit.Malformed},
		{``, "SUCCEEDED", 3, exit.OK},
		{`{"requestCount":"3"}`, "SUCCEEDED", 2, exit.Malformed},
		{`{"requestCount":"4"}`, "SUCCEEDED", 3, exit.Malformed},
		{`{"requestCount":"x"}`, "SUCCEEDED", 2, exit.Malformed},
		{`{"successfulRequestCount":"3"}`, "SUCCEEDED", 2, exit.Malformed},
		{`{"successfulRequestCount":"2"}`, "SUCCEEDED", 2, exit.OK},
		{`{"successfulRequestCount":"2"}`, "SUCCEEDED", 3, exit.OK},
		{`{"successfulRequestCount":"9223372036854775807","failedRequestCount":"9223372036854775807"}`, "SUCCEEDED", 2, exit.Malformed},
		{`{"requestCount":"3"}`, "PARTIALLY_SUCCEEDED", 2, exit.OK},
		{`{"requestCount":"3","successfulRequestCount":"2"}`, "PARTIALLY_SUCCEEDED", 1, exit.Malformed},
		{``, "PARTIALLY_SUCCEEDED", 0, exit.Malformed},
	} {
		g := newGoogle(t, emulator.Options{})
		deleted := false
		g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodDelete:
				deleted = true
				io.WriteString(w, "{}")
			case strings.HasSuffix(r.URL.Path, ":download"):
				w.(http.Flusher).Flush() // no Content-Length
				for i := range c.lines {
					fmt.Fprintf(w, line, i)
				}
			default:
				stats := ""
				if c.stats != "" {
					stats = `,"batchStats":` + c.stats
				}
				fmt.Fprintf(w, `{"metadata":{"state":"BATCH_STATE_%s","output":{"responsesFile":"files/r"}%s}}`, c.state, stats)
			}
		}))
		out, err := g.run(newFetch(), `{"job":"batches/x","state":"SUCCEEDED","dim":2,"requests":3,"input":"files/i"}`)
		if exit.Code(err) != c.code || closed(t, out) != (c.code == exit.OK) || deleted != (c.code == exit.OK) {
			t.Errorf("%s, %s, %d lines: exit %d (%v), closed %v, input deleted %v", c.stats, c.state, c.lines, exit.Code(err), err, closed(t, out), deleted)
		}
	}
}

// Ranges as servers write them.
func TestDownloadRanges(t *testing.T) {
	const text = "0123456789"
	for _, c := range []struct {
		name string
		next func(w http.ResponseWriter)
		want string
		said string
	}{
		{"the size is not told", func(w http.ResponseWriter) {
			w.Header().Set("Content-Range", "bytes 5-9/*")
			w.WriteHeader(206)
			io.WriteString(w, text[5:])
		}, text, ""},
		{"it broke at the end", func(w http.ResponseWriter) {
			w.Header().Set("Content-Range", "bytes */5")
			w.WriteHeader(416)
		}, text[:5], ""},
		{"it broke at the end, which is not told", func(w http.ResponseWriter) { w.WriteHeader(416) }, text[:5], ""},
		{"it is shorter now", func(w http.ResponseWriter) {
			w.Header().Set("Content-Range", "bytes */4")
			w.WriteHeader(416)
		}, "", "416"},
		{"nothing is told", func(w http.ResponseWriter) {
			w.Header().Set("Content-Range", "*/*")
			w.WriteHeader(206)
		}, "", `google sent "*/*"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGoogle(t, emulator.Options{})
			var calls atomic.Int32
			g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if calls.Add(1) == 1 {
					w.(http.Flusher).Flush() // no Content-Length
					io.WriteString(w, text[:5])
					w.(http.Flusher).Flush()
					panic(http.ErrAbortHandler)
				}
				c.next(w)
			}))
			data, err := io.ReadAll(resultFile(t, time.Second))
			if (err == nil) != (c.said == "") || err != nil && (!strings.Contains(err.Error(), c.said) || wire.Transient(err)) || err == nil && string(data) != c.want {
				t.Errorf("%q, %v", data, err)
			}
		})
	}
}

func TestCounts(t *testing.T) {
	for n, want := range map[int]string{0: "0 keys", 1: "1 key", 999: "999 keys", 1000: "1,000 keys", 19758: "19,758 keys", 1234567: "1,234,567 keys"} {
		if got := count(n, "key"); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
	for want, s := range map[string]summary{
		"2 jobs succeeded; 39 of 19,758 keys failed":                              {succeeded: 2, keys: 19758, badKeys: 39},
		"0 jobs succeeded, 1 job failed, expired or cancelled":                    {failed: 1},
		"1 job succeeded, 2 jobs failed, expired or cancelled; 1 of 1 key failed": {succeeded: 1, failed: 2, keys: 1, badKeys: 1},
	} {
		if err := s.err(); err == nil || err.Error() != want || exit.Code(err) != exit.Partial {
			t.Errorf("%v, want %q", err, want)
		}
	}
	var names []string
	for i := range 1000 {
		names = append(names, fmt.Sprint("k", i))
	}
	if got := few(names); got != "k0 k1 k2 k3 k4 and 995 more" || few(names[:2]) != "k0 k1" {
		t.Errorf("%s", got)
	}
}
