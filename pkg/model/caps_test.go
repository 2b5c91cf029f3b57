package model

import (
	"math"
	"strings"
	"testing"

	"gbatch/pkg/exit"
)

// A cap allows exactly its limit, whatever was counted before.
func TestCapsAtTheBoundary(t *testing.T) {
	price := func(usd float64) *Prices {
		return &Prices{Models: map[string]modelPrice{"m": {Batch: &usd}, "unknown": {}}}
	}
	for _, usd := range []float64{0.075, 0.1, 0.0333, 7, 1.0 / 3} {
		for _, tokens := range []int64{1, 3, 999, 1000, 123_457, 399_999, 10_000_001, 4_000_000_000} {
			cap := &Cap{Flag: "--max-cost", Limit: float64(tokens) * usd / 1e6, Prices: price(usd)}
			caps := Caps{cap}
			for _, before := range []int64{0, 1, tokens / 3, tokens} {
				cap.used = 0
				for part := before; part > 0; part -= max(1, before/7) { // in parts, for rounding
					if err := caps.Use(Use{Model: "m", Tokens: min(part, max(1, before/7))}); err != nil {
						t.Fatal(err)
					}
				}
				room, err := caps.Room("m")
				if room != tokens-before || err != nil {
					t.Errorf("$%v a million, a cap for %d tokens, %d used: room for %d, %v", usd, tokens, before, room, err)
				}
				if err := caps.Check(Use{Model: "m", Tokens: tokens - before}); err != nil {
					t.Errorf("exactly the limit is refused: %v", err)
				}
				if err := caps.Check(Use{Model: "m", Tokens: tokens - before + 1}); exit.Code(err) != exit.Refused {
					t.Errorf("a token more than the limit: %v", err)
				}
				if err := caps.Over(); err != nil {
					t.Errorf("not over: %v", err)
				}
			}
			caps.Use(Use{Model: "m", Tokens: 1})
			if err := caps.Over(); exit.Code(err) != exit.Refused {
				t.Errorf("over by a token: %v", err)
			}
			if caps.Use(Use{Model: "m", Tokens: -1}); caps.Over() != nil {
				t.Error("a token that was taken back still counts")
			}
		}
	}
}

func TestCapsOfTokensAndPrices(t *testing.T) {
	zero, some := 0.0, 0.075
	p := &Prices{Models: map[string]modelPrice{"free": {Batch: &zero}, "m": {Batch: &some}, "online": {Online: &some}}}
	room := func(caps Caps, model string) int64 {
		t.Helper()
		n, err := caps.Room(model)
		if err != nil {
			t.Error(err)
		}
		return n
	}
	if n := room(nil, "any"); n != math.MaxInt64 {
		t.Errorf("without caps: %d", n)
	}
	nothing := Caps{{Flag: "--max-cost", Prices: p}}
	if n := room(nothing, "free"); n != math.MaxInt64 {
		t.Errorf("a price of 0, and $0 allowed: room for %d", n)
	}
	if n := room(nothing, "m"); n != 0 {
		t.Errorf("a price, and $0 allowed: room for %d", n)
	}
	for _, name := range []string{"online", "other"} {
		_, err := nothing.Room(name)
		for _, err := range []error{err, nothing.Use(Use{Model: name, Tokens: 1}), nothing.Check(Use{Model: name})} {
			if exit.Code(err) != exit.Refused || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), PricesVariable) {
				t.Errorf("an unknown price: %v", err)
			}
		}
		if err := nothing.Use(Use{Model: name}); err != nil {
			t.Errorf("nothing of an unknown price: %v", err)
		}
	}
	both := Caps{{Flag: "--max-total-tokens", Limit: 10_000}, {Flag: "--max-cost", Limit: 0.0006, Prices: p}}
	if n := room(both, "m"); n != 8000 {
		t.Errorf("room for %d", n)
	}
	both.Use(Use{Model: "free", Tokens: 4000})
	if n := room(both, "m"); n != 6000 {
		t.Errorf("room for %d", n)
	}
	if err := both.Check(Use{Model: "m", Tokens: 6001}); err == nil || err.Error() != "--max-total-tokens allows 10000 tokens (used: 4000 tokens, needed: 6001 tokens)" {
		t.Error(err)
	}
	both.Use(Use{Model: "m", Tokens: 5000})
	if err := (both[1:]).Check(Use{Model: "m", Tokens: 3001}); err == nil || err.Error() != "--max-cost allows $0.0006 (used: $0.000375, needed: $0.000225075)" {
		t.Error(err)
	}
	if _, err := (Caps{{Flag: "--max-total-tokens", Limit: 1}}).Room("other"); err != nil {
		t.Errorf("tokens need no price: %v", err)
	}
}
