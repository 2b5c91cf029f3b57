package store

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gbatch/pkg/cli"
	"gbatch/pkg/exit"
	"gbatch/pkg/ledger"
	"gbatch/pkg/model"
	"gbatch/pkg/record"
)

// For a batch without a job, chunks-status shows the state from the intents.
func TestStatusNotes(t *testing.T) {
	l := notes(t)
	k, b, _ := claims(t, 6)
	k.release(false, b[4], b[5])
	k.note(l, b[1], lineHash, ledger.Upload, "")
	k.note(l, b[2], lineHash, ledger.Create, "")
	k.note(l, b[3], lineHash, ledger.Created, "batches/three")
	k.note(l, b[4], lineHash, ledger.Created, "batches/four")
	status := func() (got []string) {
		for line := range strings.Lines(k.must(&Status{Database: k.Database, Embeddings: "embeddings"}, "")) {
			var s batchStatus
			if err := json.Unmarshal([]byte(line), &s); err != nil {
				t.Fatal(err)
			}
			if s.Batch != "" {
				got = append(got, strings.TrimSpace(s.State+" "+s.Job))
			}
		}
		return got
	}
	if got := fmt.Sprint(status()); got != "[CLAIMED CLAIMED UNKNOWN SUBMITTED batches/three SUBMITTED batches/four RELEASED]" {
		t.Error(got)
	}
	// The database takes precedence over the intents.
	k.must(k.apply(), k.line(record.Job{Job: "batches/three", Batch: b[3], State: record.Running, Model: "gemini-embedding-001", Dim: dim}))
	if got := status(); got[3] != "RUNNING batches/three" {
		t.Error(got)
	}
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	if got := fmt.Sprint(status()); got != "[CLAIMED CLAIMED CLAIMED RUNNING batches/three RELEASED RELEASED]" {
		t.Error(got)
	}
}

// The age of PENDING counts from the last scan that left nothing pending, the
// age of QUEUED from the claim of the oldest open batch.
func TestStatusSince(t *testing.T) {
	notes(t)
	for _, from := range []string{"chunks", "FROM chunks"} {
		k := open(t, simple, "INSERT INTO chunks SELECT 'c' || i, 'text ' || i FROM range(5) t(i)")
		since := func() (queued, pending string) {
			for line := range strings.Lines(k.must(&Status{Database: k.Database, From: from, Embeddings: "embeddings"}, "")) {
				var s statusCount
				if err := json.Unmarshal([]byte(line), &s); err != nil {
					t.Fatal(err)
				}
				switch s.Status {
				case "QUEUED":
					queued = s.Since
				case "PENDING":
					pending = s.Since
				}
			}
			return queued, pending
		}
		is := func(queued, pending bool) {
			t.Helper()
			if q, p := since(); (q != "") != queued || (p != "") != pending {
				t.Errorf("queued since %q, pending since %q", q, p)
			}
		}
		claim := func(limit int) string {
			return k.must(k.pending(func(p *Pending) { p.From, p.Limit = from, limit }), "")
		}
		is(false, false)
		claim(2)
		is(true, false) // chunks are left over, and it is unknown since when
		k.must(k.apply(), k.answers(claim(2)))
		is(false, false)
		k.must(k.apply(), k.answers(claim(0)))
		is(false, false) // nothing is pending
		k.sql("UPDATE gbatch.scans SET scanned_at = '2026-01-02 03:04:05'", "INSERT INTO chunks VALUES ('new', 'new text'), ('newer', 'newer text')")
		if _, p := since(); p != "2026-01-02T03:04:05Z" {
			t.Errorf("pending since %q", p)
		}
		claim(1) // one chunk is left over since that claim
		if q, p := since(); q < "2026-01-03" || p != "2026-01-02T03:04:05Z" {
			t.Errorf("queued since %q, pending since %q", q, p)
		}
		k.must(k.pending(func(p *Pending) { p.From, p.DryRun = from, true }), "")
		k.expect("SELECT scanned_at FROM gbatch.scans", "2026-01-02 03:04:05")
		claim(0)
		is(true, false)
		k.expect("SELECT count(*), max(scanned_at) > '2026-01-03' FROM gbatch.scans", "1|true")
	}
}

// The dry run and the status estimate from what is sent: the title counts where
// the request has one. The file of GBATCH_PRICES sets what they cost.
func TestEstimates(t *testing.T) {
	k := open(t, "CREATE TABLE chunks (id VARCHAR, title VARCHAR, text VARCHAR)",
		"INSERT INTO chunks SELECT 'c' || i, 'Title ' || i, repeat('some words ', 1 + i % 7) || i FROM range(3000) t(i)")
	prices := filepath.Join(t.TempDir(), "prices.json")
	if err := os.WriteFile(prices, []byte(`{"usd_per_million_tokens":{"gemini-embedding-2":{"batch":1000000}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(model.PricesVariable, prices)
	for _, task := range []string{model.DefaultTaskType, "CLUSTERING"} {
		for _, from := range []string{"chunks", "SELECT * FROM chunks"} {
			space := model.Space{Model: "gemini-embedding-2", TaskType: task}
			e, want := space.Estimator(1), int64(0)
			for i := range 3000 {
				want += e.Request(fmt.Sprint("Title ", i), strings.Repeat("some words ", 1+i%7)+fmt.Sprint(i)).Likely
			}
			set := func(p *Pending) { p.Model, p.TaskType, p.From, p.MaxRequests = space.Model, task, from, 2999 }
			got := int64(0)
			for line := range strings.Lines(k.must(k.pending(func(p *Pending) { p.DryRun = true }, set), "")) {
				var plan planned
				if err := json.Unmarshal([]byte(line), &plan); err != nil || plan.USD == nil || *plan.USD != float64(plan.Tokens) {
					t.Errorf("%s: %v", line, err)
				}
				if strings.HasPrefix(line, `{"jobs":`) {
					if plan.Tokens != got || plan.Requests != 3000 {
						t.Errorf("the total is %s", line)
					}
					continue
				}
				got += plan.Tokens
			}
			if got != want {
				t.Errorf("%s from %s: %d tokens, want %d", task, from, got, want)
			}
		}
	}
	status := func(name string) (n statusCount) {
		for line := range strings.Lines(k.must(&Status{Database: k.Database, Embeddings: "embeddings"}, "")) {
			if strings.Contains(line, `"status":"`+name+`"`) {
				if err := json.Unmarshal([]byte(line), &n); err != nil {
					t.Fatal(err)
				}
			}
		}
		return n
	}
	k.must(k.pending(func(p *Pending) { p.Model, p.Limit = "gemini-embedding-2", 1 }), "")
	queued, pending := status("QUEUED"), status("PENDING")
	want, e := int64(0), model.Space{Model: "gemini-embedding-2", TaskType: model.DefaultTaskType}.Estimator(1)
	for i := range 3000 {
		want += e.Request(fmt.Sprint("Title ", i), strings.Repeat("some words ", 1+i%7)+fmt.Sprint(i)).Likely
	}
	if queued.Chunks != 1 || pending.Chunks != 2999 || queued.Tokens+pending.Tokens != want || *pending.USD != float64(pending.Tokens) {
		t.Errorf("%+v, %+v, want %d tokens", queued, pending, want)
	}
	if err := os.WriteFile(prices, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range []cli.Command{&Status{Database: k.Database, Embeddings: "embeddings"}, k.pending(func(p *Pending) { p.DryRun = true }), &Release{Database: k.Database}} {
		if _, err := k.run(cmd, ""); exit.Code(err) != exit.Usage || !strings.Contains(fmt.Sprint(err), model.PricesVariable) {
			t.Errorf("%T with a bad file of prices: %v", cmd, err)
		}
	}
}

// The figures of a report are those of the tables.
func TestReportNumbers(t *testing.T) {
	notes(t)
	k := open(t, simple, "INSERT INTO chunks (id, text) SELECT 'c' || i, 'text ' || (i % 50) FROM range(60) t(i)")
	answer := func(out string, fail map[string]int) (lines string) {
		for _, b := range k.batches(out) {
			failed := 0
			for _, c := range b.chunks {
				if code, bad := fail[c.ID]; bad {
					failed++
					lines += k.errorLine(b.Batch, c.ID, code, "bad "+c.ID)
				} else {
					lines += k.vectorLine(b.Batch, c.ID, vec(c.Text))
				}
			}
			lines += k.jobLine(b.Batch, record.Succeeded, len(b.chunks)-failed, failed)
		}
		return lines
	}
	first := k.must(k.pending(func(p *Pending) { p.Limit, p.MaxRequests = 20, 10 }), "")
	k.run(k.apply(), answer(first, map[string]int{"c0": 3, "c1": 3, "c2": 7, "c3": 14})) // c50 has the text of c0, and so on
	k.must(k.pending(func(p *Pending) { p.Limit = 5 }), "")                              // c3 and four others
	k.sql("UPDATE chunks SET text = 'edited' WHERE id = 'c1'",
		"UPDATE gbatch.jobs SET submitted_at = TIMESTAMP '2020-02-02 12:00:00' WHERE batch = (SELECT min(batch) FROM gbatch.jobs)",
		"INSERT INTO gbatch.jobs BY NAME SELECT 'b0' AS batch, 'another' AS embeddings, 'gemini-embedding-2' AS model, 1000000 AS tokens, 'SUCCEEDED' AS state, now()::TIMESTAMP AS claimed_at, now()::TIMESTAMP AS closed_at")

	s := &Status{Database: k.Database, Embeddings: "embeddings", MaxCostPerDay: new(1.0), MaxCostPerMonth: new(0.05)}
	prices, err := model.ReadPrices()
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.report(t.Context(), prices)
	if err != nil {
		t.Fatal(err)
	}
	k.expect("SELECT status, count(*) FROM (SELECT embedding_status AS status FROM chunk_status) GROUP BY 1 ORDER BY 1",
		fmt.Sprintf("FAILED|%d\nPENDING|%d\nQUEUED|%d\nREADY|%d", r.Total.Failed, r.Total.Pending, r.Total.Queued, r.Total.Ready))
	k.expect("SELECT count(*) FROM gbatch.jobs WHERE closed_at IS NULL", fmt.Sprint(r.Total.Open))
	k.expect("SELECT sum(tokens) FROM gbatch.jobs", fmt.Sprint(r.Total.Tokens))
	tokens := r.Total.Tokens - 1_000_000 // of the default model
	if want := 0.10 + 0.075*float64(tokens)/1e6; math.Abs(*r.Total.USD-want) > 1e-9 {
		t.Errorf("all cost %v, not %v", *r.Total.USD, want)
	}
	if want := *r.Total.USD - 0.075*10*3*0.8/1e6; math.Abs(*r.Total.Today-want) > 1e-6 || *r.Total.Month != *r.Total.Today {
		t.Errorf("today's batches cost %v, this month's %v, not %v", *r.Total.Today, *r.Total.Month, want)
	}
	if want := 0.10 + 0.075*float64(tokens)/1e6; math.Abs(*r.Total.Saved-want) > 1e-9 {
		t.Errorf("%v were saved, not %v", *r.Total.Saved, want)
	}
	// An open batch is expected to cost its likely tokens, and counts in caps with
	// its most tokens. The batch of 2020 does not count.
	k.expect("SELECT sum(tokens_likely), sum(tokens_max) > sum(tokens_likely) FROM gbatch.jobs WHERE closed_at IS NULL", fmt.Sprintf("%d|true", int64(math.Round(*r.Total.OpenUSD*1e6/0.075))))
	k.expect("SELECT sum(coalesce(tokens, tokens_max)) FROM gbatch.jobs WHERE embeddings = 'embeddings' AND (submitted_at IS NULL OR submitted_at > '2021-01-01')",
		fmt.Sprint(int64(math.Round((1-0.10-*r.Total.LeftToday)*1e6/0.075))))
	if *r.Total.LeftMonth != 0 {
		t.Errorf("%v are left of a cap that is reached", *r.Total.LeftMonth)
	}
	if got := fmt.Sprint(r.Total.Errors); got != "[{3  3} {7  2}]" {
		t.Errorf("the errors are %s", got)
	}
	for _, f := range r.Reasons {
		if f.Final != (f.Code != 14) || f.Code == 3 && fmt.Sprint(f.Examples) != "[c0 c50 c51]" {
			t.Errorf("%+v", f)
		}
	}
}

// Messages that differ in numbers and names are one reason. A message that is the
// same for all chunks is shown whole.
func TestReasons(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks (id, text) SELECT i, 'text ' || i FROM range(100) t(i)")
	out := k.must(k.pending(), "")
	lines := ""
	for i, c := range k.batches(out)[0].chunks {
		message := fmt.Sprintf(`line %d: key "%s" has %d tokens in files/a%d, too many`, i, c.ID, 2000+i, i)
		if i%10 == 0 {
			message = "model gemini-embedding-001 does not take it"
		}
		lines += k.errorLine(k.batches(out)[0].Batch, c.ID, 3, message)
	}
	k.run(k.apply(), lines+k.jobLine(k.batches(out)[0].Batch, record.Succeeded, 0, 100))
	s := &Status{Database: k.Database, Embeddings: "embeddings"}
	r, err := s.report(t.Context(), model.Prices{})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Reasons) != 2 || r.Reasons[0].Message != `line …: key … has … tokens in …, too many` || r.Reasons[0].Chunks != 90 ||
		r.Reasons[1].Message != "model gemini-embedding-001 does not take it" || r.Reasons[1].Chunks != 10 || len(r.Reasons[0].Examples) != 3 {
		t.Errorf("%+v", r.Reasons)
	}
}

// The failed chunks are read page by page: each comes once.
func TestFailedPages(t *testing.T) {
	const n = 2*page + 5
	k := open(t, simple, fmt.Sprintf("INSERT INTO chunks (id, text) SELECT 'c' || i, 'text ' || i FROM range(%d) t(i)", n))
	k.must(k.pending(func(p *Pending) { p.Limit = 1 }), "")
	k.sql("INSERT INTO gbatch.failures SELECT id, md5_number(concat('0:', text)), 'embeddings', 3, 'INVALID_ARGUMENT', 'bad', 1, true, 'b1', now()::TIMESTAMP FROM chunks",
		"UPDATE chunks SET text = 'edited' WHERE id IN ('c0', 'c7', 'c10001')")
	want := k.rows("SELECT id FROM chunk_status WHERE embedding_status = 'FAILED' ORDER BY id")
	var got []string
	for line := range strings.Lines(k.must(&Status{Database: k.Database, Embeddings: "embeddings", Failed: true}, "")) {
		var f failure
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			t.Fatal(err)
		}
		got = append(got, f.ID)
	}
	if strings.Join(got, "\n") != want || len(got) < n-10 {
		t.Errorf("%d chunks are printed", len(got))
	}
}

// A database of an older version has no estimates of its open batches.
func TestReportOlder(t *testing.T) {
	notes(t)
	k := open(t, simple, "INSERT INTO chunks (id, text) VALUES ('a', 'one'), ('b', 'two')")
	k.must(k.pending(func(p *Pending) { p.Limit = 1 }), "")
	k.sql("ALTER TABLE gbatch.jobs DROP tokens_plain", "ALTER TABLE gbatch.jobs DROP tokens_max", "ALTER TABLE gbatch.jobs DROP tokens_likely")
	prices, err := model.ReadPrices()
	if err != nil {
		t.Fatal(err)
	}
	s := &Status{Database: k.Database, Embeddings: "embeddings", MaxCostPerDay: new(1.0)}
	r, err := s.report(t.Context(), prices)
	if err != nil || r.Total.Queued != 1 || r.Total.Pending != 1 || r.Total.OpenUSD != nil || r.Total.LeftToday != nil || *r.Total.USD != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}
