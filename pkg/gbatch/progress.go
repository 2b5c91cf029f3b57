package gbatch

import (
	"io"
	"sync"
	"time"

	"gbatch/pkg/model"
	"gbatch/pkg/progress"
	"gbatch/pkg/record"
)

// counted is a reader whose bytes are counted.
type counted struct {
	io.ReadCloser
	bytes *progress.Count
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.bytes.Add(int64(n))
	return n, err
}

// An overview sums up the jobs that gbatch-wait waits for, for its progress.
type overview struct {
	task           *progress.Task
	jobs, requests *progress.Count

	mu   sync.Mutex
	open map[*record.Job]watched // jobs that have not ended
}

// watched is what is known of one job.
type watched struct {
	created            time.Time // zero if it is unknown
	answered, requests int64
}

func newOverview(t *progress.Task) *overview {
	return &overview{task: t, jobs: t.Count("jobs"), requests: t.Count("requests"), open: map[*record.Job]watched{}}
}

// seen adds a job. A nil job means that no more jobs come.
func (o *overview) seen(j *record.Job) {
	if j == nil {
		o.jobs.Final()
		o.requests.Final()
		return
	}
	created, _ := time.Parse(time.RFC3339, j.CreatedAt)
	o.jobs.Expect(1)
	o.requests.Expect(int64(j.Requests))
	o.change(func() { o.open[j] = watched{created: created, requests: int64(j.Requests)} })
}

// looked notes what Google says about a job.
func (o *overview) looked(j *record.Job, op *operation) {
	o.change(func() {
		w := o.open[j]
		if at := op.createdAt(); !at.IsZero() {
			w.created = at
		}
		if op.requests > 0 { // canaries count too
			o.requests.Expect(op.requests - w.requests)
			w.requests = op.requests
		}
		if op.answers >= 0 {
			o.requests.Add(op.answers - w.answered)
			w.answered = op.answers
		}
		o.open[j] = w
	})
}

// ended notes that a job has ended: none of its requests is waited for any more.
func (o *overview) ended(j *record.Job) {
	o.change(func() {
		o.jobs.Add(1)
		o.requests.Add(o.open[j].requests - o.open[j].answered)
		delete(o.open, j)
	})
}

// given notes that a job is not watched any more, although it has not ended.
func (o *overview) given(j *record.Job) { o.change(func() { delete(o.open, j) }) }

func (o *overview) change(change func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change()
	var oldest, expires time.Time
	for j, w := range o.open {
		if !w.created.IsZero() && (oldest.IsZero() || w.created.Before(oldest)) {
			oldest, expires = w.created, w.created.Add(model.JobLife(j.Job))
		}
	}
	o.task.Oldest(oldest, expires)
}
