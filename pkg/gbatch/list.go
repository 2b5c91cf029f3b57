package gbatch

import (
	"context"
	"io"
	"time"

	"gbatch/pkg/cli"
	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/record"
)

// List prints the jobs or the files of the project at Google, also those of other
// programs.
type List struct {
	cli.Output `embed:""`
	Files      bool          `help:"List files instead of jobs."`
	Backend    string        `help:"Google's service: gemini (the Gemini API) or vertex (Vertex AI)." enum:"gemini,vertex" default:"gemini"`
	RetryFor   time.Duration `help:"How long to retry transient failures." default:"10m"`
}

// Run prints the list page by page. It reads nothing from in.
func (l *List) Run(ctx context.Context, _ io.Reader, out io.Writer) error {
	at, err := l.service()
	if err != nil {
		return err
	}
	if l.Files {
		return at.files(ctx, printPages(out,
			func(f *storedFile) string { return f.name },
			func(f *storedFile) *record.File { return f.listed(at.hide) }))
	}
	return at.jobs(ctx, printPages(out,
		func(op *operation) string { return op.name },
		func(op *operation) *record.Job { return op.listed(at.hide) }))
}

func (l *List) service() (backend, error) {
	if l.Backend != model.Vertex {
		return newGemini(l.RetryFor)
	}
	v, err := newVertex(l.RetryFor)
	if err == nil {
		err = v.place()
	}
	return v, err
}

// printPages returns a function that prints the pages of a list. It leaves out an
// item that was on the page before: an item moves to the next page if others are
// added while the list is read.
func printPages[T, R any](out io.Writer, name func(T) string, line func(T) R) func([]T) (bool, error) {
	lines := ndjson.NewWriter(out)
	var before map[string]bool
	return func(page []T) (more bool, err error) {
		now := make(map[string]bool, len(page))
		for _, item := range page {
			now[name(item)] = true
			if before[name(item)] {
				continue
			}
			if err := lines.Encode(line(item)); err != nil {
				return false, err
			}
		}
		before = now
		return true, lines.Flush()
	}
}
