// Package progress counts how far a command has come, and shows it.
//
// A command counts: [Of] returns the [Task] that its context carries, and the
// counts of a task are atomic numbers. [Task.Watch] reads them from one
// goroutine, at most ten times a second. So counting costs nothing that can be
// measured, also if nobody watches.
//
// The commands of a pipe share one terminal. [Block] draws their rows on it.
package progress

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Task is the progress of one command. A nil Task is valid: nobody sees what
// is counted.
type Task struct {
	name  string
	begun time.Time

	mu      sync.Mutex
	counts  []*Count
	oldest  time.Time // creation of the oldest job that has not ended; zero if there is none
	expires time.Time
	samples []sample // of the last seconds, oldest first
}

// A sample holds all counts at one time.
type sample struct {
	at   time.Time
	done []int64
}

// New returns the task of a command.
func New(name string) *Task { return &Task{name: name, begun: time.Now()} }

// Name returns the name of the command.
func (t *Task) Name() string { return t.name }

type key struct{}

// With returns a context that carries a task.
func With(ctx context.Context, t *Task) context.Context { return context.WithValue(ctx, key{}, t) }

// Of returns the task that ctx carries, or nil.
func Of(ctx context.Context) *Task {
	t, _ := ctx.Value(key{}).(*Task)
	return t
}

// A Count is the number of things that are done, of a total that may become
// known later. Its methods may be called by several goroutines. A nil Count is
// valid, and stays 0.
type Count struct {
	unit        string
	flow        bool
	done, total atomic.Int64
	final       atomic.Bool
}

// Count returns the count of a unit, such as "jobs". A row shows the counts in
// the order in which they were requested first. The unit "bytes" is shown in
// powers of 1000.
func (t *Task) Count(unit string) *Count { return t.count(unit, false) }

// Flow returns a count whose rate is shown too. A row with a flow shows the time
// that is left.
func (t *Task) Flow(unit string) *Count { return t.count(unit, true) }

func (t *Task) count(unit string, flow bool) *Count {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.IndexFunc(t.counts, func(c *Count) bool { return c.unit == unit }); i >= 0 {
		return t.counts[i]
	}
	c := &Count{unit: unit, flow: flow}
	t.counts = append(t.counts, c)
	return c
}

// Add adds to what is done.
func (c *Count) Add(n int64) {
	if c != nil {
		c.done.Add(n)
	}
}

// Set replaces what is done.
func (c *Count) Set(n int64) {
	if c != nil {
		c.done.Store(n)
	}
}

// Done returns what is done.
func (c *Count) Done() int64 {
	if c == nil {
		return 0
	}
	return c.done.Load()
}

// Expect adds to the total.
func (c *Count) Expect(n int64) {
	if c != nil {
		c.total.Add(n)
	}
}

// Final says that the total does not grow any more. Until then it is only what
// is known so far.
func (c *Count) Final() {
	if c != nil {
		c.final.Store(true)
	}
}

// Oldest says when the oldest job that has not ended was created, and when it
// expires. Zero times mean that there is no such job.
func (t *Task) Oldest(created, expires time.Time) {
	if t != nil {
		t.mu.Lock()
		t.oldest, t.expires = created, expires
		t.mu.Unlock()
	}
}

// A Report is a task at one time.
type Report struct {
	Name    string
	Figures []Figure
	Left    time.Duration // until the last final total is reached; 0: unknown
	Oldest  time.Duration // age of the oldest job that has not ended; 0: there is none
	Expires time.Duration // time until that job expires
	Took    time.Duration // age of the task
	Ended   bool          // see Whole
}

// A Figure is a count at one time.
type Figure struct {
	Unit        string
	Done, Total int64 // Total is 0 if it is unknown
	Final       bool
	Flow        bool
	Rate        float64 // done in a second, over the last seconds
}

// Same reports whether two figures have the same counts.
func (f Figure) Same(other Figure) bool { return f.Done == other.Done && f.Total == other.Total }

// window is the time over which rates are measured.
const window = 10 * time.Second

// Report returns the present state of the task.
func (t *Task) Report() Report {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	r := Report{Name: t.name, Took: now.Sub(t.begun)}
	if !t.oldest.IsZero() {
		r.Oldest, r.Expires = now.Sub(t.oldest), t.expires.Sub(now)
	}
	done := make([]int64, len(t.counts))
	for i, c := range t.counts {
		done[i] = c.done.Load()
	}
	if n := len(t.samples); n == 0 || now.Sub(t.samples[n-1].at) >= time.Second {
		t.samples = append(t.samples, sample{now, done})
	}
	for len(t.samples) > 2 && now.Sub(t.samples[1].at) > window {
		t.samples = t.samples[1:]
	}
	first := t.samples[0]
	if len(t.samples) == 1 { // the task itself began with zeros
		first = sample{t.begun, nil}
	}
	for i, c := range t.counts {
		f := Figure{Unit: c.unit, Done: done[i], Total: max(c.total.Load(), 0), Final: c.final.Load(), Flow: c.flow}
		before := int64(0)
		if i < len(first.done) {
			before = first.done[i]
		}
		f.Rate = max(float64(f.Done-before)/max(now.Sub(first.at).Seconds(), 1e-3), 0)
		r.Figures = append(r.Figures, f)
	}
	if m := r.measure(); m != nil && m.Rate > 0 && slices.ContainsFunc(r.Figures, func(f Figure) bool { return f.Flow }) {
		r.Left = time.Duration(float64(m.Total-m.Done) / m.Rate * float64(time.Second))
	}
	return r
}

// Whole returns the report of a task that has ended: with the rates of the whole
// time, and without the time that is left.
func (r Report) Whole() Report {
	r.Figures, r.Left, r.Ended = slices.Clone(r.Figures), 0, true
	for i, f := range r.Figures {
		r.Figures[i].Rate = float64(f.Done) / max(r.Took.Seconds(), 1e-3)
	}
	return r
}

// measure returns the figure that says best how much is done: the last one whose
// total is final. It returns nil if there is none.
func (r *Report) measure() *Figure {
	for i := len(r.Figures) - 1; i >= 0; i-- {
		if f := &r.Figures[i]; f.Final && f.Total > 0 {
			return f
		}
	}
	return nil
}

// Attrs returns the report as attributes of a log record.
func (r *Report) Attrs() (attrs []any) {
	for _, f := range r.Figures {
		attrs = append(attrs, slog.Int64(f.Unit, f.Done))
		switch {
		case f.Final:
			attrs = append(attrs, slog.Int64(f.Unit+"_total", f.Total))
		case f.Total > 0: // there may be more
			attrs = append(attrs, slog.Int64(f.Unit+"_known", f.Total))
		}
		if f.Flow {
			attrs = append(attrs, slog.Int64(f.Unit+"_per_second", int64(f.Rate)))
		}
	}
	if r.Left > 0 {
		attrs = append(attrs, slog.Duration("left", r.Left))
	}
	if r.Oldest > 0 {
		attrs = append(attrs, slog.Duration("oldest", r.Oldest), slog.Duration("expires_in", r.Expires))
	}
	return append(attrs, slog.Duration("took", r.Took))
}

// Watch calls show with a report every so often, as soon as the command counts
// something. The function that it returns ends this, and returns when show is not
// called any more.
func (t *Task) Watch(every time.Duration, show func(Report)) (stop func()) {
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if r := t.Report(); len(r.Figures) > 0 {
					show(r)
				}
			case <-quit:
				return
			}
		}
	}()
	return func() {
		close(quit)
		<-ended
	}
}
