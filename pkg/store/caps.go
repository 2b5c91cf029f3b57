package store

import (
	"cmp"
	"fmt"
	"log/slog"
	"strings"

	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
	"gbatch/pkg/model"
)

// Caps bound what chunks-pending prints. They go by tokens_max. A cap that is nil
// is not set: 0 allows nothing.
type Caps struct {
	MaxCost           *float64 `placeholder:"USD" help:"Most that the batches of this run may cost, in US dollars."`
	MaxTotalTokens    *int64   `placeholder:"N" help:"Most tokens that the batches of this run may have."`
	MaxCostPerDay     *float64 `placeholder:"USD" help:"Most that the batches of the database may cost on one day (UTC)."`
	MaxCostPerMonth   *float64 `placeholder:"USD" help:"Most that the batches of the database may cost in one month (UTC)."`
	MaxEnqueuedTokens *int64   `placeholder:"N" help:"Most tokens that the open batches of the database may have together."`
	Tier              int      `placeholder:"N" help:"The paid tier of the project, 1, 2 or 3: sets --max-enqueued-tokens to Google's limit."`
	Cutoff            string   `enum:"whole,fit" default:"whole" help:"What to do if a cap does not allow everything: whole (refuse, and change nothing) or fit (claim what fits)."`
}

// A limit is a cap that was given.
type limit struct {
	flag  string
	value float64
	money bool
	where string // the batches of gbatch.jobs that count; "" for those of this run
}

// limits are the caps that were given.
func (k *Caps) limits() (all []limit) {
	usd := func(flag string, value *float64, where string) {
		if value != nil {
			all = append(all, limit{flag, *value, true, where})
		}
	}
	tokens := func(flag string, value *int64, where string) {
		if value != nil {
			all = append(all, limit{flag, float64(*value), false, where})
		}
	}
	usd("--max-cost", k.MaxCost, "")
	tokens("--max-total-tokens", k.MaxTotalTokens, "")
	usd("--max-cost-per-day", k.MaxCostPerDay, "spent_at >= date_trunc('day', present)")
	usd("--max-cost-per-month", k.MaxCostPerMonth, "spent_at >= date_trunc('month', present)")
	tokens("--max-enqueued-tokens", k.MaxEnqueuedTokens, "closed_at IS NULL")
	if k.Tier > 0 {
		tokens("--tier", &model.Tiers[k.Tier-1], "closed_at IS NULL")
	}
	return all
}

func (k *Caps) check() error {
	if k.Tier < 0 || k.Tier > len(model.Tiers) {
		return exit.Errorf(exit.Usage, "--tier is 1, 2 or 3")
	}
	for _, l := range k.limits() {
		if err := model.CheckLimit(l.flag, l.value); err != nil {
			return err
		}
	}
	return nil
}

// queue is how many tokens the queue at Google takes, 0 if that was not given.
func (k *Caps) queue() (tokens int64) {
	for _, l := range k.limits() {
		if n := int64(l.value); l.where == "closed_at IS NULL" && (tokens == 0 || n < tokens) {
			tokens = n
		}
	}
	return tokens
}

// budget sets r.caps, with what counts already: in caps on a run the batches of
// r.sent, in the others what gbatch.jobs holds.
func (p *Pending) budget(c *duck.Conn, r *round) error {
	limits := p.limits()
	if len(limits) == 0 {
		return nil
	}
	prices, err := model.ReadPrices()
	if err != nil {
		return err
	}
	r.caps = nil
	for _, l := range limits {
		cap := &model.Cap{Flag: l.flag, Limit: l.value}
		if l.money {
			cap.Prices = &prices
		}
		counted := r.sent
		if l.where != "" {
			if counted, err = spent(c, l.where); err != nil {
				return err
			}
		}
		for _, u := range counted {
			if err := (model.Caps{cap}).Use(u); err != nil {
				return err
			}
		}
		r.caps = append(r.caps, cap)
	}
	_, err = r.caps.Room(p.Model) // the price must be known
	return err
}

// spent sums up the tokens of the batches of all tables of vectors, by model: of
// a batch without Google's count its estimate, with its canaries. A batch
// belongs to the day when its job was created, which is today if it has no job
// yet. A job that FAILED or EXPIRED costs nothing.
func spent(c *duck.Conn, where string) (all []model.Use, err error) {
	err = c.Each(func(r *duck.Rows) {
		name := model.Bare(r.Text(0))
		all = append(all, model.Use{Model: name, Tokens: r.Int(1) + r.Int(2)*model.Lookup(name).MaxTokens, Online: r.Bool(3)})
	}, fmt.Sprintf(`SELECT model, sum(coalesce(tokens, tokens_max))::BIGINT, sum(CASE WHEN tokens IS NULL THEN canary END)::BIGINT, `+online+` AS online
		FROM (SELECT *, %[1]s::TIMESTAMP AS present, coalesce(submitted_at, closed_at, %[1]s::TIMESTAMP) AS spent_at FROM gbatch.jobs)
		WHERE (closed_at IS NULL OR coalesce(state, '') NOT IN ('FAILED', 'EXPIRED')) AND %[2]s GROUP BY model, online`, duck.Literal(now()), where))
	return all, err
}

// again lists the batches that are claimed and have no job yet, oldest first, as
// far as the caps allow them.
func (p *Pending) again(c *duck.Conn, r *round) (batches []string, err error) {
	err = c.Each(func(row *duck.Rows) {
		batches = append(batches, row.Text(0))
		r.sent = append(r.sent, model.Use{Model: model.Bare(row.Text(1)), Tokens: row.Int(2)})
	}, "SELECT batch, model, tokens_max FROM gbatch.jobs WHERE job IS NULL AND closed_at IS NULL ORDER BY batch")
	if err != nil {
		return nil, err
	}
	for _, b := range r.sent {
		r.claimed++
		r.claimedMax += b.Tokens
	}
	if err := p.budget(c, r); err != nil {
		return nil, err
	}
	for n := len(batches); n > 0; n-- {
		refusal := r.caps.Over()
		if refusal == nil {
			r.printed = n
			return batches[:n], nil
		}
		if !r.fit || n == 1 {
			how := "print those that fit with --cutoff fit"
			if r.fit {
				how = "not even the first of them fits"
			}
			return nil, exit.Errorf(exit.Refused, "nothing is printed or claimed, because a cap does not allow the %d batches that were claimed before: %w; raise the cap, or give batches back with chunks-release %s (%s)", len(batches), refusal, exit.Word(p.DB), how)
		}
		last := r.sent[n-1]
		last.Tokens = -last.Tokens
		if err := r.caps.Use(last); err != nil {
			return nil, err
		}
		r.sent, r.full = r.sent[:n-1], refusal
	}
	return nil, nil
}

// afford returns an error if the caps do not allow the plan, or nothing of it.
// Otherwise it counts the plan.
func (r *round) afford(p *Claim, plan *plan) error {
	if r.caps == nil {
		return nil
	}
	total := plan.total()
	var refusal error
	switch {
	case !r.fit && total.requests > 0:
		refusal = r.caps.Check(model.Use{Model: p.Model, Tokens: total.tokens.Max})
	case r.fit && total.requests == 0 && len(r.sent) == 0:
		refusal = plan.full
	}
	if refusal != nil {
		how := "raise the cap, or claim what fits with --cutoff fit"
		if r.fit {
			how = "not even the next request fits: raise the cap"
		}
		return exit.Errorf(exit.Refused, "nothing is claimed, because a cap does not allow %d requests with up to %d tokens: %w; %s",
			total.requests+plan.stays.requests, total.tokens.Max+plan.stays.tokens.Max, refusal, how)
	}
	for _, cut := range plan.cuts {
		r.sent = append(r.sent, model.Use{Model: p.Model, Tokens: cut.tokens.Max})
	}
	if plan.full != nil {
		r.full, r.stays = plan.full, fmt.Sprint(plan.stays.requests)
		if !r.last {
			r.stays += " or more"
		}
		r.last = true
	}
	return nil
}

// tell warns of what the caps have kept back, and of texts over the model's limit.
func (p *Pending) tell(r *round) {
	if r.full != nil {
		slog.Warn("a cap does not allow everything: the rest stays, and a later run prints it", "reason", r.full, "requests_pending", cmp.Or(r.stays, "0"), "batches_claimed", r.claimed-r.printed)
	}
	if r.long.requests > 0 && p.Truncate != truncateAllow && p.Truncate != truncateError {
		slog.Warn("texts are over the model's limit, and Google cuts them off: shorten them, or see --truncate", "requests", r.long.requests, "limit", model.Lookup(p.Model).MaxTokens, "ids", strings.Join(r.long.ids, " "))
	}
}
