package store

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"gbatch/pkg/cli"
	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
)

// Status is chunks-status: how many chunks are ready, queued, pending and
// failed, their tokens and cost, and the state of each batch.
type Status struct {
	duck.Database `embed:""`
	From          string `placeholder:"SOURCE" help:"The chunks, as for chunks-pending (default: the source that chunks-pending used last, or else chunks)."`
	Embeddings    string `default:"embeddings" help:"The table of the vectors."`
}

// A statusCount counts the chunks of one status. Tokens are Google's count for
// READY, and an estimate for the others.
type statusCount struct {
	Status string   `json:"status"`
	Chunks int64    `json:"chunks"`
	Tokens int64    `json:"tokens"`
	USD    *float64 `json:"usd,omitempty"`
	Since  string   `json:"since,omitempty"` // no chunk has been QUEUED or PENDING for longer

	OverLimit int64 `json:"over_limit,omitempty"` // chunks whose texts Google probably cuts off
}

// A batchStatus is the state of one batch.
type batchStatus struct {
	Batch     string   `json:"batch"`
	Job       string   `json:"job,omitempty"`
	State     string   `json:"state"` // the job's state; CLAIMED, SUBMITTED or UNKNOWN if the database has no job; or RELEASED
	Open      bool     `json:"open"`
	Requests  int64    `json:"requests"`
	Succeeded int64    `json:"succeeded"`
	Failed    int64    `json:"failed"`
	Tokens    int64    `json:"tokens"`
	USD       *float64 `json:"usd,omitempty"`
	ClaimedAt string   `json:"claimed,omitempty"`
	SentAt    string   `json:"submitted,omitempty"`
	EndedAt   string   `json:"ended,omitempty"`
	Error     string   `json:"error,omitempty"`
}

// Run prints a table if out is a terminal, and otherwise a line for each status
// and each batch. It does not read in.
func (s *Status) Run(ctx context.Context, _ io.Reader, out io.Writer) error {
	defer s.End()
	prices, err := model.ReadPrices()
	if err != nil {
		return err
	}
	var counts []statusCount
	var batches []batchStatus
	err = transact(ctx, &s.Database, duck.Read, func(c *duck.Conn) (err error) {
		ok, err := hasTables(c)
		if err != nil {
			return err
		}
		if counts, err = s.counts(c, prices, ok); err != nil || !ok {
			return err
		}
		batches, err = s.batches(c, prices)
		return err
	})
	if err != nil {
		return err
	}
	noted(batches)
	if terminal(out) {
		return printTable(out, counts, batches)
	}
	w := ndjson.NewWriter(out)
	for _, n := range counts {
		if err := w.Encode(n); err != nil {
			return err
		}
	}
	for _, b := range batches {
		if err := w.Encode(b); err != nil {
			return err
		}
	}
	return w.Flush()
}

// counts returns a count for each status. claimed says that the database has the
// toolkit's tables.
func (s *Status) counts(c *duck.Conn, prices model.Prices, claimed bool) ([]statusCount, error) {
	from := s.From
	if from == "" && claimed {
		if _, err := c.One(func(r *duck.Rows) { from = r.Text(0) }, "SELECT source FROM gbatch.jobs WHERE embeddings = ? ORDER BY batch DESC LIMIT 1", s.Embeddings); err != nil {
			return nil, err
		}
	}
	var space model.Space
	if claimed {
		var err error
		if space, err = spaceOf(c, s.Embeddings); err != nil {
			return nil, err
		}
	}
	src, err := openSource(c, cmp.Or(from, "chunks"), space)
	if err != nil {
		return nil, err
	}
	if claimed && src.noted {
		if err := src.follow(c, s.Embeddings); err != nil {
			return nil, err
		}
	}
	space = space.Or(model.Space{Model: model.Default})
	query := "SELECT 'PENDING' AS status, NULL::BIGINT AS tokens, " + src.title() + " AS title, " + src.body() + " AS body FROM " + src.sql
	if claimed {
		// A table without claims has no vectors yet. If there are claims, but only
		// for other tables, its name is probably a mistake.
		if known, err := tableNames(c); err != nil {
			return nil, err
		} else if len(known) > 0 && !slices.Contains(known, s.Embeddings) {
			return nil, exit.Errorf(exit.Usage, "no chunks were claimed for a table %s, only for %s", s.Embeddings, strings.Join(known, ", "))
		}
		n, err := c.Count("SELECT count(*) FROM duckdb_tables() WHERE database_name = current_database() AND schema_name = current_schema() AND table_name = ?", s.Embeddings)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			query = "SELECT status, tokens, sent_title AS title, sent_body AS body FROM (" + src.status(s.Embeddings, "") + ")"
		}
	}
	counts := []statusCount{{Status: "READY"}, {Status: "QUEUED"}, {Status: "PENDING"}, {Status: "FAILED"}}
	e, _, err := estimator(c, s.Embeddings, space)
	if err != nil {
		return nil, err
	}
	err = c.Stream(func(r *duck.Rows) {
		for i := range counts {
			if n := &counts[i]; n.Status == r.Borrow(0) {
				n.Chunks++
				if r.Bool(1) {
					n.Tokens += r.Int(2)
				} else {
					t := e.Request(r.Borrow(3), r.Borrow(4))
					n.Tokens += t.Likely
					if e.OverLimit(t) {
						n.OverLimit++
					}
				}
			}
		}
	}, "SELECT status, tokens IS NOT NULL, tokens, CASE WHEN tokens IS NULL THEN title END, CASE WHEN tokens IS NULL THEN body END FROM ("+query+")")
	for i := range counts {
		counts[i].USD = known(prices.Batch(space.Model, counts[i].Tokens))
	}
	if err != nil || !claimed {
		return counts, err
	}
	queued, pending := &counts[1], &counts[2]
	_, err = c.One(func(r *duck.Rows) { queued.Since = r.Text(0) }, "SELECT "+rfc3339("min(claimed_at)")+" FROM gbatch.jobs WHERE embeddings = ? AND closed_at IS NULL", s.Embeddings)
	if err == nil && pending.Chunks > 0 {
		_, err = c.One(func(r *duck.Rows) { pending.Since = r.Text(0) }, "SELECT "+rfc3339("scanned_at")+" FROM gbatch.scans WHERE embeddings = ? AND source = ?", s.Embeddings, src.from)
	}
	return counts, err
}

// rfc3339 is the SQL that formats a time as in the records.
func rfc3339(timestamp string) string { return "strftime(" + timestamp + ", '%Y-%m-%dT%H:%M:%SZ')" }

// tableNames lists the tables of vectors for which chunks were claimed.
func tableNames(c *duck.Conn) (names []string, err error) {
	err = c.Each(func(r *duck.Rows) { names = append(names, r.Text(0)) }, "SELECT DISTINCT embeddings FROM gbatch.jobs ORDER BY 1")
	return names, err
}

// batches lists all batches that were claimed for the table of vectors, oldest
// first.
func (s *Status) batches(c *duck.Conn, prices model.Prices) (batches []batchStatus, err error) {
	err = c.Each(func(r *duck.Rows) {
		b := batchStatus{Batch: r.Text(0), Job: r.Text(1), State: r.Text(2), Open: r.Bool(3), Requests: r.Int(4), Succeeded: r.Int(5),
			Failed: r.Int(6), Tokens: r.Int(7), ClaimedAt: r.Text(9), SentAt: r.Text(10), EndedAt: r.Text(11), Error: r.Text(12)}
		b.USD = known(prices.Batch(r.Text(8), b.Tokens))
		batches = append(batches, b)
	}, `SELECT batch, job, coalesce(state, 'CLAIMED'), closed_at IS NULL, requests, succeeded, failed, tokens, model,
		`+rfc3339("claimed_at")+", "+rfc3339("submitted_at")+", "+rfc3339("ended_at")+`, error FROM gbatch.jobs WHERE embeddings = ? ORDER BY batch`, s.Embeddings)
	return batches, err
}

func printTable(out io.Writer, counts []statusCount, batches []batchStatus) error {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "STATUS\tCHUNKS\tTOKENS\tCOST\tAGE\t")
	for _, n := range counts {
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t\n", n.Status, n.Chunks, n.Tokens, dollars(n.USD), age(n.Since))
	}
	w.Flush()
	if len(batches) > 0 {
		fmt.Fprintln(&b)
		w = tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "BATCH\tSTATE\tREQUESTS\tSUCCEEDED\tFAILED\tTOKENS\tCOST\tJOB\tERROR")
		for _, t := range batches {
			fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%s\t%s\t%s\n", t.Batch, cli.Printable(t.State), t.Requests, t.Succeeded, t.Failed, t.Tokens, dollars(t.USD), cli.Printable(t.Job), cli.Printable(t.Error))
		}
		w.Flush()
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// age formats how long ago a time was, in days, hours or minutes.
func age(since string) string {
	t, err := time.Parse(time.RFC3339, since)
	switch d := time.Since(t); {
	case err != nil:
		return ""
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Hours()))
	default:
		return fmt.Sprintf("%d minutes", int(d.Minutes()))
	}
}

func dollars(usd *float64) string {
	if usd == nil {
		return "?"
	}
	return model.Money(*usd)
}

// known is a price as the records have it: nil if it is not known.
func known(usd float64, known bool) *float64 {
	if !known {
		return nil
	}
	return &usd
}

func terminal(out io.Writer) bool {
	f, ok := out.(interface{ Fd() uintptr })
	return ok && cli.IsTerminal(f)
}
