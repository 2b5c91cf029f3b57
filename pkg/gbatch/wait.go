package gbatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync"
	"time"

	"gbatch/pkg/exit"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/record"
)

// pollers is how many jobs are asked about at the same time.
const pollers = 8

// Wait polls jobs until they have ended and prints each as it ends.
type Wait struct {
	Interval time.Duration `help:"Time between two looks at a job; grows with the job's age, at most tenfold." default:"30s"`
	Timeout  time.Duration `help:"Give up waiting after this long, the jobs go on; 0 is never." default:"0s"`
	Once     bool          `help:"Look at each job once."`
	RetryFor time.Duration `help:"How long to retry failures that may pass." default:"10m"`
}

// Run reads jobs as they come and begins with each at once. Nothing that it
// does, or that happens to it, changes a job.
func (w *Wait) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	if w.Interval <= 0 {
		return exit.Errorf(exit.Usage, "--interval must be above 0")
	}
	c, err := newClient(ctx, w.RetryFor)
	if err != nil {
		return err
	}
	var watchers sync.WaitGroup
	defer watchers.Wait()
	watching, stop := context.WithCancel(ctx)
	defer stop()

	incoming, readErr := readJobs(watching, in)
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
	var unseen []string
	var refusal refusals
	lines := ndjson.NewWriter(out)
	print := func(job *record.Job) error {
		if job.State != record.Succeeded {
			failed++
		}
		if err := lines.Encode(job); err != nil {
			return err
		}
		return lines.Flush()
	}
	for incoming != nil || running > 0 {
		select {
		case job, ok := <-incoming:
			switch {
			case !ok && *readErr != nil && running > 0:
				return fmt.Errorf("%w (%s)", *readErr, goOn(running))
			case !ok && *readErr != nil:
				return *readErr
			case !ok:
				incoming = nil
			case job.Ended():
				count++
				if err := print(job); err != nil {
					return err
				}
			default:
				count++
				running++
				watchers.Go(func() {
					err := w.watch(watching, c, job, slots)
					select {
					case results <- result{job, err}:
					case <-watching.Done():
					}
				})
			}
		case r := <-results:
			running--
			switch {
			case missing(r.err):
				unseen = append(unseen, r.job.Job)
			case refused(r.err):
				refusal.add(fmt.Errorf("%s: %w", r.job.Job, r.err))
			case r.err != nil:
				return r.err
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
	switch {
	case refusal.first != nil:
		return refusal.first
	case len(unseen) == 1:
		return fmt.Errorf("job %s is not visible to this key: it belongs to another project or was deleted", unseen[0])
	case unseen != nil:
		return fmt.Errorf("%d jobs are not visible to this key, they belong to another project or were deleted: %s", len(unseen), strings.Join(unseen, " "))
	case unfinished > 0:
		return exit.Errorf(exit.Unfinished, "%s", goOn(unfinished))
	case failed > 0:
		return exit.Errorf(exit.Partial, "%d of %d jobs failed, were cancelled or expired", failed, count)
	}
	return nil
}

func goOn(jobs int) string {
	return fmt.Sprintf("%d unfinished at google, which goes on; run the line again to wait for more", jobs)
}

// watch polls one job until it has ended, or once, and brings its record up
// to date.
func (w *Wait) watch(ctx context.Context, c *client, job *record.Job, slots chan struct{}) error {
	begun := time.Now()
	failures := c.backoff()
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		var op *operation
		_, err := c.do(ctx, func(ctx context.Context) (err error) {
			op, err = c.operationOnce(ctx, job.Job)
			return err
		})
		<-slots
		if err != nil {
			if !passing(err) {
				return err
			}
			if err := failures.pause(ctx, err); err != nil {
				return err
			}
			continue
		}
		failures = c.backoff()
		if op.state != job.State {
			slog.Info("the job changed", "job", job.Job, "state", op.state, "was", job.State)
		}
		op.update(job)
		if job.Ended() || w.Once {
			return nil
		}
		if err := sleep(ctx, w.pause(time.Since(begun))); err != nil {
			return err
		}
	}
}

// pause is the time until the next look at a job that has been watched for
// age: a tenth of it, but from 1 to 10 intervals, no more than 5 minutes where
// the interval is not, and up to a fifth more or less, so that jobs submitted
// together are not asked about together.
func (w *Wait) pause(age time.Duration) time.Duration {
	d := min(max(age/10, w.Interval), 10*w.Interval, max(w.Interval, 5*time.Minute))
	return d*4/5 + rand.N(d*2/5+1)
}

// jobNames and fileNames are the names that Google gives; they become part of a
// URL.
var (
	jobNames  = regexp.MustCompile(`^batches/[A-Za-z0-9_-]+$`)
	fileNames = regexp.MustCompile(`^files/[A-Za-z0-9_-]+$`)
)

// readJobs reads job records as they come. The error that ended the reading
// is there once the channel is closed.
func readJobs(ctx context.Context, in io.Reader) (<-chan *record.Job, *error) {
	jobs, failed := make(chan *record.Job), new(error)
	go func() {
		defer close(jobs)
		for r := ndjson.NewReader(in); ; {
			line, err := r.Next()
			if err == io.EOF {
				return
			}
			var job *record.Job
			if err == nil {
				if job, err = record.ParseJob(line); err != nil {
					err = r.Errorf("%w", err)
				} else if job == nil || !jobNames.MatchString(job.Job) {
					err = r.Errorf("not a job: a record with job batches/… is expected")
				} else if job.Input != "" && !fileNames.MatchString(job.Input) {
					err = r.Errorf("job %s: its input %q is not a name of a file", job.Job, job.Input)
				}
			}
			if err != nil {
				*failed = err
				return
			}
			select {
			case jobs <- job:
			case <-ctx.Done():
				return
			}
		}
	}()
	return jobs, failed
}
