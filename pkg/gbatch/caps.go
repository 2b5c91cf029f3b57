package gbatch

import (
	"fmt"

	"gbatch/pkg/exit"
	"gbatch/pkg/model"
)

// caps returns the caps of the flags, nil if there are none.
func (s *Submit) caps(prices *model.Prices) (caps model.Caps, err error) {
	if s.MaxCost == nil && s.MaxTotalTokens == nil {
		return nil, nil
	}
	if s.Method != "embed" {
		return nil, exit.Errorf(exit.Usage, "--max-cost and --max-total-tokens are for --method embed only: what a model generates has no upper bound here")
	}
	if s.MaxCost != nil {
		caps = append(caps, &model.Cap{Flag: "--max-cost", Limit: *s.MaxCost, Prices: prices})
	}
	if s.MaxTotalTokens != nil {
		caps = append(caps, &model.Cap{Flag: "--max-total-tokens", Limit: float64(*s.MaxTotalTokens)})
	}
	for _, c := range caps {
		if err := model.CheckLimit(c.Flag, c.Limit); err != nil {
			return nil, err
		}
	}
	return caps, nil
}

// afford returns an error if the caps do not allow a job for p. It returns the
// tokens that p counts: tokens_max of its header and, for each canary, the
// model's limit. If the header does not say, each request counts the model's
// limit, because Google reads no more of a text.
func (s *submission) afford(p *payload) (tokens int64, err error) {
	if s.caps == nil {
		return 0, nil
	}
	m := model.Lookup(p.Model)
	tokens = p.TokensMax
	switch {
	case tokens == 0 && !m.Known:
		err = exit.Errorf(exit.Refused, "its header has no tokens_max, and the limit of model %s is not known", p.Model)
	case tokens == 0:
		tokens = int64(p.Count) * m.MaxTokens
		fallthrough
	default:
		tokens += int64(p.canary) * m.MaxTokens
		err = s.caps.Check(p.Model, tokens)
	}
	if err == nil {
		return tokens, nil
	}
	after := "run it again with a higher cap"
	if claimed.MatchString(p.Batch) {
		after = "it stays claimed, and the next chunks-pending prints it again: run the whole pipe with a higher cap, or give it back with chunks-release"
	}
	return 0, &oneBatch{fmt.Errorf("%s is not submitted, and nothing of it was sent: %w; %s", p, err, after)}
}
