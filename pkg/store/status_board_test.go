package store

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"gbatch/pkg/model"
	"gbatch/pkg/progress"
)

// example is a report with all parts of a board.
func example() *Report {
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) string { return at.Add(-d).Format(time.RFC3339) }
	three := int64(2500)
	r := &Report{
		DB: "kb.duckdb", Table: "embeddings", At: at, Space: model.Space{Model: "gemini-embedding-001", Dim: 768, TaskType: "RETRIEVAL_DOCUMENT"},
		Counts: []statusCount{
			{Status: "READY", Chunks: 970_000, Tokens: 123_456_789, USD: new(9.26)}, {Status: "QUEUED", Chunks: 20_000, Tokens: 1_000_000, USD: new(0.075), Since: ago(26 * time.Hour)},
			{Status: "PENDING", Chunks: 9_990, Tokens: 99_999, USD: new(0.0075), Since: ago(61 * time.Second)}, {Status: "FAILED", Chunks: 10, Tokens: 50},
		},
		Batches: []batchStatus{
			{Batch: "b01M84SFAXB3APG34JFJ6Z25GEA", State: "FAILED", Requests: 10, ClaimedAt: ago(99 * time.Hour), EndedAt: ago(98 * time.Hour), Error: "INTERNAL: an internal error has occurred, try again later \x1b[31m"},
			{Batch: "b01M84SFAXB3APG34JFJ6Z25GEJ", Job: "batches/abc", State: "RUNNING", Open: true, Requests: 10_000, Stored: &three, ClaimedAt: ago(26 * time.Hour), SentAt: ago(25 * time.Hour)},
			{Batch: "b01M84SFBM9KDV0JEVDQGZ2D0CT", Job: "batches/def", State: "SUBMITTED", Open: true, Requests: 9_000, ClaimedAt: ago(50 * time.Hour), SentAt: ago(49 * time.Hour)},
			{Batch: "b01M84SFCQ2X4R8YV5C7ZK3N6TE", State: "CLAIMED", Open: true, Requests: 1_000, ClaimedAt: ago(5 * time.Second)},
		},
		Reasons: []reason{
			{Code: 3, Status: "INVALID_ARGUMENT", Message: "the text has … tokens, and the model reads no more than …", Final: true, Sent: true, Chunks: 8, Examples: []string{"manual/chapter 1", "manual/chapter 2 with a very long heading", "x\ty"}},
			{Code: 13, Status: "INTERNAL", Message: "an error", Final: true, Sent: true, Again: true, Chunks: 1, Examples: []string{"a"}},
			{Code: 3, Status: "INVALID_ARGUMENT", Message: "the text is empty", Final: true, Chunks: 1, Examples: []string{"b"}},
			{Code: 14, Status: "UNAVAILABLE", Message: "later", Sent: true, Again: true, Chunks: 2, Examples: []string{"c", "第四章"}},
		},
		Total: Summary{USD: new(9.26), Today: new(0.5), Month: new(1.25), Saved: new(9.26), OpenUSD: new(0.075), LeftToday: new(9.5)},
	}
	r.sum()
	return r
}

// The boards of the example, on a terminal of 80 columns and of 40.
func TestBoard(t *testing.T) {
	for columns, want := range map[int]string{80: board80, 40: board40} {
		if got := example().Text(columns); got != strings.TrimPrefix(want, "\n") {
			t.Errorf("on %d columns:\n%s", columns, got)
		}
	}
}

const board80 = `
kb.duckdb: embeddings gemini-embedding-001 768 RETRIEVAL_DOCUMENT
████████████████████████████████████████████████████████████████████████████▒░×

  STATUS    CHUNKS       TOKENS     COST    AGE
█ READY    970,000  123,456,789  $9.2600
▒ QUEUED    20,000    1,000,000  $0.0750    26h
░ PENDING    9,990       99,999  $0.0075  1m01s
× FAILED        10           50        ?

COST          SPENT     LEFT
today       $0.5000  $9.5000
this month  $1.2500
all         $9.2600
saved against the online price: $9.2600
open batches, by estimate: $0.0750

OPEN                         STATE                   STORED   AGE  EXPIRES
b01M84SFAXB3APG34JFJ6Z25GEJ  RUNNING    ██░░░░ 2,500/10,000   26h      23h
b01M84SFBM9KDV0JEVDQGZ2D0CT  SUBMITTED       ░░░░░░ 0/9,000   50h  overdue
b01M84SFCQ2X4R8YV5C7ZK3N6TE  CLAIMED         ░░░░░░ 0/1,000  5.0s        –

JOBS WITHOUT RESULTS
b01M84SFAXB3APG34JFJ6Z25GEA FAILED 98h ago
    INTERNAL: an internal error has occurred, try again later \u001b[31m

FAILED CHUNKS
8× INVALID_ARGUMENT (3): the text has … tokens, and the model reads no more
than …
    such as manual/chapter 1, manual/chapter 2 with a very …, x\u0009y, …
    edit the text; or remove the cause, then run:
    chunks-pending kb.duckdb --retry-failed
1× INTERNAL (13): an error
    such as a
    send them again:
    chunks-pending kb.duckdb --retry-failed
1× INVALID_ARGUMENT (3): the text is empty
    such as b
    edit the text or the id; it was never sent

CHUNKS WITH TRANSIENT ERRORS
2× UNAVAILABLE (14): later
    such as c, 第四章
    the next chunks-pending sends them again

each failed chunk: chunks-status kb.duckdb --failed
`

const board40 = `
kb.duckdb: embeddings gemini-embedding…
████████████████████████████████████▒░×

  STATUS    CHUNKS  TOKENS     COST
█ READY    970,000    123M  $9.2600
▒ QUEUED    20,000    1.0M  $0.0750
░ PENDING    9,990  99,999  $0.0075
× FAILED        10      50        ?

COST          SPENT     LEFT
today       $0.5000  $9.5000
this month  $1.2500
all         $9.2600
saved against the online price: $9.2600
open batches, by estimate: $0.0750

OPEN   STATE      STORED   AGE  EXPIRES
…5GEJ  RUNNING       25%   26h      23h
…D0CT  SUBMITTED      0%   50h  overdue
…N6TE  CLAIMED        0%  5.0s        –

JOBS WITHOUT RESULTS
b01M84SFAXB3APG34JFJ6Z25GEA FAILED 98h
ago
    INTERNAL: an internal error has
    occurred, try again later
    \u001b[31m

FAILED CHUNKS
8× INVALID_ARGUMENT (3): the text has …
tokens, and the model reads no more
than …
    such as manual/chapter 1,
    manual/chapter 2 with a very …,
    x\u0009y, …
    edit the text; or remove the cause,
    then run:
    chunks-pending kb.duckdb
    --retry-failed
1× INTERNAL (13): an error
    such as a
    send them again:
    chunks-pending kb.duckdb
    --retry-failed
1× INVALID_ARGUMENT (3): the text is
empty
    such as b
    edit the text or the id; it was
    never sent

CHUNKS WITH TRANSIENT ERRORS
2× UNAVAILABLE (14): later
    such as c, 第四章
    the next chunks-pending sends them
    again

each failed chunk: chunks-status
kb.duckdb --failed
`

// No line of a board fills the last column, and colors change nothing else.
func TestBoardWidth(t *testing.T) {
	for columns := 2; columns < 200; columns++ {
		plain := example().board(columns, false)
		for _, line := range plain {
			if n := progress.Width(line); n > columns-1 || strings.ContainsAny(line, "\t\x1b") {
				t.Errorf("on %d columns, a line has %d: %q", columns, n, line)
			}
		}
		colored := strings.Join(example().board(columns, true), "\n")
		for _, code := range []string{"1", "31", "32", "33", "34", ""} {
			colored = strings.ReplaceAll(colored, "\x1b["+code+"m", "")
		}
		if colored != strings.Join(plain, "\n") {
			t.Errorf("on %d columns, the board is another with colors:\n%s", columns, colored)
		}
	}
}

// The bar fills the line, whatever the shares are. A status with chunks is in it.
func TestBar(t *testing.T) {
	for _, counts := range [][4]int64{{1, 0, 0, 0}, {1, 1, 1, 1}, {1_000_000, 1, 1, 1}, {0, 0, 0, 5}, {1, 2, 3, 1 << 40}, {3, 3, 3, 0}} {
		r := example()
		for i, n := range counts {
			r.Counts[i].Chunks = n
		}
		r.sum()
		bar := r.board(80, false)[1]
		if n := progress.Width(bar); n != 79 {
			t.Errorf("%v: the bar has %d columns: %s", counts, n, bar)
		}
		for i, n := range counts {
			if strings.Contains(bar, looks[i].mark) != (n > 0) {
				t.Errorf("%v: %s", counts, bar)
			}
		}
	}
	r := example()
	for i := range r.Counts {
		r.Counts[i].Chunks = 0
	}
	r.Total.Chunks = 0
	if lines := r.board(80, false); lines[1] != "" {
		t.Errorf("without chunks there is a bar: %s", lines[1])
	}
}

// A redrawn board takes the place of the one before, also if it is shorter. A
// terminal that cannot move its cursor gets it below, if it is another.
func TestRedraw(t *testing.T) {
	var out strings.Builder
	for _, step := range []struct {
		moves         bool
		before, lines string
		want          string
	}{
		{true, "", "a\nb", "a\nb\n"},
		{true, "a\nb", "c", "\r\x1b[2Ac\x1b[K\n\x1b[J"},
		{false, "", "a", "a\n"},
		{false, "a", "a", ""},
		{false, "a", "b", "\nb\n"},
	} {
		out.Reset()
		var before []string
		if step.before != "" {
			before = strings.Split(step.before, "\n")
		}
		if err := redraw(&out, step.moves, before, strings.Split(step.lines, "\n")); err != nil || out.String() != step.want {
			t.Errorf("%+v: %q, %v", step, out.String(), err)
		}
	}
}

func TestNext(t *testing.T) {
	for _, c := range []struct {
		f      reason
		advice string
		retry  bool
	}{
		{reason{Code: 14, Sent: true, Again: true}, "the next chunks-pending sends them again", false},
		{reason{Code: 3, Final: true}, "edit the text or the id; it was never sent", false},
		{reason{Code: 3, Final: true, Sent: true}, "edit the text; or remove the cause, then run:", true},
		{reason{Code: 0, Final: true, Sent: true, Again: true}, "send them again:", true},
		{reason{Code: 7, Final: true, Sent: true}, "remove the cause, then run:", true},
	} {
		if advice, retry := c.f.next(); advice != c.advice || retry != c.retry {
			t.Errorf("%+v: %s %t", c.f, advice, retry)
		}
	}
}

// A command on the board is one to copy: it has the flags of its table, and quotes.
func TestCommand(t *testing.T) {
	usual := model.Space{Model: model.Default, Dim: model.DefaultDim, TaskType: model.DefaultTaskType}
	flags := ` --from 'SELECT id, text FROM docs WHERE lang = '\''en'\''' --embeddings e3`
	for _, c := range []struct {
		r               Report
		pending, status string
	}{
		{Report{DB: "kb.duckdb", From: "chunks", Table: "embeddings", Space: usual}, "chunks-pending kb.duckdb", "chunks-status kb.duckdb"},
		{Report{DB: "my kb.duckdb", From: "SELECT id, text FROM docs WHERE lang = 'en'", Table: "e3", Space: model.Space{Model: "gemini-embedding-2", Dim: 3072}},
			`chunks-pending 'my kb.duckdb'` + flags + ` --model gemini-embedding-2 --dim 3072`, `chunks-status 'my kb.duckdb'` + flags},
	} {
		if got := c.r.command("chunks-pending"); got != c.pending {
			t.Error(got)
		}
		if got := c.r.command("chunks-status"); got != c.status {
			t.Error(got)
		}
	}
}

// The metrics are what Prometheus reads: each family has its HELP and TYPE once,
// and then samples with distinct labels.
func TestMetrics(t *testing.T) {
	r := example()
	r.DB = "a \"b\"\\\nc"
	r.Total.Errors = []codeCount{{3, "INVALID_ARGUMENT", 9}, {13, "INTERNAL", 1}}
	samples := parseMetrics(t, string(r.metrics()))
	own := `{database="a \"b\"\\\nc",table="embeddings"`
	for name, want := range map[string]string{
		`gbatch_chunks` + own + `,status="READY"}`:                           "970000",
		`gbatch_chunk_tokens` + own + `,status="PENDING"}`:                   "99999",
		`gbatch_failed_chunks` + own + `,code="3",error="INVALID_ARGUMENT"}`: "9",
		`gbatch_oldest_pending_age_seconds` + own + `}`:                      "61",
		`gbatch_oldest_open_age_seconds` + own + `}`:                         "93600",
		`gbatch_batches` + own + `,state="RUNNING",open="true"}`:             "1",
		`gbatch_batches` + own + `,state="FAILED",open="false"}`:             "1",
		`gbatch_tokens_total` + own + `}`:                                    "0",
		`gbatch_cost_usd_total` + own + `}`:                                  "0",
	} {
		if samples[name] != want {
			t.Errorf("%s is %q, not %s", name, samples[name], want)
		}
	}
	if len(samples) != 4+4+2+1+1+4+1+1 {
		t.Errorf("there are %d samples", len(samples))
	}
	r.Counts[2].Since, r.Batches[0].Tokens = "", 5
	r.Total.OldestPending = nil
	samples = parseMetrics(t, string(r.metrics()))
	for _, name := range []string{"gbatch_oldest_pending_age_seconds", "gbatch_cost_usd_total"} {
		if _, known := samples[name+own+"}"]; known {
			t.Errorf("%s is not known", name)
		}
	}
}

var (
	metricHead   = regexp.MustCompile(`^# (HELP|TYPE) ([a-z_]+) (.+)$`)
	metricSample = regexp.MustCompile(`^([a-z_]+)\{([a-z]+="(?:[^"\\\n]|\\[\\"n])*"(?:,[a-z]+="(?:[^"\\\n]|\\[\\"n])*")*)\} (\S+)$`)
)

// parseMetrics reads the text format of Prometheus strictly, and returns the value
// of each sample.
func parseMetrics(t *testing.T, text string) map[string]string {
	t.Helper()
	samples, families := map[string]string{}, map[string]bool{}
	family, kind := "", ""
	if !strings.HasSuffix(text, "\n") {
		t.Error("the last line has no end")
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if m := metricHead.FindStringSubmatch(line); m != nil {
			switch {
			case m[1] == "HELP" && families[m[2]]:
				t.Errorf("%s comes twice", m[2])
			case m[1] == "HELP":
				families[m[2]], family, kind = true, m[2], ""
			case m[2] != family || kind != "" || m[3] != "gauge" && m[3] != "counter":
				t.Errorf("%s does not follow its HELP", line)
			default:
				kind = m[3]
			}
			continue
		}
		m := metricSample.FindStringSubmatch(line)
		if m == nil || m[1] != family || kind == "" {
			t.Errorf("%q is not a sample of %s", line, family)
			continue
		}
		if (kind == "counter") != strings.HasSuffix(family, "_total") {
			t.Errorf("%s is a %s", family, kind)
		}
		if v, err := strconv.ParseFloat(m[3], 64); err != nil || v < 0 {
			t.Errorf("%s: the value is %s", line, m[3])
		}
		name := m[1] + "{" + m[2] + "}"
		if _, twice := samples[name]; twice {
			t.Errorf("%s comes twice", name)
		}
		samples[name] = m[3]
	}
	return samples
}
