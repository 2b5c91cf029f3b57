package store

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
	"gbatch/pkg/model"
)

// dump returns the content of all tables, and the definitions of all tables and
// views.
func (k *kb) dump() string {
	k.Helper()
	var all strings.Builder
	err := k.transact(duck.Read, func(c *duck.Conn) error {
		var queries []string
		err := c.Each(func(r *duck.Rows) { queries = append(queries, r.Text(0)) },
			`SELECT format('SELECT ''{}.{}'', COLUMNS(*)::VARCHAR FROM "{}"."{}" ORDER BY ALL', schema_name, table_name, schema_name, table_name) FROM duckdb_tables() WHERE database_name = current_database() ORDER BY ALL`)
		queries = append(queries, "SELECT sql, comment FROM duckdb_tables() WHERE database_name = current_database() UNION ALL SELECT sql, comment FROM duckdb_views() WHERE database_name = current_database() AND NOT internal ORDER BY ALL")
		for _, query := range queries {
			if err == nil {
				err = c.Each(func(r *duck.Rows) { all.WriteString(r.Borrow(0) + "\n") }, "SELECT concat_ws('|', *COLUMNS(*)) FROM ("+query+")")
			}
		}
		return err
	})
	if err != nil {
		k.Fatal(err)
	}
	return all.String()
}

// total returns what a dry run prints last.
func (k *kb) total(out string) (t planTotal) {
	k.Helper()
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &t); err != nil {
		k.Fatalf("%v: %s", err, out)
	}
	return t
}

func dry(p *Pending) { p.DryRun = true }
func fit(p *Pending) { p.Cutoff = "fit" }

// refused runs chunks-pending, which a cap must refuse: it prints and changes
// nothing.
func (k *kb) refused(words string, set ...func(*Pending)) {
	k.Helper()
	before := k.dump()
	out, err := k.run(k.pending(set...), "")
	if exit.Code(err) != exit.Refused || out != "" || !strings.Contains(err.Error(), words) {
		k.Errorf("not refused with %q: %v, printed %q", words, err, out)
	}
	if after := k.dump(); after != before {
		k.Errorf("a refused run changed the database from\n%s\nto\n%s", before, after)
	}
	// A dry run says the same, after its lines.
	out, dryErr := k.run(k.pending(append(set, dry)...), "")
	if err != nil && (dryErr == nil || dryErr.Error() != err.Error() || exit.Code(dryErr) != exit.Refused) || !strings.Contains(out, `{"jobs":`) {
		k.Errorf("the dry run says %v, not %v: %s", dryErr, err, out)
	}
	if after := k.dump(); after != before {
		k.Error("a dry run changed the database")
	}
}

// requests returns how many requests chunks-pending prints.
func (k *kb) requests(set ...func(*Pending)) (n int) {
	k.Helper()
	for _, b := range k.batches(k.must(k.pending(set...), "")) {
		n += b.Count
	}
	return n
}

// capsBy are all caps, for so many tokens of gemini-embedding-001.
var capsBy = map[string]func(tokens int64) func(*Pending){
	"--max-total-tokens":    func(n int64) func(*Pending) { return func(p *Pending) { p.MaxTotalTokens = &n } },
	"--max-enqueued-tokens": func(n int64) func(*Pending) { return func(p *Pending) { p.MaxEnqueuedTokens = &n } },
	"--max-cost":            func(n int64) func(*Pending) { return func(p *Pending) { p.MaxCost = usd(n) } },
	"--max-cost-per-day":    func(n int64) func(*Pending) { return func(p *Pending) { p.MaxCostPerDay = usd(n) } },
	"--max-cost-per-month":  func(n int64) func(*Pending) { return func(p *Pending) { p.MaxCostPerMonth = usd(n) } },
}

func usd(tokens int64) *float64 {
	usd := float64(tokens) * 0.075 / 1e6
	return &usd
}

const tenChunks = "INSERT INTO chunks SELECT 'c' || i, 'passage ' || i || ' of ten', 'PENDING', NULL FROM range(10) t(i)"
const courtesyTable = "CREATE TABLE chunks (id VARCHAR, text VARCHAR, embedding_status VARCHAR, error_message VARCHAR)"

// Exactly what a cap allows passes, and a token less refuses everything, or the
// last request.
func TestCapsAtTheBoundary(t *testing.T) {
	t.Setenv(model.PricesVariable, "")
	two := func(p *Pending) { p.MaxRequests = 2 }
	for name, by := range capsBy {
		t.Run(name, func(t *testing.T) {
			k := open(t, courtesyTable, tenChunks)
			all := k.total(k.must(k.pending(two, dry), ""))
			if all.Jobs != 5 || all.Requests != 10 || all.TokensMax <= all.Tokens || all.USDMax == nil || *all.USDMax != *usd(all.TokensMax) {
				t.Fatalf("the whole is %+v", all)
			}
			k.refused(name+" allows ", two, by(all.TokensMax-1))
			if name == "--max-total-tokens" {
				k.refused(name+" allows ", two, by(0))
				k.refused(name+" allows ", two, fit, by(0))
			}
			plan, err := k.run(k.pending(two, dry, fit, by(all.TokensMax-1)), "")
			if n := k.total(plan); err != nil || n.Requests != 9 || n.Stays != 1 || n.TokensMax+n.StaysMax != all.TokensMax {
				t.Errorf("what fits is %+v, %v", n, err)
			}
			if n := k.requests(two, fit, by(all.TokensMax-1)); n != 9 {
				t.Errorf("%d of 10 requests fit with a token less", n)
			}
			k.expect("SELECT count(*) FROM gbatch.scans", "0") // a chunk is pending
			if n := k.requests(two, by(all.TokensMax)); n != 10 {
				t.Errorf("exactly what is allowed: %d of 10 requests", n)
			}
			k.expect("SELECT sum(tokens_max), sum(tokens_likely), sum(tokens_plain), count(*) FROM gbatch.jobs", fmt.Sprintf("%d|%d|%d|6", all.TokensMax, all.Tokens, all.Tokens))
			// What is printed again counts in a run, too.
			k.refused("the 6 batches that were claimed before: "+name, by(all.TokensMax-1))
			if n := k.requests(fit, by(all.TokensMax-1)); n != 9 {
				t.Errorf("of 10 requests that were claimed before %d fit", n)
			}
		})
	}
	k := open(t, courtesyTable, tenChunks)
	by := capsBy["--max-total-tokens"]
	all := k.total(k.must(k.pending(dry), "")).TokensMax
	k.must(k.pending(), "")
	k.sql("INSERT INTO chunks VALUES ('new', 'passage 9 of new', 'PENDING', NULL)")
	k.refused("nothing is claimed", by(all))
	if n := k.requests(fit, by(all)); n != 10 {
		t.Errorf("%d requests fit", n)
	}
	k.expect("SELECT embedding_status FROM chunk_status WHERE id = 'new'", "PENDING")
	// Nothing to do is never refused.
	k.sql("DELETE FROM chunks WHERE id = 'new'")
	k.must(k.apply(), k.answers(k.must(k.pending(), "")))
	for _, set := range [][]func(*Pending){{by(0)}, {by(0), fit}, {capsBy["--max-cost-per-day"](0)}} {
		if out := k.must(k.pending(set...), ""); out != "" {
			t.Errorf("printed %s", out)
		}
	}
	k.right()
}

// The caps on a day, a month and the queue count what gbatch.jobs holds.
func TestWhatCapsCount(t *testing.T) {
	t.Setenv(model.PricesVariable, "")
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	k := open(t, courtesyTable, tenChunks)
	most := k.batches(k.must(k.pending(), ""))[0].TokensMax
	k.must(&Release{Database: k.Database}, "")
	const limit = 1_000_000
	p := k.pending()
	for _, by := range capsBy {
		by(limit)(p)
	}
	err := k.transact(duck.Write, func(c *duck.Conn) error {
		present := duck.Literal(now()) + "::TIMESTAMP"
		moments := strings.NewReplacer("$now", present, "$day", "date_trunc('day',"+present+")", "$month", "date_trunc('month',"+present+")", "$before", "- INTERVAL 1 SECOND")
		const open = "job = 'batches/1', state = 'QUEUED', submitted_at = "
		const closed = "job = 'batches/1', closed_at = $now, submitted_at = $now, state = "
		for _, test := range []struct {
			name, then string // what becomes of the batch
			// What the batch counts: o its tokens_max, g Google's count, and - nothing.
			day, month, queue string
		}{
			{"released", "", "-", "-", "-"}, // by chunks-release, above
			{"released in doubt", "state = 'RELEASED', closed_at = $now", "o", "o", "-"},
			{"claimed last month", "claimed_at = $month $before", "o", "o", "o"}, // it will be sent today
			{"open", open + "$now", "o", "o", "o"},
			{"open since yesterday", open + "$day $before", "-", "", "o"},
			{"open since last month", open + "$month $before", "-", "-", "o"},
			{"open since this day began", open + "$day, claimed_at = $month $before", "o", "o", "o"},
			{"closed", closed + "'SUCCEEDED', succeeded = 9, failed = 1, tokens = 7", "g", "g", "-"},
			{"closed without a count", closed + "'SUCCEEDED', succeeded = 9, failed = 1", "o", "o", "-"},
			{"closed since last month", closed + "'SUCCEEDED', tokens = 7, submitted_at = $month $before", "-", "-", "-"},
			{"failed", closed + "'FAILED'", "-", "-", "-"},
			{"expired", closed + "'EXPIRED'", "-", "-", "-"},
			{"cancelled", closed + "'CANCELLED'", "o", "o", "-"},
			{"of another table", open + "$now, embeddings = 'other'", "o", "o", "o"},
			{"with canaries", open + "$now, canary = 3", "c", "c", "c"},
			{"closed with canaries", closed + "'SUCCEEDED', canary = 3, tokens = 7", "g", "g", "-"},
		} {
			if test.then != "" {
				err := c.Exec("UPDATE gbatch.jobs SET job = NULL, state = NULL, submitted_at = NULL, closed_at = NULL, tokens = NULL, canary = NULL, succeeded = NULL, failed = NULL, embeddings = 'embeddings'")
				if err == nil {
					// A column that is set twice has its last value.
					sets := map[string]string{}
					for _, set := range strings.Split(moments.Replace(test.then), ", ") {
						column, value, _ := strings.Cut(set, " = ")
						sets[column] = value
					}
					list := ""
					for column, value := range sets {
						list += ", " + column + " = " + value
					}
					err = c.Exec("UPDATE gbatch.jobs SET " + list[2:])
				}
				if err != nil {
					return err
				}
			}
			var r round
			if err := p.budget(c, &r); err != nil {
				return err
			}
			for _, cap := range r.caps {
				what := map[string]string{"--max-cost-per-day": test.day, "--max-cost-per-month": test.month, "--max-enqueued-tokens": test.queue, "--max-cost": "-", "--max-total-tokens": "-"}[cap.Flag]
				counts := map[string]int64{"o": most, "g": 7, "-": 0, "c": most + 3*2048}[what]
				room, err := (model.Caps{cap}).Room(p.Model)
				if what == "" {
					continue // yesterday may have been in another month
				}
				if err != nil || room != limit-counts {
					t.Errorf("%s: %s counts %d, not %d (%v)", test.name, cap.Flag, limit-room, counts, err)
				}
			}
		}
		return errDry
	})
	if err != errDry {
		t.Fatal(err)
	}
}

func TestCapsWithPrices(t *testing.T) {
	file := filepath.Join(t.TempDir(), "prices")
	t.Setenv(model.PricesVariable, file)
	if err := os.WriteFile(file, []byte(`{"usd_per_million_tokens":{"free":{"batch":0},"dear":{"batch":1000000}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	zero := 0.0
	nothing := func(p *Pending) { p.MaxCost, p.MaxCostPerDay, p.MaxCostPerMonth = &zero, &zero, &zero }
	of := func(name string) func(*Pending) {
		return func(p *Pending) { p.Model, p.Embeddings = name, "e_"+strings.ReplaceAll(name, "-", "_") }
	}
	k := open(t, courtesyTable, tenChunks)
	for _, cutoff := range []string{"whole", "fit"} {
		k.refused(model.PricesVariable, of("gemini-embedding-2-preview"), nothing, func(p *Pending) { p.Cutoff = cutoff })
		k.refused("--max-cost allows $0", of("dear"), nothing, func(p *Pending) { p.Cutoff = cutoff })
	}
	if n := k.requests(of("free"), nothing); n != 10 {
		t.Errorf("a price of 0: %d requests", n)
	}
	// A dollar a token: each model at its price.
	k.must(k.apply(), k.answers(k.must(k.pending(of("free")), "")))
	dear := k.total(k.must(k.pending(of("dear"), dry), ""))
	k.refused("--max-cost-per-day", of("dear"), func(p *Pending) { less := float64(dear.TokensMax - 1); p.MaxCostPerDay = &less })
	if n := k.requests(of("dear"), func(p *Pending) { all := float64(dear.TokensMax); p.MaxCostPerDay = &all }); n != 10 {
		t.Errorf("%d requests", n)
	}
	k.sql("UPDATE gbatch.jobs SET model = 'gemini-embedding-2-preview', job = 'batches/1' WHERE model = 'dear'")
	k.sql("INSERT INTO chunks VALUES ('new', 'new', NULL, NULL)")
	k.refused("price of gemini-embedding-2-preview", of("free"), nothing) // of a batch that counts
}

func TestCapsThatAreNotNumbers(t *testing.T) {
	k := open(t, simple)
	for name, set := range map[string]func(*Pending){
		"--max-cost":         func(p *Pending) { p.MaxCost = usd(-1) },
		"--max-total-tokens": func(p *Pending) { n := int64(-1); p.MaxTotalTokens = &n },
		"--max-cost-per-day": func(p *Pending) { var zero float64; nan := zero / zero; p.MaxCostPerDay = &nan },
		"--tier":             func(p *Pending) { p.Tier = 4 },
	} {
		if _, err := k.run(k.pending(set), ""); exit.Code(err) != exit.Usage || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// With --cutoff fit, the rounds stop at the request that does not fit. Another
// process may claim between two rounds.
func TestCapsOverRounds(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks SELECT 'c' || lpad(i::VARCHAR, 2, '0'), 'passage ' || lpad(i::VARCHAR, 2, '0') FROM range(20) t(i)")
	each := k.total(k.must(k.pending(dry), "")).TokensMax / 20
	rounds := func(p *Pending, between func()) (n int) {
		if err := k.transact(duck.Write, p.prepare); err != nil {
			t.Fatal(err)
		}
		for r := (round{size: 3, fit: true}); !r.last; between() {
			err := k.transact(duck.Write, func(c *duck.Conn) error {
				if err := p.budget(c, &r); err != nil {
					return err
				}
				_, err := p.claim(c, &r)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			n = len(r.sent)
		}
		return n
	}
	rounds(k.pending(capsBy["--max-total-tokens"](7*each+each-1)), func() {})
	k.expect("SELECT sum(requests), count(*) FROM gbatch.jobs", "7|3")
	k.sql("UPDATE gbatch.jobs SET job = 'batches/x'")
	other := false
	rounds(k.pending(capsBy["--max-enqueued-tokens"](14*each)), func() {
		if !other {
			other = true
			k.sql("CREATE TABLE others AS SELECT 'o1' AS id, 'passage 98' AS text UNION ALL SELECT 'o2', 'passage 99'")
			k.requests(func(p *Pending) { p.From, p.Embeddings = "others", "others_e" })
		}
	})
	k.expect("SELECT embeddings, sum(requests) FROM gbatch.jobs GROUP BY ALL ORDER BY ALL", "embeddings|12\nothers_e|2")
}

func TestQueueRounds(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks SELECT 'c' || i, 'passage ' || (i + 100) FROM range(10) t(i)")
	all := k.total(k.must(k.pending(dry), ""))
	if all.Rounds != 0 {
		t.Errorf("no queue: %d rounds", all.Rounds)
	}
	for queue, want := range map[int64]int64{all.TokensMax: 1, all.TokensMax - 1: 2, all.TokensMax / 3: 3, 1: all.TokensMax} {
		out, _ := k.run(k.pending(dry, fit, capsBy["--max-enqueued-tokens"](queue)), "")
		if got := k.total(out).Rounds; got != want && got != want+1 || queue >= all.TokensMax-1 && got != want {
			t.Errorf("a queue of %d for %d tokens: %d rounds", queue, all.TokensMax, got)
		}
	}
	out := k.must(k.pending(dry, func(p *Pending) { p.Tier = 1 }), "")
	if got := k.total(out).Rounds; got != 1 {
		t.Errorf("tier 1: %d rounds", got)
	}
	k.sql("INSERT INTO chunks SELECT 'd' || i, repeat('word ' || i || ' ', 100) FROM range(2000) t(i)")
	for tier, tokens := range model.Tiers {
		set := func(p *Pending) { p.Tier = tier + 1 }
		out, err := k.run(k.pending(dry, fit, set), "")
		n := k.total(out)
		if err != nil || n.TokensMax > tokens || n.Stays > 0 && n.TokensMax < tokens-3000 || n.Rounds != (n.TokensMax+n.StaysMax+tokens-1)/tokens {
			t.Errorf("tier %d: %+v, %v", tier+1, n, err)
		}
	}
}

// A database of an older version is read as it is, and the next chunks-pending
// estimates its open batches.
func TestEstimatesOfAnOlderVersion(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks SELECT 'c' || i, 'passage ' || i FROM range(10) t(i)")
	claimed := k.must(k.pending(), "")
	k.sql("ALTER TABLE gbatch.jobs DROP COLUMN tokens_likely", "ALTER TABLE gbatch.jobs DROP COLUMN tokens_max", "ALTER TABLE gbatch.jobs DROP COLUMN tokens_plain")
	before := k.rows("SELECT sql FROM duckdb_tables() WHERE schema_name = 'gbatch'")
	if out := k.must(&Status{Database: k.Database, Embeddings: "embeddings"}, ""); !strings.Contains(out, `"status":"QUEUED","chunks":10`) {
		t.Errorf("status: %s", out)
	}
	k.must(&Jobs{Database: k.Database}, "")
	k.expect("SELECT sql FROM duckdb_tables() WHERE schema_name = 'gbatch'", before)
	b := k.batches(claimed)[0]
	k.refused("--max-total-tokens", capsBy["--max-total-tokens"](b.TokensMax-1))
	if again := k.must(k.pending(capsBy["--max-total-tokens"](b.TokensMax)), ""); again != claimed {
		t.Errorf("printed again as\n%s, not\n%s", again, claimed)
	}
	k.expect("SELECT tokens_likely = tokens_plain, tokens_max FROM gbatch.jobs", fmt.Sprintf("true|%d", b.TokensMax))
	k.must(k.apply(), k.answers(claimed))
	k.right()
}

func long(i int) string { return strings.Repeat(fmt.Sprintf("word %d ", i), 1000) }

// Texts over the model's limit are counted and named. With --truncate error they
// are not sent until they are shortened, or sent cut.
func TestTruncate(t *testing.T) {
	k := open(t, courtesyTable, tenChunks)
	for i := range 7 {
		k.sql(fmt.Sprintf("INSERT INTO chunks VALUES ('l%d', %s, 'PENDING', NULL)", i, duck.Literal(long(100+i))))
	}
	k.sql("INSERT INTO chunks SELECT 'twin', text, 'PENDING', NULL FROM chunks WHERE id = 'l1'")
	with := func(value string) func(*Pending) { return func(p *Pending) { p.Truncate = value } }
	for _, value := range []string{"", "warn", "error", "allow"} {
		n := k.total(k.must(k.pending(dry, with(value)), ""))
		if (n.Failed == 8) != (value == "error") || n.OverLimit != 7 || strings.Join(n.OverLimitIDs, " ") != "l0 l1 l2 l3 l4" {
			t.Errorf("--truncate %s: %+v", value, n)
		}
		if want := map[bool]int{true: 10, false: 17}[value == "error"]; n.Requests != want {
			t.Errorf("--truncate %s: %d requests, not %d", value, n.Requests, want)
		}
	}
	if n := k.total(k.must(k.pending(dry, func(p *Pending) { p.Limit = 12 }), "")); n.OverLimit != 2 {
		t.Errorf("of 12 requests: %+v", n)
	}
	if out := k.must(&Status{Database: k.Database, Embeddings: "embeddings"}, ""); !strings.Contains(out, `{"status":"PENDING","chunks":18,`) || !strings.Contains(out, `"over_limit":8`) {
		t.Errorf("status: %s", out)
	}
	limited := func(p *Pending) { p.Truncate, p.Limit = "error", 11 }
	k.sql("INSERT INTO chunks VALUES ('z', 'the last', 'PENDING', NULL)")
	out := k.must(k.pending(limited), "")
	if b := k.batches(out); len(b) != 1 || b[0].Count != 11 || strings.Contains(out, "word") || !strings.Contains(out, "the last") {
		t.Errorf("claimed %s", out)
	}
	k.expect("SELECT count(*) FROM gbatch.jobs WHERE tokens_plain IS NULL", "0")
	const message = "the text has about 3002 tokens, and gemini-embedding-001 reads only 2048 of them: shorten it, or have it cut with --truncate warn --retry-failed"
	reason := k.rows("SELECT DISTINCT error_message FROM chunks WHERE embedding_status = 'FAILED'")
	if want := strings.Replace(message, "3002", strings.Fields(reason)[4], 1); reason != want {
		t.Errorf("the message is %q, not %q", reason, want)
	}
	k.expect("SELECT embedding_status, count(*) FROM chunk_status GROUP BY ALL ORDER BY ALL", "FAILED|8\nQUEUED|11")
	k.expect("SELECT count(*), count(DISTINCT chunk_id) FROM gbatch.failures WHERE code = 11 AND status = 'OUT_OF_RANGE' AND final AND batch IS NULL AND attempts = 0", "8|8")
	k.must(k.apply(), k.answers(out))

	// None is claimed again by itself, and a failed one may be tried in vain.
	for _, set := range [][]func(*Pending){{with("warn")}, {with("error")}, {with("error"), func(p *Pending) { p.RetryFailed = true }}} {
		if n := k.requests(set...); n != 0 {
			t.Errorf("%d requests", n)
		}
	}
	k.expect("SELECT embedding_status, count(*) FROM chunk_status GROUP BY ALL ORDER BY ALL", "FAILED|8\nREADY|11")
	k.sql("UPDATE chunks SET text = 'shortened' WHERE id = 'l0'")
	if n := k.paid(with("error")); n != 1 {
		t.Errorf("a text that was shortened: %d requests", n)
	}
	k.expect("SELECT embedding_status, error_message IS NULL FROM chunks WHERE id = 'l0'", "READY|true")
	if n := k.paid(with("warn"), func(p *Pending) { p.RetryFailed = true }); n != 6 {
		t.Errorf("sent cut: %d requests", n)
	}
	k.right()
	k.expect("SELECT count(*) FROM gbatch.failures", "0")
	k.expect("SELECT tokens_plain IS NULL, tokens_likely >= 6 * 2048, tokens_max FROM gbatch.jobs ORDER BY batch DESC LIMIT 1", fmt.Sprintf("true|true|%d", 6*2048))
}

// After 1,000 chunks the estimate is calibrated by Google's counts.
func TestCalibration(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks SELECT 'c' || i, repeat('passage ', 40) || i FROM range(10) t(i)")
	first := k.total(k.must(k.pending(dry), ""))
	k.must(k.pending(func(p *Pending) { p.Limit = 1 }), "")
	k.sql("UPDATE gbatch.jobs SET closed_at = claimed_at, job = 'batches/1', state = 'SUCCEEDED', requests = 999, succeeded = 999, failed = 0, tokens_plain = 10000, tokens = 15000", "DELETE FROM gbatch.items")
	plan := func() planTotal {
		t.Helper()
		out := k.must(k.pending(dry), "")
		n := k.total(out)
		if strings.Contains(strings.Split(out, "\n")[0], `"calibrated":true`) != n.Calibrated {
			t.Errorf("a batch and the total differ: %s", out)
		}
		return n
	}
	if n := plan(); n.Calibrated || n.Tokens != first.Tokens {
		t.Errorf("after 999 requests: %+v", n)
	}
	k.sql("UPDATE gbatch.jobs SET requests = 1000, succeeded = 1000")
	if n := plan(); !n.Calibrated || n.Tokens < first.Tokens*14/10 || n.Tokens > first.Tokens*16/10 || n.TokensMax < first.TokensMax*14/10 {
		t.Errorf("after 1000 requests: %+v, before %+v", n, first)
	}
	for what, set := range map[string]string{
		"a text was over the limit": "tokens_plain = NULL",
		"canaries were counted":     "canary = 1",
		"a key failed":              "succeeded = 999, failed = 1",
		"no count":                  "tokens = NULL",
		"of another table":          "embeddings = 'other'",
		"of another model":          "model = 'gemini-embedding-2'",
		"of another task type":      "task_type = 'CLUSTERING'",
	} {
		k.sql("CREATE TABLE saved AS FROM gbatch.jobs", "UPDATE gbatch.jobs SET "+set)
		if n := plan(); n.Calibrated {
			t.Errorf("%s: %+v", what, n)
		}
		k.sql("DELETE FROM gbatch.jobs", "INSERT INTO gbatch.jobs FROM saved", "DROP TABLE saved")
	}
	// What is stored for the next calibration is not calibrated.
	out := k.must(k.pending(), "")
	k.expect("SELECT tokens_plain, tokens_likely > tokens_plain FROM gbatch.jobs ORDER BY batch DESC LIMIT 1", fmt.Sprintf("%d|true", first.Tokens))
	b := k.batches(out)[0]
	if b.Tokens <= first.Tokens || b.TokensMax < b.Tokens {
		t.Errorf("the header has %+v", b.Header)
	}
	if status := k.must(&Status{Database: k.Database, Embeddings: "embeddings"}, ""); !strings.Contains(status, fmt.Sprintf(`{"status":"QUEUED","chunks":10,"tokens":%d,`, b.Tokens)) {
		t.Errorf("the claim has %d tokens, the status %s", b.Tokens, status)
	}
}
