package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"gbatch/pkg/cli"
	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/progress"
)

// Pending is chunks-pending: it claims the chunks that need a vector, cuts
// them into batches and prints each as a header and its chunks.
//
// It prints batches that were claimed before and have no job yet first, with the
// same bytes as before: a batch's payload never changes once it has a name.
type Pending struct {
	duck.Database `embed:""`
	cli.Output    `embed:""`
	Claim         `embed:""`
	Caps          `embed:""`
	RetryFailed   bool `help:"Also claim the chunks that failed permanently."`
	DryRun        bool `help:"Claim nothing. Print a line for each batch that would be claimed, and a total."`
}

func (p *Pending) check() error {
	space, err := p.space().Checked()
	p.Model = space.Model
	switch {
	case err != nil:
		return exit.With(exit.Usage, err)
	case p.MaxRequests < 0 || p.MaxBytes < 0 || p.MaxTokens < 0 || p.Limit < 0:
		return exit.Errorf(exit.Usage, "--max-requests, --max-bytes and --max-tokens are at least 1, --limit at least 0")
	}
	p.size()
	if err := model.CheckTyped(p.Model); err != nil {
		return err
	}
	return p.Caps.check()
}

// rounds returns the state before the first round. A round has room for a batch. A run
// that claims all or nothing has only one.
func (p *Pending) rounds() round {
	r := round{size: max(roundSize, min(int(p.MaxRequests), model.LimitsOf(model.Vertex).Requests)), left: p.Limit, fit: p.Cutoff == "fit"}
	if !r.fit && len(p.limits()) > 0 {
		r.size = 0
	}
	return r
}

// Run prints batches to out. If out is a terminal, it claims nothing, as with
// DryRun: a look is free. in is not read.
func (p *Pending) Run(ctx context.Context, _ io.Reader, out io.Writer) error {
	if err := p.check(); err != nil {
		return err
	}
	defer p.End()
	mode, err := p.mode(ctx)
	if err != nil {
		return err
	}
	if look := terminal(out) != nil; look || p.DryRun {
		err := p.dryRun(ctx, mode, out)
		if look && err == nil {
			slog.Info("nothing was claimed, since the output is a terminal: give it to to-jsonl, or to a file")
		}
		return err
	}
	var claimed []string
	batches := progress.Of(ctx).Count("batches")
	progress.Of(ctx).Flow("chunks")
	broken := 0
	prepared := false
	r := p.rounds()
	c, err := p.Connect(ctx) // for all rounds: it holds gbatch_read
	if err != nil {
		return err
	}
	defer c.Close()
	for !r.last {
		claimed = nil
		err := transactOn(c, &p.Database, mode, func(c *duck.Conn) (err error) {
			if !prepared {
				if r.refused, err = p.rehearse(c); err != nil {
					return err
				}
				if err := p.prepare(c); err != nil {
					return err
				}
				prepared = true
				if claimed, err = p.again(c, &r); err != nil || len(claimed) > 0 && r.caps == nil {
					return err
				}
			} else if err := p.budget(c, &r); err != nil {
				return err
			}
			more, err := p.claim(c, &r)
			claimed = append(claimed, more...)
			return err
		})
		if err != nil {
			return err
		}
		c.Detach()
		batches.Expect(int64(len(claimed)))
		if r.last {
			p.tell(&r)
			batches.Final()
		}
		n, err := p.print(ctx, out, claimed)
		if err != nil {
			return err
		}
		broken += n
	}
	switch {
	case r.held:
		return r.refused
	case broken > 0:
		return exit.Errorf(exit.Partial, "%d batches that were claimed before cannot be sent and are left out (the messages above say why): give them back with chunks-release %s", broken, exit.Word(p.DB))
	case r.behind > 0:
		return exit.Errorf(exit.Partial, "the courtesy columns of %d chunks cannot be written (%w)", r.behind, r.refused)
	}
	return nil
}

// mode returns how to open the database. A database that does not exist is created if
// the chunks come from a query that can be read without it. If --from is the name of a
// table, the path is probably wrong.
func (p *Pending) mode(ctx context.Context) (duck.Access, error) {
	if _, err := os.Stat(p.DB); !errors.Is(err, fs.ErrNotExist) {
		return duck.Write, nil
	}
	if _, query := asQuery(p.From); !query {
		return duck.Write, nil
	}
	c, err := p.Connect(ctx)
	if err != nil {
		return duck.Write, err
	}
	defer c.Close()
	if _, err := p.open(c); err != nil {
		return duck.Write, fmt.Errorf("%s %w, and is not created: %w", p.DB, duck.ErrMissing, err)
	}
	return duck.Create, nil
}

// prepare creates what is missing in the database, and refuses a source or a
// space that does not fit it.
func (p *Pending) prepare(c *duck.Conn) error {
	if err := c.Exec(tables); err != nil {
		return err
	}
	if err := p.sameShard(c); err != nil {
		return err
	}
	if err := expire(c); err != nil {
		return err
	}
	s, err := p.open(c)
	if err != nil {
		return err
	}
	if err := s.checkStatus(c); err != nil {
		return err
	}
	if err := prepareEmbeddings(c, p.Embeddings, s); err != nil {
		return err
	}
	if p.Column != "" {
		if err := s.hasColumn(p.Column, p.Dim); err != nil {
			return err
		}
	}
	if err := estimateOlder(c); err != nil {
		return err
	}
	if p.RetryFailed {
		if err := c.Exec("UPDATE gbatch.failures SET final = false, attempts = 0 WHERE embeddings = ? AND (batch IS NOT NULL OR code = ?)", p.Embeddings, outOfRange); err != nil {
			return err
		}
	}
	if err := s.begin(c); err != nil {
		return err
	}
	return s.view(c, p.Embeddings)
}

// planned is the size of a batch, as --dry-run prints it.
type planned struct {
	Requests   int      `json:"requests"`
	Bytes      int64    `json:"bytes"`
	Tokens     int64    `json:"tokens"`
	TokensMax  int64    `json:"tokens_max"`
	USD        *float64 `json:"usd,omitempty"`
	Calibrated bool     `json:"calibrated,omitempty"`
}

// planTotal is what --dry-run prints last.
type planTotal struct {
	Jobs int `json:"jobs"`
	planned
	USDMax       *float64 `json:"usd_max,omitempty"`
	USDOnline    *float64 `json:"usd_online,omitempty"`
	OverLimit    int      `json:"over_limit"`
	OverLimitIDs []string `json:"over_limit_ids,omitempty"`
	Failed       int64    `json:"failed,omitempty"`    // chunks that would be FAILED, because they cannot be sent
	Stays        int      `json:"stays,omitempty"`     // requests that do not fit under the caps
	StaysMax     int64    `json:"stays_max,omitempty"` // their tokens_max
	Claimed      int      `json:"claimed,omitempty"`   // batches that were claimed before and are printed first
	ClaimedMax   int64    `json:"claimed_max,omitempty"`
	Rounds       int64    `json:"rounds,omitempty"` // how often the queue at Google must be filled
}

// errDry ends the transaction of a dry run, so that it is rolled back.
var errDry = errors.New("a dry run")

// dryRun does all that a claim does and takes it back. If a cap refuses the
// claim, it prints the plan all the same.
func (p *Pending) dryRun(ctx context.Context, mode duck.Access, out io.Writer) error {
	prices, err := model.ReadPrices()
	if err != nil {
		return err
	}
	db := p.Database
	if mode == duck.Create { // the file must not exist afterwards
		dir, err := os.MkdirTemp("", "gbatch-*")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		db = duck.Database{DB: filepath.Join(dir, filepath.Base(p.DB)), LockTimeout: p.LockTimeout, MemoryLimit: p.MemoryLimit}
		defer db.End()
	}
	var plan *plan
	var refusal error
	r := p.rounds()
	r.size = 0
	err = transact(ctx, &db, mode, func(c *duck.Conn) error {
		refused, err := p.rehearse(c)
		if err != nil {
			return err
		}
		if err := p.prepare(c); err != nil {
			return err
		}
		if _, refusal = p.again(c, &r); exit.Code(refusal) == exit.Refused {
			r.caps, r.fit = nil, false
		} else if refusal != nil {
			return refusal
		}
		s, err := p.chunks(c, &r)
		if err != nil {
			return err
		}
		if plan, err = p.plan(c, s, &r); err != nil {
			return err
		}
		if len(plan.cuts) > 0 && refused != nil {
			return refused
		}
		if refusal == nil {
			refusal = r.afford(&p.Claim, plan)
		}
		return errDry
	})
	if err != errDry {
		return err
	}
	w := ndjson.NewWriter(out)
	line := func(s sum) planned {
		return planned{s.requests, s.bytes, s.tokens.Likely, s.tokens.Max, known(prices.Batch(p.Model, s.tokens.Likely)), plan.calibrated}
	}
	for _, cut := range plan.cuts {
		if err := w.Encode(line(cut.sum)); err != nil {
			return err
		}
	}
	all := plan.total()
	total := planTotal{
		Jobs: len(plan.cuts), planned: line(all), USDMax: known(prices.Batch(p.Model, all.tokens.Max)), USDOnline: known(prices.Online(p.Model, all.tokens.Likely)),
		OverLimit: r.long.requests, OverLimitIDs: r.long.ids, Failed: plan.failed, Stays: plan.stays.requests, StaysMax: plan.stays.tokens.Max, Claimed: r.claimed, ClaimedMax: r.claimedMax,
	}
	if queue := p.queue(); queue > 0 {
		total.Rounds = (all.tokens.Max + plan.stays.tokens.Max + r.claimedMax + queue - 1) / queue
	}
	// No output means that there is nothing to do, as without --dry-run.
	if total.Jobs+total.OverLimit+int(total.Failed)+total.Stays+total.Claimed > 0 {
		if err := w.Encode(total); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return refusal
}
