// Package gbatch is Google's side of the suite: it submits batches as jobs,
// waits for them and fetches their results.
//
// Its promise is that a batch is paid for once. Google's create call is not
// idempotent and takes no request id (ai.google.dev/gemini-api/docs/batch-api,
// best practices). So everything around the call is built for the case that its
// reply is lost: see submit.go.
//
// backend is what submit, wait and fetch need from one of Google's services, gemini…
// is the Gemini API, and vertex is Vertex AI. The package wire talks HTTP, and the package ledger
// records how far each submission has come.
package gbatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"gbatch/pkg/gcs"
	"gbatch/pkg/ledger"
	"gbatch/pkg/model"
	"gbatch/pkg/record"
)

// A backend is one of Google's services that run batches. All of its calls retry
// transient errors, except status and create.
type backend interface {
	// lookUp searches the service's list of jobs for those whose display name
	// holds p's batch name or hash. It also counts the active jobs of the
	// project. An incomplete list is an error: it never means that there is no
	// job.
	lookUp(ctx context.Context, p *payload) (found []*operation, active int, err error)
	// upload stores p and returns the name of its input. If again is true, an
	// earlier attempt may have stored p: that input is then used, and other
	// leftovers are deleted. The mark of e is for what the next process needs to
	// continue the upload.
	upload(ctx context.Context, p *payload, e ledger.Entry, again bool) (input string, err error)
	// tidy deletes what earlier attempts at p stored, except for used.
	tidy(ctx context.Context, p *payload, used string) error
	// holds reports whether an input is still stored. Inputs expire, and are
	// deleted when the results of their job are collected.
	holds(ctx context.Context, input string) (bool, error)
	// create makes a job. It is the only call that costs money, and it is sent
	// once. [refused] and [notDone] say what its errors mean.
	create(ctx context.Context, p *payload, input string) (*operation, error)
	// status asks for a job once.
	status(ctx context.Context, job string) (*operation, error)
	// results returns the lines of the result of a job that succeeded.
	results(ctx context.Context, op *operation) (io.ReadCloser, error)
	// drop deletes an input. If that fails it only warns: inputs expire.
	drop(ctx context.Context, input string)
	// jobs and files call each with the jobs, or the files, of the project, page
	// by page, until each returns false.
	jobs(ctx context.Context, each func([]*operation) (more bool, err error)) error
	files(ctx context.Context, each func([]*storedFile) (more bool, err error)) error
	// file asks for a file.
	file(ctx context.Context, name string) (*storedFile, error)
	// cancel asks for the end of a job. The job may end later, and may still succeed.
	cancel(ctx context.Context, job string) error
	// remove deletes a file. A missing file counts as deleted.
	remove(ctx context.Context, name string) error
	// hide removes the credential from a text that came from the service.
	hide(text string) string
}

// backends are the services that jobs can belong to. Each is set up from the
// environment when the first of its jobs comes.
type backends struct{ gemini, vertex func() (backend, error) }

// lazyBackends retries transient errors for up to patience.
func lazyBackends(patience time.Duration) *backends {
	return &backends{
		sync.OnceValues(func() (backend, error) { return newGemini(patience) }),
		sync.OnceValues(func() (backend, error) { return newVertex(patience) }),
	}
}

// newBackends is lazyBackends, and checks the Gemini API's key at once, unless only
// Vertex AI is set up.
func newBackends(patience time.Duration) (*backends, error) {
	b := lazyBackends(patience)
	if os.Getenv("GOOGLE_CLOUD_PROJECT") != "" && os.Getenv("GOOGLE_API_KEY")+os.Getenv("GEMINI_API_KEY") == "" {
		return b, nil
	}
	_, err := b.gemini()
	return b, err
}

// of returns the service of a job, by the form of the job's name. It refuses any
// other name, because the name becomes part of a URL.
func (b *backends) of(job *record.Job) (backend, error) {
	switch {
	case geminiJobs.MatchString(job.Job):
		if err := geminiInput(job); err != nil {
			return nil, err
		}
		return b.gemini()
	case vertexJobs.MatchString(job.Job):
		if _, err := gcs.ParseURI(job.Input); job.Input != "" && err != nil {
			return nil, fmt.Errorf("job %s: its input %w", job.Job, err)
		}
		return b.vertex()
	}
	return nil, errors.New("not a job: a record with job batches/… or projects/…/batchPredictionJobs/… is expected")
}

// An operation is what a service knows about a job.
type operation struct {
	name, display, model string            // model without "models/"
	state                string            // as in [record.Job]
	created, ended       string            // RFC 3339
	input, output        string            // names of the files with the requests and the responses
	inlined              []json.RawMessage // responses inside the reply itself
	err                  *record.Status
	answers, failed      int64 // requests with an answer, and those whose answer is an error; -1: unknown
	requests             int64 // -1: unknown
	partial              bool  // some requests may have no answer
}

// A storedFile is what a service knows about a file.
type storedFile struct {
	name, display, state, source string
	created, expires             string // RFC 3339
	sha256                       string // as the service writes it
	size                         int64  // -1: unknown
}

// createdAt returns the zero time if the creation time is unknown.
func (op *operation) createdAt() time.Time {
	t, _ := time.Parse(time.RFC3339, op.created)
	return t
}

// lives reports whether a job in this state has results or may still get some.
func lives(state string) bool {
	return state != record.Failed && state != record.Cancelled && state != record.Expired
}

// sameModel compares two models. A reply may leave out its model.
func sameModel(theirs, ours string) bool { return theirs == "" || model.Bare(theirs) == ours }

// record returns the record of p's job.
func (p *payload) record(op *operation) *record.Job {
	_, _, canary, _ := parseLabel(op.display)
	return &record.Job{Job: op.name, Batch: p.Batch, State: op.state, Model: p.Model, Dim: p.Dim, Requests: p.Count, Input: op.input, Canary: canary}
}

// listed returns the record of a job from the list. hide removes the credential
// from texts of other programs.
func (op *operation) listed(hide func(string) string) *record.Job {
	batch, _, canary, _ := parseLabel(op.display)
	job := &record.Job{
		Job: op.name, Batch: batch, Model: op.model, Requests: max(int(op.requests)-canary, 0), Canary: canary,
		Display: hide(op.display), Output: op.output,
	}
	if op.answers >= 0 {
		job.Answers, job.Errors = &op.answers, &op.failed
	}
	op.update(job)
	return job
}

// listed returns the record of a file.
func (f *storedFile) listed(hide func(string) string) *record.File {
	batch, _, canary, _ := parseLabel(f.display)
	return &record.File{
		File: f.name, Batch: batch, State: f.state, Source: f.source, Bytes: max(f.size, 0), Canary: canary,
		Display: hide(f.display), CreatedAt: f.created, ExpiresAt: f.expires,
	}
}

// update copies what Google says about the job into its record.
func (op *operation) update(job *record.Job) {
	job.State, job.Error = op.state, op.err
	if job.Input == "" {
		job.Input = op.input
	}
	job.CreatedAt, job.EndedAt = op.created, op.ended
	if job.Error != nil {
		return
	}
	switch op.state { // Google does not always give a reason
	case record.Failed:
		job.Error = &record.Status{Code: 2, Status: codeName(2), Message: "the job failed, and google gives no reason"}
	case record.Cancelled:
		job.Error = &record.Status{Code: 1, Status: codeName(1), Message: "the job was cancelled"}
	case record.Expired:
		job.Error = &record.Status{Code: 4, Status: codeName(4), Message: "the job expired before it was done"}
	}
}
