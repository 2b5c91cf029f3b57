package gbatch

import (
	"context"
	"errors"
	"slices"

	"gbatch/pkg/ledger"
	"gbatch/pkg/record"
)

// planned is what gbatch-submit --dry-run prints for each batch.
type planned struct {
	Batch     string   `json:"batch,omitempty"`
	Action    string   `json:"action"`        // create, adopt or wait
	Job       string   `json:"job,omitempty"` // the job to adopt
	Reason    string   `json:"reason,omitempty"`
	Requests  int      `json:"requests"`
	Bytes     int64    `json:"bytes"`
	Tokens    int64    `json:"tokens,omitempty"`
	TokensMax int64    `json:"tokens_max,omitempty"`
	USD       *float64 `json:"usd,omitempty"` // of a create, if the header has tokens
}

// errUnsettled ends the look-up of a dry run that would have to wait.
var errUnsettled = errors.New("the outcome of an earlier create is unknown")

// plan prints what submit would do with p. It only reads.
func (s *submission) plan(ctx context.Context, p *payload) error {
	line := planned{Batch: p.Batch, Action: "create", Requests: p.Count, Bytes: p.size, Tokens: p.Tokens, TokensMax: p.TokensMax}
	e, err := s.peek(p)
	if err != nil {
		return err
	}
	var job *record.Job
	if e == nil {
		line.Action, line.Reason = "wait", "another process is submitting the batch"
	} else if job, err = s.job(ctx, p, e); errors.Is(err, errUnsettled) {
		line.Action, line.Reason = "wait", err.Error()
	} else if err != nil {
		return err
	}
	if job != nil {
		line.Action, line.Job = "adopt", job.Job
	}
	if line.Action == "create" && p.Tokens > 0 {
		if usd, known := s.prices.Batch(p.Model, p.Tokens); known {
			line.USD = &usd
		}
	}
	if err := s.out.Encode(line); err != nil {
		return err
	}
	return s.out.Flush()
}

// peek returns p's entry in the ledger without holding it, or nil if another
// process holds it.
func (s *submission) peek(p *payload) (ledger.Entry, error) {
	if !slices.Contains(s.notes.Names(), p.name()) {
		return peeked{}, nil
	}
	e, err := s.notes.Try(p.name())
	if err != nil || e == nil {
		return nil, err
	}
	defer e.Close()
	return peeked{e.Mark(), e.String()}, nil
}

// A peeked entry was read, and is not changed.
type peeked struct {
	mark  ledger.Mark
	where string
}

func (e peeked) Mark() ledger.Mark                    { return e.mark }
func (e peeked) String() string                       { return e.where }
func (peeked) Set(context.Context, ledger.Mark) error { return nil }
func (peeked) Forget()                                {}
func (peeked) Close()                                 {}
