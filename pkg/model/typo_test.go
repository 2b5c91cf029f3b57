package model

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gbatch/pkg/exit"
)

// A misspelled name is refused with the name that was meant. A name that may be that of
// another model is not refused.
func TestCheckTyped(t *testing.T) {
	for _, name := range []string{"gemini-embeding-001", "gemini_embedding-001", "Gemini-embedding-001", "gemini-embedding001", "models/gemini-embeddding-001", "gemnii-embedding-2"} {
		err := CheckTyped(name)
		if exit.Code(err) != exit.Usage || !strings.Contains(err.Error(), "did you mean gemini-embedding-") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{Default, "models/" + Default, "gemini-embedding-2-preview", "gemini-embedding-3", "gemini-embedding-004", "text-embedding-005", "gemini-embedding-exp-03-07", "my-model", "x"} {
		if err := CheckTyped(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := Meant("gemini-embedding-7"); got != ", did you mean gemini-embedding-2?" {
		t.Errorf("gemini-embedding-7: %q", got)
	}
	for _, name := range []string{Default, "completely-other", "m"} {
		if got := Meant(name); got != "" {
			t.Errorf("%s%s", name, got)
		}
	}
	path := filepath.Join(t.TempDir(), "prices.json")
	if err := os.WriteFile(path, []byte(`{"date":"2026-11-25","source":"me","usd_per_million_tokens":{"gemini-embeding-001":{"batch":1}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(PricesVariable, path)
	if err := CheckTyped("gemini-embeding-001"); err != nil {
		t.Errorf("a model with a price: %v", err)
	}
}
