package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/record"
	"gbatch/pkg/vector"
)

// transaction is the largest number of answers in a unit. It bounds the memory:
// a unit takes 123 MB at 3072 values per vector.
const transaction = 10_000

// An answer is a vector, or an error, for one key.
type answer struct {
	key    string
	values []float32
	tokens int64
	err    *record.Status
}

// A unit is what one transaction writes: answers of one batch, and the records
// that follow them in the input.
type unit struct {
	batch   string
	answers []answer
	arena   []float32           // the values of the answers
	lines   int                 // number of vector and error lines of the batch so far
	keys    map[string]struct{} // of the batch's answers so far
	twice   int                 // number of the unit's lines for a key that was already answered
	last    bool                // no more answers of the batch follow
	job     *record.Job         // the record after the batch's last answer; nil if it did not come
}

// A divider reads the input and divides it into units. Units that were written
// come back through free, and are used again.
type divider struct {
	ctx   context.Context
	units chan *unit
	free  chan *unit
	at    *unit
	err   error // set before units is closed: why the reading ended; nil at the end of the input
}

// divide starts to read in. The reading ends with ctx.
func divide(ctx context.Context, in io.Reader) *divider {
	d := &divider{ctx: ctx, units: make(chan *unit), free: make(chan *unit, 2)}
	d.free <- new(unit)
	d.free <- new(unit)
	go d.run(in)
	return d
}

func (d *divider) run(in io.Reader) {
	defer close(d.units)
	r := ndjson.NewReader(in)
	var parser record.AnswerParser
	for d.err == nil {
		line, err := r.Next()
		if err == nil {
			var rec record.Answer
			if rec, err = parser.Parse(line); err == nil {
				err = d.take(rec)
			}
			if err != nil {
				err = r.Errorf("%w", err)
			}
		}
		d.err = err
	}
	// The records before an error are kept, because they are paid for.
	if d.at != nil {
		d.at.last = true
		d.send()
	}
	if d.err == io.EOF {
		d.err = nil
	}
}

// take adds a record to the present unit, or sends that unit and starts another
// one.
func (d *divider) take(rec record.Answer) error {
	if rec.Batch == "" {
		return errors.New("the record has no batch: chunks-pending did not claim its chunk, so the text that was sent is unknown")
	}
	if d.at != nil && d.at.batch != rec.Batch {
		d.at.last = true
		d.send()
	}
	if d.at == nil {
		d.begin(rec.Batch, 0, map[string]struct{}{})
	}
	if rec.Job != nil {
		d.at.job, d.at.last = rec.Job, true
		d.send()
		return nil
	}
	if len(d.at.answers) == transaction {
		lines, keys := d.at.lines, d.at.keys
		d.send()
		d.begin(rec.Batch, lines, keys)
	}
	u := d.at
	u.lines++
	if _, again := u.keys[rec.Key]; again {
		slog.Warn("a key has two answers: the second one is dropped", "batch", u.batch, "key", rec.Key)
		u.twice++
		return nil
	}
	u.keys[rec.Key] = struct{}{}
	ans := answer{key: rec.Key, tokens: rec.Tokens, err: rec.Err}
	switch {
	case rec.Err != nil:
	case len(rec.Values) > model.MaxDim:
		ans.err = &record.Status{Code: 13, Status: "INTERNAL", Message: fmt.Sprintf("the vector has %d values", len(rec.Values))}
	case !vector.Finite(rec.Values):
		ans.err = &record.Status{Code: 13, Status: "INTERNAL", Message: "the vector has a value that is not a finite number"}
	default:
		if u.arena == nil {
			u.arena = make([]float32, 0, transaction*len(rec.Values))
			u.answers = slices.Grow(u.answers, transaction)
		}
		n := len(u.arena)
		u.arena = append(u.arena, rec.Values...)
		ans.values = u.arena[n:len(u.arena):len(u.arena)]
	}
	u.answers = append(u.answers, ans)
	return nil
}

// begin takes a free unit for answers of a batch.
func (d *divider) begin(batch string, lines int, keys map[string]struct{}) {
	select {
	case d.at = <-d.free:
	case <-d.ctx.Done():
		d.at = new(unit)
	}
	*d.at = unit{batch: batch, answers: d.at.answers[:0], arena: d.at.arena[:0], lines: lines, keys: keys}
}

func (d *divider) send() {
	select {
	case d.units <- d.at:
	case <-d.ctx.Done():
	}
	d.at = nil
}
