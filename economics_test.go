package gbatch

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"gbatch/pkg/model"
)

// TestEconomics computes the figures of docs/economics.md from the prices, the
// tiers and the defaults of chunks-pending.
func TestEconomics(t *testing.T) {
	const chunks, size = 1_000_000, 300
	page := pages(t)["docs/economics.md"]
	has := func(format string, args ...any) {
		t.Helper()
		if text := fmt.Sprintf(format, args...); !strings.Contains(strings.Join(strings.Fields(page), " "), strings.Join(strings.Fields(text), " ")) {
			t.Errorf("docs/economics.md lacks %q", text)
		}
	}
	// table says how many rows the table of a section has.
	table := func(heading string, want int) {
		t.Helper()
		if rows := strings.Count(section(t, page, heading), "\n|") - 2; rows != want {
			t.Errorf("the table of %q has %d rows, not %d", heading, rows, want)
		}
	}
	prices, err := model.ReadPrices()
	if err != nil {
		t.Fatal(err)
	}
	cost := func(name string, tokens int64) (batch, online float64) {
		batch, known := prices.Batch(name, tokens)
		online, also := prices.Online(name, tokens)
		if !known || !also {
			t.Fatalf("the price of %s is not known", name)
		}
		return batch, online
	}
	has("**%s chunks of %d tokens**", count(chunks), size)
	has("of %s, from", prices.Date)
	for name := range prices.Models {
		batch, online := cost(name, chunks*size)
		has("\n| %s | %s | %s | %s |", name, model.Money(batch), model.Money(online), model.Money(online-batch))
	}
	table("## Money", len(prices.Models))
	_, question := cost(model.Default, 1000*20)
	has("a thousand questions of 20 tokens cost %s.", model.Money(question))

	limits := model.LimitsOf("gemini")
	most, requests := limits.Tokens, int64(limits.Requests)
	batch := min(most/size, requests)
	jobs := (chunks + batch - 1) / batch
	has("`--max-tokens %d` a batch has %s chunks, so the example is %d jobs:", most, count(batch), jobs)
	for i, queue := range model.Tiers {
		together := queue / (batch * size)
		rounds := (jobs + together - 1) / together
		has("\n| %d | %s tokens | %d | %d | %d hours | %d days |", i+1, count(queue), together, rounds, rounds, rounds)
	}
	table("## Jobs and hours", len(model.Tiers))

	for _, dim := range []int{768, 1536, 3072} {
		has("\n| %d | %.1f GB |", dim, float64(dim)*4*chunks/1e9)
	}
	table("## Disk and network", 3)
	for _, n := range []int64{1000, 100_000, chunks, 10_000_000} {
		batch, online := cost(model.Default, n*size)
		has("\n| %s | %s | %s |", count(n), model.Money(batch), model.Money(online))
	}
	table("## When batches are worth it", 4)
	const rate = 20_000
	has("embeds %s tokens a second takes %.1f hours and $%.2f for the example", count(rate), chunks*size/rate/3600., chunks*size/rate/3600.)
}

// count writes a number with commas.
func count(n int64) string {
	s := strconv.FormatInt(n, 10)
	for again := true; again; {
		longer := regexp.MustCompile(`^(\d+)(\d{3})`).ReplaceAllString(s, "$1,$2")
		again = longer != s
		s = longer
	}
	return s
}
