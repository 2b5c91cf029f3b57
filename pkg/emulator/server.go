// Package emulator is a local Gemini server: the Files and Batches calls that
// embedding in batches needs, the batch prediction of Vertex AI, and Cloud Storage's
// JSON API. It is an http.Handler with state on disk, faults on demand, and books of
// what was paid for.
//
// It imports only the standard library, so that it cannot share a mistake about
// the API with the client. Its replies follow Google's REST reference
// (ai.google.dev/api/batch-api, /api/files, /api/embeddings), the traffic of
// Google's Go and JavaScript SDKs, and published real replies. If Google's reply
// is unknown, a comment says so.
//
// # State
//
// All state is below Options.Dir. The emulator renames the state into place
// before it sends the reply. So a server that was killed at any moment, and
// started again on the same folder, knows every file, open upload and job that
// it has answered for. Nothing is fsynced: this holds after a kill, not after a
// power cut.
//
//	files/<id>.json, .data     files, uploaded and generated
//	uploads/<id>.json, .data   open uploads
//	jobs/<id>.json             jobs, also deleted ones (a tombstone, for the books)
//	jobs/<id>.input            the job's input, while it runs
//	jobs/<id>.paid, .outcome   what each line of the job cost (books.go)
//	objects/<id>.json, .data   objects of Cloud Storage
//	sessions/<id>.json, .data  resumable uploads of objects, also finished ones
//	ops.log                    one line per call answered, append-only
//
// # Keys and projects
//
// Any key is accepted unless Options.Key is set. A key belongs to a project: the
// part after its last @, or the whole key if it has no @. So "alice@p" and
// "bob@p" share project p. Only keys of the same project see a file or a job.
// Keys are never written to disk. The hash of a project is.
//
// The calls for Vertex AI take a token in place of a key, and those for Cloud Storage
// a token or nothing: see metadata.go. Every token sees all projects and objects.
package emulator

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Options are the settings of a Server. With the zero value the server has a new
// temporary folder, and jobs end at the first GET.
type Options struct {
	Dir           string        // state folder, created if missing; "" makes a temporary one, see Server.Dir
	BasePath      string        // all calls are below this path, as behind a gateway; "" is the root
	Key           string        // the only API key accepted; "" accepts any
	Polls         int           // status GETs for which a job is PENDING or RUNNING
	Delay         time.Duration // minimum age of a job at its end
	Processing    int           // GETs, or refused creates, for which an uploaded file is PROCESSING
	Cheap         bool          // CheapVector in place of Vector
	Float64Digits bool          // vectors have the digits of a float64, as those of some models do
	Tokens        string        // form of token counts: string (also ""), number, usage, or mixed (each in turn)
	InOrder       bool          // results in the order of the input; otherwise shuffled, the same way each time
	Spaces        bool          // a blank after each colon and comma of a result line
	MaxJobs       int           // jobs not ended, per project; 0 is Google's 100
	MaxTokens     int64         // tokens enqueued by jobs not ended, per project; 0 is no limit
	MaxFile       int64         // bytes of one uploaded file; 0 is Google's 2 GB
	TokenLife     time.Duration // of the tokens of the metadata server; 0 is an hour
	Faults        []string      // see faults.go
}

// Server is the emulator. It is an http.Handler, safe for concurrent use.
type Server struct {
	opts   Options
	dir    string
	base   string // Options.BasePath, with a slash before it and none after; or ""
	faults faultSet
	holds  holdSet
	done   chan struct{}
	work   sync.WaitGroup // job workers

	mu         sync.Mutex // guards the fields below and their files
	seq        int64      // of the newest file or job: the order of lists
	files      map[string]*file
	uploads    map[string]*upload
	jobs       map[string]*job
	objects    map[string]*object // by bucket/name
	sessions   map[string]*session
	generation int64 // the newest of an object
	ops        map[string]map[string]int64
	online     int64 // tokens of the online calls
	opsLog     *os.File
}

// New opens or creates the state in opts.Dir.
func New(opts Options) (*Server, error) {
	if opts.MaxJobs == 0 {
		opts.MaxJobs = 100
	}
	if opts.MaxFile == 0 {
		opts.MaxFile = 2 << 30
	}
	if opts.TokenLife == 0 {
		opts.TokenLife = time.Hour
	}
	switch opts.Tokens {
	case "":
		opts.Tokens = "string"
	case "string", "number", "usage", "mixed":
	default:
		return nil, usageErrorf("unknown form of token counts %q: use string, number, usage or mixed", opts.Tokens)
	}
	s := &Server{
		opts: opts, dir: opts.Dir, done: make(chan struct{}),
		files: map[string]*file{}, uploads: map[string]*upload{}, jobs: map[string]*job{},
		objects: map[string]*object{}, sessions: map[string]*session{}, ops: map[string]map[string]int64{},
	}
	if base := strings.Trim(opts.BasePath, "/"); base != "" {
		s.base = "/" + base
	}
	s.holds.changed = make(chan struct{})
	if err := s.SetFaults(opts.Faults); err != nil {
		return nil, err
	}
	if s.dir == "" {
		dir, err := os.MkdirTemp("", "gemini-emulator-")
		if err != nil {
			return nil, err
		}
		s.dir = dir
	}
	for _, sub := range []string{"files", "uploads", "jobs", "objects", "sessions"} {
		if err := os.MkdirAll(filepath.Join(s.dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	return s, nil
}

// Dir is the folder with the state. If Options.Dir was empty, the caller must
// remove the folder.
func (s *Server) Dir() string { return s.dir }

// Close ends calls that are held or hang. It stops the work on jobs and waits
// until it has stopped. Such a job stays RUNNING on disk.
func (s *Server) Close() error {
	s.mu.Lock()
	close(s.done)
	s.mu.Unlock()
	s.work.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opsLog.Close()
}

// load reads the state folder, and removes what a killed server left incomplete.
func (s *Server) load() error {
	if err := s.loadFiles(); err != nil {
		return err
	}
	if err := s.loadJobs(); err != nil {
		return err
	}
	if err := s.loadObjects(); err != nil {
		return err
	}
	for _, f := range s.files {
		s.seq = max(s.seq, f.Seq)
	}
	for _, j := range s.jobs {
		s.seq = max(s.seq, j.Seq)
	}
	return s.loadOps()
}

// loadOps counts the calls of earlier runs.
func (s *Server) loadOps() error {
	path := filepath.Join(s.dir, "ops.log")
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for line := range strings.Lines(string(old)) {
		op, outcome, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch {
		case op == onlineTokens:
			n, _ := strconv.ParseInt(outcome, 10, 64)
			s.online += n
		case ok:
			s.tally(op, outcome)
		}
	}
	s.opsLog, err = os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	return err
}

// onlineTokens is in the log of the calls before the tokens of an online call.
const onlineTokens = "tokens"

func (s *Server) tally(op, outcome string) {
	if s.ops[op] == nil {
		s.ops[op] = map[string]int64{}
	}
	s.ops[op][outcome]++
}

// call is one request: what its path and headers say, and what faults ask the
// handler to change.
type call struct {
	op      string // upload.start, upload.data, file.get, … as in faults.go
	project string // hash of the project; "" for upload data, which is authorised by its URL
	id      string // file, job, upload or session
	vertex  string // projects/NUMBER/locations/LOCATION, for a call of Vertex AI
	bucket  string
	object  string // the name of an object
	model   string // without models/
	verb    string // the part after the colon of a model's path

	take   int64         // number of bytes of a piece that are received; -1 for all
	short  int64         // number of bytes that the downloaded file seems to have; -1 for all
	hide   int           // how many of the newest jobs a list leaves out
	lag    time.Duration // the age from which on a list shows a job
	order  string        // of a list: oldest, shuffled, or "" for newest first
	repeat bool          // each page of a list begins with the last job of the page before
	state  string        // state in the reply to a status GET
	late   int           // number of status GETs until a cancel ends its job; 0: at once
	done   int           // lines that a cancelled job has done, at Vertex AI
	edits  []edit        // changes of the reply
}

type handler func(w http.ResponseWriter, r *http.Request, c *call) error

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, below := strings.CutPrefix(r.URL.Path, s.base+"/")
	if below {
		r = r.Clone(r.Context())
		r.URL.Path = "/" + path
		r.URL.RawPath = strings.TrimPrefix(r.URL.RawPath, s.base)
	} else if !strings.HasPrefix(r.URL.Path, "/emulator/") && !strings.HasPrefix(r.URL.Path, metadataPath) {
		writeError(w, errorf(http.StatusNotFound, "no such path: %s; the calls are below %s", r.URL.Path, s.base))
		return
	}
	if strings.HasPrefix(r.URL.Path, "/emulator/") {
		s.control(w, r)
		return
	}
	c, h := s.route(r)
	if h == nil {
		writeError(w, errorf(http.StatusNotFound, "no such method: %s %s", r.Method, r.URL.Path))
		return
	}
	rw := &replyWriter{ResponseWriter: w}
	defer func() {
		outcome := strconv.Itoa(rw.code())
		v := recover()
		if v != nil {
			outcome = "dropped"
		}
		s.mu.Lock()
		s.tally(c.op, outcome)
		fmt.Fprintf(s.opsLog, "%s %s\n", c.op, outcome)
		s.mu.Unlock()
		slog.Debug("call", "op", c.op, "path", r.URL.Path, "outcome", outcome)
		if v != nil {
			panic(v)
		}
	}()
	s.serveWithFaults(rw, r, c, h)
}

// route finds the operation for a method and path. The handler is nil if the
// emulator does not have that path.
func (s *Server) route(r *http.Request) (*call, handler) {
	c := &call{short: -1, take: -1}
	path := r.URL.Path
	if h := s.routeStorage(r, c); h != nil {
		return c, h
	}
	if h := s.routeMetadata(r, c); h != nil {
		return c, h
	}
	if h := s.routeVertex(r, c); h != nil {
		return c, h
	}
	is := func(method, op string) bool {
		if r.Method != method {
			return false
		}
		c.op = op
		return true
	}
	if path == "/upload/v1beta/files" {
		if c.id = r.URL.Query().Get("upload_id"); c.id == "" {
			if is(http.MethodPost, "upload.start") {
				return c, s.uploadStart
			}
		} else if r.Method == http.MethodPost || r.Method == http.MethodPut {
			c.op = "upload.data"
			return c, s.uploadData
		}
		return nil, nil
	}
	if rest, ok := strings.CutPrefix(path, "/download/v1beta/files/"); ok {
		if c.id, ok = strings.CutSuffix(rest, ":download"); ok && is(http.MethodGet, "download") {
			return c, s.download
		}
		return nil, nil
	}
	rest, ok := strings.CutPrefix(path, "/v1beta/")
	if !ok {
		return nil, nil
	}
	collection, rest, _ := strings.Cut(rest, "/")
	c.id, c.verb, _ = strings.Cut(rest, ":")
	switch collection + ":" + c.verb {
	case "files:":
		switch {
		case c.id == "" && is(http.MethodGet, "file.list"):
			return c, s.fileList
		case c.id != "" && is(http.MethodGet, "file.get"):
			return c, s.fileGet
		case c.id != "" && is(http.MethodDelete, "file.delete"):
			return c, s.fileDelete
		}
	case "files:download":
		if is(http.MethodGet, "download") {
			return c, s.download
		}
	case "batches:":
		switch {
		case c.id == "" && is(http.MethodGet, "list"):
			return c, s.jobList
		case c.id != "" && is(http.MethodGet, "get"):
			return c, s.jobGet
		case c.id != "" && is(http.MethodDelete, "delete"):
			return c, s.jobDelete
		}
	case "batches:cancel":
		if is(http.MethodPost, "cancel") {
			return c, s.jobCancel
		}
	case "models:asyncBatchEmbedContent", "models:batchGenerateContent":
		if c.model = c.id; is(http.MethodPost, "create") {
			return c, s.jobCreate
		}
	case "models:embedContent", "models:batchEmbedContents":
		if c.model = c.id; is(http.MethodPost, "embed") {
			return c, s.embed
		}
	}
	return nil, nil
}

// authorize sets the project of the call. The texts and codes are Google's.
func (s *Server) authorize(r *http.Request, c *call) error {
	switch {
	case c.op == "upload.data", c.op == "object.data":
		return nil // the upload URL is sufficient, as at Google
	case c.op == "metadata":
		return checkFlavor(r)
	case isStorage(c.op):
		return checkBearer(r)
	case c.vertex != "":
		c.project = hashed("vertex " + c.vertex)
		if r.Header.Get("Authorization") == "" {
			return errorf(http.StatusUnauthorized, "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or other valid authentication credential.")
		}
		return checkBearer(r)
	}
	key := r.Header.Get("X-Goog-Api-Key")
	if key == "" {
		key = r.URL.Query().Get("key")
	}
	if key == "" {
		return errorf(http.StatusForbidden, "the request has no API key: send it as the header x-goog-api-key")
	}
	if s.opts.Key != "" && key != s.opts.Key {
		e := errorf(http.StatusBadRequest, "API key not valid. Please pass a valid API key.")
		e.details = []any{map[string]any{
			"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com",
		}}
		return e
	}
	if i := strings.LastIndexByte(key, '@'); i >= 0 {
		key = key[i+1:]
	}
	c.project = hashed(key)
	return nil
}

// hashed returns what is stored of the name of a project.
func hashed(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}

// serveWithFaults runs h, with the faults that strike before, during and after
// it.
func (s *Server) serveWithFaults(w http.ResponseWriter, r *http.Request, c *call, h handler) {
	subject := r.URL.Path + " " + s.displayName(c)
	if c.op == "create" || c.op == "embed" || c.op == "upload.start" && r.Header.Get("X-Goog-Upload-Protocol") == "resumable" ||
		isStorage(c.op) && r.ContentLength > 0 && r.ContentLength <= matchedBody {
		// The body is read here, because a fault may match it. The handler refuses
		// a body that is too long.
		body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		subject += " " + string(body)
	}
	var after []*fault
	for _, f := range s.faults.call(c.op, subject) {
		if f.after {
			after = append(after, f)
			continue
		}
		var over bool
		if w, over = s.strike(w, r, c, f); over {
			return
		}
	}
	run := func(w http.ResponseWriter) {
		err := s.authorize(r, c)
		if err == nil {
			err = h(w, r, c)
		}
		if err != nil {
			writeError(w, c.styled(err))
		}
	}
	if len(after) == 0 && c.edits == nil {
		run(w)
		return
	}
	kept := &recorder{header: http.Header{}}
	run(kept)
	for _, f := range after {
		if f.do == "nostatus" {
			kept.header.Del("X-Goog-Upload-Status")
			continue
		}
		if _, over := s.strike(w, r, c, f); over {
			return
		}
	}
	kept.edit(c.edits)
	kept.sendTo(w)
}

// displayName returns the display name of the file, upload or job of a call. For
// a file of results it is the name of the job.
func (s *Server) displayName(c *call) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if isStorage(c.op) {
		return s.objectName(c)
	}
	id := c.id
	switch c.op {
	case "upload.data":
		if u := s.uploads[id]; u != nil {
			return u.DisplayName
		}
	case "file.get", "file.delete", "download":
		if f := s.files[id]; f != nil && f.Source == uploaded {
			return f.DisplayName
		}
		id = strings.TrimPrefix(id, resultPrefix)
	}
	if j := s.jobs[id]; j != nil {
		return j.DisplayName
	}
	return ""
}

// ---- replies

// maxBody limits a JSON request body: inline input may have 20 MB.
const maxBody = 32 << 20

type apiError struct {
	code    int
	status  string // "" is the usual status of the code
	message string
	details []any
	header  http.Header
	reason  string // of an error of Cloud Storage, which has no status
	plain   bool   // the body is the message
}

func (e *apiError) Error() string { return e.message }

func errorf(code int, format string, args ...any) *apiError {
	return &apiError{code: code, message: fmt.Sprintf(format, args...)}
}

// quotaMessage is the text of Google's 429 (langchain4j, pull request 3942).
const quotaMessage = "You exceeded your current quota, please check your plan and billing details. " +
	"For more information on this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits."

// quotaError is Google's error for a create that exceeds the quota. Google is
// known to send it without a retry delay. Here reason names the quota.
func quotaError(reason string) *apiError {
	e := errorf(http.StatusTooManyRequests, "%s%s", quotaMessage, reason)
	e.details = []any{map[string]any{
		"@type": "type.googleapis.com/google.rpc.Help",
		"links": []any{map[string]any{
			"description": "Learn more about Gemini API quotas", "url": "https://ai.google.dev/gemini-api/docs/rate-limits",
		}},
	}}
	return e
}

// statusNames are the names of google.rpc.Code for HTTP codes
// (google/rpc/code.proto).
var statusNames = map[int]string{
	400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 408: "DEADLINE_EXCEEDED",
	409: "ALREADY_EXISTS", 412: "FAILED_PRECONDITION", 413: "INVALID_ARGUMENT", 416: "OUT_OF_RANGE", 429: "RESOURCE_EXHAUSTED",
	499: "CANCELLED", 500: "INTERNAL", 501: "UNIMPLEMENTED", 502: "UNAVAILABLE", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}

func writeError(w http.ResponseWriter, err error) {
	e, ok := err.(*apiError)
	if !ok {
		e = errorf(http.StatusInternalServerError, "%v", err)
	}
	status := e.status
	if status == "" {
		status = statusNames[e.code]
	}
	if status == "" {
		status = "UNKNOWN"
	}
	for k, v := range e.header {
		w.Header()[k] = v
	}
	if e.plain {
		w.Header().Set("Content-Type", "text/html; charset=UTF-8")
		w.Header().Set("Content-Length", strconv.Itoa(len(e.message)))
		w.WriteHeader(e.code)
		io.WriteString(w, e.message)
		return
	}
	body := map[string]any{"code": e.code, "message": e.message}
	if e.reason != "" {
		body["errors"] = []any{map[string]any{"message": e.message, "domain": "global", "reason": e.reason}}
	} else {
		body["status"] = status
	}
	if len(e.details) > 0 {
		body["details"] = e.details
	}
	writeJSON(w, e.code, map[string]any{"error": body})
}

// writeJSON sends v indented, as Google does.
func writeJSON(w http.ResponseWriter, code int, v any) {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		writeError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.Header().Set("Content-Length", strconv.Itoa(body.Len()))
	w.WriteHeader(code)
	w.Write(body.Bytes())
}

// replyWriter remembers the last status code for the books.
type replyWriter struct {
	http.ResponseWriter
	status int
}

func (w *replyWriter) WriteHeader(code int) {
	w.status = code
	w.ResponseWriter.WriteHeader(code)
}

// ReadFrom lets a download use sendfile.
func (w *replyWriter) ReadFrom(r io.Reader) (int64, error) { return io.Copy(w.ResponseWriter, r) }

func (w *replyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *replyWriter) code() int {
	if w.status == 0 {
		return http.StatusOK
	}
	return w.status
}

// recorder holds a reply back for faults that change or replace it.
type recorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (k *recorder) Header() http.Header         { return k.header }
func (k *recorder) WriteHeader(code int)        { k.code = code }
func (k *recorder) Write(p []byte) (int, error) { return k.body.Write(p) }

// edit changes the body, and the headers that depend on it.
func (k *recorder) edit(edits []edit) {
	if edits == nil {
		return
	}
	body := k.body.Bytes()
	for _, e := range edits {
		body = e.apply(body)
	}
	var indented bytes.Buffer
	if json.Indent(&indented, body, "", "  ") != nil {
		return
	}
	indented.WriteByte('\n')
	k.body = indented
	k.header.Set("Content-Length", strconv.Itoa(indented.Len()))
}

func (k *recorder) sendTo(w http.ResponseWriter) {
	for name, v := range k.header {
		w.Header()[name] = v
	}
	if k.code != 0 {
		w.WriteHeader(k.code)
	}
	w.Write(k.body.Bytes())
}

// ---- the control calls, which need no key and are not counted

func (s *Server) control(w http.ResponseWriter, r *http.Request) {
	switch r.Method + " " + strings.TrimPrefix(r.URL.Path, "/emulator/") {
	case "GET books":
		books, err := s.Books()
		if err != nil {
			writeError(w, err)
			return
		}
		writeJSON(w, http.StatusOK, books)
	case "GET faults":
		writeJSON(w, http.StatusOK, map[string]any{"faults": s.Faults()})
	case "POST faults":
		body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
		if err == nil {
			err = s.SetFaults(strings.Split(string(body), "\n"))
		}
		if err != nil {
			writeError(w, errorf(http.StatusBadRequest, "%v", err))
			return
		}
		writeJSON(w, http.StatusOK, map[string]any{"faults": s.Faults()})
	case "GET holds":
		if name := r.URL.Query().Get("wait"); name != "" {
			if err := s.WaitHold(r.Context(), name); err != nil {
				writeError(w, errorf(http.StatusServiceUnavailable, "%v", err))
				return
			}
		}
		writeJSON(w, http.StatusOK, map[string]any{"holds": s.holds.list()})
	case "POST release":
		writeJSON(w, http.StatusOK, map[string]any{"released": s.Release(r.URL.Query().Get("name"))})
	default:
		writeError(w, errorf(http.StatusNotFound, "no such control call: %s %s", r.Method, r.URL.Path))
	}
}

// ---- helpers

const idLetters = "abcdefghijklmnopqrstuvwxyz0123456789"

// newDigits returns n random digits, the first not 0.
func newDigits(n int) string {
	b := []byte(newID(n))
	for i := range b {
		b[i] = '0' + b[i]%10
	}
	b[0] = max(b[0], '1')
	return string(b)
}

// newID returns n random letters and digits.
func newID(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	for i := range b {
		b[i] = idLetters[int(b[i])%len(idLetters)]
	}
	return string(b)
}

// page returns one page of a list that is sorted by falling seq, and the token
// of the next page. Both spellings of the parameters are proto JSON. A token is
// the seq of the last item shown, so an item that is added or removed between
// two pages neither repeats nor hides others. With repeat a page begins with the
// last item of the page before.
func page[T any](r *http.Request, items []T, seq func(T) int64, size int, repeat bool) (shown []T, next string, err error) {
	q := r.URL.Query()
	get := func(camel, snake string) string {
		if v := q.Get(camel); v != "" {
			return v
		}
		return q.Get(snake)
	}
	if v := get("pageSize", "page_size"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return nil, "", errorf(http.StatusBadRequest, "bad page size %q", v)
		}
		if n > 0 {
			size = min(n, 100)
		}
	}
	before := int64(1) << 62
	if v := get("pageToken", "page_token"); v != "" {
		n, err := strconv.ParseInt(v, 36, 64)
		if err != nil {
			return nil, "", errorf(http.StatusBadRequest, "bad page token %q", v)
		}
		before = n
		if repeat {
			before++
		}
	}
	for _, item := range items {
		if seq(item) >= before {
			continue
		}
		if len(shown) == size {
			return shown, strconv.FormatInt(seq(shown[size-1]), 36), nil
		}
		shown = append(shown, item)
	}
	return shown, "", nil
}

// replaceFile writes v as JSON to a temporary file and renames that to path.
func replaceFile(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".tmp", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// baseURL is the URL at which the caller reached this server.
func (s *Server) baseURL(r *http.Request) string { return "http://" + r.Host + s.base }

// timestamp is the JSON form of a protobuf Timestamp.
func timestamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// pause waits for d. It returns false if the client disconnects or the server
// closes before that.
func (s *Server) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-s.done:
	}
	return false
}

// outFile is a file that is written through a buffer.
type outFile struct {
	*bufio.Writer
	f *os.File
}

func createFile(path string) (*outFile, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return &outFile{bufio.NewWriterSize(f, 1<<18), f}, nil
}

// close flushes and closes the file. It returns err, or the first error of its
// own if err is nil.
func (o *outFile) close(err error) error {
	return cmp.Or(err, o.Flush(), o.f.Close())
}
