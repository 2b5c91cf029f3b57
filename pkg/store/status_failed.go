package store

import (
	"context"
	"fmt"
	"io"
	"slices"

	"gbatch/pkg/duck"
	"gbatch/pkg/record"
)

// A failure is the line of a FAILED chunk.
type failure struct {
	ID       string        `json:"id"`
	Error    record.Status `json:"error"`
	Attempts int64         `json:"attempts"`
	Batch    string        `json:"batch,omitempty"` // the last one; "" if the text was never sent
	At       string        `json:"at"`
}

// page is how many failures are read in a transaction.
const page = 10_000

// printFailed prints the FAILED chunks, in the order of their ids. It reads them
// page by page, so that the database is not held while out blocks.
func (s *Status) printFailed(ctx context.Context, out io.Writer) error {
	for last, more := "", true; more; {
		var failed []failure
		err := transact(ctx, &s.Database, duck.Read, func(c *duck.Conn) error {
			src, derived, err := s.source(c)
			if err != nil || !derived {
				more = false
				return err
			}
			ids := fmt.Sprintf("SELECT chunk_id FROM gbatch.failures WHERE embeddings = %s AND final AND chunk_id > %s ORDER BY chunk_id LIMIT %d", duck.Literal(s.Embeddings), duck.Literal(last), page)
			n, err := c.Count("SELECT count(*) FROM (" + ids + ")")
			if more = n == page; err != nil || n == 0 {
				return err
			}
			err = c.Each(func(r *duck.Rows) {
				failed = append(failed, failure{ID: r.Text(0), Error: record.Status{Code: int(r.Int(1)), Status: r.Text(2), Message: r.Text(3)},
					Attempts: r.Int(4), Batch: r.Text(5), At: r.Text(6)})
			}, "SELECT key, code, error, message, attempts, batch, "+rfc3339("failed_at")+" FROM ("+failures(src, s.Embeddings, ids)+") WHERE status = 'FAILED' ORDER BY key")
			if err == nil {
				_, err = c.One(func(r *duck.Rows) { last = r.Text(0) }, "SELECT max(chunk_id) FROM ("+ids+")")
			}
			return err
		})
		if err != nil {
			return err
		}
		if err := encode(out, failed); err != nil {
			return err
		}
	}
	return nil
}

// failures is a SELECT of the chunks whose present text has failed, with their
// status, for some ids of gbatch.failures. Only these chunks are hashed.
func failures(src *source, table, ids string) string {
	return fmt.Sprintf(`SELECT s.key, s.status, f.code, f.status AS error, f.message, f.attempts, f.batch, f.failed_at
		FROM (%s) s JOIN gbatch.failures f ON f.embeddings = %s AND f.chunk_id = s.key AND f.text_hash = s.text_hash`,
		src.status(table, fmt.Sprintf("WHERE CAST(%s AS VARCHAR) IN (%s)", src.id(), ids)), duck.Literal(table))
}

// A reason is why some chunks failed.
type reason struct {
	Code     int
	Status   string
	Message  string // if the messages differ in numbers and names only, … is in place of these
	Final    bool   // the chunks are FAILED; otherwise they are PENDING
	Sent     bool   // the texts were sent
	Again    bool   // the error is transient, or there was no answer
	Chunks   int64
	Examples []string // up to three ids
}

// A codeCount counts the FAILED chunks with one code.
type codeCount struct {
	Code   int    `json:"code"`
	Status string `json:"status,omitempty"`
	Chunks int64  `json:"chunks"`
}

// mostReasons is how many reasons a report has.
const mostReasons = 20

// varies matches the parts of a message that differ from chunk to chunk: what is
// in quotation marks, and words with a digit.
const varies = `"[^"]*"|[[:alnum:]_./-]*[0-9][[:alnum:]_./-]*`

// reasons groups the chunks that failed by code and message, and puts the reasons
// of FAILED chunks first, and then those of the most chunks.
func (r *Report) reasons(c *duck.Conn, src *source) error {
	ids := "SELECT chunk_id FROM gbatch.failures WHERE embeddings = " + duck.Literal(r.Table)
	if n, err := c.Count("SELECT count(*) FROM (" + ids + " LIMIT 1)"); err != nil || n == 0 {
		return err
	}
	err := c.Each(func(row *duck.Rows) {
		f := reason{Code: int(row.Int(0)), Status: row.Text(1), Message: row.Text(2), Final: row.Bool(3), Sent: row.Bool(4), Again: row.Bool(5), Chunks: row.Int(6)}
		for i := 7; i < 10; i++ {
			if id := row.Text(i); id != "" {
				f.Examples = append(f.Examples, id)
			}
		}
		if f.Final {
			i := slices.IndexFunc(r.Total.Errors, func(n codeCount) bool { return n.Code == f.Code && n.Status == f.Status })
			if i < 0 {
				i = len(r.Total.Errors)
				r.Total.Errors = append(r.Total.Errors, codeCount{Code: f.Code, Status: f.Status})
			}
			r.Total.Errors[i].Chunks += f.Chunks
		}
		if len(r.Reasons) < mostReasons {
			r.Reasons = append(r.Reasons, f)
		}
	}, fmt.Sprintf(`SELECT code, error, CASE WHEN min(message) = max(message) THEN min(message) ELSE pattern END, final, sent, code = 0 OR code IN `+transient+`, count(*) AS n, min(key, 3)[1], min(key, 3)[2], min(key, 3)[3]
		FROM (SELECT *, status = 'FAILED' AS final, batch IS NOT NULL AS sent, regexp_replace(message, %s, '…', 'g') AS pattern FROM (%s))
		WHERE status IN ('FAILED', 'PENDING') GROUP BY code, error, pattern, final, sent ORDER BY final DESC, n DESC, code, pattern`, duck.Literal(varies), failures(src, r.Table, ids)))
	slices.SortStableFunc(r.Total.Errors, func(a, b codeCount) int { return int(b.Chunks - a.Chunks) })
	return err
}

// next says what to do about the chunks that failed, and whether chunks-pending
// --retry-failed goes on.
func (f *reason) next() (advice string, retry bool) {
	switch {
	case !f.Final:
		return "the next chunks-pending sends them again", false
	case !f.Sent:
		return "edit the text or the id; it was never sent", false
	case f.Code == 3:
		return "edit the text; or remove the cause, then run:", true
	case f.Again:
		return "send them again:", true
	}
	return "remove the cause, then run:", true
}
