package model

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"

	"gbatch/pkg/exit"
)

//go:embed prices.json
var embedded []byte

// PricesVariable is the environment variable that names a file of prices.
const PricesVariable = "GBATCH_PRICES"

// Prices are what models cost. A price that is not known is nil; 0 is a price.
type Prices struct {
	Date   string                `json:"date"`
	Source string                `json:"source"`
	Models map[string]modelPrice `json:"usd_per_million_tokens"`
}

type modelPrice struct {
	Batch  *float64 `json:"batch"`
	Online *float64 `json:"online"`
}

// ReadPrices returns the embedded prices. If GBATCH_PRICES names a file, the file's
// prices of a model replace the embedded prices of that model. The file has the
// form of prices.json. The error of a bad file has the exit code [exit.Usage].
func ReadPrices() (Prices, error) {
	known, err := parsePrices(embedded)
	name := os.Getenv(PricesVariable)
	if err != nil || name == "" {
		return known, err
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return Prices{}, exit.Errorf(exit.Usage, "%s: %w", PricesVariable, err)
	}
	own, err := parsePrices(data)
	if err != nil {
		return Prices{}, exit.Errorf(exit.Usage, "%s: %s: %w; the form is "+
			`{"date":"2026-11-25","source":"…","usd_per_million_tokens":{"%s":{"batch":0.075,"online":0.15}}}`, PricesVariable, name, err, Default)
	}
	maps.Copy(known.Models, own.Models)
	known.Date, known.Source = own.Date, own.Source
	return known, nil
}

func parsePrices(data []byte) (p Prices, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields() // a misspelled member would be an unknown price
	if err := d.Decode(&p); err != nil {
		return p, fmt.Errorf("it does not hold prices: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return p, errors.New("something follows the object of prices")
	}
	if len(p.Models) == 0 {
		return p, errors.New("it has no usd_per_million_tokens")
	}
	for name, price := range p.Models {
		if bare, err := Name(name); err != nil {
			return p, err
		} else if bare != name {
			return p, fmt.Errorf("%q is to be written as %q", name, bare)
		}
		for _, usd := range []*float64{price.Batch, price.Online} {
			if usd != nil && *usd < 0 {
				return p, fmt.Errorf("the price %v of %s is negative", *usd, name)
			}
		}
	}
	return p, nil
}

// Batch is what tokens cost in a batch, in US dollars. known is false if the
// price is not known.
func (p Prices) Batch(model string, tokens int64) (usd float64, known bool) {
	return p.Cost(Use{Model: model, Tokens: tokens})
}

// Online is [Prices.Batch] for online calls.
func (p Prices) Online(model string, tokens int64) (usd float64, known bool) {
	return p.Cost(Use{Model: model, Tokens: tokens, Online: true})
}

// A Use is so many tokens of a model, in batches or in online calls.
type Use struct {
	Model  string
	Tokens int64
	Online bool
}

// Cost is what a use costs, in US dollars. known is false if the price is not
// known.
func (p Prices) Cost(u Use) (usd float64, known bool) {
	price := p.of(u)
	if price == nil {
		return 0, false
	}
	return math.Round(*price*float64(u.Tokens)*1e4) / 1e10, true
}

// of returns the price of a million tokens, or nil if it is not known.
func (p Prices) of(u Use) *float64 {
	if u.Online {
		return p.Models[u.Model].Online
	}
	return p.Models[u.Model].Batch
}

// Money writes US dollars for people: $0.0012, $12.35.
func Money(usd float64) string {
	switch {
	case usd > 0 && usd < 0.0001:
		return "<$0.0001"
	case usd >= 10:
		return fmt.Sprintf("$%.2f", usd)
	}
	return fmt.Sprintf("$%.4f", usd)
}
