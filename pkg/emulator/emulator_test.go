package emulator

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// The test binary is also the command, for tests that kill the emulator: it runs
// the emulator if childEnv is set.
const childEnv = "EMULATOR_TEST_CHILD"

func TestMain(m *testing.M) {
	if flags := os.Getenv(childEnv); flags != "" {
		var e Emulator
		if err := json.Unmarshal([]byte(flags), &e); err != nil {
			panic(err)
		}
		if err := e.Run(context.Background(), os.Stdin, os.Stdout); err != nil {
			panic(err)
		}
		return
	}
	code := m.Run()
	if nodeDir != "" {
		os.RemoveAll(nodeDir)
	}
	os.Exit(code)
}

const (
	model001 = "gemini-embedding-001"
	model2   = "gemini-embedding-2"
	testKey  = "k@project"
)

// client is a plain HTTP client of a server. It implements the API independently
// of the SDK.
type client struct {
	t   testing.TB
	url string
	key string
	s   *Server // nil for a server in another process
}

// serve starts a server in this process.
func serve(t testing.TB, opts Options) *client {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(s)
	t.Cleanup(func() {
		s.Close()
		h.Close()
	})
	return &client{t, h.URL, testKey, s}
}

// spawn starts a server in another process, which the test can kill.
func spawn(t testing.TB, e Emulator) (*client, *exec.Cmd) {
	t.Helper()
	flags, _ := json.Marshal(e)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(flags))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var hello struct{ URL, Dir string }
	if err := json.Unmarshal(line, &hello); err != nil || hello.URL == "" || hello.Dir == "" {
		t.Fatalf("first line %q: %v", line, err)
	}
	return &client{t, hello.URL, testKey, nil}, cmd
}

// reply is a reply with its body. If the connection broke, err is set.
type reply struct {
	code   int
	header http.Header
	body   []byte
	err    error
}

// do sends a request. headers are pairs of a name and a value.
func (c *client) do(method, path string, body any, headers ...string) reply {
	c.t.Helper()
	return c.doContext(context.Background(), method, path, body, headers...)
}

func (c *client) doContext(ctx context.Context, method, path string, body any, headers ...string) reply {
	c.t.Helper()
	var r io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(body)
	case []byte:
		r = bytes.NewReader(body)
	default:
		data, err := json.Marshal(body)
		if err != nil {
			c.t.Fatal(err)
		}
		r = bytes.NewReader(data)
	}
	if !strings.HasPrefix(path, "http") {
		path = c.url + path
	}
	q, err := http.NewRequestWithContext(ctx, method, path, r)
	if err != nil {
		c.t.Fatal(err)
	}
	if c.key != "" {
		q.Header.Set("x-goog-api-key", c.key)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		q.Header.Set(headers[i], headers[i+1])
	}
	// Each request has its own connection, so that net/http never retries one
	// that was cut.
	transport := &http.Transport{DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	p, err := transport.RoundTrip(q)
	if err != nil {
		return reply{err: err}
	}
	defer p.Body.Close()
	data, err := io.ReadAll(p.Body)
	return reply{p.StatusCode, p.Header, data, err}
}

// ok fails the test unless the reply is a 2xx, and returns the decoded body.
func (r reply) ok(t testing.TB) map[string]any {
	t.Helper()
	if r.err != nil || r.code/100 != 2 {
		t.Fatalf("reply %d, %v: %s", r.code, r.err, r.body)
	}
	var v map[string]any
	if err := json.Unmarshal(r.body, &v); err != nil {
		t.Fatalf("%v in %s", err, r.body)
	}
	return v
}

// refused fails the test unless the reply is an error with this code and its
// message contains text.
func (r reply) refused(t testing.TB, code int, status, text string) {
	t.Helper()
	var v struct {
		Error struct {
			Code            int
			Status, Message string
		}
	}
	if r.err != nil || json.Unmarshal(r.body, &v) != nil || r.code != code || v.Error.Code != code || v.Error.Status != status || !strings.Contains(v.Error.Message, text) {
		t.Fatalf("reply %d, %v: %s\nwant %d %s …%s…", r.code, r.err, r.body, code, status, text)
	}
	if got := r.header.Get("Content-Type"); !strings.HasPrefix(got, "application/json") {
		t.Errorf("an error of type %q", got)
	}
}

// at returns the value at a dotted path, "" if there is none.
func at(v any, path string) any {
	for name := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return ""
		}
		v = m[name]
	}
	if v == nil {
		return ""
	}
	return v
}

func (c *client) startUpload(displayName string) string {
	c.t.Helper()
	r := c.do("POST", "/upload/v1beta/files", map[string]any{"file": map[string]any{"displayName": displayName, "mimeType": "jsonl"}},
		"X-Goog-Upload-Protocol", "resumable", "X-Goog-Upload-Command", "start")
	r.ok(c.t)
	return r.header.Get("X-Goog-Upload-URL")
}

func (c *client) sendChunk(url, command string, offset int, body string) reply {
	c.t.Helper()
	return c.do("POST", url, body, "X-Goog-Upload-Command", command, "X-Goog-Upload-Offset", fmt.Sprint(offset))
}

// upload uploads a file and returns its name.
func (c *client) upload(content string) string {
	c.t.Helper()
	v := c.sendChunk(c.startUpload("input"), "upload, finalize", 0, content).ok(c.t)
	return at(v, "file.name").(string)
}

func (c *client) create(model, file string) reply {
	c.t.Helper()
	return c.do("POST", "/v1beta/models/"+model+":asyncBatchEmbedContent",
		`{"batch":{"displayName":"job of `+file+`","inputConfig":{"file_name":"`+file+`"}}}`)
}

// job creates a job with these lines and returns its name.
func (c *client) job(model string, lines ...string) string {
	c.t.Helper()
	v := c.create(model, c.upload(strings.Join(lines, "\n")+"\n")).ok(c.t)
	return v["name"].(string)
}

// finish polls until the job has ended and returns the operation.
func (c *client) finish(job string) map[string]any {
	c.t.Helper()
	for range 100 {
		if v := c.do("GET", "/v1beta/"+job, nil).ok(c.t); v["done"] == true {
			return v
		}
	}
	c.t.Fatalf("%s does not end", job)
	return nil
}

func (c *client) download(file string, headers ...string) reply {
	c.t.Helper()
	return c.do("GET", "/v1beta/"+file+":download?alt=media", nil, headers...)
}

// results runs a job to its end and returns the lines of its results.
func (c *client) results(model string, lines ...string) []string {
	c.t.Helper()
	op := c.finish(c.job(model, lines...))
	file, _ := at(op, "response.responsesFile").(string)
	if file == "" || file != at(op, "metadata.output.responsesFile") {
		c.t.Fatalf("no result file in %v", op)
	}
	r := c.download(file)
	if r.err != nil || r.code != 200 {
		c.t.Fatalf("download: %d, %v: %s", r.code, r.err, r.body)
	}
	return strings.Split(strings.TrimSuffix(string(r.body), "\n"), "\n")
}

// line is an input line.
func line(key, text string, dim int) string {
	return fmt.Sprintf(`{"key":%q,"request":{"content":{"parts":[{"text":%q}]},"taskType":"RETRIEVAL_DOCUMENT","outputDimensionality":%d}}`, key, text, dim)
}

// result is the part of a result line that the tests read.
type result struct {
	Key      string
	Response struct {
		TokenCount    any
		UsageMetadata struct{ PromptTokenCount any }
		Embedding     struct{ Values []float32 }
		Error         *rpcStatus
	}
	Error *rpcStatus
}

func decode(t testing.TB, line string) result {
	t.Helper()
	var r result
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		t.Fatalf("%v in %s", err, line)
	}
	return r
}

// byKey decodes result lines.
func byKey(t testing.TB, lines []string) map[string]result {
	t.Helper()
	m := map[string]result{}
	for _, l := range lines {
		r := decode(t, l)
		if _, ok := m[r.Key]; ok {
			t.Errorf("key %q twice", r.Key)
		}
		m[r.Key] = r
	}
	return m
}

func (c *client) books() *Books {
	c.t.Helper()
	r := c.do("GET", "/emulator/books", nil)
	b := new(Books)
	if err := json.Unmarshal(r.body, b); r.code != 200 || err != nil {
		c.t.Fatalf("books: %d, %v: %s", r.code, err, r.body)
	}
	return b
}

func (c *client) faults(specs ...string) {
	c.t.Helper()
	c.do("POST", "/emulator/faults", strings.Join(specs, "\n")).ok(c.t)
}

func TestKeys(t *testing.T) {
	c := serve(t, Options{})
	c.key = ""
	c.do("GET", "/v1beta/files", nil).refused(t, 403, "PERMISSION_DENIED", "API key")
	c.do("GET", "/v1beta/files?key=x", nil).ok(t)

	strict := serve(t, Options{Key: "right"})
	strict.do("GET", "/v1beta/batches", nil, "x-goog-api-key", "wrong").refused(t, 400, "INVALID_ARGUMENT", "API key not valid")
	strict.do("GET", "/v1beta/batches", nil, "x-goog-api-key", "right").ok(t)
}

func TestProjects(t *testing.T) {
	c := serve(t, Options{})
	job := c.job(model001, line("a", "text", 3))
	for _, tt := range []struct {
		key  string
		sees bool
	}{{"k@project", true}, {"other@project", true}, {"project", true}, {"k@other", false}, {"k", false}} {
		other := *c
		other.key = tt.key
		r := other.do("GET", "/v1beta/"+job, nil)
		if tt.sees {
			r.ok(t)
		} else {
			r.refused(t, 404, "NOT_FOUND", "not found")
		}
		if got := at(other.do("GET", "/v1beta/batches", nil).ok(t), "operations") != ""; got != tt.sees {
			t.Errorf("key %s: job in list: %v", tt.key, got)
		}
		if got := at(other.do("GET", "/v1beta/files", nil).ok(t), "files") != ""; got != tt.sees {
			t.Errorf("key %s: file in list: %v", tt.key, got)
		}
	}
	data, err := exec.Command("grep", "-r", testKey, c.s.Dir()).Output()
	if err == nil {
		t.Errorf("the key is on disk: %s", data)
	}
}

func TestUnknownPaths(t *testing.T) {
	c := serve(t, Options{})
	for _, path := range []string{"/", "/v1beta", "/v1beta/", "/v1beta/nothing", "/v1beta/files/x:copy", "/v1beta/models/m:fly", "/v2/files", "/emulator/x"} {
		c.do("GET", path, nil).refused(t, 404, "NOT_FOUND", "no such")
	}
	c.do("PATCH", "/v1beta/batches/x", nil).refused(t, 404, "NOT_FOUND", "no such")
}

// A server is killed and started again. It knows everything that it has replied
// to, and the job whose reply was lost.
func TestKilledAndStartedAgain(t *testing.T) {
	dir := t.TempDir()
	c, process := spawn(t, Emulator{Listen: "127.0.0.1:0", Dir: dir, Polls: 1, Fault: []string{"create nth=3 hold=made when=after"}})
	file := c.upload(line("a", "one text", 3) + "\n" + line("b", "another", 3))
	open := c.startUpload("open")
	c.sendChunk(open, "upload", 0, "12345").ok(t)
	ended := c.create(model001, file).ok(t)["name"].(string)
	c.finish(ended)
	active := c.create(model001, file).ok(t)["name"].(string)
	lost := make(chan reply)
	go func() { lost <- c.create(model001, file) }()
	c.do("GET", "/emulator/holds?wait=made", nil).ok(t)
	process.Process.Kill()
	if r := <-lost; r.err == nil {
		t.Fatalf("the held create was answered: %s", r.body)
	}

	c, _ = spawn(t, Emulator{Listen: "127.0.0.1:0", Dir: dir, Polls: 1})
	c.do("DELETE", "/v1beta/"+file, nil).ok(t) // a job keeps its input
	jobs := at(c.do("GET", "/v1beta/batches", nil).ok(t), "operations").([]any)
	if len(jobs) != 3 || at(jobs[1], "name") != active || at(jobs[2], "name") != ended {
		t.Fatalf("jobs after the restart: %v", jobs)
	}
	if got := at(jobs[2], "metadata.state"); got != succeeded {
		t.Errorf("the ended job is %v", got)
	}
	for _, j := range jobs {
		op := c.finish(at(j, "name").(string))
		r := c.download(at(op, "response.responsesFile").(string))
		if lines := strings.Split(strings.TrimSpace(string(r.body)), "\n"); len(byKey(t, lines)) != 2 {
			t.Errorf("results %s", r.body)
		}
	}
	_, query, _ := strings.Cut(open, "?")
	open = c.url + "/upload/v1beta/files?" + query
	if r := c.sendChunk(open, "query", 0, ""); r.header.Get("X-Goog-Upload-Size-Received") != "5" {
		t.Errorf("the open upload: %v", r.header)
	}
	if got := at(c.sendChunk(open, "upload, finalize", 5, "678").ok(t), "file.sizeBytes"); got != "8" {
		t.Errorf("size %v", got)
	}
	b := c.books()
	if b.Creates != 3 || b.RequestsPaid != 6 || b.Texts != 2 || b.MaxPaid != 3 || b.Operations["upload.data"]["200"] != 4 {
		t.Errorf("books after the restart: %+v", b)
	}
}
