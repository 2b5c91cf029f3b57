package emulator

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// strike applies f to a call. It returns the writer for the rest of the call,
// and whether the call ends here.
func (s *Server) strike(w http.ResponseWriter, r *http.Request, c *call, f *fault) (http.ResponseWriter, bool) {
	switch f.do {
	case "status":
		return w, f.answer(w, c)
	case "nostatus":
		writeJSON(w, http.StatusOK, struct{}{})
		return w, true
	case "drop":
		panic(http.ErrAbortHandler)
	case "hang", "delay", "hold":
		if f.at >= 0 {
			return &stopWriter{ResponseWriter: w, left: f.at, wait: func() bool { return s.wait(r.Context(), f) }}, false
		}
		ctx := r.Context()
		if f.unread {
			var stop context.CancelFunc
			ctx, stop = untilClosed(ctx, w)
			defer stop()
		} else {
			// The server notices that a client has disconnected only after it has
			// read the body.
			body, err := io.ReadAll(r.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			r.Body = io.NopCloser(strings.NewReader(string(body)))
		}
		if !s.wait(ctx, f) {
			panic(http.ErrAbortHandler)
		}
	case "cut":
		return &stopWriter{ResponseWriter: w, left: f.at, wait: func() bool { return false }}, false
	case "drip":
		return &stopWriter{
			ResponseWriter: w, left: max(f.at, 0), drip: true, wait: func() bool { return s.wait(r.Context(), f) },
		}, false
	case "set":
		c.edits = append(c.edits, f.edits...)
		if len(f.headers) > 0 {
			return &headerWriter{ResponseWriter: w, headers: f.headers}, false
		}
	case "short":
		c.short = f.at
	case "take":
		c.take = f.at
	case "hide":
		c.hide, c.lag = f.count, f.wait
	case "late":
		c.late, c.done = f.count, max(0, f.done)
	case "order":
		c.order = f.what
	case "repeat":
		c.repeat = true
	case "state":
		c.state = f.state
	}
	return w, false
}

// wait is the pause of a hang, a delay, a hold or a drip. It returns false if
// the call must end.
func (s *Server) wait(ctx context.Context, f *fault) bool {
	switch f.do {
	case "hang":
		s.pause(ctx, 1<<62)
		return false
	case "hold":
		return s.holds.hold(ctx, s.done, f.name)
	}
	return s.pause(ctx, f.wait)
}

// untilClosed returns a context that also ends when the server closes the
// connection. The server cannot notice that a client has disconnected while
// bytes from it are unread.
func untilClosed(ctx context.Context, w http.ResponseWriter) (context.Context, context.CancelFunc) {
	ctx, stop := context.WithCancel(ctx)
	connection := http.NewResponseController(w)
	go func() {
		defer stop()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for connection.SetReadDeadline(time.Time{}) == nil {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx, stop
}

// answer sends the reply of a status fault. It reports whether the reply is
// final: after an interim reply (1xx, except 101) the call continues.
func (f *fault) answer(w http.ResponseWriter, c *call) (final bool) {
	setHeaders(w, f.headers)
	switch {
	case f.status < 200 && f.status != http.StatusSwitchingProtocols:
		w.WriteHeader(f.status)
		for _, h := range f.headers {
			w.Header().Del(h.name)
		}
		return false
	case f.body == nil && f.status >= 300:
		writeError(w, c.styled(f.apiError()))
	case f.body == nil || *f.body == "empty":
		w.WriteHeader(f.status)
	case *f.body == "html":
		w.Header().Set("Content-Type", "text/html; charset=UTF-8")
		w.WriteHeader(f.status)
		fmt.Fprintf(w, "<!DOCTYPE html>\n<html><title>Error %d</title><p><b>%d.</b> That's an error.\n%s\n</html>\n", f.status, f.status, f.message)
	default:
		w.Header().Set("Content-Type", "application/json; charset=UTF-8")
		w.WriteHeader(f.status)
		io.WriteString(w, *f.body)
	}
	return true
}

// apiError is the error of a status fault.
func (f *fault) apiError() *apiError {
	e := errorf(f.status, "%s", f.message)
	if f.message == quotaMessage {
		e = quotaError("")
	}
	if f.retry > 0 {
		e.details = append(e.details, map[string]any{
			"@type":      "type.googleapis.com/google.rpc.RetryInfo",
			"retryDelay": strconv.FormatFloat(f.retry.Seconds(), 'f', -1, 64) + "s",
		})
	}
	return e
}

// stopWriter writes left bytes of a reply's body. Then it waits, once or, with
// drip, before each further byte. It cuts the connection when wait returns
// false.
type stopWriter struct {
	http.ResponseWriter
	left int64
	drip bool
	wait func() bool
	past bool
}

func (w *stopWriter) Write(p []byte) (int, error) {
	if w.past || int64(len(p)) < w.left {
		w.left -= int64(len(p))
		return w.ResponseWriter.Write(p)
	}
	n, err := w.ResponseWriter.Write(p[:w.left])
	w.left = 0
	for err == nil && (n < len(p) || !w.drip) {
		// The client must receive these bytes before the pause or the cut.
		http.NewResponseController(w.ResponseWriter).Flush()
		if !w.wait() {
			panic(http.ErrAbortHandler)
		}
		end := n + 1
		if !w.drip {
			end, w.past = len(p), true
		}
		var m int
		m, err = w.ResponseWriter.Write(p[n:end])
		if n += m; w.past {
			break
		}
	}
	return n, err
}

func (w *stopWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// header is a header to set, or to remove if value is "".
type header struct{ name, value string }

func setHeaders(w http.ResponseWriter, headers []header) {
	for _, h := range headers {
		if h.value == "" {
			w.Header().Del(h.name)
		} else {
			w.Header().Set(h.name, h.value)
		}
	}
}

// headerWriter changes the headers of a reply just before they are sent.
type headerWriter struct {
	http.ResponseWriter
	headers []header
}

func (w *headerWriter) WriteHeader(code int) {
	setHeaders(w.ResponseWriter, w.headers)
	w.ResponseWriter.WriteHeader(code)
}

func (w *headerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
