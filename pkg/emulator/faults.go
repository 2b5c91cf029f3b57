package emulator

import (
	"encoding/json"
	"errors"
	"fmt"
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
	from, to int // of nth; 0 for all calls
	every    int
	times    int
	p        float64
	random   *rand.Rand

	do      string // the name of the action
	after   bool
	status  int
	message string
	retry   time.Duration
	headers []header
	body    *string
	edits   []edit
	wait    time.Duration // of delay, drip and hide
	name    string        // of hold
	unread  bool
	at      int64 // bytes, of hang, delay, hold, drip, cut, short and take; -1 if not given
	state   string
	code    int             // gRPC
	error   json.RawMessage // an error that is more than a code and a message
	keys    []string
	each    int
	first   int
	last    int
	count   int    // of hide, late and length
	what    string // of values, order and line
	place   string // of error
	done    int    // lines that a job has done when it ends; -1: all

	calls, fired int
}

// FaultCount is a fault, with the number of calls that it saw and of those that
// it struck.
type FaultCount struct {
	Fault string `json:"fault"`
	Calls int    `json:"calls"`
	Fired int    `json:"fired"`
}

type faultSet struct {
	mu   sync.Mutex
	list []*fault
}

// SetFaults replaces the faults. It ignores blank lines and lines that begin
// with #.
//
// A fault is one line of words:
//
//	OPERATION [WHICH…] ACTION [DETAIL…]
//
// Double quotes keep blanks together. Single quotes also keep double quotes.
//
// OPERATION is upload.start, upload.data, file.get, file.list, file.delete,
// download, create, get, list, cancel, delete, embed, object.insert (also
// multipart), object.start and object.data (a resumable upload), object.get,
// object.read, object.list, object.patch, object.delete, metadata, or any, which
// stands for all of these calls. Two more operations are not calls: job is a job that is
// about to end, and results is a job whose results are about to be written.
//
// WHICH selects calls. Without it the fault strikes each call. Calls are
// counted from 1, from the moment the fault was set. Only matching calls count:
//
//	match=TEXT     the path, the display name, or the body of a create, an embed or an upload.start contains TEXT;
//	               for an object also bucket/name, and a body of at most 64 kB
//	nth=N, nth=N-M the Nth call, or the Nth to the Mth
//	every=N        each Nth call
//	times=N        at most N times
//	p=0.2 seed=7   each call with this probability, from a seeded generator
//
// The display name is that of the call's file, upload or job. For job and
// results, match looks at the job's display name only.
//
// ACTION for calls. With when=before, the default, the fault strikes in place
// of the work. With when=after the emulator does the work, and then the fault
// takes the place of the reply:
//
//	status=503     answer this HTTP code; message="…", retry=30s (a RetryInfo detail), retry-after=30 (the header);
//	               1xx except 101 is an interim reply, and the call continues
//	body=TEXT      answer 200, or the code of status=, with TEXT; body=html and body=empty have these contents
//	drop           cut the connection
//	hang           send nothing until the client disconnects
//	delay=2s       wait, then continue
//	hold=NAME      wait for a release of NAME, then continue; the call ends if the client disconnects
//	nostatus       upload.data: a reply without X-Goog-Upload-Status
//
// These do not allow when=after, because the emulator always does the work:
//
//	set=PATH=JSON  the real reply with this value at PATH (names and indexes, separated by dots; * is every index);
//	               set=PATH removes the value; may be repeated
//	header=NAME:VALUE  the real reply with this header; header=NAME removes it; may be repeated; also a detail of status and body
//	drip=50ms      send the reply's body byte by byte, 50 ms apart
//	cut=N          cut the connection after N bytes of the reply's body; its Content-Length is that of the whole body
//	at=N           detail of hang, delay, hold and drip: begin after N bytes of the reply's body
//	unread         detail of hang, delay and hold, for upload.data and object.data: wait before the request's body is read
//	state=NAME     get: this state, in this reply only
//	hide=N         list: without the newest N jobs, as if the list lagged
//	hide=500ms     list: without the jobs that were created in the last 500 ms
//	order=oldest   list: oldest job first; order=shuffled is a fixed random order
//	repeat         list: each page begins with the last job of the page before
//	short=N        download, object.read: the file seems to have only N bytes, one less if a line ends at N
//	take=N         object.data: the first N bytes of the piece are received, then the connection is cut
//	late=N         cancel: the job is CANCELLED at the Nth status GET after this call, and not at once
//
// ACTION for job: state=NAME. With FAILED, CANCELLED and EXPIRED the job ends
// without results, with code=13 and message="…". With any other name, such as
// PARTIALLY_SUCCEEDED or one that Google does not have, it ends with results.
// With done=N, a job of Vertex AI has done N lines at its end, whatever its state
// is: these have results and are paid for. done=N is also a detail of cancel.
//
// ACTION for results. keys=a,b,c, each=N, first=N and last=N select lines, in the
// order of the input. Without them the action applies to all lines:
//
//	error=13       an error in place of the vector, with this gRPC code and message="…"; place=response puts it inside response.
//	               Vertex AI: place=status (the default, the message only), code (a status object), response, error, and file
//	               (in errors_0001.jsonl)
//	error=JSON     this error
//	missing        no line
//	duplicate      the line twice
//	foreign        one more line, for the key foreign-<key>
//	nokey          the line without its key
//	swap           the vectors of the selected lines are swapped in pairs
//	length=N       a vector of N values; if N is negative, of -N values fewer
//	values=WHAT    nan, nan-string, inf, huge (1e39) and null-element replace the first value;
//	               empty, null and absent replace all values
//	set=PATH=JSON  another value in the line; set=PATH removes it; may be repeated
//	line=TEXT      TEXT in place of the line
//	garbage        a line that is not JSON
//	files=N        Vertex AI: N files predictions_00001.jsonl and so on
//	half           the last line of the file is cut in half, whatever lines are selected
//
// The results of an inline job are part of one JSON document. So values=nan,
// values=inf, line=TEXT that is not JSON, garbage and half do not work there.
//
// Several faults may strike one call. They do so in the order of the list,
// until one of them ends the call. A restart resets the counts.
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

// Faults returns the faults in their order.
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

// results returns the fault that makes job j end in another state, and the
// faults of its results.
func (fs *faultSet) results(j *job) (end *fault, lines []*fault) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, f := range fs.list {
		if f.op == "job" && end == nil && f.strikes(j.DisplayName) {
			end = f
		}
	}
	for _, f := range fs.list {
		if f.op == "results" && (end == nil || hasResults(end.state) || end.done > 0) && f.strikes(j.DisplayName) {
			lines = append(lines, f)
		}
	}
	return end, lines
}

// strikes counts a call, and decides whether the fault strikes it.
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

// selects reports whether a fault of results applies to line i of n.
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
	"delete", "embed", "object.insert", "object.start", "object.data", "object.get", "object.read", "object.list", "object.patch",
	"object.delete", "metadata",
}

// actions are the actions of one operation, in addition to callActions.
var actions = map[string][]string{
	"upload.data": {"nostatus"},
	"get":         {"state"},
	"list":        {"hide", "order", "repeat"},
	"download":    {"short"},
	"object.data": {"take"},
	"object.read": {"short"},
	"cancel":      {"late"},
	"job":         {"state"},
	"results":     {"error", "missing", "duplicate", "foreign", "nokey", "swap", "length", "values", "set", "line", "garbage", "half", "files"},
}

var callActions = []string{"status", "drop", "hang", "delay", "hold", "set", "drip", "cut"}

// Actions returns the actions that a fault of an operation may have. For a word
// that is not an operation it returns nil.
func Actions(op string) []string {
	if slices.Contains(callOps, op) {
		return slices.Concat(callActions, actions[op])
	}
	return slices.Clone(actions[op])
}

// afterActions are the actions that allow when=after.
var afterActions = []string{"status", "drop", "hang", "delay", "hold", "nostatus"}

const defaultMessage = "injected fault"

func parseFault(spec string) (*fault, error) {
	words, err := splitWords(spec)
	if err != nil {
		return nil, err
	}
	f := &fault{spec: spec, op: words[0], at: -1, code: 13, done: -1}
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
	// These words are the action if there is no other action.
	switch {
	case f.do != "":
	case f.op == "cancel" && f.done >= 0:
		f.do, f.count = "late", 1
	case f.body != nil:
		f.do, f.status = "status", http.StatusOK
	case f.edits != nil, f.headers != nil:
		f.do = "set"
	}
	waits := f.do == "hang" || f.do == "delay" || f.do == "hold"
	switch {
	case f.do == "":
		return nil, errors.New("no action")
	case !slices.Contains(Actions(f.op), f.do):
		return nil, fmt.Errorf("%s has no action %s", f.op, f.do)
	case f.after && (!slices.Contains(afterActions, f.do) || f.at >= 0 || f.unread):
		return nil, fmt.Errorf("%s cannot be used with when=after", f.do)
	case f.after && (f.op == "download" || f.op == "object.read"):
		return nil, errors.New("a download does not allow when=after: use cut, or hold with at")
	case f.body != nil && f.do != "status":
		return nil, fmt.Errorf("%s has no body", f.do)
	case f.headers != nil && (!isCall || f.do != "status" && f.do != "set"):
		return nil, fmt.Errorf("%s has no header", f.do)
	case f.edits != nil && (f.do != "set" || f.op == "download" || f.op == "object.read"):
		return nil, fmt.Errorf("%s %s has no set", f.op, f.do)
	case f.unread && (!waits || f.op != "upload.data" && f.op != "object.data" || f.at >= 0):
		return nil, errors.New("unread can only be used with hang, delay and hold of upload.data and object.data")
	case f.done >= 0 && f.op != "job" && f.do != "late":
		return nil, errors.New("done can only be used with job and with late")
	case f.op == "job":
		f.state = "BATCH_STATE_" + strings.TrimPrefix(f.state, "BATCH_STATE_")
		if f.state == pending || f.state == running || f.state == succeeded {
			return nil, fmt.Errorf("%s is not a state in which a job can end", f.state)
		}
	}
	switch {
	case f.message == "" && f.status == http.StatusTooManyRequests:
		f.message = quotaMessage
	case f.message == "":
		f.message = defaultMessage
	}
	return f, nil
}

// word parses one word after the operation.
func (f *fault) word(w string, seed *uint64) error {
	name, value, valued := strings.Cut(w, "=")
	do := func(takesValue bool) error {
		switch {
		case valued != takesValue:
			return errors.New("has a value that it must not have, or lacks one")
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
	oneOf := func(words ...string) string {
		if !slices.Contains(words, value) {
			err = errors.Join(err, fmt.Errorf("use %s", strings.Join(words, ", ")))
		}
		return value
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
		f.after = oneOf("before", "after") == "after"
	case "drop", "hang", "nostatus", "repeat", "missing", "duplicate", "foreign", "nokey", "swap", "garbage", "half":
		err = do(false)
	case "status":
		err = do(true)
		f.status = number(100)
		if f.status > 999 {
			err = errors.New("more than 999")
		}
	case "message":
		f.message = value
	case "retry":
		f.retry, err = time.ParseDuration(value)
	case "retry-after":
		f.headers = append(f.headers, header{"Retry-After", value})
	case "header":
		name, text, _ := strings.Cut(value, ":")
		f.headers = append(f.headers, header{name, strings.TrimSpace(text)})
	case "body":
		f.body = &value
	case "set":
		var e edit
		e, err = parseEdit(value)
		f.edits = append(f.edits, e)
	case "delay", "drip":
		err = do(true)
		var e error
		f.wait, e = time.ParseDuration(value)
		err = errors.Join(err, e)
	case "hold":
		err = do(true)
		f.name = value
	case "unread":
		f.unread = true
	case "cut", "short", "take":
		err = do(true)
		f.at = int64(number(0))
	case "done":
		f.done = number(0)
	case "hide":
		err = do(true)
		if age, e := time.ParseDuration(value); e == nil && age > 0 {
			f.wait = age
		} else {
			f.count = number(1)
		}
	case "late", "files":
		err = do(true)
		f.count = number(1)
	case "order":
		err = do(true)
		f.what = oneOf("oldest", "shuffled")
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
		if _, e := strconv.Atoi(value); e != nil && json.Valid([]byte(value)) {
			f.error = json.RawMessage(value)
		} else {
			f.code = number(0)
		}
	case "place":
		f.place = oneOf("response", "error", "status", "code", "file")
	case "length":
		err = do(true)
		f.count = number(-maxDim)
	case "values":
		err = do(true)
		f.what = oneOf("nan", "nan-string", "inf", "huge", "null-element", "empty", "null", "absent")
	case "line":
		err = do(true)
		f.what = value
	default:
		err = errors.New("unknown word")
	}
	return err
}

// splitWords splits at blanks. Quotes keep blanks together, anywhere in a word.
// Inside one kind of quotes, the other kind is an ordinary character.
func splitWords(s string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote rune // the open quote, or 0
	started := false
	for _, r := range s + " " {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '"' || r == '\''):
			quote, started = r, true
		case quote == 0 && (r == ' ' || r == '\t'):
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
	if quote != 0 {
		return nil, errors.New("a quote is not closed")
	}
	return words, nil
}
