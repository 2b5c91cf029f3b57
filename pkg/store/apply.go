package store

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"gbatch/pkg/cli"
	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/progress"
	"gbatch/pkg/record"
)

// Apply is vectors-apply: it writes vectors and errors of keys to the database.
// It closes a batch when it reads the job record after the batch's last answer.
//
// A vector is given to the chunks whose present text is the text that was sent.
// If no chunk has that text now, the vector is stored under the hash of the
// text, without a chunk, because it is paid for. Applying the same records again
// changes nothing.
type Apply struct {
	duck.Database `embed:""`
	cli.Files     `embed:""`
	cli.Output    `embed:""`
	Embeddings    string `help:"Refuse batches that were claimed for another table of vectors."`
	MaxAttempts   int    `default:"3" help:"How many times a text with transient errors is sent before it counts as failed."`
	Column        string `help:"Also write vectors into this column of the chunks table, if it is not the one that chunks-pending was given."`
}

// An effort says how much a transaction writes to the user's tables. If a
// transaction fails, the next one tries less, so that the vectors are stored and
// the batch is closed, whatever is wrong with the user's table. The next
// chunks-pending does the rest, at no cost.
type effort int

const (
	everything effort = iota // vectors to their chunks, and the courtesy columns
	noCourtesy               // vectors to their chunks
	noSource                 // vectors under the hashes of their texts
)

// An applier is one run of Apply.
type applier struct {
	*Apply
	source  string            // source of the batch that is being applied; "" until the batch is known
	effort  effort            // effort of the present transaction
	efforts map[string]effort // by source: the greatest effort that is not known to fail
	unknown map[string]int    // by batch: answers for keys that it does not have
	tally
	stored *progress.Count // vectors

	counted string // the batch that was counted last in behind or apart
	refused string // the batch that cannot be applied
	err     error  // why the first refused batch cannot be applied
}

// A tally holds the numbers that verdict reports: keys, answers, jobs and
// batches.
type tally struct {
	asked                          int // keys with an answer, or that should have one
	failed, dropped, lost, unwhole int

	behind int // batches whose courtesy columns were not written
	apart  int // batches whose vectors were not given to chunks
}

// Run applies the records of in, and prints each job record to out after its
// effect is in the database. The next records are read while some are written.
//
// A batch that cannot be applied stays open, and the other batches are applied.
func (a *Apply) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	if a.MaxAttempts < 1 {
		return exit.Errorf(exit.Usage, "--max-attempts must be at least 1")
	}
	defer a.End()
	reading, stop := context.WithCancel(ctx)
	defer stop()
	d := divide(reading, in)
	w := applier{Apply: a, efforts: map[string]effort{}, unknown: map[string]int{}}
	jobs := progress.Of(ctx).Count("jobs")
	w.stored = progress.Of(ctx).Flow("vectors")
	lines := ndjson.NewWriter(out)
	for u := d.next(new(unit)); u != nil; u = d.next(u) {
		if err := w.apply(ctx, u.parts); err != nil {
			return err
		}
		for _, p := range u.parts {
			if p.applied == nil {
				continue
			}
			jobs.Add(1)
			if err := lines.Encode(p.applied); err != nil {
				return err
			}
		}
		if err := lines.Flush(); err != nil {
			return err
		}
	}
	return w.verdict(d.err)
}

// apply writes parts of batches, and sets the job records whose effect is now in
// the database. An error means that no batch can be written.
//
// All parts are written in one transaction, which is much cheaper. If this fails,
// each is written in its own.
func (w *applier) apply(ctx context.Context, parts []*part) error {
	parts = slices.DeleteFunc(slices.Clone(parts), w.useless)
	names := map[string]bool{}
	for _, p := range parts {
		names[p.batch] = true
	}
	if len(parts) > 1 && len(parts) == len(names) && len(w.efforts) == 0 {
		w.source, w.effort = "", everything
		before := w.tally
		opened, err := w.transact(ctx, parts)
		if err == nil {
			for _, p := range parts {
				w.count(p)
			}
			return nil
		} else if !opened || ctx.Err() != nil {
			return err
		}
		slog.Debug("batches cannot be applied together", "error", err)
		w.tally = before
	}
	for _, p := range parts {
		if p.batch == w.refused {
			p.applied = nil
			continue
		}
		if opened, err := w.commit(ctx, p); !opened || ctx.Err() != nil {
			return err
		} else if err != nil {
			w.refused, p.applied = p.batch, nil
			if w.err == nil {
				w.err = err
			} else {
				slog.Warn("a batch cannot be applied, and stays open", "batch", p.batch, "reason", err)
			}
			continue
		}
		w.count(p)
	}
	return nil
}

// useless reports whether nothing of a part can be applied. For the others, it
// sets the job record that is to be applied. A batch stays open if some of its
// answers are missing.
func (w *applier) useless(p *part) bool {
	j := p.job
	if p.batch == w.refused {
		return true
	}
	if j != nil && j.State == record.Succeeded && !j.Whole() && j.Error != nil {
		if j = nil; p.lines == 0 { // the results of the job could not be fetched
			return true
		}
	}
	if j != nil && j.Whole() && p.lines != *j.Succeeded+*j.Failed {
		slog.Warn("some answers of the job are not in the input", "batch", j.Batch, "came", p.lines, "printed", *j.Succeeded+*j.Failed)
		j = nil
	}
	p.applied = j
	return false
}

// count counts a part that was applied.
func (w *applier) count(p *part) {
	w.unknown[p.batch] += p.unknown
	w.asked += len(p.answers)
	w.dropped += p.twice
	for _, a := range p.answers {
		if a.err == nil {
			w.stored.Add(1)
		}
	}
	if p.last && p.applied == nil && !p.closed {
		w.unwhole++
	}
}

// transact writes parts in one transaction. opened reports whether the database
// could be opened.
func (w *applier) transact(ctx context.Context, parts []*part) (opened bool, err error) {
	err = transact(ctx, &w.Database, duck.Write, func(c *duck.Conn) error {
		opened = true
		return w.write(c, parts)
	})
	return opened, err
}

// commit writes a part in a transaction of its own, with the greatest effort that
// succeeds.
func (w *applier) commit(ctx context.Context, p *part) (opened bool, err error) {
	var failed error // why a greater effort failed
	before := w.tally
	for w.effort = everything; ; w.effort++ {
		w.source = ""
		opened, err := w.transact(ctx, []*part{p})
		if err == nil {
			w.settle(p, failed)
			return opened, nil
		}
		w.tally = before
		if w.source == "" || w.effort == noSource || ctx.Err() != nil {
			return opened, err
		}
		failed = err
	}
}

// settle counts a lesser effort, and warns why a greater one failed.
func (w *applier) settle(p *part, failed error) {
	if w.effort > everything && len(p.answers) > 0 && w.counted != p.batch {
		w.counted = p.batch
		if w.effort == noCourtesy {
			w.behind++
		} else {
			w.apart++
		}
	}
	if failed == nil {
		return
	}
	w.efforts[w.source] = w.effort
	if w.effort == noCourtesy {
		slog.Warn("the courtesy columns cannot be written; the vectors are stored, and the next chunks-pending writes the columns", "source", w.source, "batch", p.batch, "reason", failed)
	} else {
		slog.Warn("no vector can be given to its chunk; the vectors are stored under the hashes of their texts, and the next chunks-pending gives them to the chunks at no cost", "source", w.source, "batch", p.batch, "reason", failed)
	}
}

// verdict returns the error of the run. reading says why the reading of the
// input ended early, or is nil.
func (w *applier) verdict(reading error) error {
	switch {
	case w.err != nil && reading != nil:
		slog.Warn(reading.Error())
		return w.err
	case w.err != nil:
		if err := w.summary(); err != nil {
			slog.Warn(err.Error())
		}
		return exit.Keep(w.err)
	case reading != nil:
		return reading
	}
	return w.summary()
}

// summary returns the error that lists what failed.
func (w *applier) summary() error {
	var parts []string
	add := func(n int, what string) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf(what, n))
		}
	}
	add(w.failed, fmt.Sprintf("%%d of %d keys failed", w.asked))
	add(w.dropped, "%d answers were dropped")
	add(w.lost, "%d jobs ended without results")
	add(w.behind, "the courtesy columns of %d batches could not be written")
	add(w.apart, "the vectors of %d batches are stored without their chunks")
	code := exit.Partial
	if w.unwhole > 0 {
		code = exit.Malformed
		add(w.unwhole, "%d batches stay open, because the input ended before their last answer: run the whole pipe again")
	}
	if len(parts) == 0 {
		return nil
	}
	return exit.Errorf(code, "%s (see chunks-status %s)", strings.Join(parts, ", "), exit.Word(w.DB))
}

// A claimedBatch is what the database knows of a batch.
type claimedBatch struct {
	origin
	jobName            string
	closed, fruitless  bool   // closed: nothing of the batch is applied any more; fruitless: it was closed without results
	state              string // state of the batch
	requests           int
	firstItem, endItem int64 // seq of the first and the last item
}

// An origin is what the batches of a group have in common.
type origin struct {
	from, embeddings string
	column           string // --column of chunks-pending
	space            model.Space
}

// A group is parts of batches whose answers are written together.
type group struct {
	origin
	parts   []*part
	answers []*answer
	items   string // a SELECT of the items
}

// write writes parts of batches. A batch without a record to be applied stays
// open.
func (w *applier) write(c *duck.Conn, parts []*part) error {
	if ok, err := hasTables(c); err != nil {
		return err
	} else if !ok {
		return fmt.Errorf("no chunk of %s was ever claimed, so batch %s belongs to another database", w.DB, parts[0].batch)
	}
	if err := c.Exec(tables); err != nil { // an older version may have made the tables
		return err
	}
	if err := w.claimed(c, parts); err != nil {
		return err
	}
	var groups []*group
	for _, p := range parts {
		if p.unknown = 0; p.closed {
			if err := w.late(c, p); err != nil {
				return err
			}
			continue
		}
		w.source, w.effort = p.from, max(w.effort, w.efforts[p.from])
		if len(p.answers) == 0 {
			continue
		}
		i := slices.IndexFunc(groups, func(g *group) bool { return g.origin == p.origin })
		if i < 0 {
			i, groups = len(groups), append(groups, &group{origin: p.origin})
		}
		groups[i].parts = append(groups[i].parts, p)
	}
	for _, g := range groups {
		if err := w.answer(c, g); err != nil {
			return err
		}
	}
	for _, p := range parts {
		if p.closed || p.applied == nil {
			continue
		}
		if p.state == released && !p.applied.Ended() {
			slog.Warn("a batch that was given back has a job: it is open again", "batch", p.batch, "job", p.applied.Job)
		}
		if err := w.note(c, p, p.applied); err != nil {
			return err
		}
	}
	return nil
}

// claimed finds out what the database knows of the batches, and refuses what it
// does not know.
func (w *applier) claimed(c *duck.Conn, parts []*part) error {
	var names []string
	for _, p := range parts {
		names = append(names, duck.Literal(p.batch))
	}
	found := map[string]claimedBatch{}
	err := c.Each(func(r *duck.Rows) {
		found[r.Text(0)] = claimedBatch{
			jobName: r.Text(1), closed: r.Bool(4), firstItem: r.Int(5), endItem: r.Int(6), state: r.Text(10), fruitless: r.Bool(11), requests: int(r.Int(13)),
			origin: origin{from: r.Text(2), embeddings: r.Text(3), column: cmp.Or(w.Column, r.Text(12)),
				space: model.Space{Model: model.Bare(r.Text(7)), Dim: int(r.Int(8)), TaskType: r.Text(9)}},
		}
	}, "SELECT batch, job, source, embeddings, closed_at IS NOT NULL AND (state <> '"+released+"' OR first_seq IS NULL), first_seq, last_seq, model, dim, task_type, state, closed_at IS NOT NULL AND succeeded IS NULL, vector_column, requests "+
		"FROM gbatch.jobs WHERE batch IN ("+strings.Join(names, ", ")+")")
	if err != nil {
		return err
	}
	for _, p := range parts {
		b, ok := found[p.batch]
		switch j := p.applied; {
		case !ok:
			return fmt.Errorf("batch %s was not claimed from %s", p.batch, w.DB)
		case w.Embeddings != "" && w.Embeddings != b.embeddings:
			return exit.Errorf(exit.Usage, "batch %s was claimed for table %s, not for %s", p.batch, b.embeddings, w.Embeddings)
		case j != nil && b.jobName != "" && j.Job != b.jobName && !j.Whole() && !strings.HasPrefix(b.jobName, record.OnlinePrefix):
			return fmt.Errorf("batch %s has job %s; %s is not its job, and nothing was changed", p.batch, b.jobName, j.Job)
		}
		p.claimedBatch = b
	}
	return nil
}

// late counts the answers for a batch that was closed without results. The
// hashes of its texts are not known any more.
func (w *applier) late(c *duck.Conn, p *part) error {
	vectors := 0
	for _, a := range p.answers {
		if a.err == nil {
			vectors++
		}
	}
	switch {
	case p.state == released:
		slog.Warn("the batch was given back too long ago: its texts are not known any more, so its answers are dropped", "batch", p.batch, "answers", len(p.answers))
		w.dropped += max(len(p.answers), 1)
		return nil
	case !p.fruitless || vectors == 0:
		return nil
	}
	stored, err := c.Count("SELECT count(*) FROM "+duck.Ident(p.embeddings)+" WHERE batch = ?", p.batch)
	if err == nil && int(stored) < vectors {
		w.dropped += vectors
		slog.Warn("vectors came for a batch that was closed without results, and are dropped", "batch", p.batch, "vectors", vectors)
	}
	return err
}

// note stores what a job record says about its batch. It closes the batch if the
// job ended and its answers came, or will never come.
func (w *applier) note(c *duck.Conn, p *part, j *record.Job) error {
	reason := ""
	if j.Error != nil {
		reason = strings.TrimPrefix(fmt.Sprintf("%s: %s", j.Error.Status, j.Error.Message), ": ") // the status may be empty
	}
	var succeeded, failed, tokens, estimated, closed any
	if j.Whole() {
		succeeded, failed = *j.Succeeded, *j.Failed
		if j.Tokens != nil {
			tokens = *j.Tokens
		} else if j.Estimated != nil {
			estimated = *j.Estimated
		}
		if err := w.unanswered(c, p); err != nil {
			return err
		}
	} else if j.Ended() && j.State != record.Succeeded {
		w.lost++
		slog.Warn("the job ended without results: its chunks are pending again", "batch", j.Batch, "job", j.Job, "state", j.State, "reason", cmp.Or(reason, "not given"))
	}
	if j.Whole() || j.Ended() && j.State != record.Succeeded {
		closed = now()
		if err := c.Exec("DELETE FROM gbatch.items WHERE batch = ? AND seq BETWEEN ? AND ?", p.batch, p.firstItem, p.endItem); err != nil {
			return err
		}
	}
	var ended any
	if j.Ended() {
		if ended = closed; j.EndedAt != "" {
			ended = j.EndedAt
		}
	}
	return c.Exec(`UPDATE gbatch.jobs SET job = $2, state = $3, input = coalesce(nullif($4, ''), input), error = nullif($5, ''),
			succeeded = $6, failed = $7, tokens = $8, closed_at = $9::TIMESTAMP, ended_at = TRY_CAST($10 AS TIMESTAMP),
			submitted_at = coalesce(submitted_at, TRY_CAST(nullif($11, '') AS TIMESTAMP), $12::TIMESTAMP), canary = $13,
			tokens_likely = coalesce($14, tokens_likely)
		WHERE batch = $1`, p.batch, j.Job, j.State, j.Input, reason, succeeded, failed, tokens, closed, ended, j.CreatedAt, now(), j.Canary, estimated)
}
