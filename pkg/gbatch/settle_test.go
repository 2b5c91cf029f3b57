package gbatch

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gbatch/pkg/emulator"
	"gbatch/pkg/exit"
	"gbatch/pkg/ledger"
	"gbatch/pkg/record"
	"gbatch/pkg/wire"
)

const createPath = ":asyncBatchEmbedContent"

// quickly shortens the time that a test waits for a silent server.
func quickly(t *testing.T, d time.Duration) {
	old := wire.ReplyTimeout
	wire.ReplyTimeout = d
	t.Cleanup(func() { wire.ReplyTimeout = old })
}

// The time of --settle begins when the attempt has ended, not when the create is
// sent: a create that hangs would use it up.
func TestSettleBeginsAfterTheAttempt(t *testing.T) {
	quickly(t, 300*time.Millisecond)
	g := newGoogle(t, emulator.Options{})
	var created atomic.Bool
	var lists atomic.Int32
	g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, createPath) && created.CompareAndSwap(false, true):
			g.ServeHTTP(httptest.NewRecorder(), r)
			<-r.Context().Done()
		case r.URL.Path == "/v1beta/batches" && created.Load() && lists.Add(1) <= 3:
			io.WriteString(w, "{}") // the job does not show yet
		default:
			g.ServeHTTP(w, r)
		}
	}))
	submit := newSubmit()
	submit.Settle = 300 * time.Millisecond
	g.ok(submit, batch("b1", 2, 4))
	g.jobs(1)
	if n := lists.Load(); n < 4 {
		t.Errorf("%d looks", n)
	}
}

// A process that died may have sent its create at any time until its death, and
// clocks jump. So the next run waits for the whole of --settle, whatever time
// the intent has.
func TestSettleIgnoresClocks(t *testing.T) {
	for _, ago := range []time.Duration{0, time.Hour, -time.Hour, 50 * 365 * 24 * time.Hour} {
		g := newGoogle(t, emulator.Options{})
		in := batch("b1", 2, 4)
		name := nameOf(t, in)
		g.create(name, g.upload(name, payloadOf(in)))
		var lists atomic.Int32
		g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v1beta/batches" && lists.Add(1) < 4 {
				io.WriteString(w, "{}")
				return
			}
			g.ServeHTTP(w, r)
		}))
		g.note(ledger.Mark{Name: name, Phase: ledger.Create, Time: time.Now().Add(-ago)})
		submit := newSubmit()
		submit.Settle = 5 * time.Second
		g.ok(submit, in)
		g.jobs(1)
	}
}

// note writes a mark to the ledger, as an earlier process would.
func (g *google) note(m ledger.Mark) {
	g.t.Helper()
	os.MkdirAll(g.state, 0o700)
	if err := os.WriteFile(filepath.Join(g.state, m.Name+".json"), []byte(mustLine(m)), 0o600); err != nil {
		g.t.Fatal(err)
	}
}

// Only a reply that is certainly an empty list means that there is no job.
func TestListThatIsNone(t *testing.T) {
	for body, code := range map[string]int{
		`{"error":{"code":503,"message":"unavailable","status":"UNAVAILABLE"}}`: exit.TryLater,
		`null`: exit.TryLater,
		`[]`:   exit.TryLater,
		`{`:    exit.TryLater,
		`{"object":"list","data":[{"id":"batches/x"}],"has_more":false}`: exit.Failed,
		`{"next_page_token":"x","operations":[]}`:                        exit.Failed,
		`{"batchPredictionJobs":[]}`:                                     exit.Failed,
		`{"operations":{}}`:                                              exit.Failed,
		`{"operations":[null]}`:                                          exit.Failed,
		`{"operations":[{"name":"batches/x"}]}`:                          exit.Failed,
		`{"operations":[{"name":"batches/x","metadata":{}}]}`:            exit.Failed,
		`{"operations":[{"metadata":{"state":"BATCH_STATE_RUNNING"}}]}`:  exit.Failed,
		`{"operations":[],"unreachable":["us-east1"]}`:                   exit.Failed,
		`{"operations":[],"nextPageToken":7}`:                            exit.Failed,
	} {
		g := newGoogle(t, emulator.Options{})
		g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v1beta/batches" {
				io.WriteString(w, body)
				return
			}
			g.ServeHTTP(w, r)
		}))
		submit := newSubmit()
		submit.RetryFor = 30 * time.Millisecond
		if _, err := g.run(submit, batch("b1", 1, 4)); exit.Code(err) != code {
			t.Errorf("%s: exit %d (%v), want %d", body, exit.Code(err), err, code)
		}
		g.jobs(0)
	}
}

// If a receipt names a job that this key cannot see, no job is created.
func TestReceiptOfAnUnseenJob(t *testing.T) {
	for _, reply := range []string{"status=404", `status=403 message="You do not have permission to access the Batch x or it may not exist."`} {
		g := newGoogle(t, emulator.Options{})
		in := batch("b1", 2, 4)
		first := oneJob(t, g.ok(newSubmit(), in))
		g.faults("get match="+strings.TrimPrefix(first.Job, "batches/")+" "+reply, "list hide=1")
		out := g.fails(newSubmit(), in+batch("b2", 1, 4), exit.Failed, first.Job, "this key cannot see", g.state)
		if oneJob(t, out).Batch != "b2" { // the next batch is still submitted
			t.Errorf("printed %s", out)
		}
		g.jobs(2)
		// If the job is visible again, it is the batch's job.
		g.faults()
		if job := oneJob(t, g.ok(newSubmit(), in)); job.Job != first.Job {
			t.Errorf("took %s", job.Job)
		}
		g.jobs(2)
	}
}

// A list may show one job on two pages, because other jobs were created in
// between. The job must not be taken for two jobs.
func TestOneJobOnTwoPages(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	in := batch("b1", 2, 4)
	job := oneJob(t, g.ok(newSubmit(), in))
	forgetReceipts(t, g)
	g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1beta/batches" {
			g.ServeHTTP(w, r)
			return
		}
		next := `,"nextPageToken":"2"`
		if r.URL.Query().Get("pageToken") != "" {
			next = ""
		}
		fmt.Fprintf(w, `{"operations":[{"name":%q,"metadata":{"displayName":%q,"state":"BATCH_STATE_RUNNING","createTime":"2026-01-01T00:00:00Z"}}]%s}`, job.Job, nameOf(t, in), next)
	}))
	if again := oneJob(t, g.ok(newSubmit(), in)); again.Job != job.Job {
		t.Errorf("took %s", again.Job)
	}
	if strings.Contains(g.log.String(), "two jobs") {
		t.Error("a twin was reported")
	}
	g.jobs(1)
}

// The lines of a batch may come again under another name, if its database was
// restored from a backup. A job whose results have not been collected is
// adopted. A job that is over is not.
func TestSameLinesUnderAnotherName(t *testing.T) {
	b1 := batch("b1", 3, 4)
	b2 := strings.Replace(b1, `"batch":"b1"`, `"batch":"b2"`, 1)
	for _, c := range []struct {
		name  string
		fault string
		until string // what was done with b1's job: submitted, ended, fetched
		in    string
		took  bool
	}{
		{"at work", "", "submitted", b2, true},
		{"ended", "", "ended", b2, true},
		{"ended, with failed keys", "results error=13 first=1", "ended", b2, true},
		{"collected", "", "fetched", b2, false},
		{"failed", "job nth=1 state=FAILED", "ended", b2, false},
		{"expired", "job nth=1 state=EXPIRED", "ended", b2, false},
		{"another model", "", "submitted", strings.Replace(b2, "embedding-001", "embedding-2", 1), false},
		{"other lines", "", "submitted", batch("b2", 3, 4), false},
		{"without a header", "", "submitted", payloadOf(b1), true},
	} {
		for _, known := range []string{"by the list", "by the receipt"} {
			t.Run(c.name+" "+known, func(t *testing.T) {
				g := newGoogle(t, emulator.Options{Polls: 1})
				if c.fault != "" {
					g.faults(c.fault)
				}
				jobs := g.ok(newSubmit(), b1)
				first := oneJob(t, jobs)
				if c.until != "submitted" {
					ended, _ := g.run(newWait(), jobs)
					if c.until == "fetched" {
						g.ok(newFetch(), ended)
					}
				}
				if known == "by the list" {
					forgetReceipts(t, g)
				} else {
					g.faults("list hide=1")
				}
				out := g.ok(newSubmit(), c.in)
				job := oneJob(t, out)
				if (job.Job == first.Job) != c.took {
					t.Errorf("took %+v, b1 has %s", job, first.Job)
				}
				if warned := strings.Contains(g.log.String(), "already submitted as another batch"); warned != c.took {
					t.Errorf("warned %v", warned)
				}
				if !c.took || job.Batch == "" {
					return
				}
				g.jobs(1)
				if job.Batch != "b2" || job.Requests != 3 || job.Input != first.Input {
					t.Errorf("%+v", job)
				}
				again := oneJob(t, g.ok(newSubmit(), c.in)) // now by its own receipt
				if again.Job != first.Job {
					t.Errorf("the second run took %s", again.Job)
				}
				out, _ = g.run(newFetch(), g.ok(newWait(), out))
				vectors, failed := answersOf(t, out)
				if len(vectors)+len(failed) != 3 || strings.Contains(out, `"batch":"b1"`) {
					t.Errorf("%s", out)
				}
			})
		}
	}
}

// If the outcome of the other batch's create is unknown, its job is looked up.
func TestSameLinesOfAnUnknownOutcome(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	b1 := batch("b1", 3, 4)
	g.faults("create drop when=after", "list hide=1")
	g.fails(newSubmit(), b1, exit.Unknown)
	g.faults("list nth=1-2 hide=1")
	submit := newSubmit()
	submit.Settle = 200 * time.Millisecond
	if job := oneJob(t, g.ok(submit, strings.Replace(b1, `"batch":"b1"`, `"batch":"b2"`, 1))); job.Batch != "b2" {
		t.Errorf("%+v", job)
	}
	g.jobs(1)
}

// A part of a claimed batch would be paid for, and then the whole batch would be
// refused.
func TestPartOfAClaimedBatch(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	submit := newSubmit()
	submit.AllowPartial = true
	cut := func(name string) string {
		return strings.Replace(batch(name, 2, 4), `"count":2`, `"count":3`, 1)
	}
	g.fails(submit, cut("b01K3ZQ5V6W7X8Y9ZABCDEFGHJK"), exit.Malformed, "chunks-pending claimed it", "chunks-pending --from")
	g.jobs(0)
	g.ok(submit, batch("b01K3ZQ5V6W7X8Y9ZABCDEFGHJK", 2, 4))
	g.ok(submit, cut("by-hand"))
	g.jobs(2)
}

// If the reply to a create does not name a job, the outcome is unknown.
func TestCreateReplies(t *testing.T) {
	for _, body := range []string{
		`null`, `{}`, `[]`, `{"name":null}`, `{"name":7}`, `{"name":""}`, `{"name":"batches/../files"}`, `{"name":"operations/x"}`, `{"name":["batches/x"]}`, `<html>`, ``,
		`{"name":"batches/x","metadata":{"output":{"inlinedResponses":{"inlinedResponses":[null]}}}}`,
	} {
		g := newGoogle(t, emulator.Options{})
		g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, createPath) {
				g.ServeHTTP(httptest.NewRecorder(), r)
				io.WriteString(w, body)
				return
			}
			g.ServeHTTP(w, r)
		}))
		if job := oneJob(t, g.ok(newSubmit(), batch("b1", 2, 4))); job.Job != g.newest() {
			t.Errorf("%s: %+v", body, job)
		}
		g.jobs(1)
	}
}

// A batch that alone is larger than the quota is never accepted, so the code is
// not 5.
func TestBatchOverTheQuota(t *testing.T) {
	g := newGoogle(t, emulator.Options{Polls: 30})
	submit := newSubmit()
	submit.RetryFor = 50 * time.Millisecond
	g.faults("create match=b1 status=429", "create match=b2 status=429", "create match=b3 status=429 retry=1h")
	out := g.fails(submit, batch("b1", 2, 4)+batch("other", 1, 4), exit.Failed, "no other job is active", "--max-tokens")
	if oneJob(t, out).Batch != "other" {
		t.Errorf("printed %s", out)
	}
	g.fails(submit, batch("b2", 2, 4), exit.TryLater, "429") // another job is active now
	g.ok(newWait(), g.unfinished())
	g.fails(submit, batch("b3", 2, 4), exit.TryLater, "429") // Google says how long to wait
	g.jobs(1)
	g.files(1)
}

// jobsList is a list of n jobs in pages, newest first, ten minutes apart.
type jobsList struct {
	*google
	n       int
	shuffle bool
	asked   []string // page tokens
	fail    map[string]int
}

func (l *jobsList) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/v1beta/batches" {
		l.Server.ServeHTTP(w, r)
		return
	}
	token := r.URL.Query().Get("pageToken")
	l.asked = append(l.asked, token)
	if l.fail[token] > 0 {
		l.fail[token]--
		w.WriteHeader(503)
		return
	}
	at := 0
	fmt.Sscan(token, &at)
	var page struct {
		Operations    []any  `json:"operations"`
		NextPageToken string `json:"nextPageToken,omitempty"`
	}
	for i := at; i < min(at+wire.PageSize, l.n); i++ {
		age := time.Duration(i) * 10 * time.Minute
		if l.shuffle && i == 5 {
			age = 0
		}
		page.Operations = append(page.Operations, map[string]any{"name": fmt.Sprint("batches/x", i), "metadata": map[string]any{
			"state": "BATCH_STATE_SUCCEEDED", "createTime": time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(-age)}})
	}
	if at+wire.PageSize < l.n {
		page.NextPageToken = fmt.Sprint(at + wire.PageSize)
	}
	json.NewEncoder(w).Encode(page)
}

// A run reads the whole list once. Before each further create it reads only the
// new jobs, unless the list is not sorted newest first. If a page fails, only
// that page is requested again.
func TestListIsReadOnce(t *testing.T) {
	for _, c := range []struct {
		shuffle bool
		want    string
	}{{false, "[ 100 100 200  ]"}, {true, "[ 100 100 200  100 200  100 200]"}} {
		g := newGoogle(t, emulator.Options{})
		l := &jobsList{google: g, n: 250, shuffle: c.shuffle, fail: map[string]int{"100": 1}}
		g.serve(l)
		g.ok(newSubmit(), batch("b1", 1, 4)+batch("b2", 1, 4)+batch("b3", 1, 4))
		if got := fmt.Sprint(l.asked); got != c.want {
			t.Errorf("pages %q, want %q", got, c.want)
		}
		g.jobs(3)
	}
}

// A long list is logged. A list whose pages repeat is an error.
func TestLongList(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	g.serve(&jobsList{google: g, n: 60 * wire.PageSize})
	g.ok(newSubmit(), batch("b1", 1, 4))
	if !strings.Contains(g.log.String(), "list is long") {
		t.Error("nothing is said of 60 pages")
	}
	next := map[string]string{"": "a", "a": "b", "b": "a"}
	g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"nextPageToken":%q}`, next[r.URL.Query().Get("pageToken")])
	}))
	g.fails(newSubmit(), batch("b2", 1, 4), exit.Failed, "does not end")
}

// Jobs that end during the run no longer count against the limit.
func TestActiveJobsAreCountedAgain(t *testing.T) {
	g := newGoogle(t, emulator.Options{MaxJobs: 1000})
	input := g.upload("x", payloadOf(batch("x", 1, 4)))
	for i := range googleJobs - 1 {
		g.create(fmt.Sprint("other", i), input)
	}
	r, w := io.Pipe()
	jobs := make(chan string, 2)
	done := make(chan error, 1)
	go func() { done <- newSubmit().Run(t.Context(), r, lineWriter(jobs)) }()
	io.WriteString(w, batch("b1", 1, 4))
	<-jobs
	g.ok(newWait(), g.unfinished())
	io.WriteString(w, batch("b2", 1, 4))
	w.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

type lineWriter chan string

func (l lineWriter) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// A reply about another job than the requested one is an error.
func TestStatusOfAnotherJob(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	jobs := g.ended(newSubmit(), batch("b1", 2, 4))
	g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"name":"batches/other","metadata":{"state":"BATCH_STATE_SUCCEEDED","output":{"responsesFile":"files/r"}},"done":true}`)
	}))
	g.fails(newFetch(), jobs, exit.Failed, "answered with \"batches/other\"")
	g.fails(newWait(), strings.Replace(jobs, record.Succeeded, record.Running, 1), exit.Failed, "answered with \"batches/other\"")
	g.files(1)
}
