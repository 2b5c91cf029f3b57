package gbatch

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"gbatch/pkg/model"
	"gbatch/pkg/render"
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

// TestScale computes the figures of docs/scale.md from the prices, the limits and the
// lines of the commands.
func TestScale(t *testing.T) {
	const size, bytes, dim = 300, 1200, 768
	page := strings.Join(strings.Fields(pages(t)["docs/scale.md"]), " ")
	has := func(format string, args ...any) {
		t.Helper()
		if text := fmt.Sprintf(format, args...); !strings.Contains(page, text) {
			t.Errorf("docs/scale.md lacks %q", text)
		}
	}
	prices, err := model.ReadPrices()
	if err != nil {
		t.Fatal(err)
	}
	var line strings.Builder
	in := strings.NewReader(`{"id":"document-12345/67","text":"` + strings.Repeat("x", bytes) + `"}`)
	if err := (&render.ToJSONL{Backend: model.Vertex}).Run(context.Background(), in, &line); err != nil {
		t.Fatal(err)
	}
	request := int64(line.Len()+4) / 5 * 5
	has("a request has about %s bytes", count(request))
	vertex, gemini := model.LimitsOf(model.Vertex), model.LimitsOf("gemini")
	batch := min(int64(vertex.Requests), vertex.Bytes/request)
	small := min(gemini.Tokens/size, int64(gemini.Requests))
	gb := func(n int64) string {
		whole, tenth, _ := strings.Cut(fmt.Sprintf("%.1f", float64(n)/1e9), ".")
		v, _ := strconv.ParseInt(whole, 10, 64)
		return count(v) + "." + tenth
	}
	for _, n := range []int64{1e6, 1e7, 1e8, 1e9} {
		usd, _ := prices.Batch(model.Default, n*size)
		jobs := (n + batch - 1) / batch
		dollars := model.Money(usd)
		if usd > 100 {
			dollars = "$" + count(int64(usd))
		}
		has("| %s | %s GB | %s | %s GB | %s GB | %s |", count(n), gb(n*request), count(jobs), count((n*(request+dim*12+220)+5e8)/1e9), gb(n*dim*4), dollars)
		batches := (n + small - 1) / small
		var days []any
		for _, tier := range []int{0, 2} {
			together := model.Tiers[tier] / (small * size)
			days = append(days, count((batches+together-1)/together))
		}
		has("| %s | %s days | %s days |", append([]any{count(n)}, days...)...)
	}
	const rate = 20_000
	has("at %s tokens a second a GPU needs %d days for a billion chunks and costs $%s", count(rate), (1_000_000_000*size/rate+43_200)/86_400, count((1_000_000_000*size/rate+1_800)/3600))
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
