package store

import (
	"context"
	"errors"
	"io"

	"gbatch/pkg/cli"
	"gbatch/pkg/duck"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/progress"
	"gbatch/pkg/record"
)

// Jobs is jobs-pending: it prints the jobs whose results are not applied yet,
// oldest first.
type Jobs struct {
	duck.Database `embed:""`
	cli.Output    `embed:""`
}

// Run prints job records to out. in is not read.
func (j *Jobs) Run(ctx context.Context, _ io.Reader, out io.Writer) error {
	defer j.End()
	var jobs []record.Job
	list := func(c *duck.Conn) error {
		if ok, err := hasTables(c); err != nil || !ok {
			return err
		}
		return c.Each(func(r *duck.Rows) { jobs = append(jobs, jobOf(r)) },
			"SELECT "+jobColumns+" FROM gbatch.jobs WHERE job IS NOT NULL AND closed_at IS NULL ORDER BY batch")
	}
	err := transact(ctx, &j.Database, duck.Read, list)
	if errors.Is(err, duck.ErrUnfinished) {
		// A pipe that starts with this command must be able to continue after any
		// kill. Opening the file for writing repairs it.
		err = transact(ctx, &j.Database, duck.Write, list)
	}
	if err != nil {
		return err
	}
	w := ndjson.NewWriter(out)
	for _, job := range jobs {
		if err := w.Encode(job); err != nil {
			return err
		}
	}
	progress.Of(ctx).Count("jobs").Set(int64(len(jobs)))
	return w.Flush()
}

// jobColumns are the columns of gbatch.jobs that [jobOf] reads.
const jobColumns = "job, batch, state, model, dim, requests, input, canary"

func jobOf(r *duck.Rows) record.Job {
	return record.Job{Job: r.Text(0), Batch: r.Text(1), State: r.Text(2), Model: r.Text(3),
		Dim: int(r.Int(4)), Requests: int(r.Int(5)), Input: r.Text(6), Canary: int(r.Int(7))}
}
