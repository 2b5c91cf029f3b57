package gbatch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/genai"

	"gbatch/pkg/cli"
	"gbatch/pkg/exit"
	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/record"
)

// googleJobs is how many jobs Google lets be active at once
// (ai.google.dev/gemini-api/docs/rate-limits).
const googleJobs = 100

// Submit reads batches of requests, uploads each as a file and creates its
// job, or finds the job that an earlier run created. It prints the jobs.
type Submit struct {
	Method       string        `help:"What the job does with its requests: embed or generate." enum:"embed,generate" default:"embed"`
	Settle       time.Duration `help:"How long to look for a job whose creation got no answer." default:"2m"`
	MaxJobs      int           `help:"Warn when this many jobs are active; Google takes at most 100." default:"50"`
	AllowPartial bool          `help:"Submit a batch that has fewer requests than its header says."`
	Canary       int           `help:"Repeat this many requests of each batch under reserved keys, for gbatch-fetch to compare; they are paid for too." default:"0"`
	RetryFor     time.Duration `help:"How long to retry failures that may pass." default:"10m"`
	Model        string        `help:"Model of requests that have no header." default:"${model}"`
	MaxRequests  int           `help:"Cut requests without a header into batches of this many." default:"10000"`
	MaxBytes     cli.Size      `help:"And of this size." default:"100MB"`
}

// Run submits the batches of in one after the other, and prints each one's job
// before it goes on to the next. A batch that Google refuses does not keep
// those behind it back; the error is returned at the end.
func (s *Submit) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	switch {
	case s.Canary < 0 || s.MaxRequests <= 0 || s.MaxBytes <= 0:
		return exit.Errorf(exit.Usage, "--canary must not be below 0, --max-requests and --max-bytes must be above")
	}
	name, err := model.Name(s.Model)
	if err != nil {
		return exit.Errorf(exit.Usage, "--model: %w", err)
	}
	s.Model = name
	c, err := newClient(ctx, s.RetryFor)
	if err != nil {
		return err
	}
	dir, err := stateDir()
	if err != nil {
		return err
	}
	pruneIntents(dir)
	cutting, stop := context.WithCancel(ctx)
	defer stop()
	payloads, failed := newCutter(s, in).cut(cutting)

	sub := &submission{Submit: s, client: c, dir: dir, out: ndjson.NewWriter(out)}
	var refused refusals
	for p := range until(ctx, payloads) {
		err := sub.submit(ctx, p)
		p.close()
		if errors.As(err, new(*oneBatch)) {
			refused.add(err)
		} else if err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if *failed != nil {
		refused.add(*failed)
	}
	return refused.first
}

// A submission is what the batches of one run share.
type submission struct {
	*Submit
	*client
	dir    string // of the intents
	out    *ndjson.Writer
	warned bool // of MaxJobs
}

// submit gets p its job and prints it, and no other process does the same at
// the same time. The intent is let go of after the job is printed, and remains
// as its receipt.
func (s *submission) submit(ctx context.Context, p *payload) error {
	in, err := openIntent(ctx, filepath.Join(s.dir, p.name()+".json"), s.RetryFor)
	if err != nil {
		return err
	}
	defer in.close()
	job, err := s.job(ctx, p, in)
	if err != nil {
		return err
	}
	if err := s.out.Encode(job); err != nil {
		return err
	}
	return s.out.Flush()
}

// job finds p's job or creates it.
func (s *submission) job(ctx context.Context, p *payload, in *intent) (*record.Job, error) {
	left := in.mark // by an earlier run
	unknownSince := time.Time{}
	switch left.Phase {
	case phaseCreated:
		op, err := s.operation(ctx, left.Job)
		switch {
		// The chunks of a batch whose job failed go on in another batch, once
		// the failure is noted, and may be there already.
		case err == nil && (lives(op.state) || p.Batch != "") && sameModel(op.model, p.Model):
			return s.adopted(p, op), nil
		case missing(err):
			// Either gone, or so new that it is not seen yet.
			slog.Warn("the job of an earlier run is not visible to this key any more", "job", left.Job, "batch", p.Batch)
			unknownSince = left.Time
		case err != nil:
			return nil, err
		}
	case phaseCreate:
		unknownSince = left.Time
	}

	found, active, err := s.settle(ctx, p, unknownSince)
	if err != nil {
		return nil, err
	}
	if found != nil {
		return s.adopt(ctx, p, in, found, left.Phase != "")
	}
	var input string
	if left.Phase != "" {
		if input, err = s.strays(ctx, p, ""); err != nil {
			return nil, err
		}
	}
	if err := s.room(active); err != nil {
		return nil, err
	}
	if err := in.set(p, phaseUpload, input, ""); err != nil {
		return nil, err
	}
	if input == "" {
		if input, err = s.upload(ctx, p); err != nil {
			return nil, fmt.Errorf("upload %s: %w", p, err)
		}
	}
	for b := s.backoff(); ; {
		if err := in.set(p, phaseCreate, input, ""); err != nil {
			return nil, err
		}
		job, err := s.create(ctx, p, input)
		switch {
		case err == nil:
			slog.Info("the batch is submitted", "batch", p.Batch, "job", job.Job, "requests", p.Count)
			in.receipt(p, job)
			return job, nil
		case refused(err):
			s.deleteInput(ctx, input)
			in.forget()
			err = fmt.Errorf("google refused %s: %w", p, err)
			if e := new(apiError); errors.As(err, &e) && e.http == 400 && !e.auth() {
				err = &oneBatch{err} // it is about the lines
			}
			return nil, err
		case !notDone(err):
			if found, err = s.find(ctx, p, in.mark.Time, err); err != nil {
				return nil, err
			}
			return s.adopt(ctx, p, in, found, true)
		}
		if err := in.set(p, phaseUpload, input, ""); err != nil {
			return nil, err
		}
		if err := b.pause(ctx, err); err != nil {
			// Where Google cannot be reached the file is the next run's to use.
			if exit.Code(err) == exit.TryLater && !errors.As(err, new(notSent)) {
				s.deleteInput(ctx, input)
				in.forget()
			}
			return nil, fmt.Errorf("create the job of %s: %w", p, err)
		}
		if found, _, err = s.look(ctx, p); err != nil {
			return nil, err
		}
		if found != nil {
			return s.adopt(ctx, p, in, found, true)
		}
	}
}

// notSent is an error before anything of a request had left.
type notSent struct{ error }

func (e notSent) Unwrap() error { return e.error }

// notDone reports whether a create that failed with err has surely created
// nothing, and may be sent again later.
func notDone(err error) bool {
	var e *apiError
	return errors.As(err, new(notSent)) || errors.As(err, &e) && e.http == 429
}

// create sends the one call that costs money. It is never sent twice: not
// here, not by the SDK, which retries only where told to, and not by the
// transport.
func (s *submission) create(ctx context.Context, p *payload, input string) (*record.Job, error) {
	var made *genai.BatchJob
	o, err := s.do(ctx, func(ctx context.Context) (err error) {
		if s.Method == "generate" {
			made, err = s.sdk.Batches.Create(ctx, p.Model, &genai.BatchJobSource{FileName: input}, &genai.CreateBatchJobConfig{DisplayName: p.label()})
		} else {
			made, err = s.sdk.Batches.CreateEmbeddings(ctx, &p.Model, &genai.EmbeddingsBatchJobSource{FileName: input}, &genai.CreateEmbeddingsBatchJobConfig{DisplayName: p.label()})
		}
		return err
	})
	switch {
	case err != nil && !o.sent && ctx.Err() == nil:
		return nil, notSent{err}
	case err != nil:
		return nil, err
	case made.Name == "":
		return nil, errors.New("the reply holds no job")
	}
	return p.job(made.Name, jobState(string(made.State)), input, p.canary), nil
}

// find looks for the job of a create whose outcome is not known because of
// cause. It returns a job or an error.
func (s *submission) find(ctx context.Context, p *payload, since time.Time, cause error) (*genai.BatchJob, error) {
	if ctx.Err() == nil {
		slog.Info("google did not say whether it created a job, looking for it", "batch", p.Batch, "error", cause)
		found, _, err := s.settle(ctx, p, since)
		if found != nil {
			return found, nil
		}
		if err != nil {
			cause = err
		}
	}
	// Not wrapped: whatever cause is, what matters is that this is not known.
	return nil, exit.Errorf(exit.Unknown, "the outcome of creating the job for %s is unknown (%v); run the line again: it looks for the job before it creates one", p, cause)
}

// settle looks for p's job until it shows, or until a create of the time
// since would have shown; a zero time looks once.
func (s *submission) settle(ctx context.Context, p *payload, since time.Time) (found *genai.BatchJob, active int, err error) {
	if now := time.Now(); since.After(now) {
		since = now
	}
	end := since.Add(s.Settle)
	for wait := min(2*time.Second, s.Settle/50) + 1; ; wait += wait / 2 {
		at := time.Now()
		found, active, err = s.look(ctx, p)
		if found != nil || err != nil || !at.Before(end) {
			return found, active, err
		}
		slog.Info("looking for the job again", "batch", p.Batch, "until", end.Format(time.TimeOnly))
		if err := sleep(ctx, min(wait/2+rand.N(wait), time.Until(end))); err != nil {
			return nil, 0, err
		}
	}
}

// look goes through the list of all jobs for p's, and counts the active ones.
// A list that breaks off is an error and never means that there is no job.
func (s *submission) look(ctx context.Context, p *payload) (found *genai.BatchJob, active int, err error) {
	var mine []*genai.BatchJob
	var other *genai.BatchJob
	err = s.retry(ctx, func(ctx context.Context) error {
		mine, other, active = nil, nil, 0
		page, err := s.sdk.Batches.List(ctx, &genai.ListBatchJobsConfig{PageSize: pageSize})
		return everyPage(ctx, page, err, func(j *genai.BatchJob) {
			state := jobState(string(j.State))
			if !(&record.Job{State: state}).Ended() {
				active++
			}
			batch, hash, _, ok := parseLabel(j.DisplayName)
			switch {
			case !ok || batch != p.Batch || !lives(state):
			case hash == p.hash && sameModel(j.Model, p.Model):
				mine = append(mine, j)
			case p.Batch != "":
				other = j
			}
		})
	})
	if err != nil {
		return nil, 0, fmt.Errorf("look for the job of %s: %w", p, err)
	}
	if len(mine) == 0 && other != nil {
		return nil, 0, &oneBatch{fmt.Errorf("%s was already submitted with another payload or model, as %s (%s): collect that job, or cancel it if it is not wanted", p, other.Name, jobState(string(other.State)))}
	}
	if len(mine) == 0 {
		return nil, active, nil
	}
	slices.SortStableFunc(mine, func(a, b *genai.BatchJob) int {
		return cmp.Or(a.CreateTime.Compare(b.CreateTime), cmp.Compare(a.Name, b.Name))
	})
	for _, twin := range mine[1:] {
		slog.Warn("there are two jobs for one batch, the older is taken: cancel the other", "batch", p.Batch, "taken", mine[0].Name, "other", twin.Name)
	}
	return mine[0], active, nil
}

// lives reports whether a job in this state has results or may have some.
func lives(state string) bool {
	return state != record.Failed && state != record.Cancelled && state != record.Expired
}

// sameModel compares models; a reply may leave its out.
func sameModel(theirs, ours string) bool { return theirs == "" || model.Bare(theirs) == ours }

// room reports whether one more job may be created.
func (s *submission) room(active int) error {
	if active >= googleJobs {
		return exit.Errorf(exit.TryLater, "google takes at most %d active jobs and has %d: try again when some have ended", googleJobs, active)
	}
	if active >= s.MaxJobs && !s.warned {
		s.warned = true
		slog.Warn("many jobs are active", "active", active, "limit", googleJobs)
	}
	return nil
}

// adopt takes a job from the list for p's. What an earlier attempt uploaded
// and the job does not use is deleted.
func (s *submission) adopt(ctx context.Context, p *payload, in *intent, found *genai.BatchJob, strays bool) (*record.Job, error) {
	op, err := s.operation(ctx, found.Name)
	if err != nil {
		return nil, err
	}
	op.display = cmp.Or(op.display, found.DisplayName)
	job := s.adopted(p, op)
	if strays && job.Input != "" {
		if _, err := s.strays(ctx, p, job.Input); err != nil {
			slog.Warn("input files that are not in use were not looked for", "error", err)
		}
	}
	in.receipt(p, job)
	return job, nil
}

func (s *submission) adopted(p *payload, op *operation) *record.Job {
	slog.Info("the batch was submitted before", "batch", p.Batch, "job", op.name, "state", op.state)
	_, _, canary, _ := parseLabel(op.display)
	job := p.job(op.name, op.state, op.input, canary)
	if !lives(op.state) {
		op.update(job) // it is not asked about again
	}
	return job
}

func (p *payload) job(name, state, input string, canary int) *record.Job {
	return &record.Job{Job: name, Batch: p.Batch, State: state, Model: p.Model, Dim: p.Dim, Requests: p.Count, Input: input, Canary: canary}
}
