package store

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"gbatch/pkg/cli"
	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
	"gbatch/pkg/ledger"
	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/progress"
	"gbatch/pkg/record"
)

// released is the state of a batch that was given back. Its items are kept for
// [ledger.Life], because its lines may be in a pipe and may still be submitted.
// Its answers are then paid for, and are applied like those of an open batch.
const released = "RELEASED"

// Release is chunks-release: it gives claimed batches back, so that their
// chunks are pending again. It prints the jobs of these batches.
type Release struct {
	duck.Database `embed:""`
	cli.Output    `embed:""`
	Batch         []string `arg:"" optional:"" help:"The batches to give back. Without it: all claimed batches that have no job in the database."`
	Force         bool     `env:"-" help:"Also give back a batch that has a job or may have one. Its requests may be paid for twice."`
}

// A claim is a batch that chunks-release looks at.
type claim struct {
	record.Job
	wanted, closed bool
	old            bool // so old that its receipt may have been removed
	busy           bool // a gbatch-submit holds its entry in the ledger
	mark           ledger.Mark
}

// Run gives batches back. It does not read in.
func (r *Release) Run(ctx context.Context, _ io.Reader, out io.Writer) error {
	defer r.End()
	prices, err := model.ReadPrices()
	if err != nil {
		return err
	}
	notes, err := ledger.Look()
	if err != nil {
		return err
	}
	// Entries are held until the batches are closed, so that no gbatch-submit
	// starts to submit one of them.
	var held []ledger.Entry
	defer func() {
		for _, e := range held {
			e.Close()
		}
	}()
	back := 0 // batches that were given back
	var given []record.Job
	var kept refused
	err = transact(ctx, &r.Database, duck.Write, func(c *duck.Conn) error {
		claims, err := r.claims(c)
		if err != nil {
			return err
		}
		if held, err = look(notes, claims); err != nil {
			return err
		}
		atWork := slices.ContainsFunc(claims, func(b claim) bool { return b.busy })
		for _, b := range claims {
			doubt := b.doubt(atWork)
			switch {
			case !b.wanted:
				continue
			case b.closed:
				slog.Warn("a batch is already closed", "batch", b.Batch, "state", b.State)
				continue
			case b.busy || doubt != "" && !r.Force:
				if err := kept.add(c, prices, b, doubt); err != nil {
					return err
				}
				continue
			case doubt != "":
				cost, err := b.cost(c, prices)
				if err != nil {
					return err
				}
				slog.Warn("a batch is given back although it may already be paid for; then it is paid for twice", "batch", b.Batch, "why", doubt, "requests", b.Requests, "cost", dollars(cost.value()))
			}
			if b.mark.Phase == ledger.Created && b.Job.Job == "" {
				b.Job.Job, b.Input, b.State = b.mark.Job, b.mark.Input, record.Queued
			}
			job, tokens := b.Job.Job, any(nil) // the tokens are not known
			if doubt == "" {
				paid, err := b.estimate(c, true)
				if err == nil && paid.requests > 0 {
					job = record.OnlinePrefix + b.Batch
					if err = c.Exec(tables); err != nil { // an older version may have made the tables
						return err
					}
					err = c.Exec("UPDATE gbatch.jobs SET tokens_likely = ?, tokens_max = ? WHERE batch = ?", paid.tokens.Likely, paid.tokens.Max, b.Batch)
				} else {
					tokens = 0
				}
				if err != nil {
					return err
				}
			}
			err := c.Exec("UPDATE gbatch.jobs SET state = $2, closed_at = $3::TIMESTAMP, job = nullif($4, ''), input = nullif($5, ''), tokens = $6::BIGINT WHERE batch = $1",
				b.Batch, released, now(), job, b.Input, tokens)
			if err != nil {
				return err
			}
			back++
			if b.Job.Job != "" {
				given = append(given, b.Job)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	progress.Of(ctx).Count("batches").Set(int64(back))
	w := ndjson.NewWriter(out)
	for _, job := range given {
		if err := w.Encode(job); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return kept.error(r.DB)
}

// claims lists the named batches and all batches without a job. If no batch is
// named, all of them are wanted.
func (r *Release) claims(c *duck.Conn) (claims []claim, err error) {
	if ok, err := hasTables(c); err != nil || !ok && len(r.Batch) == 0 {
		return nil, err
	} else if !ok {
		return nil, exit.Errorf(exit.Usage, "no chunk of %s was ever claimed", r.DB)
	}
	names := "''"
	for _, name := range r.Batch {
		names += ", " + duck.Literal(name)
	}
	err = c.Each(func(row *duck.Rows) {
		b := claim{Job: jobOf(row), closed: row.Bool(8), old: row.Bool(9)}
		b.wanted = len(r.Batch) == 0 || slices.Contains(r.Batch, b.Batch)
		claims = append(claims, b)
	}, fmt.Sprintf(`SELECT %s, closed_at IS NOT NULL, claimed_at < %s::TIMESTAMP - INTERVAL %d HOUR
		FROM gbatch.jobs WHERE job IS NULL AND closed_at IS NULL OR batch IN (%s) ORDER BY batch`, jobColumns, duck.Literal(now()), int(ledger.Life.Hours()), names))
	if err != nil {
		return nil, err
	}
	for _, name := range r.Batch {
		if !slices.ContainsFunc(claims, func(b claim) bool { return b.Batch == name }) {
			return nil, exit.Errorf(exit.Usage, "batch %q was not claimed from %s: nothing was given back (chunks-status has the names)", name, r.DB)
		}
	}
	return claims, nil
}

// look reads the intents of the claims, and holds their entries.
func look(notes *ledger.Files, claims []claim) (held []ledger.Entry, err error) {
	names := map[string][]string{} // by batch
	for _, name := range notes.Names() {
		b := ledger.Batch(name)
		names[b] = append(names[b], name)
	}
	for i := range claims {
		b := &claims[i]
		for _, name := range names[b.Batch] {
			e, err := notes.Try(name)
			if err != nil {
				return held, err
			}
			if e == nil {
				b.busy = true
				continue
			}
			held = append(held, e)
			b.mark = ledger.Farther(b.mark, e.Mark())
		}
	}
	return held, nil
}

// doubt says why the batch may have a job. It is empty if the batch was
// certainly never sent. atWork reports that a gbatch-submit is working on a
// batch of the database.
func (b *claim) doubt(atWork bool) string {
	switch {
	case b.busy:
		return "gbatch-submit is working on it"
	case b.Job.Job != "":
		return "it has the job " + b.Job.Job
	case b.mark.Phase == ledger.Created:
		return "it was submitted as " + b.mark.Job
	case b.mark.Phase == ledger.Create:
		return "the outcome of its create is unknown"
	case b.mark.Phase == "" && b.old:
		return fmt.Sprintf("it was claimed more than %v hours ago, and receipts are kept for that time only", ledger.Life.Hours())
	case b.mark.Phase == "" && atWork:
		return "gbatch-submit is working on another batch of the database, and may submit it next"
	}
	return ""
}

// cost is the estimated cost of the requests of the batch.
func (b *claim) cost(c *duck.Conn, prices model.Prices) (cost amount, err error) {
	all, err := b.estimate(c, false)
	cost.add(prices.Batch(b.Model, all.tokens.Likely))
	return cost, err
}

// estimate is the size of the requests of the batch, or of those that have a vector.
// A batch without a job has vectors if gbatch-embed did not come to its end.
func (b *claim) estimate(c *duck.Conn, stored bool) (all sum, err error) {
	space, table := model.Space{Model: b.Model}, ""
	_, err = c.One(func(r *duck.Rows) { space.TaskType, table = r.Text(0), r.Text(1) }, "SELECT task_type, embeddings FROM gbatch.jobs WHERE batch = ?", b.Batch)
	if err != nil {
		return all, err
	}
	batch := " WHERE batch = " + duck.Literal(b.Batch)
	items := "SELECT * FROM gbatch.items" + batch
	if stored {
		if t, err := openVectors(c, table); err != nil || !t.there {
			return all, err
		}
		items += " AND text_hash IN (SELECT text_hash FROM " + duck.Ident(table) + batch + ")"
	}
	return estimateItems(c, space, "("+items+")")
}

// refused are the batches that are not given back.
type refused struct {
	batches  []string
	jobs     bool // some have a job in the database
	requests int  // requests of the batches that --force would give back; so is the cost
	cost     amount
}

func (k *refused) add(c *duck.Conn, prices model.Prices, b claim, why string) error {
	k.batches = append(k.batches, fmt.Sprintf("%s (%s)", b.Batch, why))
	k.jobs = k.jobs || b.Job.Job != ""
	if b.busy {
		return nil
	}
	k.requests += b.Requests
	cost, err := b.cost(c, prices)
	k.cost.add(cost.usd, !cost.unknown)
	return err
}

func (k *refused) error(db string) error {
	const shown = 5
	n := len(k.batches)
	if n == 0 {
		return nil
	}
	more := ""
	if n > shown {
		more = fmt.Sprintf(" and %d more", n-shown)
	}
	force := ""
	if k.requests > 0 {
		force = fmt.Sprintf("; with --force they are given back, and requests that are already paid for are paid for twice: %d requests, estimated cost %s", k.requests, dollars(k.cost.value()))
	}
	next := "run the whole pipe, which finds their jobs or submits them"
	if k.jobs {
		next = fmt.Sprintf("collect their jobs with jobs-pending %s | gbatch-wait | gbatch-fetch | vectors-apply %[1]s", exit.Word(db))
	}
	return exit.Errorf(exit.Partial, "batches were not given back: %s%s; %s%s", strings.Join(k.batches[:min(n, shown)], ", "), more, next, force)
}

// expire deletes the items of batches that were given back more than
// [ledger.Life] ago.
func expire(c *duck.Conn) error {
	old := fmt.Sprintf("state = '%s' AND first_seq IS NOT NULL AND closed_at < %s::TIMESTAMP - INTERVAL %d HOUR", released, duck.Literal(now()), int(ledger.Life.Hours()))
	if n, err := c.Count("SELECT count(*) FROM gbatch.jobs WHERE " + old); err != nil || n == 0 {
		return err
	}
	return c.Exec("DELETE FROM gbatch.items WHERE batch IN (SELECT batch FROM gbatch.jobs WHERE " + old + "); UPDATE gbatch.jobs SET first_seq = NULL, last_seq = NULL WHERE " + old)
}
