package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"

	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/record"
	"gbatch/pkg/vector"
)

// A unit has at most transaction answers, and ends with the vector that makes it
// transactionValues values. This bounds its memory to 61 MB. Smaller units take more
// processor time: each transaction reads all ids and ends with a checkpoint.
const (
	transaction       = 20_000
	transactionValues = 20_000 * 768
)

// An answer is a vector, or an error, for one key.
type answer struct {
	*part
	key    string
	values []float32
	tokens int64
	err    *record.Status
}

// A part is answers of one batch, and the record that follows them in the input.
type part struct {
	batch   string
	answers []answer            // a part of the unit's answers
	lines   int                 // number of vector and error lines of the batch so far
	keys    map[string]struct{} // of the batch's answers so far
	twice   int                 // number of the part's lines for a key that was already answered
	last    bool                // no more answers of the batch follow
	job     *record.Job         // the record after the batch's last answer; nil if it did not come

	// These are set when the part is applied.
	claimedBatch
	unknown int         // answers for keys that the batch does not have
	applied *record.Job // the record that is to be applied, or was applied
}

// A unit is what one transaction writes: whole batches, or a part of a large one.
type unit struct {
	parts   []*part
	answers []answer
	arena   []float32 // the values of the answers
}

// whole is the number of parts that are complete.
func (u *unit) whole() int {
	if n := len(u.parts); n > 0 && !u.parts[n-1].last {
		return n - 1
	}
	return len(u.parts)
}

// A divider reads the input into a unit while another unit is written.
type divider struct {
	ctx     context.Context
	mu      sync.Mutex
	changed sync.Cond
	at      *unit
	full    bool // an answer waits until the unit is taken
	ended   bool
	err     error // why the reading ended; nil at the end of the input
}

// divide starts to read in. The reading ends with ctx.
func divide(ctx context.Context, in io.Reader) *divider {
	d := &divider{ctx: ctx, at: new(unit)}
	d.changed.L = &d.mu
	go d.run(in)
	context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.changed.Broadcast()
	})
	return d
}

// next waits for whole batches, or for as many answers of one batch as a
// transaction may have, and returns them. It returns nil at the end of the input.
// done is a unit that was written: it is used again.
func (d *divider) next(done *unit) *unit {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.at.whole() == 0 && !d.full {
		if d.ended {
			return nil
		}
		d.changed.Wait()
	}
	u := d.at
	d.at, d.full = done, false
	*done = unit{parts: done.parts[:0], answers: done.answers[:0], arena: done.arena[:0]}
	if n := u.whole(); n < len(u.parts) {
		p := *u.parts[n]
		if n > 0 { // the batch is not divided
			u.parts = u.parts[:n]
			d.at.parts = append(d.at.parts, &p)
			begun := p.answers
			p.answers = nil
			for _, a := range begun {
				d.at.add(a)
			}
		} else { // the rest of it follows
			d.at.parts = append(d.at.parts, &part{batch: p.batch, lines: p.lines, keys: p.keys})
		}
	}
	d.changed.Broadcast()
	return u
}

// filled reports whether the unit has as many answers as it may have.
func (u *unit) filled() bool {
	return len(u.answers) == transaction || len(u.arena) >= transactionValues
}

// add adds an answer to the last part.
func (u *unit) add(a answer) {
	if a.values != nil {
		if u.arena == nil {
			u.arena = make([]float32, 0, min(transaction*len(a.values), transactionValues+len(a.values)))
			u.answers = slices.Grow(u.answers, cap(u.arena)/max(len(a.values), 1))
		}
		n := len(u.arena)
		u.arena = append(u.arena, a.values...)
		a.values = u.arena[n:len(u.arena):len(u.arena)]
	}
	p := u.parts[len(u.parts)-1]
	a.part = p
	u.answers = append(u.answers, a)
	p.answers = u.answers[len(u.answers)-len(p.answers)-1:]
}

func (d *divider) run(in io.Reader) {
	r := ndjson.NewReader(in)
	var parser record.AnswerParser
	var err error
	for err == nil {
		var line []byte
		if line, err = r.Next(); err == nil {
			var rec record.Answer
			if rec, err = parser.Parse(line); err == nil {
				err = d.take(rec)
			}
			if err != nil {
				err = r.Errorf("%w", err)
			}
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	// The records before an error are kept, because they are paid for.
	d.end(nil)
	d.ended = true
	if err != io.EOF {
		d.err = err
	}
}

// end ends the batch that is being read, if there is one.
func (d *divider) end(job *record.Job) {
	if n := d.at.whole(); n < len(d.at.parts) {
		d.at.parts[n].job, d.at.parts[n].last = job, true
	}
	d.changed.Broadcast()
}

// take adds a record to the unit.
func (d *divider) take(rec record.Answer) error {
	if rec.Batch == "" {
		return errors.New("the record has no batch: chunks-pending did not claim its chunk, so the text that was sent is unknown")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for rec.Job == nil && d.at.filled() {
		if d.ctx.Err() != nil {
			return context.Cause(d.ctx)
		}
		d.full = true
		d.changed.Broadcast()
		d.changed.Wait()
	}
	n := d.at.whole()
	if n < len(d.at.parts) && d.at.parts[n].batch != rec.Batch {
		d.end(nil)
		n++
	}
	if n == len(d.at.parts) {
		d.at.parts = append(d.at.parts, &part{batch: rec.Batch, keys: map[string]struct{}{}})
	}
	if rec.Job != nil {
		d.end(rec.Job)
		return nil
	}
	p := d.at.parts[n]
	p.lines++
	if _, again := p.keys[rec.Key]; again {
		slog.Warn("a key has two answers: the second one is dropped", "batch", p.batch, "key", rec.Key)
		p.twice++
		return nil
	}
	p.keys[rec.Key] = struct{}{}
	ans := answer{key: rec.Key, tokens: rec.Tokens, err: rec.Err}
	switch {
	case rec.Err != nil:
	case len(rec.Values) > model.MaxDim:
		ans.err = &record.Status{Code: 13, Status: "INTERNAL", Message: fmt.Sprintf("the vector has %d values", len(rec.Values))}
	case !vector.Finite(rec.Values):
		ans.err = &record.Status{Code: 13, Status: "INTERNAL", Message: "the vector has a value that is not a finite number"}
	default:
		ans.values = rec.Values
	}
	d.at.add(ans)
	return nil
}
