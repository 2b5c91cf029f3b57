package store

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// metrics writes a report in the text format of Prometheus. Each figure is that of
// one table, which is a label, so that the files of several tables do not clash.
func (r *Report) metrics() []byte {
	var b strings.Builder
	table := fmt.Sprintf("database=%s,table=%s", label(r.DB), label(r.Table))
	family := func(name, kind, help string) {
		fmt.Fprintf(&b, "# HELP gbatch_%s %s\n# TYPE gbatch_%[1]s %[3]s\n", name, help, kind)
	}
	sample := func(name string, value float64, labels ...string) {
		fmt.Fprintf(&b, "gbatch_%s{%s", name, table)
		for i := 0; i < len(labels); i += 2 {
			fmt.Fprintf(&b, ",%s=%s", labels[i], label(labels[i+1]))
		}
		fmt.Fprintf(&b, "} %s\n", strconv.FormatFloat(value, 'g', -1, 64))
	}
	age := func(name, help string, seconds *int64, none bool) {
		family(name, "gauge", help+" 0 if there are none, missing if it is not known.")
		if none {
			seconds = new(int64)
		}
		if seconds != nil {
			sample(name, float64(*seconds))
		}
	}

	family("chunks", "gauge", "Chunks by status.")
	for _, n := range r.Counts {
		sample("chunks", float64(n.Chunks), "status", n.Status)
	}
	family("chunk_tokens", "gauge", "Tokens of the chunks by status: the count of Google for READY, an estimate for the others.")
	for _, n := range r.Counts {
		sample("chunk_tokens", float64(n.Tokens), "status", n.Status)
	}
	family("failed_chunks", "gauge", "FAILED chunks by the code of their error.")
	for _, n := range r.Total.Errors {
		sample("failed_chunks", float64(n.Chunks), "code", strconv.Itoa(n.Code), "error", n.Status)
	}
	age("oldest_pending_age_seconds", "Upper bound for the age of the oldest PENDING chunk.", r.Total.OldestPending, r.Total.Pending == 0)
	age("oldest_open_age_seconds", "Time since the oldest open batch was claimed.", r.Total.OldestOpen, r.Total.Open == 0)

	type key struct{ state, open string }
	states, keys := map[key]int{}, []key{}
	tokens, usd := int64(0), amount{}
	for _, t := range r.Batches {
		k := key{t.State, strconv.FormatBool(t.Open)}
		if states[k]++; states[k] == 1 {
			keys = append(keys, k)
		}
		tokens += t.Tokens
		if t.USD != nil {
			usd.add(*t.USD, true)
		} else if t.Tokens > 0 {
			usd.add(0, false)
		}
	}
	slices.SortFunc(keys, func(a, b key) int { return strings.Compare(a.state+a.open, b.state+b.open) })
	family("batches", "gauge", "Batches by state.")
	for _, k := range keys {
		sample("batches", float64(states[k]), "state", k.state, "open", k.open)
	}
	family("tokens_total", "counter", "Tokens that were paid for: the count of Google, or an estimate for online calls.")
	sample("tokens_total", float64(tokens))
	family("cost_usd_total", "counter", "What these tokens cost in US dollars. Missing if a price is not known.")
	if usd := usd.value(); usd != nil {
		sample("cost_usd_total", *usd)
	}
	return []byte(b.String())
}

// label writes the value of a label.
func label(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`).Replace(s) + `"`
}
