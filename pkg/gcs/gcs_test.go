package gcs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gbatch/pkg/emulator"
	"gbatch/pkg/exit"
	"gbatch/pkg/wire"
)

// The test binary is also a process that uploads a file, for a test that kills it,
// and one that reads an object, for a test of its memory.
const (
	childEnv  = "GCS_TEST_UPLOAD"
	readerEnv = "GCS_TEST_READ"
)

func TestMain(m *testing.M) {
	if file := os.Getenv(childEnv); file != "" {
		upload(file)
		return
	}
	if crc := os.Getenv(readerEnv); crc != "" {
		read(crc)
		return
	}
	os.Exit(m.Run())
}

// upload uploads a file as gs://bucket/in/x. It keeps the session beside the file.
func upload(file string) {
	f, err := os.Open(file)
	if err != nil {
		panic(err)
	}
	info, _ := f.Stat()
	c, err := New(nil, time.Minute)
	if err != nil {
		panic(err)
	}
	session, _ := os.ReadFile(file + ".session")
	o, err := c.Upload(context.Background(), Upload{
		To: Name{"bucket", "in/x"}, Session: string(session),
		Keep: func(session string) error { return os.WriteFile(file+".session", []byte(session), 0o600) },
	}, f, info.Size())
	if err != nil {
		panic(err)
	}
	fmt.Println(o.Size, o.Generation)
}

// A storage is an emulator and a client of it.
type storage struct {
	*Client
	t   *testing.T
	s   *emulator.Server
	url string
	log lockedBuffer

	mu      sync.Mutex
	handler http.Handler
	sent    map[string]int64 // bytes of request bodies, by method
}

func newStorage(t *testing.T, opts emulator.Options) *storage {
	t.Helper()
	opts.Dir = t.TempDir()
	s, err := emulator.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	g := &storage{t: t, s: s, handler: s, sent: map[string]int64{}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		h := g.handler
		g.mu.Unlock()
		r.Body = &counting{r.Body, g, r.Method}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		s.Close()
		server.Close()
	})
	g.url = server.URL
	t.Setenv("STORAGE_EMULATOR_HOST", strings.TrimPrefix(g.url, "http://"))
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&g.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	t.Cleanup(func() { slog.SetDefault(old) })
	g.Client = g.client(5 * time.Second)
	return g
}

func (g *storage) client(patience time.Duration) *Client {
	g.t.Helper()
	c, err := New(nil, patience)
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

// serve changes what answers the requests.
func (g *storage) serve(h http.HandlerFunc) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.handler = h
}

func (g *storage) faults(specs ...string) {
	g.t.Helper()
	if err := g.s.SetFaults(specs); err != nil {
		g.t.Fatal(err)
	}
}

// calls returns how many calls of an operation were made.
func (g *storage) calls(op string) (n int64) {
	g.t.Helper()
	b, err := g.s.Books()
	if err != nil {
		g.t.Fatal(err)
	}
	for _, k := range b.Operations[op] {
		n += k
	}
	return n
}

// bytes returns how many bytes of the bodies of a method's requests arrived.
func (g *storage) bytes(method string) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sent[method]
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type counting struct {
	io.ReadCloser
	g      *storage
	method string
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	c.g.sent[c.method] += int64(n)
	return n, err
}

func in(name string) Name { return Name{"bucket", name} }

// insert stores an object of the test's.
func (g *storage) insert(name, content string) *Object {
	g.t.Helper()
	o, err := g.Insert(g.t.Context(), in(name), Any, []byte(content), Content{Type: "text/plain"})
	if err != nil {
		g.t.Fatal(err)
	}
	return o
}

func (g *storage) content(name string) string {
	g.t.Helper()
	data, _, err := g.Read(g.t.Context(), in(name))
	if err != nil {
		g.t.Fatal(err)
	}
	return string(data)
}

func TestNames(t *testing.T) {
	for s, want := range map[string]Name{"gs://b": {"b", ""}, "gs://b/": {"b", ""}, "gs://b/a/b c": {"b", "a/b c"}} {
		if n, err := ParseURI(s); err != nil || n != want {
			t.Errorf("%s: %v, %v", s, n, err)
		}
	}
	for _, s := range []string{"", "b/o", "gs://", "gs:///o", "gs://b c/o", "s3://b/o", "gs://b?x"} {
		if n, err := ParseURI(s); err == nil {
			t.Errorf("%q is %v", s, n)
		}
	}
	for n, want := range map[Name]string{{"b", ""}: "gs://b/in/x", {"b", "p"}: "gs://b/p/in/x", {"b", "p/"}: "gs://b/p/in/x"} {
		if got := n.Below("in/x").String(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestEndpoint(t *testing.T) {
	for host, want := range map[string]string{"": "https://storage.googleapis.com", "h:1": "http://h:1", "https://h/below/": "https://h/below"} {
		t.Setenv("STORAGE_EMULATOR_HOST", host)
		c, err := New(func(context.Context) (string, error) { return "", nil }, 0)
		if err != nil || c.base != want || (c.Token == nil) != (host != "") {
			t.Errorf("%q: %+v, %v", host, c, err)
		}
	}
	t.Setenv("STORAGE_EMULATOR_HOST", "http://")
	if _, err := New(nil, 0); exit.Code(err) != exit.Usage {
		t.Error(err)
	}
}

func TestInsertReadDelete(t *testing.T) {
	g := newStorage(t, emulator.Options{})
	ctx := t.Context()
	name := in("claims/a b+ü%2F?#.json")
	first, err := g.Insert(ctx, name, None, []byte("first"), Content{Type: "application/json", Metadata: map[string]string{"sha256": "x"}})
	if err != nil || first.Name != name || first.Size != 5 || first.Metadata["sha256"] != "x" || time.Since(first.Updated) > time.Hour || time.Since(first.Asked) > time.Hour {
		t.Fatalf("%+v, %v", first, err)
	}
	if o, err := g.Stat(ctx, name); err != nil || fmt.Sprint(*o) != fmt.Sprint(*first) {
		t.Errorf("%+v, %v, want %+v", o, err, first)
	}
	if _, err := g.Insert(ctx, name, None, []byte("other"), Content{}); !NotMet(err) || !strings.Contains(err.Error(), name.String()) {
		t.Error(err)
	}
	second, err := g.Insert(ctx, name, first.Generation, []byte("second"), Content{})
	if err != nil || second.Generation <= first.Generation {
		t.Fatalf("%+v, %v", second, err)
	}
	if _, err := g.Insert(ctx, name, first.Generation, []byte("late"), Content{}); !NotMet(err) {
		t.Error(err)
	}
	data, o, err := g.Read(ctx, name)
	if err != nil || string(data) != "second" || o.Generation != second.Generation || time.Since(o.Updated) > time.Hour || time.Since(o.Asked) > time.Hour {
		t.Errorf("%q, %+v, %v", data, o, err)
	}
	if err := g.Delete(ctx, name, first.Generation); !NotMet(err) {
		t.Error(err)
	}
	for range 2 { // a missing object is deleted
		if err := g.Delete(ctx, name, second.Generation); err != nil {
			t.Error(err)
		}
	}
	if _, err := g.Stat(ctx, name); !wire.Missing(err) {
		t.Error(err)
	}
	if _, _, err := g.Read(ctx, name); !wire.Missing(err) {
		t.Error(err)
	}
	if _, err := g.Insert(ctx, name, second.Generation, []byte("x"), Content{}); !NotMet(err) {
		t.Errorf("a deleted version is replaced: %v", err)
	}
}

// Ten clients claim one name, and replace one version: one of them succeeds, also if
// replies are lost and calls fail.
func TestOneSucceeds(t *testing.T) {
	g := newStorage(t, emulator.Options{Faults: []string{"object.insert p=0.3 seed=3 drop when=after", "object.insert p=0.2 seed=4 status=503", "object.get p=0.3 drop"}})
	generation := None
	for round := range 5 {
		var mu sync.Mutex
		var won []*Object
		var all sync.WaitGroup
		for i := range 10 {
			all.Go(func() {
				o, err := g.Insert(t.Context(), in("claim"), generation, fmt.Appendf(nil, "%d of round %d", i, round), Content{})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won = append(won, o)
				} else if !NotMet(err) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if len(won) != 1 {
			t.Fatalf("round %d: %d succeeded", round, len(won))
		}
		generation = won[0].Generation
	}
}

// If the reply to an insert is lost, the object tells that it is ours.
func TestLostReply(t *testing.T) {
	g := newStorage(t, emulator.Options{})
	for i, fault := range []string{"object.insert nth=1 drop when=after", "object.insert nth=1 status=503 when=after", "object.insert nth=1 body='{' when=after"} {
		g.faults(fault)
		name := in(fmt.Sprint("n", i))
		o, err := g.Insert(t.Context(), name, None, []byte("mine"), Content{Metadata: map[string]string{"nonce": "1"}})
		if err != nil || g.content(name.Object) != "mine" {
			t.Fatalf("%s: %v", fault, err)
		}
		g.faults(fault)
		if _, err = g.Insert(t.Context(), name, o.Generation, []byte("again"), Content{}); err != nil || g.content(name.Object) != "again" {
			t.Fatalf("%s: %v", fault, err)
		}
		// An object of somebody else, with the same content but another nonce.
		if _, err = g.Insert(t.Context(), name, None, []byte("again"), Content{Metadata: map[string]string{"nonce": "2"}}); !NotMet(err) {
			t.Errorf("%s: %v", fault, err)
		}
	}
}

func TestList(t *testing.T) {
	g := newStorage(t, emulator.Options{Faults: []string{"object.list nth=1 status=503"}})
	for i := range 5 {
		g.insert(fmt.Sprint("out/1/", i), "x")
	}
	g.insert("out/2/0", "x")
	list := func(prefix string) (names []string) {
		t.Helper()
		if err := g.List(t.Context(), in(prefix), func(page []*Object) (bool, error) {
			for _, o := range page {
				names = append(names, o.Object)
			}
			return true, nil
		}); err != nil {
			t.Fatal(err)
		}
		return names
	}
	if got := fmt.Sprint(list("out/1/")); got != "[out/1/0 out/1/1 out/1/2 out/1/3 out/1/4]" {
		t.Error(got)
	}
	if got := list("none/"); got != nil {
		t.Error(got)
	}
	g.serve(func(w http.ResponseWriter, r *http.Request) { // pages of 2
		q := r.URL.Query()
		q.Set("maxResults", "2")
		r.URL.RawQuery = q.Encode()
		g.s.ServeHTTP(w, r)
	})
	if got := list("out/"); len(got) != 6 {
		t.Error(got)
	}
	// What is not a list is never an empty list.
	for _, body := range []string{"", "{}{", "null", `{"error":{"code":403}}`, `{"operations":[]}`, `{"items":[{}]}`, `{"items":[{"name":"elsewhere","bucket":"bucket","generation":"1","size":"0"}]}`, `{"items":{}}`} {
		g.serve(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, body) })
		err := g.client(time.Millisecond).List(t.Context(), in("out/"), func([]*Object) (bool, error) { return true, nil })
		if err == nil {
			t.Errorf("%q is a list", body)
		}
	}
}

// Credentials that are refused, a bucket that does not exist, a server that is away.
func TestRefusals(t *testing.T) {
	g := newStorage(t, emulator.Options{})
	for fault, want := range map[string]struct {
		text string
		code int
	}{
		"any status=403": {"check them and their rights on the bucket", exit.Failed},
		"any status=401": {"refused the credentials", exit.Failed},
		"any status=404": {"404", exit.Failed},
		"any status=503": {"503", exit.TryLater},
		"any drop":       {"EOF", exit.TryLater},
		"any status=429": {"429", exit.TryLater},
		"any status=400": {"400", exit.Failed},
		"any status=302": {"302", exit.Failed},
	} {
		g.faults(fault)
		c := g.client(20 * time.Millisecond)
		_, statErr := c.Stat(t.Context(), in("n"))
		_, _, readErr := c.Read(t.Context(), in("n"))
		_, insertErr := c.Insert(t.Context(), in("n"), None, []byte("x"), Content{})
		_, uploadErr := c.Upload(t.Context(), Upload{To: in("n")}, strings.NewReader("x"), 1)
		listErr := c.List(t.Context(), in("n"), nil)
		for i, err := range []error{statErr, readErr, insertErr, uploadErr, listErr} {
			if err == nil || !strings.Contains(err.Error(), want.text) || !strings.Contains(err.Error(), "gs://bucket/n: ") || exit.Code(err) != want.code {
				t.Errorf("%s, call %d: exit %d, %v", fault, i, exit.Code(err), err)
			}
		}
	}
}

// ---- uploads

func random(n int) []byte {
	data := make([]byte, n)
	x := uint64(1)
	for i := range data {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		data[i] = byte(x)
	}
	return data
}

// An upload is complete under each fault, and sends few bytes twice.
func TestUpload(t *testing.T) {
	data := random(3 << 20)
	for _, fault := range [][]string{
		nil,
		{"object.start nth=1-2 status=503"},
		{"object.start nth=1 drop when=after"},
		{"object.start nth=1 header=Location"},
		{"object.data nth=1 take=1000000"},
		{"object.data nth=1 take=100"},
		{"object.data every=2 take=700000 times=3"}, // also the question where it stopped
		{"object.data nth=1 status=503"},
		{"object.data nth=1 status=429 retry-after=0"},
		{"object.data nth=1 drop when=after"}, // it is complete
		{"object.data nth=1 body='{}' when=after"},
		{"object.data nth=1 status=502 body=html when=after"},
		{"object.data nth=1 take=2000000", "object.data nth=2 status=404"}, // the session is unknown
		{"object.data nth=1 take=2000000", "object.data nth=2 status=410", "object.start nth=2 drop"}, //
		{"object.data nth=1 status=499"},
		{"object.data nth=1 status=308"},
		{"object.data nth=1 take=2000000", "object.data nth=2 header=Range"}, // nothing is stored, it says
	} {
		t.Run(fmt.Sprint(fault), func(t *testing.T) {
			g := newStorage(t, emulator.Options{Faults: fault})
			var told []int64
			o, err := g.Upload(t.Context(), Upload{
				To: in("in/x"), Content: Content{Type: "application/jsonl", Metadata: map[string]string{"sha256": "s"}},
				Stored: func(n int64) { told = append(told, n) },
			}, bytes.NewReader(data), int64(len(data)))
			if err != nil || o.Size != int64(len(data)) || o.Metadata["sha256"] != "s" || g.content("in/x") != string(data) {
				t.Fatalf("%+v, %v", o, err)
			}
			if told[len(told)-1] != int64(len(data)) {
				t.Errorf("told %v", told)
			}
			if n := g.bytes("PUT"); n > 3*int64(len(data)) {
				t.Errorf("%d bytes were sent", n)
			}
			if strings.Contains(g.log.String(), "upload_id=") {
				t.Error("the log has the URL of a session")
			}
		})
	}
	g := newStorage(t, emulator.Options{})
	if o, err := g.Upload(t.Context(), Upload{To: in("empty")}, strings.NewReader(""), 0); err != nil || o.Size != 0 {
		t.Errorf("%+v, %v", o, err)
	}
	if _, err := g.Upload(t.Context(), Upload{To: in("short")}, strings.NewReader("x"), 2); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

// A name that is taken: by the same content, or by other content, before the upload
// begins or before it ends.
func TestUploadTaken(t *testing.T) {
	data := random(1 << 20)
	for _, c := range []struct {
		other  string
		when   string
		notMet bool
	}{
		{string(data), "before", false}, {"other", "before", true}, {string(data), "during", false}, {"other", "during", true},
	} {
		g := newStorage(t, emulator.Options{})
		u := Upload{To: in("x")}
		if c.when == "before" {
			g.insert("x", c.other)
		} else {
			u.Keep = func(string) error {
				g.insert("x", c.other)
				return nil
			}
		}
		o, err := g.Upload(t.Context(), u, bytes.NewReader(data), int64(len(data)))
		if NotMet(err) != c.notMet || !c.notMet && (err != nil || o.Size != int64(len(data))) {
			t.Errorf("%.10q %s: %v, %v", c.other, c.when, o, err)
		}
		if g.content("x") != c.other {
			t.Errorf("%.10q %s: the object was replaced", c.other, c.when)
		}
	}
}

// An upload begins again if the session that was kept belongs to another content or
// server, is damaged, or has stored an object that was replaced or deleted since.
func TestUploadOldSession(t *testing.T) {
	data := random(1 << 20)
	g := newStorage(t, emulator.Options{})
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a request to another server") }))
	defer elsewhere.Close()
	for i, session := range []string{"x", "://", elsewhere.URL + "/upload/storage/v1/b/bucket/o", elsewhere.URL + "/upload/storage/v1/b/bucket/o?upload_id=old"} {
		u := Upload{To: in(fmt.Sprint(i)), Session: session}
		if _, err := g.Upload(t.Context(), u, bytes.NewReader(data), int64(len(data))); err != nil {
			t.Errorf("%s: %v", session, err)
		}
	}
	send := func(name, session string, content []byte) (kept string, err error) {
		_, err = g.Upload(t.Context(), Upload{To: in(name), Session: session, Keep: func(s string) error { kept = s; return nil }}, bytes.NewReader(content), int64(len(content)))
		return kept, err
	}
	for name, size := range map[string]int{"shorter": 1 << 19, "as long": 1 << 20, "longer": 1<<20 + 1} {
		other := random(size)
		for i := range other { // random always returns the same bytes
			other[i]++
		}
		g.faults("object.data nth=1 take=300000", "object.data nth=2 status=400")
		session, err := send(name, "", other)
		if err == nil || session == "" {
			t.Fatal(err)
		}
		g.faults()
		if again, err := send(name, session, data); err != nil || again == "" || again == session {
			t.Errorf("%s: %v", name, err)
		}
		if g.content(name) != string(data) {
			t.Errorf("%s: a mixture is stored", name)
		}
	}
	// The sessions are complete.
	session, err := send("done", "", data)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := send("done", session, data); err != nil || again != "" {
		t.Errorf("%v", err)
	}
	if err := g.Delete(t.Context(), in("done"), Any); err != nil {
		t.Fatal(err)
	}
	if again, err := send("done", session, data); err != nil || again == "" || g.content("done") != string(data) {
		t.Errorf("a deleted object counts as stored: %v", err)
	}
	if err := g.Delete(t.Context(), in("done"), Any); err != nil {
		t.Fatal(err)
	}
	g.insert("done", "other")
	if _, err := send("done", session, data); !NotMet(err) {
		t.Errorf("another object counts as stored: %v", err)
	}
	if _, err := g.Upload(t.Context(), Upload{To: in("k"), Keep: func(string) error { return os.ErrPermission }}, bytes.NewReader(data), int64(len(data))); !errors.Is(err, os.ErrPermission) {
		t.Error(err)
	}
}

// A process that uploads is killed. The next one continues at the byte where
// Cloud Storage stopped.
func TestUploadKilled(t *testing.T) {
	const stored = 5 << 20
	data := random(8<<20 + 5)
	g := newStorage(t, emulator.Options{Faults: []string{fmt.Sprintf("object.data nth=1 take=%d", stored+1000), "object.data nth=2 hold=asked"}})
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	child := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+file)
		cmd.Stderr = os.Stderr
		return cmd
	}
	first := child()
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	if err := g.s.WaitHold(ctx, "asked"); err != nil {
		t.Fatal(err)
	}
	first.Process.Kill()
	first.Wait()
	before := g.bytes("PUT")
	for range 2 { // the third process finds the object
		out, err := child().Output()
		if err != nil || !strings.HasPrefix(string(out), fmt.Sprint(len(data), " ")) {
			t.Fatalf("%s, %v", out, err)
		}
	}
	if n := g.bytes("PUT") - before; n != int64(len(data))-stored {
		t.Errorf("the other processes sent %d bytes, %d were missing", n, len(data)-stored)
	}
	if g.content("in/x") != string(data) {
		t.Error("the object is damaged")
	}
	if n := g.calls("object.start"); n != 1 {
		t.Errorf("%d sessions", n)
	}
}

// ---- secrets and tokens

// Neither a token nor the id of a session is part of a message.
func TestSecrets(t *testing.T) {
	g := newStorage(t, emulator.Options{})
	const token, session = "ya29.a-secret-token", "a-secret-session"
	echo := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			t.Errorf("authorization %q", r.Header.Get("Authorization"))
		}
		if r.Method == http.MethodPost && r.URL.Query().Get("uploadType") == "resumable" {
			w.Header().Set("Location", g.url+"/upload/storage/v1/b/bucket/o?upload_id="+session)
			return
		}
		http.Error(w, r.URL.String()+" "+r.Header.Get("Authorization"), http.StatusForbidden)
	}
	g.serve(echo)
	c := g.client(time.Second)
	c.Token = func(context.Context) (string, error) { return token, nil }
	_, uploadErr := c.Upload(t.Context(), Upload{To: in("n")}, strings.NewReader("x"), 1)
	_, statErr := c.Stat(t.Context(), in("n"))
	g.serve(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			echo(w, r)
			return
		}
		panic(http.ErrAbortHandler) // the error of net/http has the URL
	})
	c.patience = time.Millisecond
	_, cutErr := c.Upload(t.Context(), Upload{To: in("n")}, strings.NewReader("x"), 1)
	for _, text := range []string{fmt.Sprint(uploadErr), fmt.Sprint(statErr), fmt.Sprint(cutErr), g.log.String()} {
		if strings.Contains(text, token) || strings.Contains(text, session) || text == "<nil>" {
			t.Error(text)
		}
	}
	if !strings.Contains(uploadErr.Error(), "[secret]") {
		t.Error(uploadErr)
	}
}

// Tokens come from the metadata server. No token is sent, and nothing else, if there
// is none to be had.
func TestDefaultToken(t *testing.T) {
	g := newStorage(t, emulator.Options{})
	t.Setenv("HOME", t.TempDir())
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
	t.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(g.url, "http://"))
	token, err := wire.DefaultToken()
	if err != nil {
		t.Fatal(err)
	}
	c := g.client(time.Second)
	c.Token = token
	for range 3 {
		if _, err := c.Insert(t.Context(), in("n"), Any, []byte("x"), Content{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := g.calls("metadata"); n != 1 {
		t.Errorf("%d calls for tokens", n)
	}
	c.Token = func(context.Context) (string, error) { return "", wire.Permanent(errors.New("no token")) }
	before := g.calls("object.get")
	err = c.Once(t.Context(), func(ctx context.Context) error {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, c.object(in("n")), nil)
		_, err := c.Transport.Client().Do(req)
		return err
	})
	if !wire.IsNotSent(err) || wire.Transient(err) || g.calls("object.get") != before {
		t.Errorf("%v", err)
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", filepath.Join(t.TempDir(), "none"))
	if _, err := wire.DefaultToken(); exit.Code(err) != exit.Usage || !strings.Contains(err.Error(), "GOOGLE_APPLICATION_CREDENTIALS") {
		t.Error(err)
	}
}
