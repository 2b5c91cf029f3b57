package gbatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"gbatch/pkg/exit"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/record"
)

// Fetch prints the results of jobs: a vector or an error for each key, then
// the job's record, which says that they are complete.
type Fetch struct {
	KeepInput bool          `help:"Leave the input files at Google."`
	Normalize bool          `help:"Scale vectors to length 1; gemini-embedding-001 does so at 3072 values only."`
	RetryFor  time.Duration `help:"How long to retry transient failures." default:"10m"`
}

// Run handles jobs in the order they come in. One whose results cannot be
// had, or cannot be trusted, does not keep the others back: it gets no closing
// record, its input stays, and the error is returned at the end.
func (f *Fetch) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	services, err := newBackends(f.RetryFor)
	if err != nil {
		return err
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	jobs, readErr := readJobs(reading, in, services)
	var unfinished, failed int
	var refused refusals
	for job := range until(ctx, jobs) {
		keys, err := f.fetch(ctx, job, out)
		switch {
		case errors.As(err, new(*oneBatch)):
			refused.add(err)
		case err != nil:
			return err
		case !job.Ended():
			unfinished++
		case job.State != record.Succeeded || keys > 0:
			failed++
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if *readErr != nil {
		refused.add(*readErr)
	}
	switch {
	case refused.first != nil:
		return refused.first
	case unfinished > 0:
		return exit.Errorf(exit.Unfinished, "%s", goOn(unfinished))
	case failed > 0:
		return exit.Errorf(exit.Partial, "%d jobs failed, or some of their keys did: see the records", failed)
	}
	return nil
}

// fetch prints one job, with its results where it has some, and returns how
// many of its keys failed.
func (f *Fetch) fetch(ctx context.Context, job task, out io.Writer) (failed int, err error) {
	job.Succeeded, job.Failed, job.Tokens = nil, nil, nil
	if job.State == record.Succeeded {
		got, err := f.results(ctx, job, out)
		if err != nil {
			err = fmt.Errorf("%s: %w", job.Job.Job, err)
			var e *apiError
			if errors.As(err, new(permanent)) || refused(err) && errors.As(err, &e) && !e.auth() {
				err = &oneBatch{err}
			}
			return 0, err
		}
		job.Succeeded, job.Failed, job.Tokens = &got.vectors, &got.failed, &got.tokens
		failed = got.failed
	}
	// Everything that the input was for is over, and printed.
	if job.Ended() && !f.KeepInput {
		job.at.drop(ctx, job.Input)
	}
	line, err := ndjson.Marshal(job.Job)
	if err == nil {
		_, err = out.Write(append(line, '\n'))
	}
	return failed, err
}

// answers is what a result, or a part of it, holds.
type answers struct {
	lines   int // that are not blank
	own     int // that are not canaries'
	vectors int
	failed  int
	tokens  int64 // canaries' too, since they are paid for
}

func (a *answers) add(b answers) {
	a.lines += b.lines
	a.own += b.own
	a.vectors += b.vectors
	a.failed += b.failed
	a.tokens += b.tokens
}

// results prints the answers of a job that succeeded.
func (f *Fetch) results(ctx context.Context, job task, out io.Writer) (got answers, err error) {
	var op *operation
	err = retry(ctx, f.RetryFor, func() error {
		op, err = job.at.status(ctx, job.Job.Job)
		return err
	})
	if err != nil {
		if missing(err) {
			err = fmt.Errorf("not visible to this key, it belongs to another project or was deleted: %w", err)
		}
		return got, err
	}
	op.update(job.Job)
	if job.State != record.Succeeded {
		return got, &oneBatch{fmt.Errorf("google says %s now", job.State)}
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	result, err := job.at.results(reading, op)
	if err != nil {
		return got, err
	}
	defer result.Close()
	var source io.Reader = result
	// The record may have been through a table that has no such column.
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
	got, err = convert(source, stop, &converter{Fetch: f, job: job.Job, hide: job.at.hide}, out)
	if missing(err) {
		err = fmt.Errorf("its results are gone, or are another project's: give its chunks back as docs/troubleshooting.md says: %w", err)
	}
	if err != nil {
		return got, err
	}
	switch {
	case op.answers >= 0 && int64(got.lines) < op.answers:
		return got, &oneBatch{exit.Errorf(exit.Malformed, "google counts %d answers, its result holds %d: fetch it again", op.answers, got.lines)}
	case op.answers >= 0 && int64(got.lines) > op.answers:
		slog.Warn("the result holds more answers than google counts", "job", op.name, "answers", got.lines, "counted", op.answers)
	case got.own < job.Requests:
		slog.Warn("some requests were not answered", "job", op.name, "requests", job.Requests, "answers", got.own)
	}
	return got, nil
}

// spoolAll copies r into a file that has no name.
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
