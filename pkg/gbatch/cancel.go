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

	"gbatch/pkg/exit"
	"gbatch/pkg/ledger"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/record"
)

// Cancel asks for the end of jobs that have not ended, and deletes files that no
// living job uses. It touches only what carries a display name of ours.
type Cancel struct {
	DryRun   bool          `help:"Change nothing; print what is at Google, and say what would be done."`
	RetryFor time.Duration `help:"How long to retry transient failures." default:"10m"`
}

// Run handles the records of in one after the other. What is refused is not
// printed and does not keep the others back. The error is returned at the end.
func (c *Cancel) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	services, err := newBackends(c.RetryFor)
	if err != nil {
		return err
	}
	r := cancelling{Cancel: c, services: services, at: services.gemini}
	defer r.tell()
	lines, late := ndjson.NewReader(in), 0
	var refused refusals
	for {
		line, err := lines.Next()
		if err == io.EOF {
			return refused.first
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
		case exit.Code(err) == exit.TryLater && late < 2: // three in a row are not about one job
			late++
			refused.add(err)
		case exit.Code(err) == exit.Malformed:
			return lines.Errorf("%w", err)
		default:
			return err
		}
	}
}

// cancelling is what the records of one run share.
type cancelling struct {
	*Cancel
	services *backends
	at       backend
	used     map[string]string // inputs of jobs that had not ended, each with such a job; nil before the first file
	notes    *ledger.Files

	jobs, files, requests, answered int // that were changed, or would be
}

// keep is the refusal of one record.
func keep(format string, args ...any) error {
	return &oneBatch{exit.Errorf(exit.Partial, format, args...)}
}

func keepInput(file, job string) error {
	return keep("%s is the input of %s, which has not ended: it was not deleted", file, job)
}

func keepResults(file string) error {
	return keep("%s holds results: google has no call that deletes them, they expire", file)
}

// about says of which record an error of Google's is, and whether others may be
// handled in spite of it.
func about(name string, err error) error {
	err = fmt.Errorf("%s: %w", name, err)
	var e *apiError
	if !transient(err) && (errors.As(err, new(permanent)) || errors.As(err, &e) && !e.auth()) {
		return &oneBatch{err}
	}
	return err
}

// handle does what a record is for, and returns the line to print.
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
	if _, err := r.services.of(job); err != nil {
		return nil, malformed(err)
	}
	if err := r.job(ctx, job); err != nil {
		return nil, err
	}
	return ndjson.Marshal(job)
}

func malformed(err error) error { return exit.With(exit.Malformed, err) }

// ours reports whether a display name is one that gbatch-submit gives.
func ours(display string) bool {
	_, _, _, ok := parseLabel(display)
	return ok
}

func notOurs(name, display string) error {
	return keep("%s is not ours: its display name is %.100q, which gbatch-submit does not give: nothing was done to it", name, display)
}

// job asks for the end of a job, and brings its record up to date.
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
		if missing(refusal) || refusal != nil && (ctx.Err() != nil || transient(refusal)) {
			return aboutJob(op.name, refusal)
		}
		// A cancel is refused also where the job has just ended, or where it was
		// cancelled by a call whose reply was lost.
		now, err := r.status(ctx, op.name)
		switch {
		case err == nil:
			now.update(job)
		case refusal == nil:
			slog.Warn("google was asked to end a job, its new state is not known", "job", op.name, "error", err)
		}
		switch {
		case refusal != nil && !job.Ended():
			return about(op.name, fmt.Errorf("google does not end the job: %w", refusal))
		case job.Ended() && job.State != record.Cancelled:
			return nil
		}
	}
	r.jobs++
	r.requests += max(job.Requests, int(op.requests))
	r.answered += max(int(op.answers), 0)
	return nil
}

func (r *cancelling) status(ctx context.Context, job string) (op *operation, err error) {
	err = retry(ctx, r.RetryFor, func() error {
		op, err = r.at.status(ctx, job)
		return err
	})
	return op, err
}

func aboutJob(name string, err error) error {
	if missing(err) {
		return &oneBatch{fmt.Errorf("job %s is not visible to this key: it belongs to another project or was deleted", name)}
	}
	return about(name, err)
}

// longestFileName is Google's limit for the calls that read or delete a file.
// The name of a real result file is longer.
const longestFileName = len("files/") + 40

// file deletes a file, and returns its record.
func (r *cancelling) file(ctx context.Context, f *record.File) (*record.File, error) {
	if f.Display != "" && !ours(f.Display) {
		return nil, notOurs(f.File, f.Display)
	}
	if len(f.File) > longestFileName || f.Source == "GENERATED" {
		return nil, keepResults(f.File)
	}
	at, err := r.at.file(ctx, f.File)
	switch {
	case missing(err):
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
	if entry != nil {
		defer entry.Close()
	}
	if !r.DryRun {
		if err := r.at.remove(ctx, f.File); err != nil {
			return nil, about(f.File, err)
		}
		now.State = record.Deleted
	}
	r.files++
	return now, nil
}

// look finds out, before the first file, which inputs living jobs use. A list
// that breaks off is an error and never means that a file is not in use.
func (r *cancelling) look(ctx context.Context) (err error) {
	if r.used != nil {
		return nil
	}
	open := ledger.Open
	if r.DryRun {
		open = ledger.Look
	}
	if r.notes, err = open(); err != nil {
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
		return fmt.Errorf("look for the jobs that use the files: %w", err)
	}
	r.used = used
	return nil
}

// hold keeps gbatch-submit on this machine from using a file while it is
// deleted, and refuses a file whose submission is under way. The entry may be
// nil in a dry run. The list of jobs may lag behind a create, so what a note says
// counts too.
func (r *cancelling) hold(ctx context.Context, file, display string) (ledger.Entry, error) {
	batch, hash, _, _ := parseLabel(display)
	name := ledger.Name(batch, hash)
	if r.DryRun {
		if m, err := r.notes.Read(name); err != nil || m.Phase == "" {
			return nil, err
		}
	}
	entry, err := r.notes.Try(name)
	switch {
	case err != nil:
		return nil, err
	case entry == nil:
		return nil, keep("%s is in use: gbatch-submit works on its batch: it was not deleted", file)
	}
	switch m := entry.Mark(); m.Phase {
	case ledger.Create:
		err = keep("%s may be in use: the outcome of a create is unknown, as %s says: it was not deleted; run the line of that batch again, which settles it", file, entry)
	case ledger.Created:
		op, e := r.status(ctx, m.Job)
		switch {
		case missing(e): // the job was deleted
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

// tell says what was done, or would be, and what is forfeited.
func (r *cancelling) tell() {
	what := "google was asked to end "
	if r.DryRun && r.jobs+r.files > 0 {
		slog.Warn("nothing was changed, this is what would be done", "end", count(r.jobs, "job"), "delete", count(r.files, "file"))
		what = "google would be asked to end "
	}
	if r.jobs == 0 {
		return
	}
	what += count(r.jobs, "job") + " with " + count(r.requests, "request")
	if r.answered > 0 {
		what += ", of which " + commas(r.answered) + " were answered"
	}
	slog.Warn(what + "; a job that ends CANCELLED has no results, and google does not say whether it charges for requests that were under way")
}
