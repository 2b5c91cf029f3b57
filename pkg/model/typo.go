package model

import (
	"strings"

	"gbatch/pkg/exit"
	"gbatch/pkg/guess"
)

// Meant is for the message about a model that does not exist: ", did you mean
// gemini-embedding-001?", or "" if no known name is near.
func Meant(name string) string {
	var names []string
	for _, m := range models {
		names = append(names, m.Name)
	}
	if near := guess.Closest(Bare(name), names, 0); near != "" && near != Bare(name) {
		return ", did you mean " + near + "?"
	}
	return ""
}

// typo is the most bytes in which a misspelled name differs from the known one.
const typo = 2

// CheckTyped refuses a name, as it was typed, that is probably a misspelled name of a
// known model, so that nothing is claimed for a model that does not exist. A name that
// differs in its digits may be a new model. A model with a price is not refused.
func CheckTyped(name string) error {
	name = Bare(name)
	if Lookup(name).Known {
		return nil
	}
	prices, err := ReadPrices()
	if err != nil {
		return err
	}
	if _, priced := prices.Models[name]; priced {
		return nil
	}
	for _, m := range models {
		if d := guess.Distance(letters(name), letters(m.Name)); d > 0 && d <= typo {
			return exit.Errorf(exit.Usage, "unknown model %q%s (if Google has a model of this name, add its price to the file of %s)", name, Meant(name), PricesVariable)
		}
	}
	return nil
}

// letters returns a name without its digits.
func letters(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, name)
}
