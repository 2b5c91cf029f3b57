package model

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gbatch/pkg/exit"
)

func TestPrices(t *testing.T) {
	t.Setenv(PricesVariable, "")
	p, err := ReadPrices()
	if err != nil || p.Date == "" || p.Source == "" {
		t.Fatalf("%+v, %v", p, err)
	}
	if usd, known := p.Batch(Default, 2_000_000); usd != 0.15 || !known {
		t.Errorf("two million tokens in a batch cost %v, %v", usd, known)
	}
	if usd, known := p.Online(Default, 2_000_000); usd != 0.3 || !known {
		t.Errorf("two million tokens online cost %v, %v", usd, known)
	}
	for _, m := range models {
		if _, known := p.Batch(m.Name, 1); !known {
			t.Errorf("the price of %s is not known", m.Name)
		}
	}
	for _, name := range []string{"another", "gemini-embedding-2-preview", "gemini-embedding-20", ""} { // a preview may cost something else
		if usd, known := p.Batch(name, 1_000_000); known || usd != 0 {
			t.Errorf("%q costs %v", name, usd)
		}
	}

	file := filepath.Join(t.TempDir(), "prices")
	t.Setenv(PricesVariable, file)
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"date":"2027-01-01","source":"our contract","usd_per_million_tokens":{"own":{"batch":0},"gemini-embedding-2":{"online":1}}}`)
	if p, err = ReadPrices(); err != nil || p.Source != "our contract" {
		t.Fatal(p, err)
	}
	for _, c := range []struct {
		name   string
		online bool
		usd    float64
		known  bool
	}{
		{"own", false, 0, true}, {"own", true, 0, false},
		{"gemini-embedding-2", false, 0, false}, {"gemini-embedding-2", true, 1, true},
		{Default, false, 0.075, true},
	} {
		price := p.Batch
		if c.online {
			price = p.Online
		}
		if usd, known := price(c.name, 1_000_000); usd != c.usd || known != c.known {
			t.Errorf("%+v: %v, %v", c, usd, known)
		}
	}

	for text, want := range map[string]string{
		"":     "does not hold prices",
		"{}":   "no usd_per_million_tokens",
		"[]":   "does not hold prices",
		"a: 1": "does not hold prices",
		`{"usd_per_million_tokens":{"a":{"bach":1}}}`:         "bach",
		`{"usd_per_million_tokens":{"a":{"batch":"1"}}}`:      "does not hold prices",
		`{"usd_per_million_tokens":{"a":{"batch":-1}}}`:       "negative",
		`{"usd_per_million_tokens":{"a b":{"batch":1}}}`:      "not the name of a model",
		`{"usd_per_million_tokens":{"models/a":{"batch":1}}}`: `written as "a"`,
		`{"usd_per_million_tokens":{"a":{"batch":1}}} x`:      "follows",
	} {
		write(text)
		if _, err := ReadPrices(); exit.Code(err) != exit.Usage || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), PricesVariable+": "+file) {
			t.Errorf("%s: %v", text, err)
		}
	}
	t.Setenv(PricesVariable, file+"/missing")
	if _, err := ReadPrices(); exit.Code(err) != exit.Usage {
		t.Errorf("a missing file: %v", err)
	}
}

func TestMoney(t *testing.T) {
	for usd, want := range map[float64]string{0: "$0.0000", 0.0012: "$0.0012", 0.00009: "<$0.0001", 9.5: "$9.5000", 12.345: "$12.35", 1234: "$1234.00"} {
		if got := Money(usd); got != want {
			t.Errorf("%v is written %s, want %s", usd, got, want)
		}
	}
}
