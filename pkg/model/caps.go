package model

import (
	"math"
	"strconv"

	"gbatch/pkg/exit"
)

// Tiers are how many tokens the active batch jobs of a project may have together,
// in the paid tiers 1, 2 and 3 (ai.google.dev/gemini-api/docs/rate-limits, Gemini
// Embedding).
var Tiers = [3]int64{500_000, 5_000_000, 10_000_000}

// A Cap is an upper bound for the tokens of what is sent, or for their cost.
type Cap struct {
	Flag   string  // the flag that sets the limit, such as --max-cost
	Limit  float64 // in tokens, or in US dollars if there are Prices
	Prices *Prices // nil for a limit in tokens

	used float64 // see unit
}

// CheckLimit returns an error for what no flag of a cap may be: below 0, or not a
// number.
func CheckLimit(flag string, value float64) error {
	if !(value >= 0) {
		return exit.Errorf(exit.Usage, "%s must be at least 0", flag)
	}
	return nil
}

// unit is what each token of a use counts, in tokens or in millionths of a US
// dollar.
func (c *Cap) unit(u Use) (float64, error) {
	if c.Prices == nil {
		return 1, nil
	}
	price := c.Prices.of(u)
	if price == nil {
		where := "in a batch"
		if u.Online {
			where = "in online calls"
		}
		return 0, exit.Errorf(exit.Refused, "%s cannot be checked, because the price of %s %s is not known%s: name a file with its price in %s", c.Flag, u.Model, where, Meant(u.Model), PricesVariable)
	}
	return *price, nil
}

// limit is the limit in units.
func (c *Cap) limit() float64 {
	if c.Prices == nil {
		return c.Limit
	}
	return c.Limit * 1e6
}

// free is what the limit leaves, in units. It is rounded up by less than a token
// counts, since sums of prices are not exact.
func (c *Cap) free() float64 { return c.limit() - c.used + 1e-14*(c.limit()+c.used) }

// left returns how many more tokens the cap allows, of the kind of a use.
func (c *Cap) left(u Use) (tokens int64, err error) {
	unit, err := c.unit(u)
	switch n := math.Floor(c.free() / unit); {
	case err != nil:
		return 0, err
	case unit == 0 || n >= 1<<62:
		return math.MaxInt64, nil
	default:
		return int64(max(n, -1<<62)), nil
	}
}

// amount writes a number of units for people.
func (c *Cap) amount(units float64) string {
	if c.Prices == nil {
		return strconv.FormatFloat(units, 'f', -1, 64) + " tokens"
	}
	return "$" + strconv.FormatFloat(math.Round(units*1e4)/1e10, 'f', -1, 64)
}

// Caps are caps that hold together. Their errors have the exit code
// [exit.Refused].
type Caps []*Cap

// Use counts a use. A negative number of tokens takes tokens back.
func (cs Caps) Use(u Use) error {
	if u.Tokens == 0 {
		return nil
	}
	for _, c := range cs {
		unit, err := c.unit(u)
		if err != nil {
			return err
		}
		c.used += unit * float64(u.Tokens)
	}
	return nil
}

// Room returns how many more tokens of a model the caps allow in batches.
func (cs Caps) Room(model string) (tokens int64, err error) {
	tokens = math.MaxInt64
	for _, c := range cs {
		left, err := c.left(Use{Model: model})
		if err != nil {
			return 0, err
		}
		tokens = min(tokens, left)
	}
	return tokens, nil
}

// Check returns an error if a cap does not allow a use.
func (cs Caps) Check(u Use) error {
	for _, c := range cs {
		left, err := c.left(u)
		if err != nil {
			return err
		}
		if u.Tokens > left {
			unit, _ := c.unit(u)
			return exit.Errorf(exit.Refused, "%s allows %s (used: %s, needed: %s)", c.Flag, c.amount(c.limit()), c.amount(c.used), c.amount(unit*float64(u.Tokens)))
		}
	}
	return nil
}

// Over returns an error if more was counted than a cap allows.
func (cs Caps) Over() error {
	for _, c := range cs {
		if c.free() < 0 {
			return exit.Errorf(exit.Refused, "%s allows %s (needed: %s)", c.Flag, c.amount(c.limit()), c.amount(c.used))
		}
	}
	return nil
}
