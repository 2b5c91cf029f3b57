package gbatch

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"gbatch/pkg/emulator"
	"gbatch/pkg/exit"
	"gbatch/pkg/gcs"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/record"
	"gbatch/pkg/render"
	"gbatch/pkg/wire"
)

// newVertexGoogle is an emulator that the environment names as Vertex AI, Cloud
// Storage and metadata server. There is no API key.
func newVertexGoogle(t *testing.T, opts emulator.Options) *google {
	t.Helper()
	g := newGoogle(t, opts)
	t.Setenv("GEMINI_API_KEY", "")
	t.Setenv("HOME", t.TempDir())
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
	t.Setenv("GOOGLE_CLOUD_PROJECT", "my-project")
	t.Setenv("GOOGLE_CLOUD_LOCATION", "us-central1")
	g.serveVertex(g.Server)
	return g
}

// serveVertex puts another handler behind the URLs.
func (g *google) serveVertex(h http.Handler) {
	server := httptest.NewServer(h)
	g.t.Cleanup(server.Close)
	g.url = server.URL
	g.t.Setenv("GOOGLE_VERTEX_BASE_URL", g.url)
	g.t.Setenv("STORAGE_EMULATOR_HOST", strings.TrimPrefix(g.url, "http://"))
	g.t.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(g.url, "http://"))
}

func submitVertex() *Submit {
	s := newSubmit()
	s.Backend, s.Bucket = "vertex", "gs://bucket/folder"
	return s
}

// vertexBatch is [batch] in the shape of Vertex AI.
func vertexBatch(t *testing.T, name string, n, dim int) string {
	t.Helper()
	var in strings.Builder
	fmt.Fprintf(&in, `{"batch":%q,"count":%d,"model":"gemini-embedding-001","dim":%d,"task_type":"RETRIEVAL_DOCUMENT"}`+"\n", name, n, dim)
	for i := range n {
		fmt.Fprintf(&in, `{"id":"%s-%d","text":"text %d of %s"}`+"\n", name, i, i, name)
	}
	var out bytes.Buffer
	if err := (&render.ToJSONL{Backend: "vertex"}).Run(t.Context(), strings.NewReader(in.String()), &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// object asks the emulator for an object of the bucket.
func (g *google) object(name string) (code int, content string) {
	g.t.Helper()
	r := httptest.NewRecorder()
	g.ServeHTTP(r, httptest.NewRequest(http.MethodGet, "/storage/v1/b/bucket/o/"+strings.ReplaceAll(name, "/", "%2F")+"?alt=media", nil))
	return r.Code, r.Body.String()
}

// deleteClaim deletes what machines share of a submission.
func (g *google) deleteClaim(name string) {
	g.t.Helper()
	r := httptest.NewRecorder()
	g.ServeHTTP(r, httptest.NewRequest(http.MethodDelete, "/storage/v1/b/bucket/o/folder%2Fclaims%2F"+name+".json", nil))
	if r.Code != http.StatusNoContent {
		g.t.Fatalf("delete the claim: %d %s", r.Code, r.Body)
	}
}

// answered checks that out has a vector of dim values for each of n keys, but for
// those that failed, and closes its batch.
func (g *google) answered(out, name string, n, dim, failed int) {
	g.t.Helper()
	vectors, errs := answersOf(g.t, out)
	if len(vectors) != n-failed || len(errs) != failed || !closed(g.t, out) {
		g.t.Errorf("%d vectors, %d errors, closed %v: %.2000s", len(vectors), len(errs), closed(g.t, out), out)
	}
	for key, v := range vectors {
		if !strings.HasPrefix(key, name+"-") || len(v) != dim {
			g.t.Errorf("key %s has %d values", key, len(v))
		}
	}
}

// The line of commands, with Vertex AI in place of the Gemini API. It runs twice and
// pays once.
func TestVertexLine(t *testing.T) {
	g := newVertexGoogle(t, emulator.Options{Polls: 1})
	in := vertexBatch(t, "b01KAB", 5, 8)
	jobs := g.ok(submitVertex(), in)
	job := oneJob(t, jobs)
	if !vertexJobs.MatchString(job.Job) || job.Batch != "b01KAB" || job.State != record.Queued || job.Requests != 5 ||
		!strings.HasPrefix(job.Input, "gs://bucket/folder/in/gbatch-b01KAB-") {
		t.Errorf("%+v", job)
	}
	if code, _ := g.object(strings.TrimPrefix(job.Input, "gs://bucket/")); code != 200 {
		t.Errorf("the input: %d", code)
	}
	if again := oneJob(t, g.ok(submitVertex(), in)); again.Job != job.Job {
		t.Errorf("another job: %+v", again)
	}
	listed := jobsOf(t, g.ok(&List{Backend: "vertex", RetryFor: time.Second}, ""))
	if len(listed) != 1 || listed[0].Batch != "b01KAB" || listed[0].Model != "gemini-embedding-001" || listed[0].Input != "" && listed[0].Input != job.Input {
		t.Errorf("%+v", listed)
	}
	ended := g.ok(newWait(), jobs)
	if e := oneJob(t, ended); e.State != record.Succeeded || e.CreatedAt == "" || e.EndedAt == "" {
		t.Errorf("%+v", e)
	}
	out := g.ok(newFetch(), ended)
	g.answered(out, "b01KAB", 5, 8, 0)
	if code, _ := g.object(strings.TrimPrefix(job.Input, "gs://bucket/")); code != 404 {
		t.Errorf("the input is left: %d", code)
	}
	g.jobs(1)
	if b := g.books(); b.RequestsPaid != 5 || b.Operations["create"]["200"] != 1 {
		t.Errorf("%+v", b)
	}
	// Another machine, without the receipt, finds the job by its label.
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	if again := oneJob(t, g.ok(submitVertex(), in)); again.Job != job.Job {
		t.Errorf("another job: %+v", again)
	}
	g.jobs(1)
}

// Jobs of both services in one stream.
func TestVertexMixed(t *testing.T) {
	g := newVertexGoogle(t, emulator.Options{})
	t.Setenv("GEMINI_API_KEY", testKey)
	jobs := g.ok(submitVertex(), vertexBatch(t, "v1", 2, 4)) + g.ok(newSubmit(), batch("g1", 2, 4))
	out := g.ok(newFetch(), g.ok(newWait(), jobs))
	ended := jobsOf(t, out)
	if len(ended) != 2 || !ended[0].Whole() || !ended[1].Whole() {
		t.Errorf("%s", out)
	}
	g.jobs(2)
}

// A batch that was submitted to one service is not paid for at the other.
func TestVertexAfterGemini(t *testing.T) {
	g := newVertexGoogle(t, emulator.Options{Polls: 3})
	t.Setenv("GEMINI_API_KEY", testKey)
	in := vertexBatch(t, "b1", 2, 4)
	first := oneJob(t, g.ok(newSubmit(), in))
	if again := oneJob(t, g.ok(submitVertex(), in)); again.Job != first.Job || again.Input != first.Input {
		t.Errorf("%+v", again)
	}
	in = vertexBatch(t, "b2", 2, 4)
	first = oneJob(t, g.ok(submitVertex(), in))
	if again := oneJob(t, g.ok(newSubmit(), in)); again.Job != first.Job || again.Input != first.Input {
		t.Errorf("%+v", again)
	}
	g.jobs(2)
	for _, c := range []struct{ first, then *Submit }{{newSubmit(), submitVertex()}, {submitVertex(), newSubmit()}} {
		in := vertexBatch(t, "c-"+c.first.Backend, 2, 4)
		g.faults("create drop", "list hide=99")
		c.first.Settle = time.Millisecond
		g.fails(c.first, in, exit.Unknown)
		g.faults()
		g.fails(c.then, in, exit.Unknown, "with the --backend that it was submitted with")
		g.ok(c.first, in)
	}
	g.jobs(4)
}

// What cannot work is refused before anything is sent.
func TestVertexUsage(t *testing.T) {
	g := newVertexGoogle(t, emulator.Options{})
	in := vertexBatch(t, "b1", 2, 4)
	for text, change := range map[string]func(s *Submit){
		"needs --bucket":           func(s *Submit) { s.Bucket = "" },
		"--bucket: ":               func(s *Submit) { s.Bucket = "bucket" },
		"--method generate":        func(s *Submit) { s.Method = "generate" },
		"lower-case letters":       func(s *Submit) { s.Labels = map[string]string{"team": "A b"} },
		"are for --backend vertex": func(s *Submit) { s.Backend, s.Labels = "gemini", map[string]string{"team": "a"} },
		"set GOOGLE_CLOUD_PROJECT": func(*Submit) { t.Setenv("GOOGLE_CLOUD_PROJECT", "") },
		"set GOOGLE_CLOUD_LOCATION ": func(*Submit) {
			t.Setenv("GOOGLE_CLOUD_PROJECT", "p")
			t.Setenv("GOOGLE_CLOUD_LOCATION", "evil.example/")
		},
	} {
		t.Setenv("GOOGLE_CLOUD_PROJECT", "p")
		t.Setenv("GOOGLE_CLOUD_LOCATION", "us-central1")
		s := submitVertex()
		change(s)
		g.fails(s, in, exit.Usage, text)
	}
	t.Setenv("GOOGLE_CLOUD_PROJECT", "p")
	t.Setenv("GOOGLE_CLOUD_LOCATION", "us-central1")
	g.fails(submitVertex(), batch("b1", 2, 4), exit.Malformed, "to-jsonl --shape vertex", "outputDimensionality")
	t.Setenv("GOOGLE_VERTEX_BASE_URL", "http://vertex.example")
	g.fails(submitVertex(), in, exit.Usage, "would send an access token to vertex.example unencrypted")
	for _, job := range []string{"projects/p/locations/evil.example/batchPredictionJobs/1", "projects/p/locations/l/batchPredictionJobs/1/x", "projects/p/locations/l/other/1", "projects/../locations/l/batchPredictionJobs/1"} {
		g.fails(newWait(), `{"job":"`+job+`","state":"QUEUED"}`, exit.Malformed, "not a job")
	}
	if b := g.books(); len(b.Operations) > 0 {
		t.Errorf("calls were made: %v", b.Operations)
	}
}

// The outcome of a create is unknown: the job is found, and never made twice.
func TestVertexLostCreate(t *testing.T) {
	for _, fault := range []string{"create nth=1 drop when=after", "create nth=1 status=503 when=after", "create nth=1 body='{}' when=after", "create nth=1 cut=20", "create nth=1 drop", "create nth=1 status=429"} {
		t.Run(fault, func(t *testing.T) {
			g := newVertexGoogle(t, emulator.Options{Faults: []string{fault, "list nth=2-3 hide=9"}})
			in := vertexBatch(t, "b1", 3, 4)
			s := submitVertex()
			s.Settle = 300 * time.Millisecond
			out, err := g.run(s, in)
			if exit.Code(err) == exit.Unknown {
				out = g.ok(s, in)
			} else if err != nil {
				t.Fatal(err)
			}
			oneJob(t, out)
			g.jobs(1)
		})
	}
}

// A refused create leaves no input and no note.
func TestVertexRefused(t *testing.T) {
	for fault, want := range map[string]struct {
		code int
		text string
	}{
		"create status=400":                   {exit.Failed, "google refused batch b1"},
		"create status=403":                   {exit.Failed, "check them and their rights in the project"},
		"list status=403":                     {exit.Failed, "check them and their rights in the project"},
		"object.start status=403":             {exit.Failed, "their rights on the bucket"},
		"object.list status=403":              {exit.Failed, "their rights on the bucket"},
		"metadata status=404":                 {exit.TryLater, ""},
		"object.data status=503":              {exit.TryLater, "503"},
		"list status=503":                     {exit.TryLater, "503"},
		"list body='{\"jobs\":1}'":            {exit.Failed, "not a list"},
		"list set='batchPredictionJobs=[{}]'": {exit.Failed, "not a job"},
	} {
		g := newVertexGoogle(t, emulator.Options{Faults: []string{fault}})
		s := submitVertex()
		s.RetryFor = 50 * time.Millisecond
		g.fails(s, vertexBatch(t, "b1", 2, 4), want.code, want.text)
		g.jobs(0)
		g.faults()
		g.ok(submitVertex(), vertexBatch(t, "b1", 2, 4))
		g.jobs(1)
	}
}

// The object of the input is there already: with the same lines it is used, with
// others it is not.
func TestVertexInput(t *testing.T) {
	g := newVertexGoogle(t, emulator.Options{Faults: []string{"create nth=1 status=500"}})
	in := vertexBatch(t, "b1", 2, 4)
	s := submitVertex()
	s.Settle = time.Millisecond
	g.fails(s, in, exit.Unknown)
	g.ok(s, in)
	if n := g.books().Operations["object.data"]["200"]; n != 1 {
		t.Errorf("the input was uploaded %d times", n)
	}
	g.jobs(1)

	g = newVertexGoogle(t, emulator.Options{})
	taken := false
	g.serveVertex(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("uploadType") == "resumable" && !taken {
			taken = true
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(body))
			var doc struct{ Name string }
			json.Unmarshal(body, &doc)
			g.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/upload/storage/v1/b/bucket/o?uploadType=media&name="+doc.Name, strings.NewReader("other")))
		}
		g.ServeHTTP(w, r)
	}))
	g.fails(submitVertex(), in, exit.Failed, "another object is in its place", "folder/in/gbatch-b1-")
	g.jobs(0)
}

// Results without a job in the list are not paid for again.
func TestVertexHiddenJob(t *testing.T) {
	g := newVertexGoogle(t, emulator.Options{})
	in := vertexBatch(t, "b1", 2, 4)
	g.ok(newWait(), g.ok(submitVertex(), in))
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	g.faults("list hide=99")
	g.ok(submitVertex(), in) // by the claim
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	g.deleteClaim(nameOf(t, in))
	g.fails(submitVertex(), in, exit.Failed, "no job in the list", "gs://bucket/folder/out/gbatch-b1-")
	g.jobs(1)
}

// What results may look like.
func TestVertexResults(t *testing.T) {
	for fault, failed := range map[string]int{
		"": 0, "results error=13 keys=b1-1 message=oops": 1, "results error=13 keys=b1-1,b1-2 place=code": 2,
		"results error=13 keys=b1-1 place=response": 1, "results error=13 keys=b1-1 place=error": 1, "results error=13 first=4 place=file": 4,
		"results files=3": 0, "results set='status=\"OK\"'": 0,
		"object.read p=0.5 cut=1000": 0, "object.read nth=1-2 status=503": 0, "get nth=1 state=JOB_STATE_NEW": 0, "list drop": 0,
	} {
		for _, tokens := range []string{"string", "usage"} {
			g := newVertexGoogle(t, emulator.Options{Tokens: tokens})
			jobs := g.ok(submitVertex(), vertexBatch(t, "b1", 10, 16))
			g.faults(fault)
			ended := g.ok(newWait(), jobs)
			out, err := g.run(newFetch(), ended)
			if code := exit.Code(err); failed > 0 != (code == exit.Partial) || failed == 0 && err != nil {
				t.Errorf("%s: %v", fault, err)
			}
			g.answered(out, "b1", 10, 16, failed)
			if job := jobsOf(t, out)[0]; *job.Tokens == 0 {
				t.Errorf("%s: no tokens", fault)
			}
			if strings.Contains(out, "oops") != strings.Contains(fault, "oops") {
				t.Errorf("%s: %s", fault, out)
			}
		}
	}
	// Short or damaged results do not close the batch.
	for _, fault := range []string{"results half", "results missing", "object.read header=X-Goog-Generation:1", "object.list nth=1 set=items=[]"} {
		g := newVertexGoogle(t, emulator.Options{})
		jobs := g.ok(newWait(), g.ok(submitVertex(), vertexBatch(t, "b1", 3, 4)))
		if strings.HasPrefix(fault, "results") {
			g = newVertexGoogle(t, emulator.Options{Faults: []string{fault}})
			jobs = g.ok(newWait(), g.ok(submitVertex(), vertexBatch(t, "b1", 3, 4)))
		}
		g.faults(fault)
		out, err := g.run(newFetch(), jobs)
		if err == nil || closed(t, out) {
			t.Errorf("%s: %v, %s", fault, err, out)
		}
	}
}

// The result is replaced while it is read: nothing of the other version is printed, the
// batch stays open, and the next fetch prints the new version.
func TestVertexReplaced(t *testing.T) {
	g := newVertexGoogle(t, emulator.Options{})
	jobs := g.ok(newWait(), g.ok(submitVertex(), vertexBatch(t, "b1", 10, 16)))
	v, err := newVertex(time.Second)
	if err != nil {
		t.Fatal(err)
	}
	op, err := v.status(t.Context(), oneJob(t, jobs).Job)
	if err != nil {
		t.Fatal(err)
	}
	files, err := v.outputs(t.Context(), op)
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	_, content := g.object(files[0].Object)
	g.faults("object.read nth=1 cut=1000")
	reads := 0
	g.serveVertex(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("alt") == "media" {
			if reads++; reads == 2 {
				other := strings.ReplaceAll(content, `"values":[`, `"values":[0.5,`)
				if _, err := v.storage.Insert(t.Context(), files[0].Name, gcs.Any, []byte(other), gcs.Content{}); err != nil {
					t.Error(err)
				}
			}
		}
		g.ServeHTTP(w, r)
	}))
	out := g.fails(newFetch(), jobs, exit.Failed, "replaced or deleted")
	if vectors, _ := answersOf(t, out); closed(t, out) || len(vectors) > 1 || strings.Contains(out, "values instead of") {
		t.Errorf("%s", out)
	}
	if code, _ := g.object(strings.TrimPrefix(oneJob(t, jobs).Input, "gs://bucket/")); code != 200 {
		t.Error("the input was deleted")
	}
	out = g.fails(newFetch(), jobs, exit.Partial)
	if strings.Count(out, "vector of 17 values instead of 16") != 10 {
		t.Errorf("%s", out)
	}
}

// A job that was cancelled, or ended otherwise, has results that are paid for. They
// are collected, and the other keys get no answer.
func TestVertexPartial(t *testing.T) {
	for _, state := range []string{"CANCELLED", "EXPIRED", "FAILED", "PARTIALLY_SUCCEEDED"} {
		g := newVertexGoogle(t, emulator.Options{Faults: []string{"job state=" + state + " done=4"}})
		in := vertexBatch(t, "b1", 10, 8)
		ended := g.ok(newWait(), g.ok(submitVertex(), in))
		if job := oneJob(t, ended); job.State != record.Succeeded || job.Error != nil {
			t.Errorf("%s: %+v", state, job)
		}
		out := g.ok(newFetch(), ended)
		vectors, _ := answersOf(t, out)
		if job := jobsOf(t, out)[0]; len(vectors) != 4 || !job.Whole() || *job.Succeeded != 4 {
			t.Errorf("%s: %s", state, out)
		}
		// A look-up finds it too.
		t.Setenv("XDG_STATE_HOME", t.TempDir())
		if again := oneJob(t, g.ok(submitVertex(), in)); again.Job != oneJob(t, ended).Job {
			t.Errorf("%s: %+v", state, again)
		}
		g.jobs(1)
		if b := g.books(); b.RequestsPaid != 4 {
			t.Errorf("%s: %+v", state, b)
		}
	}
	for _, state := range []string{"CANCELLED", "EXPIRED", "FAILED"} {
		g := newVertexGoogle(t, emulator.Options{Faults: []string{"job state=" + state + " code=7 message=bucket"}})
		ended := g.fails(newWait(), g.ok(submitVertex(), vertexBatch(t, "b1", 3, 4)), exit.Partial)
		if job := oneJob(t, ended); job.State != state || job.Error == nil {
			t.Errorf("%+v", job)
		}
	}
}

func TestVertexCancel(t *testing.T) {
	g := newVertexGoogle(t, emulator.Options{Polls: 5})
	jobs := g.ok(submitVertex(), vertexBatch(t, "b1", 3, 4))
	cancel := &Cancel{RetryFor: time.Second}
	g.ok(cancel, jobs)
	if !strings.Contains(g.log.String(), "keeps the answers that it has") {
		t.Error("it is not said that answers are kept")
	}
	out := g.fails(newWait(), jobs, exit.Partial)
	if job := oneJob(t, out); job.State != record.Cancelled {
		t.Errorf("%+v", job)
	}
	if b := g.books(); b.RequestsPaid != 0 || b.Operations["cancel"]["200"] != 1 {
		t.Errorf("%+v", b)
	}
}

// Neither the token nor a session is in a message or a file.
func TestVertexSecrets(t *testing.T) {
	g := newVertexGoogle(t, emulator.Options{})
	var token atomic.Value
	g.serveVertex(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if t, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
			token.Store(t)
		}
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/batchPredictionJobs") {
			http.Error(w, "denied: "+r.Header.Get("Authorization"), http.StatusForbidden)
			return
		}
		g.ServeHTTP(w, r)
	}))
	_, err := g.run(submitVertex(), vertexBatch(t, "b1", 2, 4))
	secret, _ := token.Load().(string)
	if err == nil || secret == "" || strings.Contains(err.Error(), secret) || strings.Contains(g.log.String(), secret) || strings.Contains(g.log.String(), "upload_id") {
		t.Errorf("%v", err)
	}
}

func TestVertexHosts(t *testing.T) {
	v := &vertex{Transport: wire.NewTransport(wire.Credential{}), project: "p"}
	for location, want := range map[string]string{
		"us-central1": "https://us-central1-aiplatform.googleapis.com/v1/projects/p/locations/us-central1/batchPredictionJobs",
		"global":      "https://aiplatform.googleapis.com/v1/projects/p/locations/global/batchPredictionJobs",
		"eu":          "https://aiplatform.eu.rep.googleapis.com/v1/projects/p/locations/eu/batchPredictionJobs",
	} {
		v.location = location
		if got := v.url(v.parent()); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	for s, want := range map[string]string{"b01KAB": "b01kab", "x_y-1": "x_y-1", "": ""} {
		if got := labelOf(s); got != want {
			t.Errorf("%s: %s", s, got)
		}
	}
	for _, s := range []string{"a.b", strings.Repeat("x", 64), "ü"} {
		if got := labelOf(s); len(got) != 32 || labelOf(got) != got {
			t.Errorf("%s: %s", s, got)
		}
	}
}

func FuzzVertexJob(f *testing.F) {
	f.Add([]byte(`{"name":"projects/1/locations/l/batchPredictionJobs/2","state":"JOB_STATE_FAILED","error":{"code":7,"details":[{"@type":"x"}]},"completionStats":{"successfulCount":"1","incompleteCount":"-1"}}`))
	v := &vertex{Transport: wire.NewTransport(wire.Credential{})}
	f.Fuzz(func(t *testing.T, body []byte) {
		op, err := v.decode(body)
		if err == nil && (!vertexJobs.MatchString(op.name) || op.answers < -1 || op.requests < -1) {
			t.Errorf("%+v", op)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\r\n") {
			t.Error(err)
		}
	})
}

// The objects of a result are read one after the other; each begins on a line of its
// own.
func TestVertexJoined(t *testing.T) {
	newVertexGoogle(t, emulator.Options{})
	v, err := newVertex(time.Second)
	if err != nil {
		t.Fatal(err)
	}
	folder := gcs.Name{Bucket: "bucket", Object: "out/x"}
	for name, content := range map[string]string{
		"predictions_00002.jsonl": "c\n", "predictions_00001.jsonl": "a\nb", "errors_0001.jsonl": "e", "predictions_00003.jsonl": "", "other.jsonl": "no", "predictions_1.txt": "no",
		"incremental_predictions/predictions.jsonl": "no\n", "deeper/predictions.jsonl": "no\n",
	} {
		if _, err := v.storage.Insert(t.Context(), folder.Below(name), gcs.Any, []byte(content), gcs.Content{}); err != nil {
			t.Fatal(err)
		}
	}
	read := func(state string, partial bool) (string, error) {
		r, err := v.results(t.Context(), &operation{output: "gs://bucket/out/x", state: state, partial: partial})
		if err != nil {
			return "", err
		}
		defer r.Close()
		data, err := io.ReadAll(iotest.OneByteReader(r))
		return string(data), err
	}
	if got, err := read(record.Succeeded, false); got != "a\nb\nc\ne" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	v.storage.Insert(t.Context(), folder.Below("predictions.jsonl"), gcs.Any, []byte("whole\n"), gcs.Content{})
	if got, err := read(record.Succeeded, false); got != "whole\ne" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	for _, name := range []string{"predictions.jsonl", "predictions_00001.jsonl", "predictions_00002.jsonl", "predictions_00003.jsonl"} {
		v.storage.Delete(t.Context(), folder.Below(name), gcs.Any)
	}
	if got, err := read(record.Succeeded, false); err == nil || wire.Transient(err) {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := read(record.Succeeded, true); got != "no\ne" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	for _, output := range []string{"", "bucket/out", "gs://bucket", "gs://bucket/none"} {
		if _, err := v.results(t.Context(), &operation{output: output, state: record.Succeeded}); err == nil || wire.Transient(err) {
			t.Errorf("%q: %v", output, err)
		}
	}
}

// A prediction is an object of n lines with different keys, which is nowhere stored.
// All lines have the same length. The first value of a vector is its key's number.
type prediction struct{ n int }

var predictionLine = func() []byte {
	var line bytes.Buffer
	fmt.Fprintf(&line, `{"key":"k-%08d","request":{"content":{"parts":[{"text":"%s"}]}},"status":"","response":{"tokenCount":"7","embedding":{"values":[%08d`, 0, strings.Repeat("an echo, \\\"x\\\" ", 50), 10000000)
	for i := range 767 {
		fmt.Fprintf(&line, ",0.0%d", 12345678+i)
	}
	line.WriteString("]}}}\n")
	return line.Bytes()
}()

func (p prediction) ReadAt(b []byte, off int64) (n int, err error) {
	size := int64(len(predictionLine))
	for n < len(b) {
		i, at := (off+int64(n))/size, (off+int64(n))%size
		line := bytes.Clone(predictionLine)
		copy(line[bytes.Index(line, []byte("k-")):], fmt.Sprintf("k-%08d", i))
		copy(line[bytes.Index(line, []byte("10000000")):], fmt.Sprint(10000000+i))
		n += copy(b[n:], line[at:])
	}
	return n, nil
}

// servePrediction serves the job 1 of the location lines-N, whose result is a prediction
// of N lines. A connection breaks after 30 MB: then the rest of the object is divided.
func servePrediction(w http.ResponseWriter, r *http.Request) {
	words := strings.Split(r.URL.Path, "/")
	lines := func(s string) (n int) {
		fmt.Sscanf(s, "lines-%d", &n)
		return n
	}
	switch {
	case strings.HasPrefix(r.URL.Path, "/v1/"):
		fmt.Fprintf(w, `{"name":%q,"state":"JOB_STATE_SUCCEEDED","outputInfo":{"gcsOutputDirectory":"gs://%s/out"}}`, r.URL.Path[4:], words[5])
	case strings.HasPrefix(r.URL.Path, "/computeMetadata/"):
		w.Header().Set("Metadata-Flavor", "Google")
		io.WriteString(w, `{"access_token":"token-of-a-test","expires_in":3600,"token_type":"Bearer"}`)
	case r.URL.Query().Get("alt") == "":
		fmt.Fprintf(w, `{"items":[{"bucket":%q,"name":"out/predictions.jsonl","generation":"1","size":"%d"}]}`, words[4], lines(words[4])*len(predictionLine))
	default:
		n := lines(words[4])
		http.ServeContent(&breaking{ResponseWriter: w, left: 30 << 20}, r, "", time.Time{}, io.NewSectionReader(prediction{n}, 0, int64(n*len(predictionLine))))
	}
}

// breaking cuts the connection after some bytes.
type breaking struct {
	http.ResponseWriter
	left int
}

func (b *breaking) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		panic(http.ErrAbortHandler)
	}
	return b.ResponseWriter.Write(p)
}

// The memory of gbatch-fetch does not grow with a result in Cloud Storage, and lines
// that are cut by the end of a range are whole.
func TestVertexMemory(t *testing.T) {
	if testing.Short() || runtime.GOOS != "linux" {
		t.Skip("reads 500 MB, and the memory of a process from /proc")
	}
	newVertexGoogle(t, emulator.Options{}).serveVertex(http.HandlerFunc(servePrediction))
	peak := map[int]int{} // in kB
	for _, n := range []int{10_000, 40_000} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "GBATCH_TEST_FETCH=1")
		cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"job":"projects/p/locations/lines-%d/batchPredictionJobs/1","batch":"b1","state":"SUCCEEDED","model":"gemini-embedding-001","dim":768,"requests":%d}`, n, n))
		said := new(bytes.Buffer)
		cmd.Stderr = said
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		in := ndjson.NewReader(out)
		for i := range n {
			line, err := in.Next()
			first := base64.StdEncoding.EncodeToString(binary.LittleEndian.AppendUint32(nil, math.Float32bits(float32(10_000_000+i))))[:5]
			if want := fmt.Sprintf(`{"key":"k-%08d","batch":"b1","dim":768,"vector":"%s`, i, first); err != nil || !bytes.HasPrefix(line, []byte(want)) || !bytes.HasSuffix(line, []byte(`,"tokens":7}`)) {
				t.Fatalf("%.100s, %v, want %s", line, err, want)
			}
		}
		last, err := in.Next()
		if err != nil || !closed(t, string(last)) {
			t.Errorf("%s, %v", last, err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%v: %s", err, said)
		}
		kilobytes := 0
		fmt.Sscanf(said.String(), "VmHWM: %d kB", &kilobytes)
		if peak[n] = kilobytes; kilobytes == 0 {
			t.Fatalf("%s", said)
		}
	}
	if t.Logf("peaks in kB: %v", peak); peak[40_000] > peak[10_000]+16_000 {
		t.Errorf("the memory grows with the result: %v kB", peak)
	}
}
