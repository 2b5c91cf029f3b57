package gbatch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gbatch/pkg/cli"
	"gbatch/pkg/emulator"
	"gbatch/pkg/exit"
	"gbatch/pkg/record"
	"gbatch/pkg/vector"
	"gbatch/pkg/wire"
)

// ended submits batches and waits for their jobs.
func (g *google) ended(submit *Submit, in string) string {
	g.t.Helper()
	return g.ok(newWait(), g.ok(submit, in))
}

// A result is fetched whole and once, whatever breaks on the way.
func TestFetchResumes(t *testing.T) {
	const n, dim = 60, 768 // about 600 KB, which is several blocks
	for _, c := range []struct {
		name   string
		faults []string
		wrap   func(http.Handler) http.Handler
	}{
		{"whole", nil, nil},
		{"cut once", []string{"download nth=1 cut=100000"}, nil},
		{"cut again and again", []string{"download nth=1-6 cut=70001"}, nil},
		{"cut at the first byte", []string{"download nth=1-2 cut=0"}, nil},
		{"refused for a while", []string{"download nth=1-2 status=503 retry=1ms"}, nil},
		{"refused in between", []string{"download nth=1 cut=300000", "download nth=2-3 status=429 retry=1ms"}, nil},
		{"no ranges", []string{"download nth=1-2 cut=200000"}, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.Header.Del("Range")
				h.ServeHTTP(w, r)
			})
		}},
		{"no length", nil, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, ":download") {
					w = chunked{w}
				}
				h.ServeHTTP(w, r)
			})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGoogle(t, emulator.Options{})
			if c.wrap != nil {
				g.serve(c.wrap(g.Server))
			}
			jobs := g.ended(newSubmit(), batch("b1", n, dim))
			g.faults(c.faults...)
			out := g.ok(newFetch(), jobs)
			vectors, _ := answersOf(t, out)
			checkVectors(t, vectors, "b1", n, dim)
			if j := oneJob(t, out); !j.Whole() || *j.Succeeded != n || !strings.HasSuffix(out, mustLine(j)) {
				t.Errorf("closed by %+v", j)
			}
			if lines := strings.Count(out, "\n"); lines != n+1 {
				t.Errorf("%d lines", lines)
			}
			for _, f := range g.Faults() {
				if f.Fired == 0 {
					t.Errorf("fault %s did not strike", f.Fault)
				}
			}
			g.files(0)
		})
	}
}

// A chunked reply does not give its length.
type chunked struct{ http.ResponseWriter }

func (c chunked) WriteHeader(code int) {
	c.Header().Del("Content-Length")
	c.ResponseWriter.WriteHeader(code)
}

// A result that is incomplete, or cannot be trusted, gets no closing record, and
// its input stays. The job after it is still fetched.
func TestFetchNotWhole(t *testing.T) {
	const dim = 8
	for _, c := range []struct {
		name  string
		fault []string
		code  int
		said  string
	}{
		{"no line of it is an answer", []string{"results match=bad garbage"}, exit.Malformed, "no line of its result is an answer"},
		{"half a line", []string{"results match=bad half"}, exit.Malformed, "half a line"},
		{"cut on the way", []string{"download match=JOB short=500"}, exit.Malformed, ""},
		{"fewer than counted", []string{"get match=JOB status=200 body=STATS"}, exit.Malformed, "google counts 11 answers, its result holds 10"},
		{"missing", []string{"download match=JOB status=404"}, exit.Failed, "404"},
		{"missing, as files are", []string{`download match=JOB status=403 message="You do not have permission to access the File x or it may not exist."`}, exit.Failed, "may not exist"},
		{"no destination", []string{"get match=JOB status=200 body=NODEST"}, exit.Failed, "no results"},
		{"a destination elsewhere", []string{"get match=JOB status=200 body=ELSEWHERE"}, exit.Failed, "not the name of a file"},
		{"running after all", []string{"get match=JOB state=BATCH_STATE_RUNNING"}, exit.Failed, "says that the job is RUNNING now"},
		{"not visible", []string{"get match=JOB status=404"}, exit.Failed, "not visible to this key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGoogle(t, emulator.Options{})
			var replace atomic.Pointer[[2]string] // path, body
			g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if x := replace.Load(); x != nil && r.URL.Path == x[0] {
					io.WriteString(w, x[1])
					return
				}
				g.ServeHTTP(w, r)
			}))
			var atEnd, later []string
			for _, f := range c.fault {
				if strings.HasPrefix(f, "results") {
					atEnd = append(atEnd, f)
				} else {
					later = append(later, f)
				}
			}
			g.faults(atEnd...)
			jobs := g.ended(newSubmit(), batch("bad", 10, dim)+batch("good", 4, dim))
			list := jobsOf(t, jobs)
			if list[0].Batch == "good" { // jobs end in any order
				list[0], list[1] = list[1], list[0]
			}
			id := strings.TrimPrefix(list[0].Job, "batches/")
			for i, f := range later {
				later[i] = strings.ReplaceAll(f, "JOB", id)
				if _, kind, ok := strings.Cut(f, "body="); ok {
					body := map[string]string{
						"STATS":     `{"metadata":{"state":"BATCH_STATE_SUCCEEDED","batchStats":{"successfulRequestCount":"11"},"output":{"responsesFile":"files/batch-ID"}}}`,
						"NODEST":    `{"metadata":{"state":"BATCH_STATE_SUCCEEDED"}}`,
						"ELSEWHERE": `{"metadata":{"state":"BATCH_STATE_SUCCEEDED","output":{"responsesFile":"files/../models"}}}`,
					}[kind]
					replace.Store(&[2]string{"/v1beta/" + list[0].Job, strings.ReplaceAll(body, "ID", id)})
					later[i] = ""
				}
			}
			g.faults(later...)
			out := g.fails(newFetch(), mustLine(list[0])+mustLine(list[1]), c.code, list[0].Job, c.said)
			// The bad job is printed, with the reason.
			printed := jobsOf(t, out)
			reason := printed[0].Error
			printed[0].Error = nil
			if reason == nil || !strings.Contains(reason.Message, c.said) || len(printed) != 2 || printed[0] != list[0] || printed[0].Whole() || printed[1].Batch != "good" || !printed[1].Whole() {
				t.Errorf("printed %+v", printed)
			}
			if b := g.books(); len(b.Uploaded) != 1 || b.Uploaded[0].Name != list[0].Input {
				t.Errorf("left at google: %+v, want %s", b.Uploaded, list[0].Input)
			}
		})
	}
}

// A line that cannot be read fails alone: it is an error of its key, or, if the
// key cannot be read, the key gets no answer. The other vectors are printed and
// the job is closed.
func TestBadLines(t *testing.T) {
	const n, dim = 10, 8
	for _, c := range []struct {
		fault            string
		keyed, unkeyed   int
		canaries, warned bool
	}{
		{"results values=nan first=1", 1, 0, false, false},
		{"results values=inf each=3", 3, 0, true, false},
		{"results garbage last=3", 0, 3, false, true},
		{"results garbage first=9", 0, 9, false, true},
		{"results nokey first=1", 0, 1, false, true},
		{"results garbage keys=b1/4", 0, 1, true, true},
	} {
		t.Run(c.fault, func(t *testing.T) {
			g := newGoogle(t, emulator.Options{})
			g.faults(c.fault)
			submit := newSubmit()
			if c.canaries {
				submit.Canary = 1
			}
			jobs := g.ended(submit, batch("b1", n, dim))
			out := g.fails(newFetch(), jobs, exit.Partial, fmt.Sprintf("1 job succeeded; %d of 10 keys failed", c.keyed+c.unkeyed))
			vectors, failed := answersOf(t, out)
			job := oneJob(t, out)
			if len(vectors) != n-c.keyed-c.unkeyed || len(failed) != c.keyed || !job.Whole() || *job.Succeeded != len(vectors) || *job.Failed != c.keyed {
				t.Errorf("%d vectors, %v, closed by %+v", len(vectors), failed, job)
			}
			for key, status := range failed {
				if status.Code != 13 || !strings.Contains(status.Message, "cannot be read") {
					t.Errorf("%s: %+v", key, status)
				}
			}
			if warned := strings.Contains(g.log.String(), "lines of a result cannot be read"); warned != c.warned {
				t.Errorf("warned %v", warned)
			}
			g.files(0)
		})
	}
}

// The key of a line that cannot be parsed is used only if the line has exactly
// one.
func TestSalvage(t *testing.T) {
	for line, want := range map[string]string{
		`{"response":{"embedding":{"values":[NaN]}},"key":"a"}`:       "a",
		`{"key" : "a\u00e4\"b","response":{"embedding":{"values":[Na`: "aä\"b",
		`{"key":"a","request":{"text":"say \"key\":\"b\""},"x":NaN}`:  "a",
		`{"key":"a","request":{"key":"b"},"x":NaN}`:                   "",
		`{"key":"","x":NaN}`:      "",
		`{"key":7,"x":NaN}`:       "",
		`{"keys":"a","x":NaN}`:    "",
		`{"key":"a`:               "",
		`{"key":"\ud800","x":NaN`: "",
		``:                        "",
	} {
		got := ""
		if r, err := salvage([]byte(line), errors.New("cause")); err == nil {
			got = r.Key
		}
		if got != want {
			t.Errorf("%s: key %q, want %q", line, got, want)
		}
	}
}

// A fault in one answer is an error of its key only.
func TestFetchKeys(t *testing.T) {
	const n, dim = 10, 8
	for _, c := range []struct {
		fault string
		bad   int // number of answers that are errors
		want  record.Status
	}{
		{`results error=3 first=5 message="bad text"`, 5, record.Status{Code: 3, Status: "INVALID_ARGUMENT", Message: "bad text"}},
		{`results error=13 first=1 place=response`, 1, record.Status{Code: 13, Status: "INTERNAL", Message: "injected fault"}},
		{"results length=3 first=2", 2, record.Status{Code: 13, Status: "INTERNAL", Message: "vector of 3 values instead of 8"}},
		{"results length=-1 first=1", 1, record.Status{Code: 13, Status: "INTERNAL", Message: "vector of 7 values instead of 8"}},
		{"results values=null-element first=1", 1, record.Status{Code: 13, Status: "INTERNAL"}},
		{"results values=nan-string first=1", 1, record.Status{Code: 13, Status: "INTERNAL"}},
		{"results values=huge first=1", 1, record.Status{Code: 13, Status: "INTERNAL"}},
		{"results values=absent first=1", 1, record.Status{Code: 13, Status: "INTERNAL"}},
		{"results values=null first=1", 1, record.Status{Code: 13, Status: "INTERNAL"}},
		{"results values=empty first=1", 1, record.Status{Code: 13, Status: "INTERNAL"}},
	} {
		t.Run(c.fault, func(t *testing.T) {
			g := newGoogle(t, emulator.Options{})
			g.faults(c.fault)
			out := g.fails(newFetch(), g.ended(newSubmit(), batch("b1", n, dim)), exit.Partial)
			vectors, failed := answersOf(t, out)
			for key, status := range failed {
				if c.want.Message == "" {
					status.Message = ""
				}
				if status != c.want {
					t.Errorf("%s: %+v", key, status)
				}
			}
			job := oneJob(t, out)
			if len(failed) != c.bad || len(vectors) != n-c.bad || !job.Whole() || *job.Failed != c.bad || *job.Succeeded != n-c.bad {
				t.Errorf("%d errors, %d vectors, closed by %+v", len(failed), len(vectors), job)
			}
			if !strings.Contains(out, `"batch":"b1"`) {
				t.Error("the batch is not in the records")
			}
			g.files(0)
		})
	}
}

// If the record of a job has more requests than Google counts, gbatch-fetch
// warns, and closes the job.
func TestFetchMissing(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	jobs := g.ended(newSubmit(), batch("b1", 5, 4))
	job := oneJob(t, jobs)
	job.Requests = 7
	out := g.ok(newFetch(), mustLine(job))
	if closed := oneJob(t, out); *closed.Succeeded != 5 || closed.Requests != 7 {
		t.Errorf("%+v", closed)
	}
	if !strings.Contains(g.log.String(), "level=WARN msg=\"some requests were not answered\"") {
		t.Error("no warning")
	}
}

func TestFetchPassesOn(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	var lines string
	for i, state := range []string{record.Failed, record.Expired, record.Cancelled} {
		job := record.Job{Job: fmt.Sprint("batches/", i), Batch: "b", State: state, Model: "m", Dim: 4, Requests: 1,
			Input: g.upload("input", "x"), Error: &record.Status{Code: 4, Message: "why"}}
		lines += mustLine(job)
	}
	gone := mustLine(record.Job{Job: "batches/8", State: record.Failed, Input: "files/gone"})
	open := mustLine(record.Job{Job: "batches/9", State: record.Running, Input: g.upload("open", "x")})

	keep := newFetch()
	keep.KeepInput = true
	if out := g.fails(keep, lines, exit.Partial); out != lines {
		t.Errorf("printed %s, want %s", out, lines)
	}
	g.files(4)
	if out := g.fails(newFetch(), lines+gone, exit.Partial, "4 jobs"); out != lines+gone {
		t.Errorf("printed %s, want %s", out, lines)
	}
	g.files(1)
	if out := g.fails(newFetch(), open+gone, exit.Unfinished, "unfinished jobs: 1"); out != open+gone {
		t.Errorf("printed %s, want %s", out, open)
	}
	g.files(1)
	if strings.Contains(g.log.String(), "level=WARN") {
		t.Error("a warning about a missing file")
	}
}

// A delete that fails is only a warning.
func TestDeleteFails(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	jobs := g.ended(newSubmit(), batch("b1", 2, 4))
	g.faults("file.delete status=500")
	if job := oneJob(t, g.ok(newFetch(), jobs)); !job.Whole() {
		t.Errorf("%+v", job)
	}
	if !strings.Contains(g.log.String(), "level=WARN msg=\"an input file was not deleted") {
		t.Error("no warning")
	}
}

// The input is deleted after the last vector is printed, and before the record
// that closes the job.
func TestReaderOfVectorsLeft(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	jobs := g.ended(newSubmit(), batch("b1", 200, 768))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	if err := newFetch().Run(t.Context(), strings.NewReader(jobs), w); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("error %v", err)
	}
	g.files(1)
	vectors, _ := answersOf(t, g.ok(newFetch(), jobs))
	checkVectors(t, vectors, "b1", 200, 768)
}

func TestFetchInterrupted(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	jobs := g.ended(newSubmit(), batch("b1", 60, 768))
	g.faults("download hold=half at=300000")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		g.WaitHold(t.Context(), "half")
		cancel(interrupted{})
	}()
	out, err := g.runContext(ctx, newFetch(), jobs)
	if !errors.As(err, new(interrupted)) || len(jobsOf(t, out)) != 0 {
		t.Errorf("%v, printed %d jobs", err, len(jobsOf(t, out)))
	}
	g.files(1)
}

func TestNormalize(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	jobs := g.ended(newSubmit(), batch("b1", 3, 8))
	f := newFetch()
	f.Normalize = true
	vectors, _ := answersOf(t, g.ok(f, jobs))
	for key, v := range vectors {
		want := emulator.CheapVector(strings.Replace(key, "b1/", "text ", 1)+" of b1", 8)
		var sum float64
		for _, x := range v {
			sum += float64(x) * float64(x)
		}
		if math.Abs(sum-1) > 1e-6 || vector.Cosine(v, want) < 0.999999 || slices.Equal(v, want) {
			t.Errorf("%s: %v, length %v", key, v, sum)
		}
	}
}

// Inline answers are matched by their key. If one has no key, none is used.
func TestInline(t *testing.T) {
	for _, c := range []struct {
		items string
		code  int
		want  int
	}{
		{`[{"metadata":{"key":"a"},"response":{"tokenCount":"2","embedding":{"values":[1,
			2]}}},{"metadata":{"key":"b"},"error":{"code":3,"message":"no"}}]`, exit.Partial, 2},
		{`[{"key":"a","response":{"embedding":{"values":[1,2]}}}]`, exit.OK, 1},
		{`[{"metadata":{"key":"a"},"response":{"embedding":{"values":[1,2]}}},{"response":{"embedding":{"values":[3,4]}}}]`, exit.Failed, 0},
		{`[{"metadata":{"other":1},"response":{"embedding":{"values":[1,2]}}}]`, exit.Failed, 0},
		{`[{"metadata":{"key":7},"response":{"embedding":{"values":[1,2]}}}]`, exit.Failed, 0},
	} {
		g := newGoogle(t, emulator.Options{})
		g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, `{"metadata":{"state":"BATCH_STATE_SUCCEEDED","output":{"inlinedResponses":{"inlinedResponses":%s}}}}`, c.items)
		}))
		out, err := g.run(newFetch(), `{"job":"batches/x","state":"SUCCEEDED","dim":2,"requests":1}`)
		vectors, failed := answersOf(t, out)
		if exit.Code(err) != c.code || len(vectors)+len(failed) != c.want || c.code == exit.Failed && closed(t, out) {
			t.Errorf("%s: exit %d (%v), printed %s", c.items, exit.Code(err), err, out)
		}
		if c.code == exit.Failed && strings.Contains(err.Error(), "has no key") != !strings.Contains(c.items, "7") {
			t.Errorf("%v", err)
		}
	}
}

func TestCanariesAgree(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	submit := newSubmit()
	submit.Canary = 3
	jobs := g.ended(submit, batch("b1", 20, 8))
	if j := oneJob(t, jobs); j.Canary != 3 || j.Requests != 20 {
		t.Errorf("%+v", j)
	}
	out := g.ok(newFetch(), jobs)
	vectors, failed := answersOf(t, out)
	checkVectors(t, vectors, "b1", 20, 8)
	if j := oneJob(t, out); *j.Succeeded != 20 || *j.Failed != 0 || len(failed) != 0 || strings.Contains(out, record.CanaryPrefix) {
		t.Errorf("%+v", j)
	}
	if b := g.books(); b.Canaries != 3 || b.MaxPaid != 1 || b.RequestsPaid != 20 {
		t.Errorf("%+v", b)
	}
	g.files(0)

	// The job is adopted with its canaries, whatever --canary is now.
	forgetReceipts(t, g)
	if j := oneJob(t, g.ok(newSubmit(), batch("b1", 20, 8))); j.Canary != 3 {
		t.Errorf("adopted %+v", j)
	}
	g.jobs(1)
}

// A canary that is answered with an error proves nothing.
func TestCanariesFail(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	g.faults("results keys=gbatch-canary:0:b1/0 error=13")
	submit := newSubmit()
	submit.Canary = 20
	out := g.ok(newFetch(), g.ended(submit, batch("b1", 20, 8)))
	vectors, _ := answersOf(t, out)
	checkVectors(t, vectors, "b1", 20, 8)
	if log := g.log.String(); !strings.Contains(log, "were not compared") || !strings.Contains(log, "requests=1 of=20") {
		t.Error("nothing is said of the canary that failed")
	}
}

// The answers before a line that cannot be read are printed: they are paid for.
func TestLinesBeforeABadOne(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	g.faults("results half")
	out := g.fails(newFetch(), g.ended(newSubmit(), batch("b1", 5, 8)), exit.Malformed, "half a line")
	if vectors, _ := answersOf(t, out); len(vectors) != 4 || closed(t, out) {
		t.Errorf("%d vectors are printed: %s", len(vectors), out)
	}
}

func TestCanariesDisagree(t *testing.T) {
	for _, c := range []struct {
		name, fault string
		code        int
		said        string
	}{
		{"swapped", "results swap keys=b1/0,b1/7", exit.Partial, `keys "b1/0"`},
		{"swapped canaries", "results swap keys=gbatch-canary:0:b1/0,gbatch-canary:1:b1/6", exit.Partial, `"b1/0" "b1/6"`},
		{"a canary is missing", "results missing keys=gbatch-canary:1:b1/6", exit.Partial, "1 of 3"},
		{"a repeated one is missing", "results missing keys=b1/6", exit.Partial, "missing"},
		{"a canary is of another length", "results length=3 keys=gbatch-canary:1:b1/6", exit.Partial, `"b1/6"`},
		{"a canary failed", "results error=13 keys=gbatch-canary:1:b1/6", exit.OK, ""},
		{"a repeated one failed", "results error=13 keys=b1/6", exit.Partial, "1 of 20 keys failed"},
		{"half", "results half", exit.Malformed, "line"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGoogle(t, emulator.Options{})
			g.faults(c.fault)
			submit := newSubmit()
			submit.Canary = 3
			job := oneJob(t, g.ended(submit, batch("b1", 20, 8)))
			job.Canary = 0 // as after a database; the display name still has the number
			out, err := g.run(newFetch(), mustLine(job))
			if exit.Code(err) != c.code || err != nil && !strings.Contains(err.Error(), c.said) {
				t.Errorf("exit %d: %v", exit.Code(err), err)
			}
			trusted := strings.Contains(c.name, "failed")
			if trusted != strings.Contains(out, `"key"`) || trusted != closed(t, out) {
				t.Errorf("printed %s", out)
			}
			g.files(map[bool]int{true: 0, false: 1}[trusted])
		})
	}
}

// Vectors that differ only by rounding count as vectors of the same text.
func TestSame(t *testing.T) {
	a := []float32{0.5, -0.25, 1, 0}
	for _, c := range []struct {
		b    []float32
		want bool
	}{
		{[]float32{0.5, -0.25, 1, 0}, true}, {[]float32{0.5001, -0.25, 1, 0}, true}, {[]float32{0.25, -0.5, 1, 0}, false},
		{[]float32{0.5, -0.25, 1}, false}, {nil, false}, {[]float32{0, 0, 0, 0}, false},
	} {
		if same(a, c.b) != c.want || same(c.b, a) != c.want {
			t.Errorf("%v: %v", c.b, !c.want)
		}
	}
	if zero := []float32{0, 0}; same(nil, nil) || !same(zero, zero) {
		t.Error("nothing, or zeros")
	}
}

// convert returns every line once and in order, however the bytes arrive.
func TestLastLF(t *testing.T) {
	for n := range 3000 {
		b := bytes.Repeat([]byte("x"), n)
		if got := lastLF(b); got != -1 {
			t.Fatalf("%d bytes without a line's end: %d", n, got)
		}
		for _, at := range []int{0, n / 3, n / 2, n - 1} {
			if at < 0 || at >= n {
				continue
			}
			b[at] = '\n'
			if got := lastLF(b); got != bytes.LastIndexByte(b, '\n') {
				t.Fatalf("the last of %d bytes with one at %d: %d", n, at, got)
			}
		}
	}
}

func TestConvert(t *testing.T) {
	var in, want bytes.Buffer
	for i := range 3000 {
		fmt.Fprintf(&in, `{"response":{"tokenCount":"1","embedding":{"values":[%d%s]}},"key":"k%d"}`, i, strings.Repeat(",0.25", i%100), i)
		in.WriteString([]string{"\n", "\r\n", "\n\n"}[i%3])
		fmt.Fprintf(&want, "k%d ", i)
	}
	for _, r := range []io.Reader{bytes.NewReader(in.Bytes()), &pieces{in.Bytes(), 1000, false}, &pieces{in.Bytes(), 1 << 18, true}, &pieces{bytes.TrimSpace(in.Bytes()), 1<<18 - 1, true}} {
		var out, got strings.Builder
		a, err := convert(r, func() {}, &converter{Fetch: new(Fetch), job: new(record.Job), hide: verbatim}, &out)
		if err != nil || a.lines != 3000 || a.own != 3000 || a.vectors != 3000 || a.tokens != 3000 || a.failed != 0 {
			t.Errorf("%+v, %v", a, err)
		}
		for line := range strings.Lines(out.String()) {
			_, key, _ := strings.Cut(line, `"key":"`)
			key, _, _ = strings.Cut(key, `"`)
			got.WriteString(key + " ")
		}
		if got.String() != want.String() {
			t.Error("keys are lost, twice or in another order")
		}
	}
	// An error names the number of its line in the file.
	lines := strings.Split(in.String(), "\n")
	lines[2500] = "x"
	got, err := convert(strings.NewReader(strings.Join(lines, "\n")), func() {}, &converter{Fetch: new(Fetch), job: new(record.Job), hide: verbatim}, io.Discard)
	if err != nil || got.unreadable != 1 || got.firstBad != 2501 || got.vectors != 2999 {
		t.Errorf("%+v, %v", got, err)
	}
	_, err = convert(&pieces{bytes.Repeat([]byte("x"), 17<<20), 1 << 20, false}, func() {}, &converter{Fetch: new(Fetch), job: new(record.Job), hide: verbatim}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "16 MiB") {
		t.Errorf("%v", err)
	}
}

// pieces reads n bytes at a time, and can return io.EOF together with the last
// bytes.
type pieces struct {
	b    []byte
	n    int
	soon bool
}

func (p *pieces) Read(b []byte) (int, error) {
	n := copy(b, p.b[:min(p.n, len(p.b))])
	p.b = p.b[n:]
	if len(p.b) == 0 && (n == 0 || p.soon) {
		return n, io.EOF
	}
	return n, nil
}

// closed reports whether the one job that was printed closes its batch.
func closed(t *testing.T, out string) bool {
	t.Helper()
	job := oneJob(t, out)
	return job.Whole()
}

func verbatim(s string) string { return s }

// resultFile downloads the file files/x.
func resultFile(t *testing.T, patience time.Duration) io.Reader {
	t.Helper()
	g, err := newGemini(patience)
	if err != nil {
		t.Fatal(err)
	}
	d, err := g.results(t.Context(), &operation{output: "files/x"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// A download does not mix two versions of a file that changes while it is read.
func TestDownloadChanges(t *testing.T) {
	for _, c := range []struct {
		name string
		next func(w http.ResponseWriter)
		said string
	}{
		{"another size", func(w http.ResponseWriter) {
			w.Header().Set("Content-Range", "bytes 5-10/11")
			w.WriteHeader(206)
		}, "changed"},
		{"another version", func(w http.ResponseWriter) {
			w.Header().Set("ETag", `"b"`)
			w.Header().Set("Content-Length", "10")
			w.WriteHeader(200)
		}, "changed"},
		{"another range", func(w http.ResponseWriter) {
			w.Header().Set("Content-Range", "bytes 6-9/10")
			w.WriteHeader(206)
		}, "bytes from 5 on"},
		{"no range", func(w http.ResponseWriter) { w.WriteHeader(206) }, "bytes from 5 on"},
		{"too many bytes", func(w http.ResponseWriter) {
			w.Header().Set("Content-Range", "bytes 5-9/10")
			w.WriteHeader(206)
			io.WriteString(w, "6789012345")
		}, "longer than 10 bytes"},
		{"missing", func(w http.ResponseWriter) { w.WriteHeader(404) }, "404"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGoogle(t, emulator.Options{})
			var calls atomic.Int32
			g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if calls.Add(1) == 1 {
					w.Header().Set("Content-Length", "10")
					w.Header().Set("ETag", `"a"`)
					io.WriteString(w, "12345")
					w.(http.Flusher).Flush()
					panic(http.ErrAbortHandler)
				}
				if r.Header.Get("Range") != "bytes=5-" || r.Header.Get("If-Range") != `"a"` {
					t.Errorf("asked for %v", r.Header)
				}
				c.next(w)
			}))
			d := resultFile(t, 5*time.Second)
			data, err := io.ReadAll(d)
			if err == nil || !strings.Contains(err.Error(), c.said) || wire.Transient(err) {
				t.Errorf("%v after %q", err, data)
			}
		})
	}
}

// A server may send less than the range that was requested, or nothing.
func TestDownloadShortRanges(t *testing.T) {
	g := newGoogle(t, emulator.Options{})
	const text = "0123456789"
	var calls atomic.Int32
	g.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var from int
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		end := min(from+4, len(text))
		if calls.Add(1)%2 == 0 {
			end = from
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, end-1, len(text)))
		w.WriteHeader(206)
		io.WriteString(w, text[from:end])
	}))
	d := resultFile(t, 10*time.Second)
	if data, err := io.ReadAll(d); string(data) != text || err != nil {
		t.Errorf("%q, %v", data, err)
	}
}

// An interrupt ends a command that waits for its input.
func TestInterruptedRead(t *testing.T) {
	newGoogle(t, emulator.Options{})
	for _, cmd := range []cli.Command{newSubmit(), newWait(), newFetch()} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(interrupted{})
		if err := cmd.Run(ctx, r, io.Discard); !errors.As(err, new(interrupted)) {
			t.Errorf("%T: %v", cmd, err)
		}
		w.Close()
	}
}

func FuzzConvert(f *testing.F) {
	f.Add([]byte(`{"response":{"tokenCount":"1","embedding":{"values":[-0.034,0.0025]}},"key":"request_1"}` + "\n" + `{"key":"k","error":{"code":13,"message":"m"}}`))
	f.Add([]byte("\r\n{\"key\":\"gbatch-canary:0:k\",\"response\":{\"embedding\":{\"values\":[1]}}}"))
	f.Add([]byte(`{"key":"k","response":{"embedding":{"values":[1,`))
	f.Fuzz(func(t *testing.T, in []byte) {
		c := &converter{Fetch: new(Fetch), job: &record.Job{Dim: 2, Batch: "b"}, hide: verbatim}
		var out strings.Builder
		got, err := convert(bytes.NewReader(in), func() {}, c, &out)
		vectors, failed := 0, 0
		for line := range strings.Lines(out.String()) {
			if strings.Contains(line, `"error":`) {
				failed++
			} else {
				vectors++
			}
		}
		if err == nil && (vectors+failed != got.own || got.vectors+got.failed != got.own || got.lines < got.own) {
			t.Errorf("%+v, printed %d lines", got, vectors+failed)
		}
		verify(func() io.Reader { return bytes.NewReader(in) }, 1)
	})
}

func FuzzInline(f *testing.F) {
	f.Add([]byte(`[{"key":"a","response":{"embedding":{"values":[1]}}}, {"metadata":{"key":"b"},
		"error":{"code":3}}]`))
	f.Add([]byte(`[{"response":{}}]`))
	f.Add([]byte(`[1,null,"x"]`))
	f.Fuzz(func(t *testing.T, in []byte) {
		var items []json.RawMessage
		if json.Unmarshal(in, &items) != nil {
			return
		}
		lines, err := keyed(items)
		if err != nil {
			return
		}
		if n := bytes.Count(lines, []byte("\n")); n != len(items) {
			t.Fatalf("%d lines of %d answers", n, len(items))
		}
		for line := range bytes.Lines(lines) {
			if !json.Valid(line) {
				t.Errorf("%q", line)
			}
		}
	})
}
