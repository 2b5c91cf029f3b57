package store

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"gbatch/pkg/cli"
	"gbatch/pkg/exit"
	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
)

// Status is chunks-status: what is ready, queued, pending and failed, for how
// many tokens and how much money, and what became of each batch.
type Status struct {
	Database   `embed:""`
	From       string `placeholder:"SOURCE" help:"The chunks, as chunks-pending takes them (default what it took last, else chunks)."`
	Embeddings string `default:"embeddings" help:"The table of the vectors."`
}

// A statusCount is the chunks of one status. Tokens are Google's count for
// READY, and an estimate from above for the others.
type statusCount struct {
	Status string   `json:"status"`
	Chunks int64    `json:"chunks"`
	Tokens int64    `json:"tokens"`
	USD    *float64 `json:"usd,omitempty"`
}

// A batchStatus is what became of one batch.
type batchStatus struct {
	Batch     string   `json:"batch"`
	Job       string   `json:"job,omitempty"`
	State     string   `json:"state"` // the job's, or CLAIMED before it has one
	Open      bool     `json:"open"`
	Requests  int64    `json:"requests"`
	Succeeded int64    `json:"succeeded"`
	Failed    int64    `json:"failed"`
	Tokens    int64    `json:"tokens"`
	USD       *float64 `json:"usd,omitempty"`
	ClaimedAt string   `json:"claimed,omitempty"`
	EndedAt   string   `json:"ended,omitempty"`
	Error     string   `json:"error,omitempty"`
}

// Run prints a table where out is a terminal, else a line per status and one
// per batch. in is not read.
func (s *Status) Run(ctx context.Context, _ io.Reader, out io.Writer) error {
	defer s.end()
	var counts []statusCount
	var batches []batchStatus
	err := s.transact(ctx, read, func(c *conn) (err error) {
		ok, err := c.hasSchema()
		if err != nil {
			return err
		}
		if counts, err = s.counts(c, ok); err != nil || !ok {
			return err
		}
		batches, err = s.batches(c)
		return err
	})
	if err != nil {
		return err
	}
	if f, ok := out.(*os.File); ok && cli.IsTerminal(f) {
		return table(out, counts, batches)
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

// counts gives a count for each status, in the order of a chunk's life.
func (s *Status) counts(c *conn, claimed bool) ([]statusCount, error) {
	from := s.From
	if from == "" && claimed {
		if _, err := c.one(func(r *rows) { from = r.string(0) }, "SELECT source FROM gbatch.jobs WHERE embeddings = ? ORDER BY batch DESC LIMIT 1", s.Embeddings); err != nil {
			return nil, err
		}
	}
	src, err := c.source(cmp.Or(from, "chunks"))
	if err != nil {
		return nil, err
	}
	facts := model.Lookup(model.Default)
	query := "SELECT 'PENDING' AS status, strlen(" + src.body() + ") AS bytes, NULL::BIGINT AS tokens FROM " + src.sql
	if claimed {
		// A table that is not there yet has no vectors; one that others are there
		// for is a slip.
		if known, err := c.tables(); err != nil {
			return nil, err
		} else if len(known) > 0 && !slices.Contains(known, s.Embeddings) {
			return nil, exit.Errorf(exit.Usage, "no chunks were claimed for a table %s, only for %s", s.Embeddings, strings.Join(known, ", "))
		}
		n, err := c.count("SELECT count(*) FROM duckdb_tables() WHERE database_name = current_database() AND schema_name = current_schema() AND table_name = ?", s.Embeddings)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			if _, err := c.one(func(r *rows) { facts = model.Lookup(r.string(0)) }, "SELECT model FROM gbatch.jobs WHERE embeddings = ? LIMIT 1", s.Embeddings); err != nil {
				return nil, err
			}
			query = "SELECT status, bytes, tokens FROM (" + src.status(s.Embeddings, "") + ")"
		}
	}
	r, err := c.query(fmt.Sprintf("SELECT status, count(*), sum(coalesce(tokens, least(bytes // %d + 1, %d)))::BIGINT FROM (%s) GROUP BY status", model.BytesPerToken, facts.MaxTokens, query))
	if err != nil {
		return nil, err
	}
	defer r.close()
	counts := []statusCount{{Status: "READY"}, {Status: "QUEUED"}, {Status: "PENDING"}, {Status: "FAILED"}}
	for r.next() {
		for i := range counts {
			if counts[i].Status == r.borrow(0) {
				counts[i].Chunks, counts[i].Tokens = r.int(1), r.int(2)
			}
		}
	}
	for i := range counts {
		counts[i].USD = facts.Cost(counts[i].Tokens)
	}
	return counts, nil
}

// tables gives the tables of vectors that chunks were claimed for.
func (c *conn) tables() (names []string, err error) {
	r, err := c.query("SELECT DISTINCT embeddings FROM gbatch.jobs ORDER BY 1")
	if err != nil {
		return nil, err
	}
	defer r.close()
	for r.next() {
		names = append(names, r.string(0))
	}
	return names, nil
}

// batches gives every batch there was for the table of vectors, oldest first.
func (s *Status) batches(c *conn) (batches []batchStatus, err error) {
	r, err := c.query(`SELECT batch, job, coalesce(state, 'CLAIMED'), closed_at IS NULL, requests, succeeded, failed, tokens, model,
		strftime(claimed_at, '%Y-%m-%dT%H:%M:%SZ'), strftime(ended_at, '%Y-%m-%dT%H:%M:%SZ'), error FROM gbatch.jobs WHERE embeddings = ? ORDER BY batch`, s.Embeddings)
	if err != nil {
		return nil, err
	}
	defer r.close()
	for r.next() {
		b := batchStatus{Batch: r.string(0), Job: r.string(1), State: r.string(2), Open: r.bool(3), Requests: r.int(4), Succeeded: r.int(5),
			Failed: r.int(6), Tokens: r.int(7), ClaimedAt: r.string(9), EndedAt: r.string(10), Error: r.string(11)}
		b.USD = model.Lookup(r.string(8)).Cost(b.Tokens)
		batches = append(batches, b)
	}
	return batches, nil
}

func table(out io.Writer, counts []statusCount, batches []batchStatus) error {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	usd := func(p *float64) string {
		if p == nil {
			return "?"
		}
		return fmt.Sprintf("$%.4f", *p)
	}
	fmt.Fprintln(w, "STATUS\tCHUNKS\tTOKENS\tCOST\t")
	for _, n := range counts {
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t\n", n.Status, n.Chunks, n.Tokens, usd(n.USD))
	}
	w.Flush()
	if len(batches) > 0 {
		fmt.Fprintln(&b)
		w = tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "BATCH\tSTATE\tREQUESTS\tSUCCEEDED\tFAILED\tTOKENS\tCOST\tJOB\tERROR")
		for _, t := range batches {
			fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%s\t%s\t%s\n", t.Batch, cli.Printable(t.State), t.Requests, t.Succeeded, t.Failed, t.Tokens, usd(t.USD), cli.Printable(t.Job), cli.Printable(t.Error))
		}
		w.Flush()
	}
	_, err := io.WriteString(out, b.String())
	return err
}
