package gbatch

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"

	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gbatch/pkg/cli"
	"gbatch/pkg/emulator"
	"gbatch/pkg/exit"
	"gbatch/pkg/record"
)

const testKey = "AIzaSy-test+key/with=signs@project"

// A google is an emulator behind HTTP, with its own empty state folder.
type google struct {
	*emulator.Server
	t     *testing.T
	url   string
	state string // the folder of the intents
	log   *safeBuffer
}

// newGoogle sets the environment to a new emulator. At the end of the test it
// searches the log for the API key, and TMPDIR for leftovers.
func newGoogle(t *testing.T, opts emulator.Options) *google {
	t.Helper()
	opts.Dir, opts.Cheap, opts.Key = t.TempDir(), true, testKey
	s, err := emulator.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	g := &google{Server: s, t: t, log: new(safeBuffer)}
	g.serve(s)
	t.Cleanup(func() { s.Close() })

	tmp, home := t.TempDir(), t.TempDir()
	g.state = filepath.Join(home, "gbatch")
	t.Setenv("TMPDIR", tmp)
	t.Setenv("XDG_STATE_HOME", home)
	t.Setenv("GEMINI_API_KEY", testKey)
	t.Setenv("GOOGLE_API_KEY", "")
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(g.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	t.Cleanup(func() {
		slog.SetDefault(old)
		g.noKey("log", g.log.String())
		if left, _ := os.ReadDir(tmp); len(left) > 0 {
			t.Errorf("left in TMPDIR: %v", left)
		}
		if t.Failed() {
			t.Log("log:\n" + g.log.String())
		}
	})
	return g
}

// serve puts another handler behind the URL, which may wrap the emulator.
func (g *google) serve(h http.Handler) {
	server := httptest.NewServer(h)
	g.t.Cleanup(server.Close)
	g.url = server.URL
	g.t.Setenv("GOOGLE_GEMINI_BASE_URL", g.url)
}

func (g *google) faults(specs ...string) {
	g.t.Helper()
	if err := g.SetFaults(specs); err != nil {
		g.t.Fatal(err)
	}
}

func (g *google) books() *emulator.Books {
	g.t.Helper()
	b, err := g.Books()
	if err != nil {
		g.t.Fatal(err)
	}
	return b
}

// jobs checks how many jobs were created in total, and that no text was paid for
// twice.
func (g *google) jobs(want int) {
	g.t.Helper()
	b := g.books()
	if b.Creates != want || b.MaxPaid > 1 {
		g.t.Errorf("%d jobs were created, want %d; a text was paid for up to %d times", b.Creates, want, b.MaxPaid)
	}
}

func (g *google) files(want int) {
	g.t.Helper()
	if b := g.books(); len(b.Uploaded) != want {
		g.t.Errorf("%d input files at google, want %d: %v", len(b.Uploaded), want, b.Uploaded)
	}
}

func (g *google) noKey(what, s string) {
	g.t.Helper()
	if strings.Contains(s, testKey) || strings.Contains(s, "AIzaSy") {
		g.t.Errorf("the API key is in the %s: %s", what, s)
	}
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// run runs a command and returns its output and error. Neither may contain the
// key.
func (g *google) run(cmd cli.Command, in string) (string, error) {
	g.t.Helper()
	return g.runContext(context.Background(), cmd, in)
}

func (g *google) runContext(ctx context.Context, cmd cli.Command, in string) (string, error) {
	g.t.Helper()
	var out bytes.Buffer
	err := cmd.Run(ctx, strings.NewReader(in), &out)
	if err != nil {
		g.noKey("error", err.Error())
		if text := err.Error(); strings.ContainsAny(text, "\n") {
			g.t.Errorf("an error of more than one line: %q", text)
		}
	}
	return out.String(), err
}

// ok runs a command that must succeed.
func (g *google) ok(cmd cli.Command, in string) string {
	g.t.Helper()
	out, err := g.run(cmd, in)
	if err != nil {
		g.t.Fatalf("%T: %v", cmd, err)
	}
	return out
}

// fails runs a command that must end with code. The error must contain all of
// words.
func (g *google) fails(cmd cli.Command, in string, code int, words ...string) string {
	g.t.Helper()
	out, err := g.run(cmd, in)
	if err == nil || exit.Code(err) != code {
		g.t.Fatalf("%T: exit %d (%v), want %d", cmd, exit.Code(err), err, code)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			g.t.Errorf("%q is not in the error %q", w, err)
		}
	}
	return out
}

func newSubmit() *Submit {
	return &Submit{Method: "embed", Settle: 0, MaxJobs: 50, Lease: defaultLease, RetryFor: 10 * time.Second, Model: "gemini-embedding-001", MaxRequests: 10000, MaxBytes: 100e6}
}

func newWait() *Wait { return &Wait{Interval: time.Millisecond, RetryFor: 10 * time.Second} }

func newFetch() *Fetch { return &Fetch{RetryFor: 10 * time.Second} }

func requestLine(key, text string, dim int) string {
	return fmt.Sprintf(`{"key":%q,"request":{"content":{"parts":[{"text":%q}]},"outputDimensionality":%d}}`+"\n", key, text, dim)
}

// batch returns a header and n requests with different texts.
func batch(name string, n, dim int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"batch":%q,"count":%d,"model":"gemini-embedding-001","dim":%d}`+"\n", name, n, dim)
	for i := range n {
		b.WriteString(requestLine(fmt.Sprintf("%s/%d", name, i), fmt.Sprintf("text %d of %s", i, name), dim))
	}
	return b.String()
}

func jobsOf(t *testing.T, out string) (jobs []record.Job) {
	t.Helper()
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, `{"job":`) {
			continue
		}
		var j record.Job
		if err := json.Unmarshal([]byte(line), &j); err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, j)
	}
	return jobs
}

func oneJob(t *testing.T, out string) record.Job {
	t.Helper()
	jobs := jobsOf(t, out)
	if len(jobs) != 1 {
		t.Fatalf("%d jobs printed, want 1: %s", len(jobs), out)
	}
	return jobs[0]
}

// answersOf parses fetch's output: vectors and errors by key.
func answersOf(t *testing.T, out string) (vectors map[string][]float32, failed map[string]record.Status) {
	t.Helper()
	vectors, failed = map[string][]float32{}, map[string]record.Status{}
	for line := range strings.Lines(out) {
		var r struct {
			Job, Key, Vector string
			Dim              int
			Error            *record.Status
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		switch {
		case r.Job != "":
		case r.Error != nil:
			failed[r.Key] = *r.Error
		default:
			raw, err := base64.StdEncoding.DecodeString(r.Vector)
			if err != nil || len(raw) != 4*r.Dim {
				t.Fatalf("vector of %s: %d bytes, dim %d, %v", r.Key, len(raw), r.Dim, err)
			}
			if _, twice := vectors[r.Key]; twice {
				t.Errorf("two vectors for %s", r.Key)
			}
			v := make([]float32, r.Dim)
			for i := range v {
				v[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
			}
			vectors[r.Key] = v
		}
	}
	return vectors, failed
}

// checkVectors compares the vectors printed for batch(name, n, dim) with the
// emulator's own, bit for bit.
func checkVectors(t *testing.T, got map[string][]float32, name string, n, dim int) {
	t.Helper()
	if len(got) != n {
		t.Errorf("%d vectors, want %d", len(got), n)
	}
	for i := range n {
		want := emulator.CheapVector(fmt.Sprintf("text %d of %s", i, name), dim)
		v := got[fmt.Sprintf("%s/%d", name, i)]
		if len(v) != dim {
			t.Errorf("key %d has %d values, want %d", i, len(v), dim)
			continue
		}
		for j := range v {
			if math.Float32bits(v[j]) != math.Float32bits(want[j]) {
				t.Errorf("key %d, value %d is %v, want %v", i, j, v[j], want[j])
				break
			}
		}
	}
}

// cutInput cuts in into payloads as Run does.
func cutInput(s *Submit, in string) (payloads []*payload, err error) {
	c := newCutter(s, strings.NewReader(in))
	for {
		p, err := c.next()
		if err == io.EOF {
			return payloads, nil
		}
		if err != nil {
			return payloads, err
		}
		payloads = append(payloads, p)
	}
}
