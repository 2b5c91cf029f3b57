package gbatch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"time"

	"gbatch/pkg/cli"
	"gbatch/pkg/exit"
	"gbatch/pkg/gcs"
	"gbatch/pkg/ledger"
	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/progress"
	"gbatch/pkg/record"
	"gbatch/pkg/wire"
)

// googleJobs is how many active jobs Google allows at a time
// (ai.google.dev/gemini-api/docs/rate-limits).
const googleJobs = 100

// Submit reads batches of requests, uploads each as a file and creates its
// job, or finds the job that an earlier run created. It prints the jobs.
type Submit struct {
	cli.Files    `embed:""`
	cli.Output   `embed:""`
	Method       string        `help:"What the job does with its requests: embed or generate." enum:"embed,generate" default:"embed"`
	Settle       time.Duration `help:"How long to look for a job after a create whose outcome is unknown." default:"2m"`
	MaxJobs      int           `help:"Warn when this many jobs are active; Google takes at most 100." default:"50"`
	AllowPartial bool          `help:"Submit a batch that has fewer requests than its header says, unless chunks-pending claimed it."`
	Canary       int           `help:"Send this many requests of each batch twice, for gbatch-fetch to compare the answers. Both cost money." default:"0"`
	RetryFor     time.Duration `help:"How long to retry transient errors." default:"10m"`
	Model        string        `help:"Model of requests that have no header." default:"${model}"`
	MaxRequests  cli.Count     `placeholder:"N" help:"Most requests per batch, for requests without a header (default 10000; 1000000 with --backend vertex)."`
	MaxBytes     cli.Size      `placeholder:"SIZE" help:"Most bytes per batch, for requests without a header (default 100MB; 1GB with --backend vertex)."`

	Backend string            `help:"Google's service: gemini (the Gemini API) or vertex (batch prediction of Vertex AI)." enum:"gemini,vertex" default:"gemini"`
	Bucket  string            `placeholder:"gs://BUCKET/FOLDER" help:"The folder of Cloud Storage for the claims that machines share and, for Vertex AI, inputs and results."`
	Lease   time.Duration     `help:"With --bucket: how long the claim of a process that has become silent counts. It is renewed at a fifth of this time." default:"5m"`
	Labels  map[string]string `placeholder:"NAME=VALUE" help:"For Vertex AI: labels of the jobs, for billing. May be repeated."`

	Caps   `embed:""`
	DryRun bool `help:"Submit nothing. Print for each batch whether a job would be created or adopted."`
}

// Run submits the batches of in one after the other, and prints the job of each
// before it continues with the next. If Google refuses a batch, the later
// batches are still submitted, and the error is returned at the end.
func (s *Submit) Run(ctx context.Context, in io.Reader, out io.Writer) (err error) {
	if s.Canary < 0 || s.MaxRequests < 0 || s.MaxBytes < 0 {
		return exit.Errorf(exit.Usage, "--canary must not be below 0, --max-requests and --max-bytes must be at least 1")
	}
	limits := model.LimitsOf(s.Backend)
	s.MaxRequests, s.MaxBytes = cmp.Or(s.MaxRequests, cli.Count(limits.Requests)), cmp.Or(s.MaxBytes, cli.Size(limits.Bytes))
	name, err := model.Name(s.Model)
	if err != nil {
		return exit.Errorf(exit.Usage, "--model: %w", err)
	}
	s.Model = name
	if err := model.CheckTyped(name); err != nil {
		return err
	}
	prices, err := model.ReadPrices()
	if err != nil {
		return err
	}
	caps, err := s.caps(&prices)
	if err != nil {
		return err
	}
	if caps != nil && s.Method != "embed" {
		return exit.Errorf(exit.Usage, "--max-cost and --max-total-tokens are for --method embed only: what a model generates has no upper bound here")
	}
	at, err := s.service()
	if err != nil {
		return err
	}
	if s.Bucket != "" && s.Lease < time.Second {
		return exit.Errorf(exit.Usage, "--lease must be at least 1s")
	}
	entries, err := openLedger(s.Bucket, s.Lease, s.RetryFor, s.DryRun)
	if err != nil {
		return err
	}
	cutting, stop := context.WithCancel(ctx)
	defer stop()
	payloads, failed := newCutter(s, in).cut(cutting)

	sub := &submission{Submit: s, at: at, services: lazyBackends(s.RetryFor), ledger: entries, caps: caps, prices: prices, out: ndjson.NewWriter(out)}
	submit := sub.submit
	if s.DryRun {
		submit = sub.plan
	}
	batches, bytes := progress.Of(ctx).Count("batches"), progress.Of(ctx).Flow("bytes")
	// The jobs that were printed are created, whatever comes after them.
	defer func() {
		if sub.printed {
			err = exit.Keep(err)
		}
	}()
	var refused refusals
	for p := range until(ctx, payloads) {
		before := bytes.Done()
		err := submit(ctx, p)
		if err == nil {
			batches.Add(1)
		}
		if bytes.Done() == before { // nothing had to be uploaded
			bytes.Expect(-p.size)
		}
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

// service sets up the service that the jobs are created at.
func (s *Submit) service() (backend, error) {
	if s.Backend != model.Vertex {
		if len(s.Labels) > 0 {
			return nil, exit.Errorf(exit.Usage, "--labels are for --backend vertex")
		}
		g, err := newGemini(s.RetryFor)
		if err == nil {
			g.generate = s.Method == "generate"
		}
		return g, err
	}
	folder, err := gcs.ParseURI(s.Bucket)
	switch {
	case s.Method != "embed":
		return nil, exit.Errorf(exit.Usage, "--method generate is not for --backend vertex")
	case s.Bucket == "":
		return nil, exit.Errorf(exit.Usage, "--backend vertex needs --bucket gs://BUCKET/FOLDER, for inputs and results")
	case err != nil:
		return nil, exit.Errorf(exit.Usage, "--bucket: %w", err)
	}
	for name, value := range s.Labels {
		if name == "" || name == batchLabel || name == hashLabel || labelOf(name) != name || labelOf(value) != value {
			return nil, exit.Errorf(exit.Usage, "--labels %s=%s: names and values have at most 63 lower-case letters, digits, dashes and underscores; %s and %s are taken", name, value, batchLabel, hashLabel)
		}
	}
	v, err := newVertex(s.RetryFor)
	if err == nil {
		v.bucket, v.labels, err = folder, s.Labels, v.place()
	}
	return v, err
}

// OutputLost says what to do if the file of --output cannot be written.
func (*Submit) OutputLost() string {
	return "the jobs that were created are not lost: run the whole pipe again, which adopts them and pays for nothing twice"
}

// A submission is what the batches of one run share.
type submission struct {
	*Submit
	at       backend
	services *backends // of jobs that were created at another service than at
	ledger   ledger.Ledger
	caps     model.Caps
	prices   model.Prices
	out      *ndjson.Writer
	warned   bool // the warning about MaxJobs was given

	printed bool // a job was printed
}

// submit finds or creates p's job and prints it, while it holds p's entry in the
// ledger. The entry is released after the job is printed, and remains as its
// receipt.
func (s *submission) submit(ctx context.Context, p *payload) error {
	e, err := s.ledger.Claim(ctx, p.name(), s.RetryFor)
	if err != nil {
		return err
	}
	defer e.Close()
	job, err := s.job(ctx, p, e)
	if err != nil {
		return err
	}
	if err := s.out.Encode(job); err != nil {
		return err
	}
	s.printed = true
	return s.out.Flush()
}

// job finds p's job or creates it. In a dry run it creates and changes nothing,
// and returns nil if it would create a job.
func (s *submission) job(ctx context.Context, p *payload, e ledger.Entry) (*record.Job, error) {
	left := e.Mark() // what an earlier run left
	if left.Phase == ledger.Created {
		op, err := s.status(ctx, left.Job)
		switch {
		// If the job of a batch failed, its chunks become part of another batch as
		// soon as the failure is applied. That may have happened already.
		case err == nil && (lives(op.state) || p.Batch != "") && sameModel(op.model, p.Model):
			return p.adopted(ctx, op), nil
		case wire.Missing(err):
			return s.unseen(ctx, p, e)
		case err != nil:
			return nil, err
		}
	}
	// Other batches may have these lines: a database that was restored from a
	// backup claims them again, under another name.
	var same []string // names of jobs
	unknown := left.Phase == ledger.Create
	if unknown && s.elsewhere(left.Input) {
		return nil, exit.Errorf(exit.Unknown, "the outcome of creating the job for %s is unknown, and its input is %s: run the whole pipe again with the --backend that it was submitted with", p, left.Input)
	}
	others, err := s.ledger.Others(ctx, p.name(), p.hash)
	if err != nil {
		return nil, err
	}
	for _, m := range others {
		unknown = unknown || m.Phase == ledger.Create
		if m.Phase == ledger.Created {
			same = append(same, m.Job)
		}
	}

	patience := time.Duration(0)
	if unknown && !s.DryRun {
		patience = s.Settle
	}
	found, err := s.settle(ctx, p, patience, true, nil)
	if err != nil {
		return nil, err
	}
	if found.mine != nil {
		return s.adopt(ctx, p, e, found, left.Phase != "" && !s.DryRun)
	}
	if unknown && s.DryRun {
		return nil, errUnsettled
	}
	if op, err := s.sameLines(ctx, p, append(same, found.same...)); err != nil {
		return nil, err
	} else if op != nil {
		slog.Warn("the same requests were already submitted as another batch: its job is adopted for this batch", "batch", p.Batch, "job", op.name, "as", op.display)
		job := p.adopted(ctx, op)
		s.receipt(ctx, p, e, job)
		return job, nil
	}
	if err := s.room(found.active); err != nil {
		return nil, err
	}
	use, err := s.afford(p)
	if err != nil {
		return nil, err
	}
	if s.DryRun {
		return nil, s.caps.Use(use)
	}
	mark := p.mark(ledger.Upload, "", "")
	if left.Session != "" {
		mark.Input, mark.Session = left.Input, left.Session
	}
	if err := e.Set(ctx, mark); err != nil {
		return nil, err
	}
	input, err := s.at.upload(ctx, p, e, left.Phase != "")
	if err != nil {
		return nil, fmt.Errorf("upload %s: %w", p, err)
	}
	job, err := s.create(ctx, p, e, input, found.active)
	if err == nil {
		err = s.caps.Use(use)
	}
	return job, err
}

// unseen handles a receipt whose job the service does not show: the job belongs
// to another project or was deleted. It may be paid for, so no other job is
// created.
func (s *submission) unseen(ctx context.Context, p *payload, e ledger.Entry) (*record.Job, error) {
	found, err := s.lookUp(ctx, p, nil)
	if err != nil {
		return nil, err
	}
	if found.mine != nil {
		return s.adopt(ctx, p, e, found, false)
	}
	next := "; if the job was deleted, remove " + e.String() + " and run the whole pipe again, which creates another job"
	if claimed.MatchString(p.Batch) {
		next = giveBack(p.Batch)
	}
	return nil, &oneBatch{fmt.Errorf("%s was submitted as %s, which this key cannot see: use a key of the project that it was submitted with%s", p, e.Mark().Job, next)}
}

// sameLines returns the first of some jobs for the same lines that this batch
// may adopt. It is a job whose results have not been collected. If they were
// collected, the requests are sent again for a reason, such as a transient
// error.
func (s *submission) sameLines(ctx context.Context, p *payload, jobs []string) (*operation, error) {
	slices.Sort(jobs)
	for _, name := range slices.Compact(jobs) {
		op, err := s.status(ctx, name)
		if wire.Missing(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if _, hash, _, _ := parseLabel(op.display); hash != p.hash || !lives(op.state) || !sameModel(op.model, p.Model) {
			continue
		}
		open := op.state != record.Succeeded
		if !open {
			at, err := s.placeOf(name)
			if err == nil {
				open, err = at.holds(ctx, op.input)
			}
			if err != nil {
				return nil, err
			}
		}
		if open {
			return op, nil
		}
		if op.answers > 0 && op.failed == 0 { // no request needed to be sent again
			slog.Warn("the same requests were already answered as another batch; its results were already collected, so the requests are paid for again", "batch", p.Batch, "job", op.name, "as", op.display)
		}
	}
	return nil, nil
}

// createTimeout bounds a create: sending it, waiting for the reply and reading the
// reply. If other machines wait for this one, it is shorter, and begins before the
// claim is written that announces the create: when the claim may be taken over, no
// create is on its way.
const (
	createTimeout = 3 * time.Minute
	sharedTimeout = time.Minute
)

func (s *submission) timeout() time.Duration {
	if s.Bucket == "" {
		return createTimeout
	}
	return min(sharedTimeout, s.Lease/2)
}

// create makes p's job from an input. It sends the create again only after an
// error that certainly created nothing, and after another look-up.
func (s *submission) create(ctx context.Context, p *payload, e ledger.Entry, input string, active int) (*record.Job, error) {
	for b := wire.NewBackoff(s.RetryFor); ; {
		end := time.Now().Add(s.timeout())
		sending, stop := context.WithDeadlineCause(ctx, end, exit.Errorf(exit.TryLater, "google did not reply in %v", s.timeout()))
		err := e.Set(sending, p.mark(ledger.Create, input, ""))
		if err == nil && time.Now().After(end) { // this process was stopped, and its timers are late
			err = exit.Errorf(exit.TryLater, "this process was silent for too long; try again later")
		}
		if err != nil {
			stop()
			return nil, fmt.Errorf("announce the create of %s: %w", p, err)
		}
		op, err := s.at.create(sending, p, input)
		stop()
		switch {
		case err == nil:
			slog.Debug("the batch is submitted", "batch", p.Batch, "job", op.name, "requests", p.Count)
			job := p.record(op)
			alone := s.receipt(ctx, p, e, job)
			if s.Bucket != "" {
				job = s.lookAgain(ctx, p, e, op, job, alone)
			}
			return job, nil
		case wire.Refused(err):
			s.at.drop(ctx, input)
			e.Forget()
			a := new(wire.Error)
			meant := ""
			if errors.As(err, &a) && a.HTTP == 404 {
				meant = model.Meant(p.Model)
			}
			err = fmt.Errorf("google refused %s: %w%s", p, err, meant)
			if a.HTTP == 400 && !a.Auth() {
				err = &oneBatch{err} // the lines are the reason
			}
			return nil, err
		case !wire.NotDone(err):
			return s.afterUnknown(ctx, p, e, err)
		}
		if err := e.Set(ctx, p.mark(ledger.Upload, input, "")); err != nil {
			return nil, err
		}
		cause := err
		if err := b.Pause(ctx, cause); err != nil {
			// If Google cannot be reached, the file is kept, and the next run uses
			// it.
			if exit.Code(err) == exit.TryLater && !wire.IsNotSent(err) {
				s.at.drop(ctx, input)
				e.Forget()
				if a := new(wire.Error); active == 0 && errors.As(cause, &a) && a.Wait == 0 {
					err = &oneBatch{fmt.Errorf("%w; no other job is active, so this batch alone is larger than the quota: give it back with chunks-release, and cut smaller batches with chunks-pending --max-tokens", cause)}
				}
			}
			return nil, fmt.Errorf("create the job of %s: %w", p, err)
		}
		found, err := s.lookUp(ctx, p, nil)
		if err != nil {
			return nil, err
		}
		if found.mine != nil {
			return s.adopt(ctx, p, e, found, true)
		}
		active = found.active
	}
}

// lookAgain looks for the job of p that another machine may have created at the same
// time as job, which is op, and returns the older one. If the claim was lost (alone is
// false), there probably is one, so it looks for longer.
func (s *submission) lookAgain(ctx context.Context, p *payload, e ledger.Entry, op *operation, job *record.Job, alone bool) *record.Job {
	patience := s.Settle
	if alone {
		patience = 0
	}
	found, err := s.settle(ctx, p, patience, alone, op)
	if err == nil && found.twins > 0 {
		var older *record.Job
		if older, err = s.adopt(ctx, p, e, found, true); err == nil {
			return older
		}
	}
	if err != nil {
		slog.Warn("it is not known whether another machine has created a job for the same batch", "batch", p.Batch, "job", job.Job, "error", err)
	}
	return job
}

// afterUnknown settles a create whose outcome is unknown because of cause.
func (s *submission) afterUnknown(ctx context.Context, p *payload, e ledger.Entry, cause error) (*record.Job, error) {
	if ctx.Err() == nil {
		slog.Info("google did not say whether it created a job; looking for the job", "batch", p.Batch, "error", cause)
		// If another process has taken the claim, it may have created a job too.
		alone := e.Set(ctx, e.Mark()) == nil
		found, err := s.settle(ctx, p, s.Settle, alone, nil)
		if err == nil && found.mine != nil {
			return s.adopt(ctx, p, e, found, true)
		}
		if err != nil {
			cause = err
		}
	}
	// cause is not wrapped: its exit code does not matter, because the outcome is
	// unknown.
	return nil, exit.Errorf(exit.Unknown, "the outcome of creating the job for %s is unknown (%v); run the whole pipe again: it looks for the job before it creates one", p, cause)
}

// settle finds out whether a create whose outcome is unknown made a job for p.
// It looks the job up until it shows, or until patience has passed. The time
// counts from now: the attempt has ended, or the process that made it is dead.
// It does not count from a time in the ledger, because clocks jump. If alone is
// false, the job that shows may be only one of two, that of another process and that of
// this one: settle then looks until both show. made is as for lookUp.
func (s *submission) settle(ctx context.Context, p *payload, patience time.Duration, alone bool, made *operation) (found *jobsFound, err error) {
	end := time.Now().Add(patience)
	for wait := min(2*time.Second, s.Settle/50) + 1; ; wait += wait / 2 {
		at := time.Now()
		found, err = s.lookUp(ctx, p, made)
		if err != nil || found.mine != nil && (alone || found.twins > 0) || !at.Before(end) {
			return found, err
		}
		slog.Info("looking for the job again", "batch", p.Batch, "until", end.Format(time.TimeOnly))
		if err := wire.Sleep(ctx, min(wait/2+rand.N(wait), time.Until(end))); err != nil {
			return nil, err
		}
	}
}

// jobsFound is what a look-up found for a batch.
type jobsFound struct {
	mine   *operation // the batch's job
	twins  int        // other jobs of the batch
	alive  int        // those of them that were not cancelled
	same   []string   // names of other batches' jobs for the same lines
	active int        // active jobs of the project
}

// lookUp finds p's job in the list of all jobs. made is a job that this process has
// created, or nil: the list may not show it yet.
func (s *submission) lookUp(ctx context.Context, p *payload, made *operation) (*jobsFound, error) {
	listed, active, err := s.at.lookUp(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("look for the job of %s: %w", p, err)
	}
	if made != nil && !slices.ContainsFunc(listed, func(op *operation) bool { return path.Base(op.name) == path.Base(made.name) }) {
		listed = append(listed, made)
	}
	found := &jobsFound{active: active}
	var mine []*operation
	var other *operation
	for _, op := range listed {
		batch, hash, _, _ := parseLabel(op.display)
		switch same := hash == p.hash && sameModel(op.model, p.Model); {
		case !lives(op.state):
		case batch == p.Batch && same:
			mine = append(mine, op)
		case batch == p.Batch && p.Batch != "":
			other = op
		case same:
			found.same = append(found.same, op.name)
		}
	}
	if len(mine) == 0 && other != nil {
		return nil, &oneBatch{fmt.Errorf("%s was already submitted with another payload or model, as %s (%s): collect that job, or cancel it if you do not want it", p, other.name, other.state)}
	}
	if len(mine) == 0 {
		return found, nil
	}
	slices.SortStableFunc(mine, func(a, b *operation) int {
		return cmp.Or(a.createdAt().Compare(b.createdAt()), cmp.Compare(a.name, b.name))
	})
	found.mine = mine[0]
	for _, twin := range mine[1:] {
		found.twins++
		if !s.cancelled(ctx, p, found.mine, twin) {
			found.alive++
			slog.Warn("there are two jobs for one batch; the older one is adopted: cancel the other one", "batch", p.Batch, "taken", found.mine.name, "other", twin.name)
		}
	}
	return found, nil
}

// cancelled cancels the younger of two jobs of one batch. It does so only for machines
// that share a ledger, and only while the job is queued, because then it costs nothing.
func (s *submission) cancelled(ctx context.Context, p *payload, older, twin *operation) bool {
	if s.Bucket == "" || s.DryRun || older.createdAt().IsZero() || twin.createdAt().IsZero() {
		return false
	}
	now, err := s.status(ctx, twin.name)
	if err == nil && now.state == record.Queued {
		if err = s.at.cancel(ctx, twin.name); err == nil {
			now.state = record.Cancelled
			slog.Warn("two machines created jobs for one batch at the same time; the younger one was cancelled while it was queued", "batch", p.Batch, "taken", older.name, "cancelled", twin.name)
		}
	}
	if err != nil {
		slog.Warn("a second job of a batch was not cancelled", "job", twin.name, "error", err)
		return false
	}
	twin.state = now.state // the list of this run is read once
	return !lives(twin.state)
}

// status asks for the status of a job, and retries transient errors.
func (s *submission) status(ctx context.Context, job string) (op *operation, err error) {
	at, err := s.placeOf(job)
	if err != nil {
		return nil, err
	}
	err = wire.Retry(ctx, s.RetryFor, func() error {
		op, err = at.status(ctx, job)
		return err
	})
	return op, err
}

// placeOf returns the service that a job belongs to.
func (s *submission) placeOf(job string) (backend, error) {
	if s.elsewhere(job) {
		return s.services.of(&record.Job{Job: job})
	}
	return s.at, nil
}

// elsewhere reports whether a job or an input belongs to another service than the
// one of this run.
func (s *submission) elsewhere(name string) bool {
	return name != "" && (vertexJobs.MatchString(name) || strings.HasPrefix(name, "gs://")) != (s.Backend == model.Vertex)
}

// room returns an error if no more jobs may be created.
func (s *submission) room(active int) error {
	if active >= googleJobs {
		return exit.Errorf(exit.TryLater, "google allows at most %d active jobs, and %d are active: try again when some have ended", googleJobs, active)
	}
	if active >= s.MaxJobs && !s.warned {
		s.warned = true
		slog.Warn("many jobs are active", "active", active, "limit", googleJobs)
	}
	return nil
}

// adopt takes a job that a look-up found as p's job. If leftovers is true,
// earlier attempts may have uploaded files that the job does not use: these are
// deleted, unless a second job may use them.
func (s *submission) adopt(ctx context.Context, p *payload, e ledger.Entry, found *jobsFound, leftovers bool) (*record.Job, error) {
	op, err := s.status(ctx, found.mine.name)
	if err != nil {
		return nil, err
	}
	op.display = cmp.Or(op.display, found.mine.display)
	job := p.adopted(ctx, op)
	if leftovers && job.Input != "" && found.alive == 0 {
		if err := s.at.tidy(ctx, p, job.Input); err != nil {
			slog.Warn("unused input files were not deleted", "error", err)
		}
	}
	s.receipt(ctx, p, e, job)
	return job, nil
}

// receipt records p's job in the ledger. The job exists in any case, so an error
// is only a warning.
func (s *submission) receipt(ctx context.Context, p *payload, e ledger.Entry, job *record.Job) (written bool) {
	err := e.Set(ctx, p.mark(ledger.Created, job.Input, job.Job))
	if err != nil {
		slog.Warn("the receipt of a job was not written", "job", job.Job, "error", err)
	}
	return err == nil
}

// adopted returns the record of a job that was submitted before.
func (p *payload) adopted(ctx context.Context, op *operation) *record.Job {
	slog.Debug("the batch was already submitted", "batch", p.Batch, "job", op.name, "state", op.state)
	progress.Of(ctx).Count("adopted").Add(1)
	job := p.record(op)
	if !lives(op.state) {
		op.update(job) // its status is not requested again
	}
	return job
}
