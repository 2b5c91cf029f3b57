package store

import (
	"context"
	"io"

	"gbatch/pkg/ndjson"
	"gbatch/pkg/record"
)

// Jobs is jobs-pending: it prints the jobs that were submitted and whose
// results are not applied yet, oldest first.
type Jobs struct {
	Database `embed:""`
}

// Run prints job records to out. in is not read.
func (j *Jobs) Run(ctx context.Context, _ io.Reader, out io.Writer) error {
	defer j.end()
	var jobs []record.Job
	err := j.transact(ctx, read, func(c *conn) error {
		if ok, err := c.hasSchema(); err != nil || !ok {
			return err
		}
		r, err := c.query("SELECT job, batch, state, model, dim, requests, input, canary FROM gbatch.jobs WHERE job IS NOT NULL AND closed_at IS NULL ORDER BY batch")
		if err != nil {
			return err
		}
		defer r.close()
		for r.next() {
			jobs = append(jobs, record.Job{Job: r.string(0), Batch: r.string(1), State: r.string(2), Model: r.string(3),
				Dim: int(r.int(4)), Requests: int(r.int(5)), Input: r.string(6), Canary: int(r.int(7))})
		}
		return nil
	})
	if err != nil {
		return err
	}
	w := ndjson.NewWriter(out)
	for _, job := range jobs {
		if err := w.Encode(job); err != nil {
			return err
		}
	}
	return w.Flush()
}
