package gbatch

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"gbatch/pkg/emulator"
	"gbatch/pkg/exit"
	"gbatch/pkg/record"
)

func TestWaitStates(t *testing.T) {
	for _, c := range []struct {
		fault string
		code  int
		state string
		err   record.Status
	}{
		{"job state=FAILED code=9 message=\"bad\ninput\"", exit.Partial, record.Failed, record.Status{Code: 9, Status: "FAILED_PRECONDITION", Message: "bad; input"}},
		{"job state=EXPIRED", exit.Partial, record.Expired, record.Status{Code: 13, Status: "INTERNAL", Message: "injected fault"}},
		{"job state=CANCELLED code=1", exit.Partial, record.Cancelled, record.Status{Code: 1, Status: "CANCELLED", Message: "injected fault"}},
		{"get nth=1-5 state=BATCH_STATE_NEW", exit.OK, record.Succeeded, record.Status{}},
		{"get nth=1-3 status=503 retry=1ms", exit.OK, record.Succeeded, record.Status{}},
		{"get nth=1-2 status=429 retry=1ms", exit.OK, record.Succeeded, record.Status{}},
		{"get nth=1-2 drop", exit.OK, record.Succeeded, record.Status{}},
		{"get nth=1 status=200 body=html", exit.OK, record.Succeeded, record.Status{}},
		{"get nth=1 cut=30", exit.OK, record.Succeeded, record.Status{}},
	} {
		t.Run(c.fault, func(t *testing.T) {
			g := newGoogle(t, emulator.Options{Polls: 2})
			jobs := g.ok(newSubmit(), batch("b1", 2, 4))
			g.faults(c.fault)
			out, err := g.run(newWait(), jobs)
			if exit.Code(err) != c.code {
				t.Errorf("exit %d: %v", exit.Code(err), err)
			}
			before, after := oneJob(t, jobs), oneJob(t, out)
			if after.State != c.state || after.Succeeded != nil || after.Failed != nil || after.Tokens != nil {
				t.Errorf("%+v", after)
			}
			if (c.code == exit.Partial) != (after.Error != nil) || after.Error != nil && *after.Error != c.err {
				t.Errorf("error %+v, want %+v", after.Error, c.err)
			}
			// The rest of the record does not change.
			after.State, after.Error, after.CreatedAt, after.EndedAt = before.State, nil, "", ""
			if after != before {
				t.Errorf("%+v, was %+v", after, before)
			}
		})
	}
}

// A job that this key cannot see does not count as failed and is not printed.
// The other jobs are still waited for.
func TestWaitNotVisible(t *testing.T) {
	g := newGoogle(t, emulator.Options{Polls: 3})
	jobs := g.ok(newSubmit(), batch("b1", 2, 4))
	out := g.fails(newWait(), `{"job":"batches/other","batch":"b0","state":"RUNNING"}`+"\n"+jobs, exit.Failed, "job batches/other is not visible to this key")
	if oneJob(t, out).Batch != "b1" {
		t.Errorf("printed %s", out)
	}
	g.fails(newWait(), `{"job":"batches/x","state":"RUNNING"}`+"\n"+`{"job":"batches/y","state":"RUNNING"}`, exit.Failed, "2 jobs", "batches/x", "batches/y")
}

func TestWaitOnce(t *testing.T) {
	g := newGoogle(t, emulator.Options{Polls: 2})
	jobs := g.ok(newSubmit(), batch("b1", 2, 4)+batch("b2", 2, 4))
	ended := `{"job":"batches/old","batch":"b0","state":"SUCCEEDED","model":"m","dim":4,"requests":1}` + "\n"
	once := newWait()
	once.Once = true
	for range 2 {
		if out := g.fails(once, jobs+ended, exit.Unfinished, "unfinished jobs: 2"); out != ended {
			t.Errorf("printed %s", out)
		}
	}
	if out := g.ok(once, jobs); len(jobsOf(t, out)) != 2 {
		t.Errorf("printed %s", out)
	}
	if n := g.books().Operations["get"]["200"]; n != 6 {
		t.Errorf("%d looks, want 6", n)
	}
}

func TestWaitTimeout(t *testing.T) {
	g := newGoogle(t, emulator.Options{Polls: 1 << 30})
	jobs := g.ok(newSubmit(), batch("b1", 2, 4))
	w := newWait()
	w.Timeout = 20 * time.Millisecond
	if out := g.fails(w, jobs, exit.Unfinished, "unfinished jobs: 1", "run the whole pipe again"); out != "" {
		t.Errorf("printed %s", out)
	}
	if b := g.books(); b.Jobs["BATCH_STATE_PENDING"]+b.Jobs["BATCH_STATE_RUNNING"] != 1 {
		t.Errorf("%v", b.Jobs)
	}
}

func TestWaitInterrupted(t *testing.T) {
	g := newGoogle(t, emulator.Options{Polls: 1 << 30})
	jobs := g.ok(newSubmit(), batch("b1", 2, 4))
	g.faults("get nth=3 hold=waiting")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		g.WaitHold(t.Context(), "waiting")
		cancel(interrupted{})
	}()
	out, err := g.runContext(ctx, newWait(), jobs)
	if out != "" || err == nil || !strings.Contains(err.Error(), "unfinished jobs: 1; they continue at google") {
		t.Errorf("%v, printed %q", err, out)
	}
	if b := g.books(); b.Operations["cancel"] != nil {
		t.Error("the job was cancelled")
	}
}

// Errors are retried for --retry-for, counted from the last success.
func TestWaitGivesUp(t *testing.T) {
	g := newGoogle(t, emulator.Options{Polls: 100})
	jobs := g.ok(newSubmit(), batch("b1", 2, 4))
	g.faults("get nth=3-1000 status=503 retry=1h")
	g.fails(newWait(), jobs, exit.TryLater, "503")
}

func TestWaitMalformed(t *testing.T) {
	g := newGoogle(t, emulator.Options{Polls: 1 << 30})
	jobs := g.ok(newSubmit(), batch("b1", 2, 4))
	for line, said := range map[string]string{
		"{":                          "line 2",
		`{"key":"k","vector":""}`:    "line 2: not a job",
		`{"job":"b1"}`:               "not a job",
		`{"job":"batches/../files"}`: "not a job",
		`{"job":"batches/a?b"}`:      "not a job",
		`{"job":7}`:                  "line 2",
	} {
		g.fails(newWait(), jobs+line, exit.Malformed, said, "unfinished jobs: 1")
		g.fails(newFetch(), `{"job":"batches/a","state":"RUNNING"}`+"\n"+line, exit.Malformed, said)
	}
}

// Each job is polled as soon as its line is read, and printed when it has ended,
// while the input is still open.
func TestWaitStreams(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	first := g.ok(newSubmit(), batch("b1", 2, 4))
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		done <- newWait().Run(t.Context(), inR, outW)
		outW.Close()
	}()
	io.WriteString(inW, first)
	buf := make([]byte, 4096)
	n, err := outR.Read(buf)
	if err != nil || oneJob(t, string(buf[:n])).State != record.Succeeded {
		t.Errorf("%s, %v", buf[:n], err)
	}
	inW.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Many jobs are polled at the same time, but not all.
func TestWaitPollers(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	var mu sync.Mutex
	now, most := 0, 0
	arrived := make(chan struct{}, 100)
	release := make(chan struct{})
	g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		now++
		most = max(most, now)
		mu.Unlock()
		arrived <- struct{}{}
		<-release
		mu.Lock()
		now--
		mu.Unlock()
		io.WriteString(w, `{"metadata":{"state":"BATCH_STATE_SUCCEEDED"}}`)
	}))
	var in strings.Builder
	for i := range 30 {
		fmt.Fprintf(&in, `{"job":"batches/j%d","state":"QUEUED"}`+"\n", i)
	}
	var out bytes.Buffer
	done := make(chan error)
	go func() { done <- newWait().Run(t.Context(), strings.NewReader(in.String()), &out) }()
	for range pollers {
		<-arrived
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if most != pollers || len(jobsOf(t, out.String())) != 30 {
		t.Errorf("%d at a time, printed %d", most, len(jobsOf(t, out.String())))
	}
}

func TestWaitPause(t *testing.T) {
	for _, c := range []struct{ interval, age, want time.Duration }{
		{30 * time.Second, 0, 30 * time.Second},
		{30 * time.Second, 5 * time.Minute, 30 * time.Second},
		{30 * time.Second, 20 * time.Minute, 2 * time.Minute},
		{30 * time.Second, 24 * time.Hour, 5 * time.Minute},
		{10 * time.Millisecond, time.Hour, 100 * time.Millisecond},
		{time.Hour, 100 * time.Hour, time.Hour},
	} {
		w := &Wait{Interval: c.interval}
		different := map[time.Duration]bool{}
		for range 100 {
			d := w.pause(c.age)
			different[d] = true
			if d < c.want*4/5 || d > c.want*6/5+1 {
				t.Errorf("interval %v, age %v: %v, want %v", c.interval, c.age, d, c.want)
			}
		}
		if len(different) < 50 {
			t.Errorf("interval %v: the pauses are alike", c.interval)
		}
	}
}

func FuzzJobs(f *testing.F) {
	f.Add(`{"job":"batches/a","batch":"b","state":"QUEUED","input":"files/x"}`)
	f.Add(`{"job":"batches/a","state":"SUCCEEDED"}` + "\n\n" + `{"job":"models/a"}`)
	f.Add(`{"key":"a","batch":"b","dim":1,"vector":"AAAAAA=="}`)
	f.Add(`{"JOB":"batches/a"}`)
	f.Add(`{"job":"batches/../x","input":"files/../x"`)
	f.Add(`{"job":"projects/1/locations/us/batchPredictionJobs/2","input":"gs://b/x"}`)
	f.Fuzz(func(t *testing.T, in string) {
		services := &backends{func() (backend, error) { return new(gemini), nil }, func() (backend, error) { return new(vertex), nil }}
		jobs, err := readJobs(t.Context(), strings.NewReader(in), services, func(*record.Job) {})
		for job := range jobs {
			if vertexJobs.MatchString(job.Job.Job) && !strings.Contains(job.Job.Job, "..") {
				continue
			}
			if !strings.HasPrefix(job.Job.Job, "batches/") || strings.Contains(job.Job.Job, "..") || strings.Contains(job.Input, "..") {
				t.Errorf("%q: %+v", in, job)
			}
		}
		if *err != nil && exit.Code(*err) != exit.Malformed {
			t.Errorf("%q: %v", in, *err)
		}
	})
}
