package emulator

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"unicode/utf8"
)

// The emulator's count is near to the true count of Gemma 3 for every kind of
// text. pkg/model/testdata/README.md says where the texts and counts are from.
func TestTokensAreNearTheTrueCount(t *testing.T) {
	f, err := os.Open("testdata/tokens.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	type sum struct{ counted, want int }
	kinds := map[string]sum{}
	for in := bufio.NewScanner(f); in.Scan(); {
		var s struct {
			Kind, Text string
			Tokens     int
		}
		if err := json.Unmarshal(in.Bytes(), &s); err != nil {
			t.Fatal(err)
		}
		n, end := countTokens([]byte(s.Text), 0)
		if end != len(strings.TrimRight(s.Text, " ")) && end != len(s.Text) {
			t.Errorf("%s: the tokens end at %d of %d bytes", s.Kind, end, len(s.Text))
		}
		k := kinds[s.Kind]
		kinds[s.Kind] = sum{k.counted + n, k.want + s.Tokens}
		// As many tokens as the limit says, never half a character, and what is
		// cut counts as the limit.
		for _, limit := range []int{1, 7, n - 1, n, n + 1} {
			got, end := countTokens([]byte(s.Text), limit)
			again, _ := countTokens([]byte(s.Text[:end]), 0)
			if got != min(limit, n) || again != got || !utf8.ValidString(s.Text[:end]) {
				t.Errorf("%s: limit %d of %d: %d tokens, %d of the cut text", s.Kind, limit, n, got, again)
			}
		}
	}
	if len(kinds) < 10 {
		t.Errorf("%d kinds", len(kinds))
	}
	for kind, k := range kinds {
		r := float64(k.counted) / float64(k.want)
		t.Logf("%-10s %.2f", kind, r)
		if r < 0.75 || r > 1.3 {
			t.Errorf("%s: %.2f of the true count", kind, r)
		}
	}
}

func TestCountTokens(t *testing.T) {
	for text, want := range map[string]int{"": 0, " ": 1, "word": 1, "two words": 2, "camelCase": 2, "2026": 4, "a\n\nb": 3, "x, y": 3, "\xff\xfe": 2, "é": 1} {
		if n, end := countTokens([]byte(text), 0); n != want || end != len(text) {
			t.Errorf("%q: %d tokens in %d bytes, want %d", text, n, end, want)
		}
	}
	it := item{text: []byte("the text"), title: []byte("a title")}
	if n := it.tokens("gemini-embedding-001"); n != 4 {
		t.Errorf("with its title: %d tokens", n)
	}
}
