package gbatch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gbatch/pkg/emulator"
	"gbatch/pkg/exit"
	"gbatch/pkg/ledger"
	"gbatch/pkg/record"
	"gbatch/pkg/render"
)

// newEmbed returns the command with its cache in a folder of the test.
func newEmbed(t *testing.T) *Embed {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	linger = time.Hour // the number of calls must not depend on the speed of the machine
	return &Embed{SpaceFlags: render.SpaceFlags{Dim: 8}, Parallel: 4, RetryFor: 10 * time.Second}
}

// chunkLines returns n chunks.
func chunkLines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"id":"k%d","text":"text %d"}`+"\n", i, i)
	}
	return b.String()
}

// checkEmbedded compares the output for chunkLines with the emulator's vectors, bit
// for bit, except for the keys in failed, which must have an error. The answers must
// be in the order of the chunks.
func checkEmbedded(t *testing.T, out string, n, dim int, failed ...string) {
	t.Helper()
	vectors, errs := answersOf(t, strings.Join(answerLines(out), ""))
	for i, line := range answerLines(out) {
		if !strings.HasPrefix(line, fmt.Sprintf(`{"key":"k%d",`, i)) {
			t.Fatalf("answer %d is %.60s", i, line)
		}
	}
	if len(vectors)+len(errs) != n || len(errs) != len(failed) {
		t.Errorf("%d vectors and %d errors for %d chunks, of which %d must fail", len(vectors), len(errs), n, len(failed))
	}
	for i := range n {
		key := fmt.Sprintf("k%d", i)
		if slices.Contains(failed, key) {
			continue
		}
		want := emulator.CheapVector(fmt.Sprintf("text %d", i), dim)
		if !slices.EqualFunc(vectors[key], want, func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }) {
			t.Errorf("%s: %v instead of %v", key, vectors[key], want)
		}
	}
}

// answerLines returns the lines with a key.
func answerLines(out string) (lines []string) {
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, `{"key"`) {
			lines = append(lines, line)
		}
	}
	return lines
}

// A meter counts the calls that reach the emulator, and the texts in those that it
// answers with 200, which are paid for.
type meter struct {
	http.Handler
	mu    sync.Mutex
	calls int
	most  int // texts in a call
	paid  map[string]int
}

func (m *meter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	var call struct {
		Requests []struct {
			Content struct{ Parts []struct{ Text string } }
		}
	}
	json.Unmarshal(body, &call)
	kept := httptest.NewRecorder()
	m.Handler.ServeHTTP(kept, r)
	m.mu.Lock()
	m.calls++
	m.most = max(m.most, len(call.Requests))
	for _, q := range call.Requests {
		if kept.Code == http.StatusOK {
			m.paid[q.Content.Parts[0].Text]++
		}
	}
	m.mu.Unlock()
	w.WriteHeader(kept.Code)
	w.Write(kept.Body.Bytes()) // after the counting: the test reads the counts when it has the reply
}

// metered puts a meter before the emulator.
func (g *google) metered() *meter {
	m := &meter{Handler: g.Server, paid: map[string]int{}}
	g.serve(m)
	return m
}

func TestEmbed(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	m := g.metered()
	out := g.ok(newEmbed(t), chunkLines(321))
	if first, _, _ := strings.Cut(out, "\n"); first != `{"space":{"model":"gemini-embedding-001","dim":8,"task_type":"RETRIEVAL_DOCUMENT"}}` {
		t.Errorf("the first line is %s", first)
	}
	checkEmbedded(t, out, 321, 8)
	if m.calls != 4 || m.most != 100 {
		t.Errorf("%d calls, of up to %d texts", m.calls, m.most)
	}
	if !strings.Contains(g.log.String(), "estimated_cost=") {
		t.Error("the log has no cost")
	}
	if out := g.ok(newEmbed(t), "\n\n"); out != "" {
		t.Errorf("no input gives %s", out)
	}
}

// At most --parallel calls are sent at a time, and not fewer if there are texts.
func TestEmbedParallel(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	var mu sync.Mutex
	now, most, all := 0, 0, make(chan struct{})
	g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		now++
		if most = max(most, now); now == 3 && most == 3 {
			select {
			case <-all:
			default:
				close(all)
			}
		}
		mu.Unlock()
		select {
		case <-all:
		case <-time.After(time.Minute):
			t.Error("the calls are sent one after the other")
		}
		reply := httptest.NewRecorder()
		g.Server.ServeHTTP(reply, r)
		mu.Lock()
		now-- // before the client has the reply and sends the next call
		mu.Unlock()
		maps.Copy(w.Header(), reply.Header())
		w.WriteHeader(reply.Code)
		w.Write(reply.Body.Bytes())
	}))
	e := newEmbed(t)
	e.Parallel = 3
	checkEmbedded(t, g.ok(e, chunkLines(950)), 950, 8)
	if most != 3 {
		t.Errorf("%d calls at a time", most)
	}
}

// Long texts are sent in smaller calls.
func TestEmbedLongTexts(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	m := g.metered()
	in := ""
	for i := range 5 {
		in += fmt.Sprintf(`{"id":"k%d","text":"%s"}`+"\n", i, strings.Repeat("long ", 180_000))
	}
	if out := g.ok(newEmbed(t), in); len(answerLines(out)) != 5 || m.calls != 3 || m.most != 2 {
		t.Errorf("%d answers, %d calls, of up to %d texts", len(answerLines(out)), m.calls, m.most)
	}
}

// Titles and task types are sent as to-jsonl sends them.
func TestEmbedRequests(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	var bodies []string
	g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies = append(bodies, r.URL.Path+" "+string(body))
		r.Body = io.NopCloser(bytes.NewReader(body))
		g.Server.ServeHTTP(w, r)
	}))
	const chunk = `{"id":"a","text":"x","title":"T","context":"c \u00e9"}` + "\n"
	space := func(model, task string) string {
		return `{"space":{"model":"` + model + `","dim":3,"task_type":"` + task + `"}}` + "\n"
	}
	e := newEmbed(t)
	e.Dim, e.NoCache = 0, true
	g.ok(e, space("models/gemini-embedding-001", "RETRIEVAL_DOCUMENT")+chunk+space("gemini-embedding-001", "RETRIEVAL_QUERY")+chunk+
		space("gemini-embedding-2", "RETRIEVAL_DOCUMENT")+chunk+space("gemini-embedding-2", "CODE_RETRIEVAL_QUERY")+chunk)
	const path = "/v1beta/models/gemini-embedding-"
	slices.Sort(bodies) // calls are sent at the same time
	for i, want := range []string{
		path + `001:batchEmbedContents {"requests":[{"model":"models/gemini-embedding-001","content":{"parts":[{"text":"c \u00e9"}]},"taskType":"RETRIEVAL_DOCUMENT","title":"T","outputDimensionality":3}]}`,
		path + `001:batchEmbedContents {"requests":[{"model":"models/gemini-embedding-001","content":{"parts":[{"text":"c \u00e9"}]},"taskType":"RETRIEVAL_QUERY","outputDimensionality":3}]}`,
		path + `2:batchEmbedContents {"requests":[{"model":"models/gemini-embedding-2","content":{"parts":[{"text":"task: code retrieval | query: c \u00e9"}]},"outputDimensionality":3}]}`,
		path + `2:batchEmbedContents {"requests":[{"model":"models/gemini-embedding-2","content":{"parts":[{"text":"title: T | text: c \u00e9"}]},"outputDimensionality":3}]}`,
	} {
		if i >= len(bodies) || bodies[i] != want {
			t.Errorf("got %v\nwant %s", bodies, want)
		}
	}
	// A task type on the command line takes precedence over the record's, other flags
	// must agree.
	e.TaskType = "QUESTION_ANSWERING"
	if out := g.ok(e, space("gemini-embedding-001", "RETRIEVAL_QUERY")+chunk); !strings.Contains(out, `"task_type":"QUESTION_ANSWERING"`) {
		t.Errorf("printed %s", out)
	}
	e.Dim = 5
	g.fails(e, space("gemini-embedding-001", "RETRIEVAL_QUERY")+chunk, exit.Usage, "line 1", "--dim differs from the header of the space")
	e.FromVariable("dim")
	e.FromVariable("task-type")
	if out := g.ok(e, space("gemini-embedding-001", "RETRIEVAL_QUERY")+chunk); !strings.Contains(out, `"dim":3,"task_type":"RETRIEVAL_QUERY"`) {
		t.Errorf("printed %s", out)
	}
	for _, bad := range []string{`{"space":"x"}`, `{"space":{"dim":3}}`, `{"space":{"model":"m","dim":0}}`, `{"space":{"model":"m","dim":1,"task_type":"X"}}`} {
		g.fails(e, bad, exit.Malformed, "line 1", "space")
	}
}

// The token counts of newer models are printed for a text that is alone in its
// call.
func TestEmbedTokens(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	e := newEmbed(t)
	e.Model = "gemini-embedding-2"
	if out := g.ok(e, chunkLines(1)); !strings.Contains(out, `,"tokens":`) {
		t.Errorf("printed %s", out)
	}
	if out := g.ok(e, chunkLines(2)); strings.Contains(out, `,"tokens":`) {
		t.Errorf("printed %s", out)
	}
	if log := g.log.String(); strings.Contains(log, "estimated") || !strings.Contains(log, "cost=") {
		t.Error("the cost is not that of Google's count")
	}
}

// A call that is refused because of some of its texts is divided. The other texts
// are answered, and paid for once.
func TestEmbedBadTexts(t *testing.T) {
	for _, c := range []struct {
		name  string
		bad   []int
		calls int
	}{
		{"one", []int{37}, 15},
		{"the first and the last", []int{0, 99}, 29},
		{"neighbours", []int{50, 51}, 17},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGoogle(t, emulator.Options{})
			m := g.metered()
			in := chunkLines(100)
			var faults, failed []string
			for _, i := range c.bad {
				in = strings.Replace(in, fmt.Sprintf(`"text %d"`, i), fmt.Sprintf(`"poison %d!"`, i), 1)
				faults = append(faults, fmt.Sprintf(`embed match="poison %d!" status=400 message="text %d is not allowed"`, i, i))
				failed = append(failed, fmt.Sprintf("k%d", i))
			}
			g.faults(faults...)
			out := g.fails(newEmbed(t), in, exit.Partial, fmt.Sprintf("%d of 100 keys failed", len(c.bad)))
			checkEmbedded(t, out, 100, 8, failed...)
			_, errs := answersOf(t, strings.Join(answerLines(out), ""))
			for i, key := range failed {
				want := record.Status{Code: 3, Status: "INVALID_ARGUMENT", Message: fmt.Sprintf("text %d is not allowed", c.bad[i])}
				if errs[key] != want {
					t.Errorf("%s has the error %+v", key, errs[key])
				}
			}
			for text, n := range m.paid {
				if n != 1 {
					t.Errorf("%q was paid for %d times", text, n)
				}
			}
			if m.calls > c.calls || len(m.paid) != 100-len(c.bad) {
				t.Errorf("%d calls, want at most %d; %d texts were paid for", m.calls, c.calls, len(m.paid))
			}
		})
	}
}

// If every text is refused, the cause is not the texts.
func TestEmbedAllRefused(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	m := g.metered()
	g.faults(`embed status=400 message="the output dimension is wrong"`)
	e := newEmbed(t)
	e.Parallel = 1
	g.fails(e, chunkLines(1000), exit.Failed, "the first 10 texts were refused", "the output dimension is wrong")
	if m.calls > 40 {
		t.Errorf("%d calls", m.calls)
	}
	g.faults(`embed status=400 message="User location is not supported" body='{"error":{"code":400,"status":"FAILED_PRECONDITION","message":"User location is not supported"}}'`)
	g.fails(e, chunkLines(3), exit.Failed, "User location is not supported")
	g.faults(`embed status=403 message="no"`)
	g.fails(e, chunkLines(3), exit.Failed, "the API key was refused")
	g.faults()
	e.Model = "gemini-none"
	g.fails(e, chunkLines(3), exit.Failed, "404")
}

// Transient errors are retried. What stays is tried again later.
func TestEmbedTransient(t *testing.T) {
	for _, fault := range []string{
		"embed status=429 retry=10ms nth=1-2", "embed status=500 times=3", "embed status=503 body=html times=1", "embed drop times=2",
		"embed when=after drop times=1", "embed cut=40 times=1",
	} {
		t.Run(fault, func(t *testing.T) {
			g := newGoogle(t, emulator.Options{})
			g.faults(fault)
			checkEmbedded(t, g.ok(newEmbed(t), chunkLines(250)), 250, 8)
		})
	}
	t.Run("stays", func(t *testing.T) {
		g := newGoogle(t, emulator.Options{})
		g.faults("embed nth=2 status=429 retry=1h")
		e := newEmbed(t)
		e.Parallel, e.RetryFor = 1, time.Second
		out := g.fails(e, chunkLines(250), exit.TryLater, "429")
		checkEmbedded(t, out, 100, 8)
	})
}

// Replies that are not what was asked for fail only the texts that they are about.
func TestEmbedWrongReplies(t *testing.T) {
	for _, c := range []struct {
		fault  string
		failed []string
		words  string
	}{
		{`embed match='"text 5"' set=embeddings.0`, []string{"k5"}, "has 0 embeddings for 1 request"},
		{`embed set=embeddings.3`, nil, ""}, // a call of fewer than four texts is answered
		{`embed set=embeddings.2.values=[1,2] times=1`, []string{"k2"}, "vector of 2 values instead of 8"},
		{`embed set=embeddings.2.values=null times=1`, []string{"k2"}, "without values"},
		{`embed set=embeddings.2.values times=1`, []string{"k2"}, "without values"},
		{`embed set='embeddings.2.values.0="NaN"' times=1`, []string{"k2"}, "without values"},
		{`embed set=embeddings.2.values.0=1e39 times=1`, []string{"k2"}, "without values"},
		{`embed set=embeddings.2.values.*=0 times=1`, []string{"k2"}, "without a direction"},
		{`embed times=1 body='{"embeddings":[{"values":[NaN]}]}'`, nil, ""},
		{`embed times=1 body='[]'`, nil, ""},
		{`embed times=1 body='{"embeddings":[` + strings.Repeat(`{"values":[1,2,3,4,5,6,7,8]},`, 10) + `{"values":[1,2,3,4,5,6,7,8]}]}'`, nil, ""},
		{`embed times=1 body=empty`, nil, ""},
		{`embed times=1 body=html`, nil, ""},
	} {
		t.Run(c.fault, func(t *testing.T) {
			g := newGoogle(t, emulator.Options{})
			g.faults(c.fault)
			var out string
			if c.failed == nil {
				out = g.ok(newEmbed(t), chunkLines(10))
			} else {
				out = g.fails(newEmbed(t), chunkLines(10), exit.Partial, "1 of 10 keys failed")
				if !strings.Contains(out, c.words) || !strings.Contains(out, `"status":"INTERNAL"`) {
					t.Errorf("printed %s", out)
				}
			}
			checkEmbedded(t, out, 10, 8, c.failed...)
		})
	}
}

// A batch is closed by a job record. A batch that may have a job is refused.
func TestEmbedBatch(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	header := func(n int, keys string) string {
		return string(record.AppendHeader(nil, record.Header{Batch: "b1", Count: n, Model: "gemini-embedding-001", Dim: 8, TaskType: "CLUSTERING", Keys: keys}))
	}
	e := newEmbed(t)
	e.Dim = 0
	out := g.ok(e, header(150, "")+chunkLines(150)+`{"id":"plain","text":"x"}`)
	lines := strings.SplitAfter(out, "\n")
	if want := `{"job":"online/b1","batch":"b1","state":"SUCCEEDED","model":"gemini-embedding-001","dim":8,"requests":150,"succeeded":150,"failed":0,"tokens_estimated":640}` + "\n"; lines[150] != want {
		t.Errorf("the batch is closed by %s", lines[150])
	}
	if !strings.HasPrefix(lines[151], `{"space":{"model":"gemini-embedding-001","dim":768,`) || !strings.HasPrefix(lines[152], `{"key":"plain","dim":768,`) {
		t.Errorf("then come %s", lines[151:])
	}
	if !strings.HasPrefix(lines[0], `{"key":"k0","batch":"b1","dim":8,`) {
		t.Errorf("the first line is %s", lines[0])
	}
	if names, _ := filepath.Glob(filepath.Join(os.Getenv("XDG_CACHE_HOME"), "gbatch", "embeddings", "*")); len(names) > 0 {
		t.Errorf("%d documents are cached", len(names))
	}

	for _, in := range []string{header(3, "") + chunkLines(2), header(2, "") + chunkLines(1) + header(1, "") + chunkLines(1)} {
		if out := g.fails(e, in, exit.Malformed, `batch "b1": 1 of its`, "run the whole pipe again"); strings.Contains(out, `"job"`) {
			t.Errorf("closed: %s", out)
		}
	}
	if out := g.fails(e, header(2, "0000000000000000")+chunkLines(2), exit.Malformed, "other keys"); strings.Contains(out, `"job"`) {
		t.Errorf("closed: %s", out)
	}

	g.faults("create when=after drop")
	s := newSubmit()
	s.Settle = 0
	g.faults("list status=500 nth=2-9", "create when=after drop")
	s.RetryFor = time.Millisecond
	g.run(s, batch("b1", 2, 8))
	calls := g.books().Operations["embed"]["200"]
	g.fails(e, header(2, "")+chunkLines(2), exit.Failed, `batch "b1" was submitted as a job, or may have been`)
	if again := g.books().Operations["embed"]["200"]; again != calls {
		t.Errorf("%d calls for a batch that has a job", again-calls)
	}
}

// A question that was asked before is answered from the cache.
func TestEmbedCache(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	m := g.metered()
	e := newEmbed(t)
	e.TaskType = "RETRIEVAL_QUERY"
	calls := func(want int) {
		t.Helper()
		if m.calls != want {
			t.Errorf("%d calls instead of %d", m.calls, want)
		}
	}
	first := g.ok(e, chunkLines(3))
	checkEmbedded(t, first, 3, 8)
	calls(1)
	if again := g.ok(e, chunkLines(3)); again != first {
		t.Errorf("the second answer is\n%s, the first one\n%s", again, first)
	}
	calls(1)
	checkEmbedded(t, g.ok(e, chunkLines(5)), 5, 8) // two are new
	calls(2)
	if m.paid["text 0"] != 1 || m.paid["text 4"] != 1 {
		t.Errorf("paid for %v", m.paid)
	}
	e.Normalize = true
	unit, _ := answersOf(t, strings.Join(answerLines(g.ok(e, chunkLines(1))), ""))
	if v := unit["k0"]; math.Abs(cosineLength(v)-1) > 1e-6 {
		t.Errorf("the length is %v", cosineLength(v))
	}
	e.Normalize = false
	calls(2)
	for i, change := range []func(){func() { e.Dim = 9 }, func() { e.TaskType = "QUESTION_ANSWERING" }, func() { e.Model = "gemini-embedding-2" }, func() { e.NoCache = true }} {
		change()
		g.ok(e, chunkLines(1))
		calls(3 + i)
	}
	e.NoCache = false

	// A damaged file counts as missing, and is replaced.
	dir := filepath.Join(os.Getenv("XDG_CACHE_HOME"), "gbatch", "embeddings")
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 8 {
		t.Fatalf("%d files, %v", len(entries), err)
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %v", info.Mode())
	}
	for i, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		switch i % 4 {
		case 0:
			data = nil
		case 1:
			data = data[:len(data)-4]
		case 2:
			data[len(data)-5] ^= 1
		case 3:
			data[0] ^= 1
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := m.calls
	e.Model, e.Dim, e.TaskType = "", 8, "RETRIEVAL_QUERY"
	checkEmbedded(t, g.ok(e, chunkLines(5)), 5, 8)
	calls(before + 1)
	checkEmbedded(t, g.ok(e, chunkLines(5)), 5, 8)
	calls(before + 1)

	// Another server has other vectors.
	other := newGoogle(t, emulator.Options{})
	counted := other.metered()
	checkEmbedded(t, other.ok(e, chunkLines(5)), 5, 8)
	if counted.calls != 1 {
		t.Errorf("%d calls to another server", counted.calls)
	}
	t.Setenv("GOOGLE_GEMINI_BASE_URL", g.url)

	// Without a place for the cache, texts are embedded all the same.
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, entries[0].Name()))
	checkEmbedded(t, g.ok(e, chunkLines(5)), 5, 8)
	calls(before + 2)
}

func cosineLength(v []float32) (sum float64) {
	for _, x := range v {
		sum += float64(x) * float64(x)
	}
	return math.Sqrt(sum)
}

// The cache keeps the files that were used last.
func TestCachePrune(t *testing.T) {
	c := &cache{dir: t.TempDir(), most: 100}
	old := time.Now().Add(-time.Hour)
	for i := range c.most + 1 {
		path := c.path([]byte(fmt.Sprint(i)))
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, old, old.Add(time.Duration(i)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	c.prune() // nothing was stored
	if entries, _ := os.ReadDir(c.dir); len(entries) != c.most+1 {
		t.Fatalf("%d files", len(entries))
	}
	c.put([]byte("new"), []float32{1, 2})
	c.prune()
	entries, err := os.ReadDir(c.dir)
	if err != nil || len(entries) != c.most*9/10 {
		t.Fatalf("%d files, %v", len(entries), err)
	}
	if v := c.get([]byte("new")); !slices.Equal(v, []float32{1, 2}) {
		t.Errorf("the newest file holds %v", v)
	}
	for i, kept := range map[int]bool{0: false, 11: false, 12: true, 100: true} {
		if _, err := os.Stat(c.path([]byte(fmt.Sprint(i)))); (err == nil) != kept {
			t.Errorf("file %d: %v", i, err)
		}
	}
}

// A batch on which gbatch-submit is working is refused. If that was stopped before the
// create, the batch is embedded.
func TestEmbedBesideSubmit(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	e := newEmbed(t)
	e.Dim = 0
	l, err := ledger.Open()
	if err != nil {
		t.Fatal(err)
	}
	entry, err := l.Try("gbatch-b1-0123456789abcdef")
	if err != nil || entry == nil {
		t.Fatal(entry, err)
	}
	if err := entry.Set(t.Context(), ledger.Mark{Name: "gbatch-b1-0123456789abcdef", Batch: "b1", Phase: ledger.Upload}); err != nil {
		t.Fatal(err)
	}
	in := string(record.AppendHeader(nil, record.Header{Batch: "b1", Count: 2, Model: "gemini-embedding-001", Dim: 8})) + chunkLines(2)
	g.fails(e, in, exit.Failed, `batch "b1" was submitted as a job, or may have been`)
	if calls := g.books().Operations["embed"]["200"]; calls != 0 {
		t.Errorf("%d calls", calls)
	}
	entry.Close()
	g.ok(e, in)
}
