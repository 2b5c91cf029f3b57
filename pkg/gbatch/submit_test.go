package gbatch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gbatch/pkg/cli"
	"gbatch/pkg/emulator"
	"gbatch/pkg/exit"
	"gbatch/pkg/ledger"
)

// Whatever happens to the create call, running the command again leads to one
// job. Each case ends with a plain run that must print the only job.
func TestPaidOnce(t *testing.T) {
	for _, c := range []struct {
		name   string
		faults []string
		code   int // exit code of the first run
		said   string
		jobs   int // created by the first run
	}{
		{"no fault", nil, exit.OK, "", 1},
		{"reply lost", []string{"create nth=1 drop when=after"}, exit.OK, "", 1},
		{"500 after the work", []string{"create nth=1 status=500 when=after"}, exit.OK, "", 1},
		{"reply cut", []string{"create nth=1 cut=20"}, exit.OK, "", 1},
		{"reply is not JSON", []string{"create nth=1 status=200 body=html when=after"}, exit.OK, "", 1},
		{"reply is empty", []string{"create nth=1 status=200 body=empty when=after"}, exit.OK, "", 1},
		{"408 after the work", []string{"create nth=1 status=408 when=after"}, exit.OK, "", 1},
		{"dropped before the work", []string{"create nth=1 drop"}, exit.Unknown, "unknown", 0},
		{"503 before the work", []string{"create nth=1 status=503"}, exit.Unknown, "503", 0},
		{"408 before the work", []string{"create nth=1 status=408"}, exit.Unknown, "run the whole pipe again", 0},
		{"429 with RetryInfo", []string{"create nth=1-3 status=429 retry=5ms"}, exit.OK, "", 1},
		{"429 with Retry-After", []string{"create nth=1-2 status=429 retry-after=0"}, exit.OK, "", 1},
		{"429 without a delay", []string{"create nth=1-2 status=429"}, exit.OK, "", 1},
		{"429 for longer than we wait", []string{"create nth=1 status=429 retry=1h"}, exit.TryLater, "429", 0},
		{"400", []string{`create nth=1 status=400 message="Error on line 1: no"`}, exit.Failed, "Error on line 1: no", 0},
		{"404", []string{"create nth=1 status=404"}, exit.Failed, "404", 0},
		{"a redirect", []string{"create nth=1 status=307"}, exit.Unknown, "307", 0},
		{"499 before the work", []string{"create nth=1 status=499"}, exit.Unknown, "499", 0},
		{"409 after the work", []string{"create nth=1 status=409 when=after"}, exit.OK, "", 1},
		{"499 after the work", []string{"create nth=1 status=499 when=after"}, exit.OK, "", 1},
		{"303 after the work", []string{"create nth=1 status=303 when=after"}, exit.OK, "", 1},
		{"405", []string{"create nth=1 status=405"}, exit.Failed, "405", 0},
		{"413", []string{"create nth=1 status=413"}, exit.Failed, "413", 0},
		{"reply lost, then the list fails", []string{"create nth=1 drop when=after", "list nth=2 status=400"}, exit.Unknown, "unknown", 1},
		{"reply lost, then the list fails for a while", []string{"create nth=1 drop when=after", "list nth=2-3 status=503 retry=1ms"}, exit.OK, "", 1},
		{"the list fails before", []string{"list nth=1 status=400"}, exit.Failed, "look for the job", 0},
		{"the list fails for a while before", []string{"list nth=1-2 status=429 retry=1ms"}, exit.OK, "", 1},
		{"the list keeps failing before", []string{"list status=503 retry=1h"}, exit.TryLater, "503", 0},
		{"the list is not JSON", []string{"list status=200 body=html"}, exit.TryLater, "", 0},
		{"the list is nothing", []string{"list status=200 body=empty"}, exit.TryLater, "the reply is empty", 0},
		{"the look at the found job fails", []string{"create nth=1 drop when=after", "get nth=1 status=404"}, exit.Failed, "404", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGoogle(t, emulator.Options{Polls: 100})
			g.faults(c.faults...)
			in := batch("b1", 3, 4)
			submit := newSubmit()
			if c.code != exit.OK {
				submit.RetryFor = 200 * time.Millisecond
			}
			out, err := g.run(submit, in)
			if exit.Code(err) != c.code || err != nil && !strings.Contains(err.Error(), c.said) {
				t.Errorf("exit %d (%v), want %d and %q", exit.Code(err), err, c.code, c.said)
			}
			if (err == nil) != (out != "") {
				t.Errorf("error %v, printed %q", err, out)
			}
			g.jobs(c.jobs)
			if c.code == exit.Failed && c.jobs == 0 {
				g.files(0) // nothing is left of a refused batch
			}
			g.faults()
			job := oneJob(t, g.ok(newSubmit(), in))
			if err == nil && job != oneJob(t, out) {
				t.Errorf("the second run printed %+v, the first %s", job, out)
			}
			g.jobs(1)
			g.files(1)
			if b := g.books(); job.Input != b.Uploaded[0].Name {
				t.Errorf("the job's input is %s, at google is %s", job.Input, b.Uploaded[0].Name)
			}
			if b := g.books(); b.OpenUploads != 0 {
				t.Errorf("%d uploads are open", b.OpenUploads)
			}
		})
	}
}

// A create uses a new connection, so that net/http has nothing to send again,
// and has no header that would allow that.
func TestCreateIsSentOnce(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	var creates, closing atomic.Int32
	g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ":asyncBatchEmbedContent") {
			creates.Add(1)
			if r.Close && r.ProtoMajor == 1 && r.Header.Get("Idempotency-Key") == "" && r.Header.Get("X-Idempotency-Key") == "" {
				closing.Add(1)
			}
		}
		g.ServeHTTP(w, r)
	}))
	g.ok(newSubmit(), batch("b1", 1, 4)+batch("b2", 1, 4))
	if creates.Load() != 2 || closing.Load() != 2 {
		t.Errorf("%d creates, %d on a connection of their own", creates.Load(), closing.Load())
	}
}

// If the list lags behind the create, gbatch-submit waits for the job to show.
func TestListLags(t *testing.T) {
	for _, c := range []struct {
		name   string
		settle time.Duration
		hidden int32 // number of lists that do not show the job
		code   int
	}{
		{"within settle", time.Minute, 4, exit.OK},
		{"beyond settle", 20 * time.Millisecond, 1000, exit.Unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGoogle(t, emulator.Options{})
			var lists atomic.Int32
			var lag atomic.Int32
			lag.Store(c.hidden)
			g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/v1beta/batches" && lists.Add(1) <= lag.Load() {
					io.WriteString(w, "{}")
					return
				}
				g.ServeHTTP(w, r)
			}))
			g.faults("create nth=1 drop when=after")
			submit := newSubmit()
			submit.Settle = c.settle
			if c.name == "within settle" {
				submit.Settle = 20 * time.Second // the first look-up comes after a fiftieth of it
			}
			_, err := g.run(submit, batch("b1", 2, 4))
			if exit.Code(err) != c.code {
				t.Errorf("exit %d: %v", exit.Code(err), err)
			}
			g.jobs(1)
			lag.Store(0)
			g.ok(newSubmit(), batch("b1", 2, 4))
			g.jobs(1)
		})
	}
}

// The job is found on every page of the list.
func TestFoundOnEveryPage(t *testing.T) {
	g := newGoogle(t, emulator.Options{MaxJobs: 1000})
	first := oneJob(t, g.ok(newSubmit(), batch("wanted", 1, 4)))
	forgetReceipts(t, g)
	g.ok(newWait(), mustLine(first)) // ended jobs do not count as active
	for i := range 250 {
		// This is cheaper than a submission: a create of the same input under
		// another name.
		g.create(fmt.Sprintf("other-%d", i), first.Input)
		if i == 98 || i == 99 || i == 100 || i == 249 {
			g.ok(newWait(), g.unfinished())
			if job := oneJob(t, g.ok(newSubmit(), batch("wanted", 1, 4))); job.Job != first.Job {
				t.Errorf("with %d newer jobs another was taken: %s", i+1, job.Job)
			}
			forgetReceipts(t, g)
		}
	}
	if n := g.books().Operations["list"]["200"]; n < 1+2+2+2+3 {
		t.Errorf("%d pages were read", n)
	}
}

// create makes a job without gbatch-submit.
func (g *google) create(display, input string) {
	g.t.Helper()
	body := fmt.Sprintf(`{"batch":{"displayName":%q,"inputConfig":{"file_name":%q}}}`, display, input)
	req, err := http.NewRequest("POST", g.url+"/v1beta/models/gemini-embedding-001:asyncBatchEmbedContent", strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	req.Header.Set("x-goog-api-key", testKey)
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != 200 {
		g.t.Fatal(err, resp)
	}
	resp.Body.Close()
}

// unfinished returns a record for each job that has not ended.
func (g *google) unfinished() string {
	g.t.Helper()
	req, _ := http.NewRequest("GET", g.url+"/v1beta/batches?pageSize=100", nil)
	req.Header.Set("x-goog-api-key", testKey)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	var list struct{ Operations []struct{ Name string } }
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		g.t.Fatal(err)
	}
	var lines strings.Builder
	for _, op := range list.Operations {
		fmt.Fprintf(&lines, `{"job":%q,"state":"QUEUED"}`+"\n", op.Name)
	}
	return lines.String()
}

func mustLine(v any) string {
	line, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(line) + "\n"
}

func forgetReceipts(t *testing.T, g *google) {
	t.Helper()
	if err := os.RemoveAll(g.state); err != nil {
		t.Fatal(err)
	}
}

// A list whose pages repeat is an error.
func TestListWithoutEnd(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1beta/batches" {
			io.WriteString(w, `{"operations":[],"nextPageToken":"again"}`)
			return
		}
		g.ServeHTTP(w, r)
	}))
	g.fails(newSubmit(), batch("b1", 1, 4), exit.Failed, "does not end")
	g.jobs(0)
}

// If the list does not show the job yet, the receipt names it.
func TestReceipt(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	first := oneJob(t, g.ok(newSubmit(), batch("b1", 2, 4)))
	g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1beta/batches" {
			io.WriteString(w, "{}")
			return
		}
		g.ServeHTTP(w, r)
	}))
	if second := oneJob(t, g.ok(newSubmit(), batch("b1", 2, 4))); second.Job != first.Job {
		t.Errorf("took %s, not %s", second.Job, first.Job)
	}
	g.jobs(1)
}

// What a killed process left behind is settled according to its phase.
func TestStaleIntents(t *testing.T) {
	in := batch("b1", 2, 4)
	hour := time.Now().Add(-time.Hour)
	for _, c := range []struct {
		name string
		// left does what the dead process had done, and returns its intent.
		left  func(g *google, name string) string
		jobs  int // total of jobs created
		files int // files at Google at the end
		took  bool
	}{
		{"an empty file", func(g *google, name string) string { return "" }, 1, 1, false},
		{"upload, nothing uploaded", func(g *google, name string) string {
			return mustLine(ledger.Mark{Name: name, Phase: ledger.Upload, Time: hour})
		}, 1, 1, false},
		{"upload, uploaded", func(g *google, name string) string {
			g.upload(name, payloadOf(in))
			return mustLine(ledger.Mark{Name: name, Phase: ledger.Upload, Time: hour})
		}, 1, 1, false},
		{"upload, something else uploaded under the name", func(g *google, name string) string {
			g.upload(name, "half a file")
			g.upload(name, payloadOf(in))
			g.upload("gbatch-b2-0123456789abcdef", "another batch's")
			return mustLine(ledger.Mark{Name: name, Phase: ledger.Upload, Time: hour})
		}, 1, 2, false},
		{"create, not created", func(g *google, name string) string {
			input := g.upload(name, payloadOf(in))
			return mustLine(ledger.Mark{Name: name, Phase: ledger.Create, Input: input, Time: hour})
		}, 1, 1, false},
		{"create, created", func(g *google, name string) string {
			input := g.upload(name, payloadOf(in))
			g.create(name, input)
			g.upload(name, payloadOf(in)) // an upload whose reply was lost
			return mustLine(ledger.Mark{Name: name, Phase: ledger.Create, Input: input, Time: hour})
		}, 1, 1, true},
		{"create, by a clock that is ahead", func(g *google, name string) string {
			return mustLine(ledger.Mark{Name: name, Phase: ledger.Create, Time: time.Now().Add(time.Hour)})
		}, 1, 1, false},
		{"unreadable", func(g *google, name string) string {
			input := g.upload(name, payloadOf(in))
			g.create(name, input)
			return "\x00\x00"
		}, 1, 1, true},
		{"created", func(g *google, name string) string {
			input := g.upload(name, payloadOf(in))
			g.create(name, input)
			return mustLine(ledger.Mark{Name: name, Phase: ledger.Created, Job: g.newest(), Time: hour}) + "rest of a longer line"
		}, 1, 1, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGoogle(t, emulator.Options{})
			name := nameOf(t, in)
			content := c.left(g, name)
			before := g.newest()
			if err := os.MkdirAll(g.state, 0o700); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(g.state, name+".json")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			submit := newSubmit()
			submit.Settle = time.Nanosecond
			job := oneJob(t, g.ok(submit, in))
			if (job.Job == before) != c.took {
				t.Errorf("job %s, before there was %q", job.Job, before)
			}
			g.jobs(c.jobs)
			g.files(c.files)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var m ledger.Mark
			line, _, _ := bytes.Cut(data, []byte("\n"))
			if err := json.Unmarshal(line, &m); err != nil || m.Phase != ledger.Created || m.Job != job.Job {
				t.Errorf("the receipt is %s (%v)", data, err)
			}
		})
	}
}

// A job that was created shortly before the process was killed may not be in the
// list yet.
func TestStaleCreateSettles(t *testing.T) {
	in := batch("b1", 2, 4)
	g := newGoogle(t, emulator.Options{})
	name := nameOf(t, in)
	g.create(name, g.upload(name, payloadOf(in)))
	var lists atomic.Int32
	g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1beta/batches" && lists.Add(1) < 3 {
			io.WriteString(w, "{}")
			return
		}
		g.ServeHTTP(w, r)
	}))
	os.MkdirAll(g.state, 0o700)
	os.WriteFile(filepath.Join(g.state, name+".json"), []byte(mustLine(ledger.Mark{Name: name, Phase: ledger.Create, Time: time.Now()})), 0o600)
	submit := newSubmit()
	submit.Settle = 5 * time.Second
	g.ok(submit, in)
	g.jobs(1)
	if lists.Load() != 3 {
		t.Errorf("%d lists", lists.Load())
	}
}

// upload creates a file without gbatch-submit and returns its name.
func (g *google) upload(display, content string) string {
	g.t.Helper()
	post := func(url, body string, header ...string) *http.Response {
		req, err := http.NewRequest("POST", url, strings.NewReader(body))
		if err != nil {
			g.t.Fatal(err)
		}
		req.Header.Set("x-goog-api-key", testKey)
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil || resp.StatusCode != 200 {
			g.t.Fatal(err, resp)
		}
		return resp
	}
	start := post(g.url+"/upload/v1beta/files", fmt.Sprintf(`{"file":{"displayName":%q,"mimeType":"jsonl"}}`, display),
		"X-Goog-Upload-Protocol", "resumable", "X-Goog-Upload-Command", "start")
	start.Body.Close()
	end := post(start.Header.Get("X-Goog-Upload-URL"), content, "X-Goog-Upload-Command", "upload, finalize", "X-Goog-Upload-Offset", "0")
	defer end.Body.Close()
	var reply struct{ File struct{ Name string } }
	if err := json.NewDecoder(end.Body).Decode(&reply); err != nil || reply.File.Name == "" {
		g.t.Fatal(err, reply)
	}
	return reply.File.Name
}

// newest returns the name of the job created last, or "".
func (g *google) newest() string {
	for line := range strings.Lines(g.unfinished()) {
		return jobsOf(g.t, line)[0].Job
	}
	return ""
}

// payloadOf returns what is uploaded for a batch: its lines without the header.
func payloadOf(in string) string {
	_, lines, _ := strings.Cut(in, "\n")
	return lines
}

func nameOf(t *testing.T, in string) string {
	t.Helper()
	payloads := cutAll(t, newSubmit(), in)
	if len(payloads) != 1 {
		t.Fatalf("%d batches", len(payloads))
	}
	return payloads[0].name()
}

// A batch's name belongs to its lines. The same name with other lines is
// refused, unless the job of the first lines ended without results.
func TestAnotherPayload(t *testing.T) {
	for _, c := range []struct {
		state string
		code  int
	}{
		{"QUEUED", exit.Failed}, {"SUCCEEDED", exit.Failed},
		{"FAILED", exit.OK}, {"EXPIRED", exit.OK}, {"CANCELLED", exit.OK},
	} {
		t.Run(c.state, func(t *testing.T) {
			g := newGoogle(t, emulator.Options{})
			if c.state != "QUEUED" && c.state != "SUCCEEDED" {
				g.faults("job nth=1 state=" + c.state)
			}
			jobs := g.ok(newSubmit(), batch("b1", 2, 4))
			if c.state != "QUEUED" {
				g.run(newWait(), jobs)
			}
			first := oneJob(t, jobs)
			out, err := g.run(newSubmit(), batch("b1", 3, 4)+batch("b2", 1, 4)+batch("b1-x", 1, 4))
			if exit.Code(err) != c.code || err != nil && !strings.Contains(err.Error(), first.Job) {
				t.Errorf("exit %d: %v", exit.Code(err), err)
			}
			// The next batches are still submitted.
			printed := jobsOf(t, out)
			if want := map[int]int{exit.OK: 3, exit.Failed: 2}[c.code]; len(printed) != want {
				t.Errorf("%d jobs were printed, want %d", len(printed), want)
			}
			if _, err = g.run(newSubmit(), strings.Replace(batch("b1", 2, 4), "embedding-001", "embedding-2", 1)); exit.Code(err) != c.code && c.code == exit.Failed {
				t.Errorf("with another model: exit %d: %v", exit.Code(err), err)
			}
		})
	}
}

// The same lines without a header, but for another model, are another batch.
func TestHeaderlessModels(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	in := requestLine("k", "text", 4)
	a := oneJob(t, g.ok(newSubmit(), in))
	two := newSubmit()
	two.Model = "models/gemini-embedding-2"
	b := oneJob(t, g.ok(two, in))
	if a.Job == b.Job || a.Model != "gemini-embedding-001" || b.Model != "gemini-embedding-2" {
		t.Errorf("%+v and %+v", a, b)
	}
	forgetReceipts(t, g)
	if c := oneJob(t, g.ok(newSubmit(), in)); c.Job != a.Job {
		t.Errorf("took %+v, not %+v", c, a)
	}
	g.jobs(2)
}

// A job that ended without results does not count as the batch's job, unless its
// receipt exists. Then the job is printed again, with its reason, so that
// vectors-apply stores it. gbatch-submit cannot know which batch the chunks are
// part of by then.
func TestFailedJobIsNotAdopted(t *testing.T) {
	for _, state := range []string{"FAILED", "EXPIRED", "CANCELLED"} {
		for _, in := range []string{batch("b1", 2, 4), requestLine("k", "text", 4)} {
			for _, receipts := range []bool{true, false} {
				g := newGoogle(t, emulator.Options{})
				g.faults("job nth=1 code=13 message=why state=" + state)
				jobs := g.ok(newSubmit(), in)
				g.fails(newWait(), jobs, exit.Partial)
				if !receipts {
					forgetReceipts(t, g)
				}
				first, again := oneJob(t, jobs), oneJob(t, g.ok(newSubmit(), in))
				want := 2
				if receipts && first.Batch != "" {
					want = 1
					if again.State != state || again.Error == nil || again.Error.Message != "why" {
						t.Errorf("%s: printed %+v", state, again)
					}
				}
				if b := g.books(); b.Creates != want || (again.Job == first.Job) != (want == 1) || b.MaxPaid > 1 {
					t.Errorf("%s, batch %q, receipts %v: %d jobs, paid %d times", state, first.Batch, receipts, b.Creates, b.MaxPaid)
				}
			}
		}
	}
}

// If two jobs have the same name, the older one is adopted.
func TestTwins(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	in := batch("b1", 2, 4)
	name := nameOf(t, in)
	input := g.upload(name, payloadOf(in))
	g.create(name, input)
	older := g.newest()
	g.create(name, input)
	if job := oneJob(t, g.ok(newSubmit(), in)); job.Job != older || job.Input != input {
		t.Errorf("took %+v, not %s", job, older)
	}
	if log := g.log.String(); !strings.Contains(log, "two jobs") || !strings.Contains(log, g.newest()) {
		t.Error("the other job was not reported")
	}
}

// Several submissions of one batch at the same time create one job.
func TestTwoAtOnce(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	g.faults("create nth=1 hold=sent")
	in := batch("b1", 5, 4)
	var wg sync.WaitGroup
	outs := make([]string, 3)
	errs := make([]error, len(outs))
	for i := range outs {
		wg.Go(func() {
			var out bytes.Buffer
			errs[i] = newSubmit().Run(context.Background(), strings.NewReader(in), &out)
			outs[i] = out.String()
		})
	}
	if err := g.WaitHold(t.Context(), "sent"); err != nil {
		t.Fatal(err)
	}
	g.Release("sent")
	wg.Wait()
	for i := range outs {
		if errs[i] != nil || oneJob(t, outs[i]).Job != oneJob(t, outs[0]).Job {
			t.Errorf("submission %d: %v, printed %s", i, errs[i], outs[i])
		}
	}
	g.jobs(1)
	g.files(1)
}

// A run that waits too long for another run's batch reports that.
func TestTakenForLong(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	in := batch("b1", 5, 4)
	intents, err := ledger.Open()
	if err != nil {
		t.Fatal(err)
	}
	other, err := intents.Claim(t.Context(), nameOf(t, in), 0)
	if err != nil {
		t.Fatal(err)
	}
	submit := newSubmit()
	submit.RetryFor = 10 * time.Millisecond
	g.fails(submit, in, exit.TryLater, "another process")
	g.jobs(0)
	other.Close()
	g.ok(submit, in)
	g.jobs(1)
}

type interrupted struct{}

func (interrupted) Error() string { return "interrupt" }

// If an interrupt comes during the create, the next run finds the job.
func TestInterruptedCreate(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		g := newGoogle(t, emulator.Options{})
		g.faults("create nth=1 hold=sent when=" + when)
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			g.WaitHold(t.Context(), "sent")
			cancel(interrupted{})
		}()
		out, err := g.runContext(ctx, newSubmit(), batch("b1", 3, 4))
		if err == nil || out != "" || !strings.Contains(err.Error(), "run the whole pipe again") || errors.Is(err, context.Canceled) {
			t.Errorf("%v, printed %q", err, out)
		}
		submit := newSubmit()
		submit.Settle = 100 * time.Millisecond
		g.ok(submit, batch("b1", 3, 4))
		g.jobs(1)
	}
}

// If the reader of the output stops, the job is not lost.
func TestReaderLeft(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	err = newSubmit().Run(t.Context(), strings.NewReader(batch("b1", 3, 4)), w)
	if !errors.Is(err, syscall.EPIPE) {
		t.Errorf("error %v", err)
	}
	g.ok(newSubmit(), batch("b1", 3, 4))
	g.jobs(1)
}

// Whatever happens to an upload, one file is left at Google, and one job uses
// it.
func TestUploads(t *testing.T) {
	for _, c := range []struct {
		name   string
		faults []string
		code   int
		said   string
	}{
		{"start fails for a while", []string{"upload.start nth=1-2 status=503 retry=1ms"}, exit.OK, ""},
		{"start is refused", []string{`upload.start status=403 message="no access"`}, exit.Failed, "no access"},
		{"start is dropped", []string{"upload.start nth=1 drop"}, exit.OK, ""},
		{"data without a status", []string{"upload.data nth=1 nostatus"}, exit.OK, ""},
		{"data without a status, after the work", []string{"upload.data nth=1 nostatus when=after"}, exit.OK, ""},
		{"data fails", []string{"upload.data nth=1 status=500 retry=1ms"}, exit.OK, ""},
		{"data is refused", []string{`upload.data status=400 message="bad data"`}, exit.Failed, "bad data"},
		{"the reply is lost", []string{"upload.data nth=1 drop when=after"}, exit.OK, ""},
		{"the replies are lost", []string{"upload.data nth=1-2 drop when=after"}, exit.OK, ""},
		{"the reply is cut", []string{"upload.data nth=1 cut=10"}, exit.OK, ""},
		{"the reply has no file", []string{"upload.data nth=1 status=200 body=empty when=after"}, exit.OK, ""},
		{"it keeps failing", []string{"upload.data status=503 retry=1h"}, exit.TryLater, "503"},
		{"the reply is lost, and the list fails", []string{"upload.data nth=1 drop when=after", "file.list status=503 retry=1h"}, exit.TryLater, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGoogle(t, emulator.Options{})
			g.faults(c.faults...)
			submit := newSubmit()
			if c.code == exit.TryLater {
				submit.RetryFor = 100 * time.Millisecond
			}
			in := batch("b1", 3, 4)
			_, err := g.run(submit, in)
			if exit.Code(err) != c.code || err != nil && !strings.Contains(err.Error(), c.said) {
				t.Errorf("exit %d: %v", exit.Code(err), err)
			}
			g.faults()
			g.ok(newSubmit(), in)
			g.jobs(1)
			g.files(1)
		})
	}
}

// Files of sizes around the upload's pieces of 8 MiB arrive whole.
func TestUploadSizes(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	const piece = 8 << 20
	for _, size := range []int{piece - 1, piece, piece + 1, 2 * piece} {
		in := batch(fmt.Sprint("b", size), 1, 4)
		line := payloadOf(in)
		in += ""
		head, _, _ := strings.Cut(in, "\n")
		pad := strings.Repeat("x", size-len(line))
		line = strings.Replace(line, "text 0", "text 0"+pad, 1)
		job := oneJob(t, g.ok(newSubmit(), head+"\n"+line))
		b := g.books()
		i := slices.IndexFunc(b.Uploaded, func(f emulator.BookFile) bool { return f.Name == job.Input })
		if i < 0 || b.Uploaded[i].SizeBytes != int64(size) {
			t.Errorf("%d bytes: %+v", size, b.Uploaded)
		}
	}
}

// Google's limit of active jobs is checked before anything is uploaded.
func TestTooManyJobs(t *testing.T) {
	g := newGoogle(t, emulator.Options{MaxJobs: 200, Polls: 1000})
	input := g.upload("x", payloadOf(batch("x", 1, 4)))
	for i := range 60 {
		g.create(fmt.Sprint("other", i), input)
	}
	g.ok(newSubmit(), batch("b1", 1, 4)+batch("b2", 1, 4))
	if n := strings.Count(g.log.String(), "many jobs are active"); n != 1 {
		t.Errorf("%d warnings", n)
	}
	for i := range 40 {
		g.create(fmt.Sprint("more", i), input)
	}
	g.fails(newSubmit(), batch("b3", 1, 4), exit.TryLater, "100 active jobs")
	g.files(3)
	// The limit does not apply to a batch that already has its job.
	g.ok(newSubmit(), batch("b1", 1, 4))
}

func TestGenerate(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	submit := newSubmit()
	submit.Method = "generate"
	g.fails(submit, batch("b1", 1, 4), exit.Failed, "not supported for batchGenerateContent")
	g.files(0)
	submit.Model = "gemini-3-flash"
	job := oneJob(t, g.ok(submit, `{"key":"k","request":{"contents":[{"parts":[{"text":"hello"}]}]}}`))
	if job.Model != "gemini-3-flash" || job.Requests != 1 || job.Batch != "" {
		t.Errorf("%+v", job)
	}
}

// A folder that others can write to, or that is a link, is refused.
func TestStateDir(t *testing.T) {
	in := batch("b1", 1, 4)
	for _, c := range []struct {
		name string
		make func(t *testing.T, dir, name string) error
		said string
	}{
		{"a link", func(t *testing.T, dir, _ string) error { return os.Symlink(t.TempDir(), dir) }, "not a folder"},
		{"a file", func(t *testing.T, dir, _ string) error { return os.WriteFile(dir, nil, 0o600) }, "set XDG_STATE_HOME"},
		{"open to the group", func(t *testing.T, dir, _ string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o770))
		}, "chmod 700"},
		{"an intent that is a link", func(t *testing.T, dir, name string) error {
			target := filepath.Join(t.TempDir(), "target")
			return errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(target, nil, 0o600), os.Symlink(target, filepath.Join(dir, name+".json")))
		}, ""},
		{"an intent that is a folder", func(t *testing.T, dir, name string) error {
			return os.MkdirAll(filepath.Join(dir, name+".json"), 0o700)
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGoogle(t, emulator.Options{})
			if err := c.make(t, g.state, nameOf(t, in)); err != nil {
				t.Fatal(err)
			}
			g.fails(newSubmit(), in, exit.Failed, c.said)
			g.jobs(0)
		})
	}
	g := newGoogle(t, emulator.Options{})
	g.ok(newSubmit(), in)
	info, err := os.Stat(g.state)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	entries, _ := os.ReadDir(g.state)
	for _, e := range entries {
		if info, _ := e.Info(); info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
		data, _ := os.ReadFile(filepath.Join(g.state, e.Name()))
		g.noKey("intent", string(data))
	}
}

// Which API key the environment gives, and which settings are refused.
func TestEnvironment(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	in := batch("b1", 1, 4)
	t.Setenv("GEMINI_API_KEY", "")
	for _, cmd := range []cli.Command{newSubmit(), newWait(), newFetch()} {
		g.fails(cmd, "", exit.Usage, "no API key: set GEMINI_API_KEY")
	}
	t.Setenv("GEMINI_API_KEY", "another")
	g.fails(newSubmit(), in, exit.Failed, "the API key was refused", "API key not valid")
	t.Setenv("GOOGLE_API_KEY", testKey)
	t.Setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
	g.ok(newSubmit(), in)
	for _, base := range []string{"http://example.com", "http://10.0.0.1:80/", "ftp://127.0.0.1", "nonsense", "http://user:" + testKey + "@example.com/%zz"} {
		t.Setenv("GOOGLE_GEMINI_BASE_URL", base)
		g.fails(newSubmit(), in, exit.Usage, "GOOGLE_GEMINI_BASE_URL")
	}
}

// If Google repeats the key in a reply, it is hidden everywhere.
func TestKeyIsHidden(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(400)
		fmt.Fprintf(w, `{"error":{"code":400,"message":"key %s in https://x/?key=%s","status":"INVALID_ARGUMENT"}}`, testKey, "AIzaSy-test%2Bkey%2Fwith%3Dsigns%40project")
	}))
	g.fails(newSubmit(), batch("b1", 1, 4), exit.Failed, "[API key]")
	g.fails(newWait(), `{"job":"batches/x","state":"QUEUED"}`, exit.Failed, "[API key]")
	g.fails(newFetch(), `{"job":"batches/x","state":"SUCCEEDED"}`, exit.Failed, "[API key]")
	t.Setenv("GOOGLE_GEMINI_BASE_URL", "http://127.0.0.1:1/"+testKey)
	submit := newSubmit()
	submit.RetryFor = 0
	g.fails(submit, batch("b1", 1, 4), exit.TryLater, "refused")
}

// --- what is read

func cutAll(t *testing.T, s *Submit, in string) []*payload {
	t.Helper()
	payloads, err := cutInput(s, in)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range payloads {
		t.Cleanup(p.close)
	}
	return payloads
}
