package gbatch

import (
	"context"
	"errors"

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
	var job *record.Job
	e, err := s.ledger.Peek(ctx, p.name())
	if err == nil {
		job, err = s.job(ctx, p, e)
	}
	if errors.Is(err, errUnsettled) || errors.Is(err, ledger.ErrHeld) {
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
