package gbatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"gbatch/pkg/cli"
	"gbatch/pkg/exit"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/progress"
	"gbatch/pkg/record"
	"gbatch/pkg/wire"
)

// pollers is how many status requests are sent at the same time.
const pollers = 8

// Wait polls jobs until they have ended and prints each as it ends.
type Wait struct {
	cli.Files  `embed:""`
	cli.Output `embed:""`
	Interval   time.Duration `help:"Time between two status requests for a job. It grows with the job's age, at most tenfold." default:"30s"`
	Timeout    time.Duration `help:"Stop waiting after this time. The jobs continue at Google. 0 is no limit." default:"0s"`
	Once       bool          `help:"Ask for the status of each job once."`
	RetryFor   time.Duration `help:"How long to retry transient errors." default:"10m"`
}

// Run reads jobs as they arrive and polls each from then on. It never changes a
// job at Google.
func (w *Wait) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	if w.Interval <= 0 {
		return exit.Errorf(exit.Usage, "--interval must be above 0")
	}
	services, err := newBackends(w.RetryFor)
	if err != nil {
		return err
	}
	var watchers sync.WaitGroup
	defer watchers.Wait()
	watching, stop := context.WithCancel(ctx)
	defer stop()

	view := newOverview(progress.Of(ctx))
	incoming, readErr := readJobs(watching, in, services, view.seen)
	type result struct {
		job *record.Job
		err error
	}
	results := make(chan result)
	slots := make(chan struct{}, pollers)
	var timeout <-chan time.Time
	if w.Timeout > 0 {
		timeout = time.After(w.Timeout)
	}

	var count, running, unfinished, failed int
	var unseen, unseenBatches []string
	var refusal refusals
	lines := ndjson.NewWriter(out)
	print := func(job *record.Job) error {
		if job.State != record.Succeeded {
			failed++
		}
		view.ended(job)
		if err := lines.Encode(job); err != nil {
			return err
		}
		return lines.Flush()
	}
	for incoming != nil || running > 0 {
		select {
		case t, ok := <-incoming:
			switch {
			case !ok && *readErr != nil && running > 0:
				return fmt.Errorf("%w (%s)", *readErr, goOn(running))
			case !ok && *readErr != nil:
				return *readErr
			case !ok:
				incoming = nil
			case t.Ended():
				count++
				if err := print(t.Job); err != nil {
					return err
				}
			default:
				count++
				running++
				watchers.Go(func() {
					err := w.watch(watching, t, slots, view)
					select {
					case results <- result{t.Job, err}:
					case <-watching.Done():
					}
				})
			}
		case r := <-results:
			running--
			if !r.job.Ended() {
				view.given(r.job)
			}
			switch {
			case ctx.Err() != nil && r.err != nil:
				running++ // stopped before it ended: the case below counts it
			case wire.Missing(r.err):
				unseen, unseenBatches = append(unseen, r.job.Job), append(unseenBatches, r.job.Batch)
			case r.err != nil: // the other jobs are still waited for
				refusal.add(fmt.Errorf("%s: %w", r.job.Job, r.err))
			case !r.job.Ended():
				unfinished++
			default:
				if err := print(r.job); err != nil {
					return err
				}
			}
		case <-timeout:
			return exit.Errorf(exit.Unfinished, "%s", goOn(running))
		case <-ctx.Done():
			if running == 0 {
				return context.Cause(ctx)
			}
			return errors.New("stopped: " + goOn(running))
		}
	}
	switch len(unseen) {
	case 0:
	case 1:
		refusal.add(fmt.Errorf("job %s is not visible to this key: it belongs to another project or was deleted%s", unseen[0], giveBack(unseenBatches...)))
	default:
		refusal.add(fmt.Errorf("%d jobs are not visible to this key: they belong to another project or were deleted: %s%s", len(unseen), few(unseen), giveBack(unseenBatches...)))
	}
	switch {
	case refusal.first != nil:
		return exit.Keep(refusal.first)
	case unfinished > 0:
		return exit.Errorf(exit.Unfinished, "%s", goOn(unfinished))
	case failed > 0:
		return exit.Errorf(exit.Partial, "%d of %d jobs failed, were cancelled or expired", failed, count)
	}
	return nil
}

func goOn(jobs int) string {
	return fmt.Sprintf("unfinished jobs: %d; they continue at google; run the whole pipe again to wait for them", jobs)
}

// watch polls one job until it has ended, or once, and updates its record.
func (w *Wait) watch(ctx context.Context, job task, slots chan struct{}, view *overview) error {
	begun := time.Now()
	failures := wire.NewBackoff(w.RetryFor)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		op, err := job.at.status(ctx, job.Job.Job)
		<-slots
		if err != nil {
			if !wire.Transient(err) {
				return err
			}
			if err := failures.Pause(ctx, err); err != nil {
				return err
			}
			continue
		}
		failures = wire.NewBackoff(w.RetryFor)
		if op.state != job.State {
			slog.Debug("the job changed", "job", op.name, "state", op.state, "was", job.State)
		}
		view.looked(job.Job, op)
		op.update(job.Job)
		if job.Ended() || w.Once {
			return nil
		}
		if err := wire.Sleep(ctx, w.pause(time.Since(begun))); err != nil {
			return err
		}
	}
}

// pause returns the time until the next status request for a job that has been
// watched for age. It is a tenth of age, but at least one interval and at most
// ten intervals, and at most 5 minutes unless the interval is longer. Up to a
// fifth is added or subtracted at random, so that jobs submitted together are
// not polled together.
func (w *Wait) pause(age time.Duration) time.Duration {
	d := min(max(age/10, w.Interval), 10*w.Interval, max(w.Interval, 5*time.Minute))
	return d*4/5 + rand.N(d*2/5+1)
}
