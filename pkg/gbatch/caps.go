package gbatch

import (
	"fmt"

	"gbatch/pkg/exit"
	"gbatch/pkg/model"
	"gbatch/pkg/record"
)

// Caps bound what a run sends. A cap that is nil is not set: 0 allows nothing.
type Caps struct {
	MaxCost        *float64 `placeholder:"USD" help:"Most that what this run sends may cost, in US dollars."`
	MaxTotalTokens *int64   `placeholder:"N" help:"Most tokens that this run may send."`
}

// caps returns the caps of the flags, nil if there are none.
func (f *Caps) caps(prices *model.Prices) (caps model.Caps, err error) {
	if f.MaxCost != nil {
		caps = append(caps, &model.Cap{Flag: "--max-cost", Limit: *f.MaxCost, Prices: prices})
	}
	if f.MaxTotalTokens != nil {
		caps = append(caps, &model.Cap{Flag: "--max-total-tokens", Limit: float64(*f.MaxTotalTokens)})
	}
	for _, c := range caps {
		if err := model.CheckLimit(c.Flag, c.Limit); err != nil {
			return nil, err
		}
	}
	return caps, nil
}

// useOf returns what a batch counts in caps: tokens_max of its header. If the
// header does not say, each request counts the model's limit, because Google reads
// no more of a text.
func useOf(h record.Header) (model.Use, error) {
	m := model.Lookup(h.Model)
	u := model.Use{Model: h.Model, Tokens: h.TokensMax}
	if u.Tokens == 0 {
		if !m.Known {
			return u, exit.Errorf(exit.Refused, "its header has no tokens_max, and the limit of model %s is not known", h.Model)
		}
		u.Tokens = int64(h.Count) * m.MaxTokens
	}
	return u, nil
}

// afford returns an error if the caps do not allow a job for p. It returns what p
// counts, with the model's limit for each canary.
func (s *submission) afford(p *payload) (u model.Use, err error) {
	if s.caps == nil {
		return u, nil
	}
	if u, err = useOf(p.Header); err == nil {
		u.Tokens += int64(p.canary) * model.Lookup(p.Model).MaxTokens
		err = s.caps.Check(u)
	}
	if err == nil {
		return u, nil
	}
	after := "run it again with a higher cap"
	if claimed.MatchString(p.Batch) {
		after = "it stays claimed, and the next chunks-pending prints it again: run the whole pipe with a higher cap, or give it back with chunks-release"
	}
	return u, &oneBatch{fmt.Errorf("%s is not submitted, and nothing of it was sent: %w; %s", p, err, after)}
}
