package store

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0 minutes", 119 * time.Minute: "119 minutes", 2 * time.Hour: "2 hours", 47 * time.Hour: "47 hours", 49 * time.Hour: "2 days"} {
		if got := age(time.Now().Add(-d).Format(time.RFC3339)); got != want {
			t.Errorf("%v is %q", d, got)
		}
	}
	if got := age(""); got != "" {
		t.Error(got)
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
