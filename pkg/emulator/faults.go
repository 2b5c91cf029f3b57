package emulator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// fault is one parsed line.
type fault struct {
	spec string
	op   string

	match    string
	from, to int // nth; 0 for all
	every    int
	times    int
	p        float64
	random   *rand.Rand

	do         string // the action's name
	after      bool
	status     int
	message    string
	retry      time.Duration
	retryAfter string
	body       string
	wait       time.Duration
	name       string // of a hold
	at         int64  // bytes, of hold, cut and short; -1 where not given
	state      string
	code       int // gRPC
	keys       []string
	each       int
	first      int
	last       int
	count      int // of hide and length
	what       string
	inResponse bool

	calls, fired int
}

// FaultCount is a fault with how many calls it saw and at how many it struck.
type FaultCount struct {
	Fault string `json:"fault"`
	Calls int    `json:"calls"`
	Fired int    `json:"fired"`
}

type faultSet struct {
	mu   sync.Mutex
	list []*fault
}

// SetFaults replaces the faults. Blank lines and those that begin with # are
// skipped.
//
// A fault is one line of words:
//
//	OPERATION [WHICH…] ACTION [DETAIL…]
//
// OPERATION is upload.start, upload.data, file.get, file.list, file.delete,
// download, create, get, list, cancel, delete, embed, or any for all of these;
// or job, which is a job about to end, or results, which is a job whose results
// are about to be written.
//
// WHICH picks calls; without it the fault strikes at each. Calls are counted
// from 1, from the moment the fault was set, and only those that match:
//
//	match=TEXT     the path holds TEXT; for create and upload.start path or body, for job and results the display name
//	nth=N, nth=N-M the Nth call, or the Nth to the Mth
//	every=N        each Nth
//	times=N        N times at most
//	p=0.2 seed=7   each with this probability, from a seeded generator
//
// ACTION for calls. With when=after the work is done first and its reply is
// lost to the fault; when=before is the default:
//
//	status=503     answer this HTTP code; message="…", retry=30s (a RetryInfo detail), retry-after=30 (the header),
//	               body=html or body=empty in place of Google's JSON
//	drop           cut the connection
//	hang           say nothing until the client goes away
//	delay=2s       wait, then go on
//	hold=NAME      wait for a release of NAME, then go on; a client that goes away ends the call
//	nostatus       upload.data: a reply without X-Goog-Upload-Status
//	state=NAME     get: the state in this reply only
//	cut=N          cut the connection after N bytes of the reply's body, whose Content-Length is honest
//	hold=NAME at=N hold after N bytes of the reply's body
//	hide=N         list: the newest N jobs are left out, as if they did not show yet
//	short=N        download: the file seems to have only N bytes, one less where N is the end of a line
//
// ACTION for job: state=FAILED, state=CANCELLED or state=EXPIRED, with code=13
// and message="…".
//
// ACTION for results, on the lines that keys=a,b,c or each=N or first=N or
// last=N select (of the input's order), or on all:
//
//	error=13       an error in place of the answer; message="…", place=response to have it inside response
//	missing        no answer
//	duplicate      the answer twice
//	foreign        an answer more, for the key foreign-<key>
//	nokey          an answer without its key
//	swap           the vectors of the selected lines are exchanged, two by two
//	length=N       a vector of N values; of N fewer where N is negative
//	values=WHAT    nan, nan-string, inf, huge (1e39), null-element: in place of the first value;
//	               empty, null, absent: in place of all
//	garbage        a line that is not JSON
//	half           the last line of the file is cut in half, whatever was selected
//
// For inline jobs values=nan, values=inf, garbage and half cannot be: their
// results are part of one JSON document.
//
// Several faults may strike one call: they do so in their order, until one ends
// it. Counts begin anew with a restart.
func (s *Server) SetFaults(specs []string) error {
	var list []*fault
	for _, spec := range specs {
		spec = strings.TrimSpace(spec)
		if spec == "" || spec[0] == '#' {
			continue
		}
		f, err := parseFault(spec)
		if err != nil {
			return usageErrorf("fault %q: %w", spec, err)
		}
		list = append(list, f)
	}
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.list = list
	return nil
}

// Faults lists the faults in their order.
func (s *Server) Faults() []FaultCount {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	counts := []FaultCount{}
	for _, f := range s.faults.list {
		counts = append(counts, FaultCount{f.spec, f.calls, f.fired})
	}
	return counts
}

// call returns the faults that strike this call.
func (fs *faultSet) call(op, subject string) []*fault {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	var struck []*fault
	for _, f := range fs.list {
		if (f.op == op || f.op == "any") && f.strikes(subject) {
			struck = append(struck, f)
		}
	}
	return struck
}

// results returns how job j ends other than well, or what is wrong with its
// results.
func (fs *faultSet) results(j *job) (end *fault, lines []*fault) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, f := range fs.list {
		if f.op == "job" && end == nil && f.strikes(j.DisplayName) {
			end = f
		}
	}
	for _, f := range fs.list {
		if f.op == "results" && end == nil && f.strikes(j.DisplayName) {
			lines = append(lines, f)
		}
	}
	return end, lines
}

// strikes counts a call and decides.
func (f *fault) strikes(subject string) bool {
	if !strings.Contains(subject, f.match) {
		return false
	}
	f.calls++
	switch {
	case f.from > 0 && (f.calls < f.from || f.calls > f.to),
		f.every > 0 && f.calls%f.every != 0,
		f.times > 0 && f.fired >= f.times,
		f.random != nil && f.random.Float64() >= f.p:
		return false
	}
	f.fired++
	return true
}

// selects says whether a result fault is about line i of n.
func (f *fault) selects(i, n int, key []byte) bool {
	switch {
	case f.keys != nil:
		return slices.Contains(f.keys, string(key))
	case f.each > 0:
		return (i+1)%f.each == 0
	case f.first > 0:
		return i < f.first
	case f.last > 0:
		return i >= n-f.last
	}
	return true
}

// ---- parsing

var callOps = []string{
	"any", "upload.start", "upload.data", "file.get", "file.list", "file.delete", "download", "create", "get", "list", "cancel",
	"delete", "embed",
}

func parseFault(spec string) (*fault, error) {
	words, err := splitWords(spec)
	if err != nil {
		return nil, err
	}
	f := &fault{spec: spec, op: words[0], at: -1, code: 13}
	isCall := slices.Contains(callOps, f.op)
	if !isCall && f.op != "job" && f.op != "results" {
		return nil, fmt.Errorf("unknown operation %q", f.op)
	}
	seed := uint64(1)
	for _, w := range words[1:] {
		if err := f.word(w, &seed); err != nil {
			return nil, fmt.Errorf("%s: %w", w, err)
		}
	}
	if f.p > 0 {
		f.random = rand.New(rand.NewPCG(seed, seed))
	}
	allowed := map[string][]string{
		"job":     {"state"},
		"results": {"error", "missing", "duplicate", "foreign", "nokey", "swap", "length", "values", "garbage", "half"},
	}[f.op]
	if isCall {
		allowed = []string{"status", "drop", "hang", "delay", "hold", "cut"}
		switch f.op {
		case "upload.data":
			allowed = append(allowed, "nostatus")
		case "get":
			allowed = append(allowed, "state")
		case "list":
			allowed = append(allowed, "hide")
		case "download":
			allowed = append(allowed, "short")
		}
	}
	switch {
	case f.do == "":
		return nil, errors.New("no action")
	case !slices.Contains(allowed, f.do):
		return nil, fmt.Errorf("%s has no action %s", f.op, f.do)
	case f.after && (f.do == "cut" || f.do == "short" || f.do == "hide" || f.do == "state" || f.at >= 0):
		return nil, fmt.Errorf("%s is not for after the work", f.do)
	case f.after && f.op == "download":
		return nil, errors.New("a download has no after: use cut, or hold with at")
	case f.op == "job":
		f.state = "BATCH_STATE_" + strings.TrimPrefix(f.state, "BATCH_STATE_")
		if f.state != failed && f.state != cancelled && f.state != expired {
			return nil, errors.New("a job ends FAILED, CANCELLED or EXPIRED")
		}
	}
	if f.message == "" {
		f.message = "injected fault"
	}
	return f, nil
}

// word takes one word after the operation.
func (f *fault) word(w string, seed *uint64) error {
	name, value, valued := strings.Cut(w, "=")
	do := func(takesValue bool) error {
		switch {
		case valued != takesValue:
			return errors.New("has a value too many or too few")
		case f.do != "":
			return fmt.Errorf("a second action after %s", f.do)
		}
		f.do = name
		return nil
	}
	var err error
	number := func(least int) int {
		n, e := strconv.Atoi(value)
		if e == nil && n < least {
			e = fmt.Errorf("less than %d", least)
		}
		err = errors.Join(err, e)
		return n
	}
	switch name {
	case "match":
		f.match = value
	case "nth":
		from, to, isRange := strings.Cut(value, "-")
		value = from
		f.from = number(1)
		f.to = f.from
		if isRange {
			value = to
			f.to = number(f.from)
		}
	case "every":
		f.every = number(1)
	case "times":
		f.times = number(1)
	case "p":
		f.p, err = strconv.ParseFloat(value, 64)
		if err == nil && (f.p <= 0 || f.p > 1) {
			err = errors.New("not a probability above 0")
		}
	case "seed":
		*seed, err = strconv.ParseUint(value, 10, 64)
	case "when":
		if value != "before" && value != "after" {
			err = errors.New("use before or after")
		}
		f.after = value == "after"
	case "drop", "hang", "nostatus", "missing", "duplicate", "foreign", "nokey", "swap", "garbage", "half":
		err = do(false)
	case "status":
		err = do(true)
		f.status = number(200)
	case "message":
		f.message = value
	case "retry":
		f.retry, err = time.ParseDuration(value)
	case "retry-after":
		f.retryAfter = value
	case "body":
		if value != "html" && value != "empty" {
			err = errors.New("use html or empty")
		}
		f.body = value
	case "delay":
		err = do(true)
		f.wait, err = time.ParseDuration(value)
	case "hold":
		err = do(true)
		f.name = value
	case "cut", "short":
		err = do(true)
		f.at = int64(number(0))
	case "hide":
		err = do(true)
		f.count = number(1)
	case "at":
		f.at = int64(number(0))
	case "state":
		err = do(true)
		f.state = value
	case "code":
		f.code = number(0)
	case "keys":
		f.keys = strings.Split(value, ",")
	case "each":
		f.each = number(1)
	case "first":
		f.first = number(1)
	case "last":
		f.last = number(1)
	case "error":
		err = do(true)
		f.code = number(0)
	case "place":
		if value != "response" {
			err = errors.New("use response")
		}
		f.inResponse = true
	case "length":
		err = do(true)
		f.count = number(-maxDim)
	case "values":
		err = do(true)
		f.what = value
		if !slices.Contains([]string{"nan", "nan-string", "inf", "huge", "null-element", "empty", "null", "absent"}, value) {
			err = errors.New("unknown kind of values")
		}
	default:
		err = errors.New("unknown word")
	}
	return err
}

// splitWords cuts at blanks; double quotes keep blanks together, anywhere in a
// word.
func splitWords(s string) ([]string, error) {
	var words []string
	var word strings.Builder
	quoted, started := false, false
	for _, r := range s + " " {
		switch {
		case r == '"':
			quoted = !quoted
			started = true
		case !quoted && (r == ' ' || r == '\t'):
			if started {
				words = append(words, word.String())
				word.Reset()
				started = false
			}
		default:
			word.WriteRune(r)
			started = true
		}
	}
	if quoted {
		return nil, errors.New("a quote is not closed")
	}
	return words, nil
}

// ---- striking

// strike does what f wants of a call. It returns the writer for the rest of the
// call, or over where the call has ended here.
func (s *Server) strike(w http.ResponseWriter, r *http.Request, c *call, f *fault) (http.ResponseWriter, bool) {
	switch f.do {
	case "status":
		f.answer(w)
		return w, true
	case "nostatus":
		writeJSON(w, http.StatusOK, struct{}{})
		return w, true
	case "drop":
		panic(http.ErrAbortHandler)
	case "hang", "delay", "hold":
		if f.at >= 0 {
			return &stopWriter{ResponseWriter: w, s: s, r: r, left: f.at, hold: f.name}, false
		}
		// The server notices that a client has gone only once the body is read.
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		ok := true
		switch f.do {
		case "hang":
			s.pause(r.Context(), 1<<62)
			ok = false
		case "delay":
			ok = s.pause(r.Context(), f.wait)
		case "hold":
			ok = s.holds.hold(r.Context(), s.done, f.name)
		}
		if !ok {
			panic(http.ErrAbortHandler)
		}
	case "cut":
		return &stopWriter{ResponseWriter: w, s: s, r: r, left: f.at}, false
	case "short":
		c.short = f.at
	case "hide":
		c.hide = f.count
	case "state":
		c.state = f.state
	}
	return w, false
}

// answer sends the reply of a status fault.
func (f *fault) answer(w http.ResponseWriter) {
	if f.retryAfter != "" {
		w.Header().Set("Retry-After", f.retryAfter)
	}
	switch {
	case f.body == "html":
		w.Header().Set("Content-Type", "text/html; charset=UTF-8")
		w.WriteHeader(f.status)
		fmt.Fprintf(w, "<!DOCTYPE html>\n<html><title>Error %d</title><p><b>%d.</b> That's an error.\n%s\n</html>\n", f.status, f.status, f.message)
	case f.body == "empty" || f.status < 300:
		w.WriteHeader(f.status)
	default:
		e := errorf(f.status, "%s", f.message)
		if f.retry > 0 {
			e.details = []any{map[string]any{
				"@type":      "type.googleapis.com/google.rpc.RetryInfo",
				"retryDelay": strconv.FormatFloat(f.retry.Seconds(), 'f', -1, 64) + "s",
			}}
		}
		writeError(w, e)
	}
}

// stopWriter lets left bytes of a reply's body through, then holds once, or
// cuts the connection where it has no hold.
type stopWriter struct {
	http.ResponseWriter
	s    *Server
	r    *http.Request
	left int64
	hold string
	past bool
}

func (w *stopWriter) Write(p []byte) (int, error) {
	if w.past || int64(len(p)) < w.left {
		w.left -= int64(len(p))
		return w.ResponseWriter.Write(p)
	}
	n, err := w.ResponseWriter.Write(p[:w.left])
	if err != nil {
		return n, err
	}
	// What came so far must reach the client before the connection goes.
	http.NewResponseController(w.ResponseWriter).Flush()
	if w.hold == "" || !w.s.holds.hold(w.r.Context(), w.s.done, w.hold) {
		panic(http.ErrAbortHandler)
	}
	w.past = true
	m, err := w.ResponseWriter.Write(p[n:])
	return n + m, err
}

func (w *stopWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// ---- holds

// holdSet is the calls that wait for a release.
type holdSet struct {
	mu      sync.Mutex
	held    []*heldCall
	changed chan struct{} // closed, and replaced, when a call begins to wait
}

type heldCall struct {
	name     string
	released chan struct{}
}

// hold waits. It is false where the client went away or the server closes.
func (h *holdSet) hold(ctx context.Context, done <-chan struct{}, name string) bool {
	held := &heldCall{name, make(chan struct{})}
	h.mu.Lock()
	h.held = append(h.held, held)
	close(h.changed)
	h.changed = make(chan struct{})
	h.mu.Unlock()
	select {
	case <-held.released:
		return true
	case <-ctx.Done():
	case <-done:
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = slices.DeleteFunc(h.held, func(c *heldCall) bool { return c == held })
	return false
}

// list counts the held calls by name.
func (h *holdSet) list() map[string]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	count := map[string]int{}
	for _, c := range h.held {
		count[c.name]++
	}
	return count
}

// WaitHold returns once a call is held at name.
func (s *Server) WaitHold(ctx context.Context, name string) error {
	for {
		s.holds.mu.Lock()
		changed := s.holds.changed
		s.holds.mu.Unlock()
		if s.holds.list()[name] > 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.done:
			return errors.New("the server is closing")
		}
	}
}

// Release lets the calls held at name go on and returns how many they were.
// Calls that come later are held again, as far as their fault says.
func (s *Server) Release(name string) int {
	s.holds.mu.Lock()
	defer s.holds.mu.Unlock()
	before := len(s.holds.held)
	s.holds.held = slices.DeleteFunc(s.holds.held, func(c *heldCall) bool {
		if c.name == name {
			close(c.released)
		}
		return c.name == name
	})
	return before - len(s.holds.held)
}
