package gbatch

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"gbatch/pkg/cli"
	"gbatch/pkg/exit"
	"gbatch/pkg/ledger"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/record"
	"gbatch/pkg/wire"
)

// Cancel cancels jobs that have not ended, and deletes files that no active job
// uses. It changes only jobs and files with a display name of gbatch-submit.
type Cancel struct {
	cli.Files  `embed:""`
	cli.Output `embed:""`
	DryRun     bool          `help:"Change nothing; print the states at Google, and report what would be done."`
	Bucket     string        `placeholder:"gs://BUCKET/FOLDER" help:"That of gbatch-submit: keep the files of batches that other machines are submitting."`
	RetryFor   time.Duration `help:"How long to retry transient failures." default:"10m"`
}

// Run handles the records of in one after the other. A refused record is not
// printed, and the next one is handled. The error is returned at the end.
func (c *Cancel) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	services, err := newBackends(c.RetryFor)
	if err != nil {
		return err
	}
	r := cancelling{Cancel: c, services: services}
	defer r.tell()
	lines, late := ndjson.NewReader(in), 0
	var refused refusals
	for {
		line, err := lines.Next()
		if err == io.EOF {
			return exit.Keep(refused.first)
		}
		if err != nil {
			return err
		}
		line, err = r.handle(ctx, line)
		switch {
		case err == nil:
			late = 0
			if _, err := out.Write(append(bytes.Clone(line), '\n')); err != nil {
				return err
			}
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, new(*oneBatch)):
			refused.add(err)
		case exit.Code(err) == exit.TryLater && late < 2: // after three in a row the cause is not one job
			late++
			refused.add(err)
		case exit.Code(err) == exit.Malformed:
			return lines.Errorf("%w", err)
		default:
			return err
		}
	}
}

// cancelling is the state of one run.
type cancelling struct {
	*Cancel
	services *backends
	at       backend
	used     map[string]string // input files of jobs that had not ended, each with its job; nil before the first file
	ledger   ledger.Ledger

	jobs, files, requests, answered int  // counts of what was changed, or would be in a dry run
	vertex                          bool // one of the jobs is of Vertex AI
}

// keep returns the error for a record that is refused.
func keep(format string, args ...any) error {
	return &oneBatch{exit.Errorf(exit.Partial, format, args...)}
}

func keepInput(file, job string) error {
	return keep("%s is the input of %s, which has not ended: it was not deleted", file, job)
}

func keepResults(file string) error {
	return keep("%s holds results: google cannot delete them, they expire", file)
}

// about adds the name of the record to an error from Google. The error is a
// oneBatch if the other records can still be handled.
func about(name string, err error) error {
	err = fmt.Errorf("%s: %w", name, err)
	var e *wire.Error
	if !wire.Transient(err) && (wire.IsPermanent(err) || errors.As(err, &e) && !e.Auth()) {
		return &oneBatch{err}
	}
	return err
}

// handle cancels or deletes what the record names, and returns the line to print.
func (r *cancelling) handle(ctx context.Context, line []byte) ([]byte, error) {
	f, err := record.ParseFile(line)
	if err != nil {
		return nil, malformed(err)
	}
	if f != nil {
		if f.State == record.Deleted {
			return line, nil
		}
		if !geminiFiles.MatchString(f.File) {
			return nil, malformed(fmt.Errorf("%.100q is not a name of a file", f.File))
		}
		if r.at, err = r.services.gemini(); err != nil {
			return nil, err
		}
		if f, err = r.file(ctx, f); err != nil {
			return nil, err
		}
		return ndjson.Marshal(f)
	}
	job, err := record.ParseJob(line)
	if err != nil || job == nil {
		return nil, malformed(cmp.Or(err, errors.New("not a job and not a file: a record with job batches/… or file files/… is expected")))
	}
	if job.Ended() {
		return line, nil
	}
	if job.Display != "" && !ours(job.Display) {
		return nil, notOurs(job.Job, job.Display)
	}
	if r.at, err = r.services.of(job); err != nil {
		return nil, malformed(err)
	}
	if err := r.job(ctx, job); err != nil {
		return nil, err
	}
	return ndjson.Marshal(job)
}

func malformed(err error) error { return exit.With(exit.Malformed, err) }

// ours reports whether a display name was given by gbatch-submit.
func ours(display string) bool {
	_, _, _, ok := parseLabel(display)
	return ok
}

func notOurs(name, display string) error {
	return keep("%s was not made by gbatch-submit: its display name is %.100q: it was not changed", name, display)
}

// job cancels a job, and updates its record.
func (r *cancelling) job(ctx context.Context, job *record.Job) error {
	op, err := r.status(ctx, job.Job)
	switch {
	case err != nil:
		return aboutJob(job.Job, err)
	case !ours(op.display):
		return notOurs(op.name, r.at.hide(op.display))
	}
	if op.update(job); job.Ended() {
		return nil
	}
	if !r.DryRun {
		refusal := r.at.cancel(ctx, op.name)
		if wire.Missing(refusal) || refusal != nil && (ctx.Err() != nil || wire.Transient(refusal)) {
			return aboutJob(op.name, refusal)
		}
		// Google may also refuse a cancel if the job has just ended, or if an earlier
		// call cancelled the job and its reply was lost.
		now, err := r.status(ctx, op.name)
		switch {
		case err == nil:
			now.update(job)
		case refusal == nil:
			slog.Warn("google was asked to cancel a job; its new state is unknown", "job", op.name, "error", err)
		}
		switch {
		case refusal != nil && !job.Ended():
			return about(op.name, fmt.Errorf("google does not cancel the job: %w", refusal))
		case job.Ended() && job.State != record.Cancelled:
			return nil
		}
	}
	r.jobs++
	r.vertex = r.vertex || vertexJobs.MatchString(op.name)
	r.requests += max(job.Requests, int(op.requests))
	r.answered += max(int(op.answers), 0)
	return nil
}

func (r *cancelling) status(ctx context.Context, job string) (op *operation, err error) {
	err = wire.Retry(ctx, r.RetryFor, func() error {
		op, err = r.at.status(ctx, job)
		return err
	})
	return op, err
}

func aboutJob(name string, err error) error {
	if wire.Missing(err) {
		return &oneBatch{fmt.Errorf("job %s is not visible to this key: it belongs to another project or was deleted", name)}
	}
	return about(name, err)
}

// longestFileName is Google's limit for the calls that read or delete a file.
// The name of a real result file is longer.
const longestFileName = len("files/") + 40

// file deletes a file, and returns its record with the new state.
func (r *cancelling) file(ctx context.Context, f *record.File) (*record.File, error) {
	if f.Display != "" && !ours(f.Display) {
		return nil, notOurs(f.File, f.Display)
	}
	if len(f.File) > longestFileName || f.Source == "GENERATED" {
		return nil, keepResults(f.File)
	}
	at, err := r.at.file(ctx, f.File)
	switch {
	case wire.Missing(err):
		slog.Warn("a file is not visible to this key: it was deleted, has expired or belongs to another project", "file", f.File)
		return f, nil
	case err != nil:
		return nil, about(f.File, err)
	case at.source == "GENERATED":
		return nil, keepResults(f.File)
	case !ours(at.display):
		return nil, notOurs(f.File, r.at.hide(at.display))
	}
	now := at.listed(r.at.hide)
	if err := r.look(ctx); err != nil {
		return nil, err
	}
	if job := r.used[f.File]; job != "" {
		return nil, keepInput(f.File, job)
	}
	entry, err := r.hold(ctx, f.File, at.display)
	if err != nil {
		return nil, err
	}
	defer entry.Close()
	if !r.DryRun {
		if err := r.at.remove(ctx, f.File); err != nil {
			return nil, about(f.File, err)
		}
		now.State = record.Deleted
	}
	r.files++
	return now, nil
}

// look reads which inputs the active jobs use, once, before the first file is
// deleted. If the list cannot be read completely, look returns an error, and no
// file is deleted.
func (r *cancelling) look(ctx context.Context) (err error) {
	if r.used != nil {
		return nil
	}
	if r.ledger, err = openLedger(r.Bucket, defaultLease, r.RetryFor, r.DryRun); err != nil {
		return err
	}
	used := map[string]string{}
	err = r.at.jobs(ctx, func(page []*operation) (more bool, err error) {
		for _, op := range page {
			if !(&record.Job{State: op.state}).Ended() {
				used[op.input] = op.name
			}
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("read the list of jobs that use the files: %w", err)
	}
	r.used = used
	return nil
}

// hold holds the entry of the file's batch, so that no gbatch-submit can use the file
// while it is deleted: none on this machine, and with --bucket none elsewhere. It
// refuses a file that is being submitted. The list may show a new job late, so hold also
// reads the entry.
func (r *cancelling) hold(ctx context.Context, file, display string) (entry ledger.Entry, err error) {
	batch, hash, _, _ := parseLabel(display)
	name := ledger.Name(batch, hash)
	if r.DryRun {
		entry, err = r.ledger.Peek(ctx, name)
	} else {
		entry, err = r.ledger.Claim(ctx, name, 0)
	}
	switch {
	case errors.Is(err, ledger.ErrHeld):
		return nil, keep("%s is in use: gbatch-submit is working on its batch: it was not deleted", file)
	case err != nil:
		return nil, err
	}
	switch m := entry.Mark(); m.Phase {
	case ledger.Create:
		err = keep("%s may be in use: the outcome of a create is unknown according to %s: the file was not deleted; run the pipe of that batch again to settle it", file, entry)
	case ledger.Created:
		op, e := r.status(ctx, m.Job)
		switch {
		case wire.Missing(e): // the job was deleted
		case e != nil:
			err = about(m.Job, e)
		case !(&record.Job{State: op.state}).Ended() && (op.input == file || op.input == ""):
			err = keepInput(file, m.Job)
		}
	}
	if err != nil {
		entry.Close()
		return nil, err
	}
	return entry, nil
}

// tell reports what was done, or would be done, and how many requests lose their
// results.
func (r *cancelling) tell() {
	what := "google was asked to cancel "
	if r.DryRun && r.jobs+r.files > 0 {
		slog.Warn("nothing was changed; this would be done", "cancel", count(r.jobs, "job"), "delete", count(r.files, "file"))
		what = "google would be asked to cancel "
	}
	if r.jobs == 0 {
		return
	}
	what += count(r.jobs, "job") + " with " + count(r.requests, "request")
	if r.answered > 0 {
		what += ", of which " + commas(r.answered) + " were answered"
	}
	what += "; a job that ends CANCELLED has no results, and google may charge for the requests that it has worked on"
	if r.vertex {
		what += "; a job of Vertex AI keeps the answers that it has, which gbatch-wait and gbatch-fetch collect"
	}
	slog.Warn(what)
}
