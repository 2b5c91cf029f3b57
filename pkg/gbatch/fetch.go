package gbatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"gbatch/pkg/cli"
	"gbatch/pkg/exit"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/progress"
	"gbatch/pkg/record"
	"gbatch/pkg/wire"
)

// Fetch prints the results of jobs: a vector or an error for each key, then the
// job's record, which says that the answers are complete.
type Fetch struct {
	cli.Files  `embed:""`
	cli.Output `embed:""`
	KeepInput  bool          `help:"Do not delete the input files at Google."`
	Array      bool          `help:"Print vectors as arrays of numbers, for other programs, in place of base64. vectors-apply reads both."`
	Normalize  bool          `help:"Scale vectors to length 1. gemini-embedding-001 does so itself only at 3072 values."`
	RetryFor   time.Duration `help:"How long to retry transient errors." default:"10m"`
}

// Run handles jobs in the order in which they come. If the results of a job
// cannot be fetched or trusted, the job is printed with the error, which does
// not close its batch. Its input stays, the other jobs are handled, and the
// error is returned at the end.
func (f *Fetch) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	services, err := newBackends(f.RetryFor)
	if err != nil {
		return err
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	done, answers := progress.Of(ctx).Count("jobs"), progress.Of(ctx).Count("answers")
	progress.Of(ctx).Flow("bytes") // of the results
	jobs, readErr := readJobs(reading, in, services, func(j *record.Job) {
		switch {
		case j == nil:
			done.Final()
			answers.Final()
		case j.State == record.Succeeded:
			answers.Expect(int64(j.Requests))
			fallthrough
		default:
			done.Expect(1)
		}
	})
	var sum summary
	var refused refusals
	patience, late := f.RetryFor, 0
	for job := range until(ctx, jobs) {
		job.Succeeded, job.Failed, job.Tokens = nil, nil, nil
		came := *job.Job
		err := f.fetch(ctx, job, patience, out, &sum)
		done.Add(1)
		switch {
		case err == nil:
			patience, late = f.RetryFor, 0
			continue
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, new(*oneBatch)):
			refused.add(err)
		case exit.Code(err) == exit.TryLater:
			// One job may fail for days while the others can be fetched. If several
			// jobs fail in a row, the cause is not the job.
			if late++; late == 3 {
				return err
			}
			refused.add(err)
			patience = f.RetryFor / 20
		default:
			return err
		}
		came.Error = &record.Status{Code: 15, Status: codeName(15), Message: wire.OneLine(err.Error())}
		if err := printJob(out, &came); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if *readErr != nil {
		refused.add(*readErr)
		return refused.first
	}
	if refused.first != nil {
		return exit.Keep(refused.first)
	}
	return sum.err()
}

// A summary counts the jobs and keys of a run.
type summary struct {
	succeeded, failed, unfinished int // jobs
	keys, badKeys                 int // keys of the jobs that succeeded
}

func (s *summary) err() error {
	switch {
	case s.unfinished > 0:
		return exit.Errorf(exit.Unfinished, "%s", goOn(s.unfinished))
	case s.failed == 0 && s.badKeys == 0:
		return nil
	}
	text := count(s.succeeded, "job") + " succeeded"
	if s.failed > 0 {
		text += ", " + count(s.failed, "job") + " failed, expired or cancelled"
	}
	if s.badKeys > 0 {
		text += fmt.Sprintf("; %s of %s failed", commas(s.badKeys), count(s.keys, "key"))
	}
	return exit.With(exit.Partial, errors.New(text))
}

// fetch prints one job, after its results if it has any.
func (f *Fetch) fetch(ctx context.Context, job task, patience time.Duration, out io.Writer, sum *summary) error {
	if job.State == record.Succeeded {
		got, err := f.results(ctx, job, patience, out)
		if err != nil {
			err = fmt.Errorf("%s: %w", job.Job.Job, err)
			var e *wire.Error
			if !wire.Transient(err) && (wire.IsPermanent(err) || errors.As(err, &e) && !e.Auth()) {
				err = &oneBatch{err}
			}
			return err
		}
		job.Succeeded, job.Failed, job.Tokens = &got.vectors, &got.failed, &got.tokens
		sum.keys += got.own + got.unreadable
		sum.badKeys += got.failed + got.unreadable
	}
	switch {
	case !job.Ended():
		sum.unfinished++
	case job.State == record.Succeeded:
		sum.succeeded++
	default:
		sum.failed++
	}
	// The results are printed, so the input is not needed any more.
	if job.Ended() && !f.KeepInput {
		job.at.drop(ctx, job.Input)
	}
	return printJob(out, job.Job)
}

func printJob(out io.Writer, job *record.Job) error {
	line, err := ndjson.Marshal(job)
	if err == nil {
		_, err = out.Write(append(line, '\n'))
	}
	return err
}

// answers counts what a result, or a part of it, holds.
type answers struct {
	lines      int // lines that are not blank
	objects    int // lines that begin like a JSON object
	unreadable int // lines whose key is unknown
	firstBad   int // the number of the first such line
	reason     string
	own        int // answers with a key, without canaries
	vectors    int
	failed     int
	tokens     int64 // with those of canaries, which are paid for too
}

func (a *answers) add(b answers) {
	if a.unreadable == 0 {
		a.firstBad, a.reason = b.firstBad, b.reason
	}
	a.lines += b.lines
	a.objects += b.objects
	a.unreadable += b.unreadable
	a.own += b.own
	a.vectors += b.vectors
	a.failed += b.failed
	a.tokens += b.tokens
}

// short returns an error if a result has fewer answers than the job must have.
// That number is Google's count, or the number of requests if Google gives no
// count.
func (a *answers) short(op *operation, job *record.Job) error {
	malformed := func(format string, args ...any) error {
		return &oneBatch{exit.Errorf(exit.Malformed, format+": fetch it again", args...)}
	}
	sent := max(int(op.requests), job.Requests+job.Canary)
	switch {
	case a.lines > 0 && a.objects == 0:
		return malformed("no line of its result is an answer")
	case op.answers >= 0 && int64(a.lines) < op.answers:
		return malformed("google counts %d answers, its result holds %d", op.answers, a.lines)
	case op.answers < 0 && !op.partial && a.lines < sent:
		return malformed("%d requests were sent, its result holds only %d answers", sent, a.lines)
	case a.lines == 0 && op.answers != 0:
		return malformed("its result is empty")
	case op.answers >= 0 && int64(a.lines) > op.answers:
		slog.Warn("the result holds more answers than google counts", "job", op.name, "answers", a.lines, "counted", op.answers)
	case a.own+a.unreadable < job.Requests:
		slog.Warn("some requests were not answered", "job", op.name, "requests", job.Requests, "answers", a.own+a.unreadable)
	}
	if a.unreadable > 0 {
		slog.Warn("lines of a result cannot be read, their keys get no answer", "job", op.name, "lines", a.unreadable, "first", a.firstBad, "error", a.reason)
	}
	return nil
}

// results prints the answers of a job that succeeded.
func (f *Fetch) results(ctx context.Context, job task, patience time.Duration, out io.Writer) (got answers, err error) {
	var op *operation
	err = wire.Retry(ctx, patience, func() error {
		op, err = job.at.status(ctx, job.Job.Job)
		return err
	})
	if err != nil {
		if wire.Missing(err) {
			err = fmt.Errorf("not visible to this key: it belongs to another project or was deleted%s: %w", giveBack(job.Batch), err)
		}
		return got, err
	}
	op.update(job.Job)
	if job.State != record.Succeeded {
		return got, &oneBatch{fmt.Errorf("google says that the job is %s now", job.State)}
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	result, err := job.at.results(reading, op)
	if err != nil {
		return got, err
	}
	defer result.Close()
	t := progress.Of(ctx)
	var source io.Reader = counted{result, t.Flow("bytes")}
	// The record's canary count may have been lost in a table without such a
	// column.
	if _, _, n, _ := parseLabel(op.display); n > job.Canary {
		job.Canary = n
	}
	if job.Canary > 0 {
		file, size, err := spoolAll(source)
		if err != nil {
			return got, err
		}
		defer file.Close()
		all := func() io.Reader { return io.NewSectionReader(file, 0, size) }
		if err := verify(all, job.Canary); err != nil {
			return got, &oneBatch{err}
		}
		source = all()
	}
	got, err = convert(source, stop, &converter{Fetch: f, job: job.Job, hide: job.at.hide, answers: t.Count("answers")}, out)
	if wire.Missing(err) {
		err = fmt.Errorf("its results have expired, were deleted or belong to another project%s: %w", giveBack(job.Batch), err)
	}
	if err == nil {
		err = got.short(op, job.Job)
	}
	return got, err
}

// spoolAll copies r into a file without a name.
func spoolAll(r io.Reader) (*os.File, int64, error) {
	s, err := newSpool()
	if err != nil {
		return nil, 0, err
	}
	size, err := io.Copy(s.file, r)
	if err != nil {
		s.file.Close()
		return nil, 0, err
	}
	return s.file, size, nil
}
