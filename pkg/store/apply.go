package store

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/record"
)

// Apply is vectors-apply: it writes vectors and errors of keys back, and closes
// a batch when the job record after its last answer comes.
//
// A vector goes only to chunks whose text is still the one that was sent. To
// apply the same records again changes nothing.
type Apply struct {
	duck.Database `embed:""`
	Embeddings    string `help:"Refuse batches that were claimed for another table than this."`
	MaxAttempts   int    `default:"3" help:"How often a text with transient errors is sent before it counts as failed."`
	Column        string `help:"Also write vectors into this column of the chunks table."`
}

// transient is Google's codes of transient errors: DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED,
// ABORTED, INTERNAL, UNAVAILABLE.
// Source: google/rpc/code.proto; ai.google.dev/gemini-api/docs/troubleshooting.
const transient = "(4, 8, 10, 13, 14)"

// An applier is a run of Apply.
type applier struct {
	*Apply
	*unit      // the one being applied
	done  bool // its batch was closed before

	asked                          int // keys that were answered, or were to be
	failed, dropped, lost, unwhole int // for verdict
}

// Run applies the records of in, and prints to out each job record whose
// effect is in the database. The next records are read while some are written.
func (a *Apply) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	if a.MaxAttempts < 1 {
		return exit.Errorf(exit.Usage, "--max-attempts is at least 1")
	}
	defer a.End()
	reading, stop := context.WithCancel(ctx)
	defer stop()
	d := divide(reading, in)
	w := applier{Apply: a}
	lines := ndjson.NewWriter(out)
	for w.unit = range d.units {
		job, err := w.apply(ctx)
		if err != nil {
			return err
		}
		d.free <- w.unit
		if job == nil {
			continue
		}
		if err := lines.Encode(job); err != nil {
			return err
		}
		if err := lines.Flush(); err != nil {
			return err
		}
	}
	if d.err != nil {
		return d.err
	}
	return w.verdict()
}

// apply writes the unit in one transaction, and returns the job record whose
// effect is in the database now. A batch stays open if some of its answers did
// not come.
func (w *applier) apply(ctx context.Context) (*record.Job, error) {
	j := w.job
	if j != nil && j.State == record.Succeeded && !j.Whole() && j.Error != nil {
		if j = nil; w.lines == 0 { // its results could not be fetched
			return nil, nil
		}
	}
	if j != nil && j.Whole() && w.lines != *j.Succeeded+*j.Failed {
		slog.Warn("not every answer of the job is in the input", "batch", j.Batch, "came", w.lines, "printed", *j.Succeeded+*j.Failed)
		j = nil
	}
	if err := transact(ctx, &w.Database, duck.Write, func(c *duck.Conn) error { return w.write(c, j) }); err != nil {
		return nil, err
	}
	w.asked += len(w.answers)
	w.dropped += w.twice
	if w.last && j == nil && !w.done {
		w.unwhole++
	}
	return j, nil
}

// verdict is the error of a run that has read its whole input.
func (w *applier) verdict() error {
	var parts []string
	add := func(n int, what string) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf(what, n))
		}
	}
	add(w.failed, fmt.Sprintf("%%d of %d keys failed", w.asked))
	add(w.dropped, "%d answers were dropped")
	add(w.lost, "%d jobs ended without results")
	code := exit.Partial
	if w.unwhole > 0 {
		code = exit.Malformed
		add(w.unwhole, "%d batches stay open since the input ended before their last answer: run the line again")
	}
	if len(parts) == 0 {
		return nil
	}
	return exit.Errorf(code, "%s (see chunks-status %s)", strings.Join(parts, ", "), w.DB)
}

// A claimedBatch is what the database knows of a batch.
type claimedBatch struct {
	job, from, embeddings string
	space                 model.Space
	closed                bool   // nothing of it is applied any more
	state                 string // of the batch
	first, last           int64  // seq of the items
	items                 string // a SELECT of them
}

// write writes the unit and the record j, which is nil if the batch stays open.
func (w *applier) write(c *duck.Conn, j *record.Job) error {
	if ok, err := hasTables(c); err != nil {
		return err
	} else if !ok {
		return fmt.Errorf("no chunk of %s was ever claimed, so batch %s is not from it", w.DB, w.batch)
	}
	var b claimedBatch
	found, err := c.One(func(r *duck.Rows) {
		b = claimedBatch{job: r.Text(0), from: r.Text(1), embeddings: r.Text(2), closed: r.Bool(3), first: r.Int(4), last: r.Int(5)}
		b.space = model.Space{Model: model.Bare(r.Text(6)), Dim: int(r.Int(7)), TaskType: r.Text(8)}
		b.state, b.items = r.Text(9), items(w.batch, b.first, b.last)
	}, "SELECT job, source, embeddings, closed_at IS NOT NULL AND (state <> '"+released+"' OR first_seq IS NULL), first_seq, last_seq, model, dim, task_type, state FROM gbatch.jobs WHERE batch = ?", w.batch)
	switch {
	case err != nil:
		return err
	case !found:
		return fmt.Errorf("batch %s was not claimed from %s", w.batch, w.DB)
	case w.Embeddings != "" && w.Embeddings != b.embeddings:
		return exit.Errorf(exit.Usage, "batch %s was claimed for table %s, not for %s", w.batch, b.embeddings, w.Embeddings)
	case j != nil && b.job != "" && j.Job != b.job && !j.Whole():
		return fmt.Errorf("batch %s has job %s; %s is not its job and changes nothing", w.batch, b.job, j.Job)
	}
	if w.done = b.closed; w.done {
		if b.state == released {
			slog.Warn("the batch was given back too long ago: its texts are not known any more, its answers are dropped", "batch", w.batch, "answers", len(w.answers))
			w.dropped += max(len(w.answers), 1)
		}
		return nil
	}
	if len(w.answers) > 0 {
		if err := w.answer(c, b); err != nil {
			return err
		}
	}
	if j == nil {
		return nil
	}
	if b.state == released && !j.Ended() {
		slog.Warn("the batch was given back and has a job after all: it is open again", "batch", w.batch, "job", j.Job)
	}
	return w.note(c, b, j)
}

// answer writes the unit's answers to embeddings and failures.
func (w *applier) answer(c *duck.Conn, b claimedBatch) error {
	s, err := openSource(c, b.from, b.space)
	if err != nil {
		return err
	}
	if err := s.fitVectors(c, b.embeddings); err != nil {
		return err
	}
	if err := noteSpace(c, b.embeddings, b.space); err != nil {
		return err
	}
	if w.Column != "" {
		if err := s.hasColumn(w.Column, b.space.Dim); err != nil {
			return err
		}
	}
	if err := w.stage(c, b); err != nil {
		return err
	}
	if err := w.resolve(c, b, s); err != nil {
		return err
	}
	if n, err := c.Count("SELECT (SELECT count(*) FROM gbatch_target) - (SELECT count(*) FROM gbatch_valid)"); err != nil {
		return err
	} else if n > 0 {
		slog.Info("chunks have another text now: their answers are dropped", "batch", w.batch, "chunks", n)
	}
	if err := w.strangers(c, b); err != nil {
		return err
	}
	if err := w.vectors(c, b, s); err != nil {
		return err
	}
	return w.failures(c, b, s)
}

// resolve finds the chunks that the answers are for. The temporary table
// gbatch_target gets the chunks of the batch that have the text of an answer's
// key; gbatch_valid gets those of them that still have it, and the chunks to
// which such a text has moved.
func (w *applier) resolve(c *duck.Conn, b claimedBatch, s *source) error {
	err := c.Exec(fmt.Sprintf(`CREATE OR REPLACE TEMP TABLE gbatch_target AS
			SELECT a.idx, i.chunk_id AS key, TRY_CAST(i.chunk_id AS %[1]s) AS id, i.text_hash
			FROM gbatch_answers a
			JOIN %[2]s k ON k.chunk_id = a.key AND NOT k.twin
			JOIN %[2]s i ON i.text_hash = k.text_hash;
		CREATE OR REPLACE TEMP TABLE gbatch_here AS
			SELECT t.*, c.%[3]s AS rid FROM %[4]s c JOIN gbatch_target t ON t.id = c.%[5]s`,
		s.idType, b.items, s.rid(), s.sql, s.id()))
	if err != nil {
		return err
	}
	// A batch is claimed in the order of the table, so only a part of the table
	// must be read.
	between := ""
	if s.table {
		_, err := c.One(func(r *duck.Rows) { between = fmt.Sprintf("WHERE rowid BETWEEN %d AND %d", r.Int(0), r.Int(1)) }, "SELECT min(rid), max(rid) FROM gbatch_here")
		if err != nil {
			return err
		}
	}
	err = c.Exec(fmt.Sprintf(`CREATE OR REPLACE TEMP TABLE gbatch_valid AS
		SELECT h.* FROM gbatch_here h JOIN (SELECT %s AS rid, %s AS text_hash FROM %s %s) c ON c.rid = h.rid WHERE c.text_hash = h.text_hash`,
		s.rid(), s.hash(), s.sql, between))
	if err != nil {
		return err
	}
	// A text that no chunk of the batch still has is paid for: if it has moved to
	// another chunk, that chunk takes the answer.
	const moved = "(SELECT text_hash, min(idx) AS idx FROM gbatch_target WHERE text_hash NOT IN (SELECT text_hash FROM gbatch_valid) GROUP BY text_hash)"
	if n, err := c.Count("SELECT count(*) FROM " + moved); err != nil || n == 0 {
		return err
	}
	return c.Exec(fmt.Sprintf(`INSERT INTO gbatch_valid SELECT m.idx, CAST(c.id AS VARCHAR), c.id, m.text_hash, c.rid
		FROM (SELECT %s AS id, %s AS rid, %s AS text_hash FROM %s) c JOIN `+moved+` m ON m.text_hash = c.text_hash`, s.id(), s.rid(), s.hash(), s.sql))
}

// stage writes the unit's answers to the temporary table gbatch_answers. A
// vector of another length than the batch's dim becomes an error of its key.
func (w *applier) stage(c *duck.Conn, b claimedBatch) error {
	if err := c.Exec("CREATE OR REPLACE TEMP TABLE gbatch_answers (idx BIGINT, key VARCHAR, code BIGINT, status VARCHAR, message VARCHAR)"); err != nil {
		return err
	}
	rows, err := c.Appender("temp", "gbatch_answers", duck.BigInt, duck.Varchar, duck.BigInt, duck.Varchar, duck.Varchar)
	if err != nil {
		return err
	}
	for i := range w.answers {
		a := &w.answers[i]
		if a.err == nil && len(a.values) != b.space.Dim {
			a.err = &record.Status{Code: 13, Status: "INTERNAL", Message: fmt.Sprintf("the vector has %d values instead of %d", len(a.values), b.space.Dim)}
		}
		rows.SetInt(0, int64(i))
		rows.SetText(1, a.key)
		if a.err == nil {
			rows.SetNull(2)
			rows.SetNull(3)
			rows.SetNull(4)
		} else {
			rows.SetInt(2, int64(a.err.Code))
			rows.SetText(3, a.err.Status)
			rows.SetText(4, a.err.Message)
		}
		if err := rows.Next(); err != nil {
			return err
		}
	}
	return rows.Close()
}

// strangers reports answers for keys that the batch does not have.
func (w *applier) strangers(c *duck.Conn, b claimedBatch) error {
	return c.Each(func(r *duck.Rows) {
		slog.Warn("a key was not in the batch: its answer is dropped", "batch", w.batch, "key", r.Text(0))
		w.dropped++
	}, "SELECT key FROM gbatch_answers WHERE key NOT IN (SELECT chunk_id FROM "+b.items+" WHERE NOT twin) ORDER BY idx")
}

// vectors writes the vectors that are not in the table yet.
func (w *applier) vectors(c *duck.Conn, b claimedBatch, s *source) error {
	e := duck.Ident(b.embeddings)
	err := c.Exec(fmt.Sprintf(`CREATE OR REPLACE TEMP TABLE gbatch_old AS
			SELECT rowid AS row, chunk_id, text_hash, batch FROM %[1]s WHERE chunk_id IN (SELECT id FROM gbatch_valid);
		CREATE OR REPLACE TEMP TABLE gbatch_fresh AS
			SELECT v.* FROM gbatch_valid v JOIN gbatch_answers a USING (idx) WHERE a.code IS NULL
			AND NOT EXISTS (SELECT 1 FROM gbatch_old e WHERE e.chunk_id = v.id AND e.text_hash = v.text_hash AND e.batch = %[2]s);
		DELETE FROM gbatch.failures WHERE embeddings = %[3]s AND chunk_id IN (SELECT key FROM gbatch_fresh)`, e, duck.Literal(w.batch), duck.Literal(b.embeddings)))
	if err != nil {
		return err
	}
	if n, err := c.Count("SELECT count(*) FROM gbatch_old"); err != nil {
		return err
	} else if n > 0 {
		if err := retire(c, b.embeddings, "gbatch_fresh"); err != nil {
			return err
		}
	}
	r, err := c.Query("SELECT DISTINCT idx, key, text_hash FROM gbatch_fresh ORDER BY idx, key")
	if err != nil {
		return err
	}
	defer r.Close()
	// Without an order, all cores insert at once.
	if err := c.Exec("SET preserve_insertion_order = false"); err != nil {
		return err
	}
	rows, err := c.Inserter(fmt.Sprintf("INSERT INTO %s SELECT CAST(id AS %s), text_hash, embedding, tokens, %s, %s::TIMESTAMP FROM appended", e, s.idType, duck.Literal(w.batch), duck.Literal(now())),
		[]string{"id", "text_hash", "embedding", "tokens"}, duck.Varchar, duck.UHugeInt, duck.FloatArray(b.space.Dim), duck.BigInt)
	if err != nil {
		return err
	}
	for r.Next() {
		a := &w.answers[r.Int(0)]
		rows.SetText(0, r.Borrow(1))
		rows.SetUint128(1, r.Uint128(2))
		rows.SetFloats(2, a.values)
		rows.SetInt(3, max(a.tokens, 0))
		if err := rows.Next(); err != nil {
			return err
		}
	}
	if err := rows.Close(); err != nil {
		return err
	}
	if err := c.Exec("RESET preserve_insertion_order"); err != nil {
		return err
	}
	return s.ready(c, b.embeddings, "gbatch_fresh", w.Column)
}

// failures writes the errors of keys. A transient one leaves its chunk pending
// until the text was sent MaxAttempts times.
func (w *applier) failures(c *duck.Conn, b claimedBatch, s *source) error {
	for _, a := range w.answers {
		if a.err != nil {
			w.failed++
		}
	}
	return w.fail(c, b, s, "SELECT v.id, v.key, v.rid, v.text_hash, a.code, a.status, a.message FROM gbatch_valid v JOIN gbatch_answers a USING (idx) WHERE a.code IS NOT NULL")
}

// fail writes the failures that query yields as id, key, rid, text_hash, code,
// status and message. A batch counts as one attempt, however often it is
// applied.
func (w *applier) fail(c *duck.Conn, b claimedBatch, s *source, query string) error {
	err := c.Exec(fmt.Sprintf(`CREATE OR REPLACE TEMP TABLE gbatch_failing AS
		SELECT q.*, n.attempts, n.attempts >= %[1]d OR q.code NOT IN `+transient+` AND q.code <> 0 AS final
		FROM (%[2]s) q
		JOIN (SELECT q.key, CASE WHEN f.batch = %[3]s THEN f.attempts ELSE coalesce(f.attempts, 0) + 1 END AS attempts FROM (%[2]s) q
			LEFT JOIN (SELECT * FROM gbatch.failures WHERE embeddings = %[4]s) f ON f.chunk_id = q.key AND f.text_hash = q.text_hash) n ON n.key = q.key`,
		w.MaxAttempts, query, duck.Literal(w.batch), duck.Literal(b.embeddings)))
	if err != nil {
		return err
	}
	n, err := c.Count("SELECT count(*) FROM gbatch_failing")
	if err != nil || n == 0 {
		return err
	}
	err = c.Exec(fmt.Sprintf(`DELETE FROM gbatch.failures WHERE embeddings = %[1]s AND chunk_id IN (SELECT key FROM gbatch_failing);
		INSERT INTO gbatch.failures SELECT key, text_hash, %[1]s, code, status, message, attempts, final, %[2]s, %[3]s::TIMESTAMP FROM gbatch_failing`,
		duck.Literal(b.embeddings), duck.Literal(w.batch), duck.Literal(now())))
	if err != nil || !s.courtesy() {
		return err
	}
	return c.Exec(fmt.Sprintf("UPDATE %s AS t SET %s FROM gbatch_failing f WHERE t.rowid = f.rid", s.sql,
		s.setCourtesy("CASE WHEN f.final THEN 'FAILED' ELSE 'PENDING' END", "CASE WHEN f.final THEN f.message END")))
}

// note writes what a job record says of its batch, and closes the batch if the
// job ended and its answers came, or will not come.
func (w *applier) note(c *duck.Conn, b claimedBatch, j *record.Job) error {
	reason := ""
	if j.Error != nil {
		reason = strings.TrimPrefix(fmt.Sprintf("%s: %s", j.Error.Status, j.Error.Message), ": ") // there may be no status
	}
	var succeeded, failed, tokens, closed any
	if j.Whole() {
		succeeded, failed = *j.Succeeded, *j.Failed
		if j.Tokens != nil {
			tokens = *j.Tokens
		}
		if err := w.unanswered(c, b); err != nil {
			return err
		}
	} else if j.Ended() && j.State != record.Succeeded {
		w.lost++
		slog.Warn("the job ended without results: its chunks are pending again", "batch", j.Batch, "job", j.Job, "state", j.State, "reason", cmp.Or(reason, "not given"))
	}
	if j.Whole() || j.Ended() && j.State != record.Succeeded {
		closed = now()
		if err := c.Exec("DELETE FROM gbatch.items WHERE batch = ? AND seq BETWEEN ? AND ?", w.batch, b.first, b.last); err != nil {
			return err
		}
	}
	var ended any
	if j.Ended() {
		if ended = closed; j.EndedAt != "" {
			ended = j.EndedAt
		}
	}
	return c.Exec(`UPDATE gbatch.jobs SET job = $2, state = $3, input = coalesce(nullif($4, ''), input), error = nullif($5, ''),
			succeeded = $6, failed = $7, tokens = $8, closed_at = $9::TIMESTAMP, ended_at = TRY_CAST($10 AS TIMESTAMP),
			submitted_at = coalesce(submitted_at, TRY_CAST(nullif($11, '') AS TIMESTAMP), $12::TIMESTAMP), canary = $13
		WHERE batch = $1`, w.batch, j.Job, j.State, j.Input, reason, succeeded, failed, tokens, closed, ended, j.CreatedAt, now(), j.Canary)
}

// unanswered makes the keys that the job did not answer pending again, by a
// transient error: a key that is not answered in MaxAttempts batches fails.
func (w *applier) unanswered(c *duck.Conn, b claimedBatch) error {
	if err := c.Exec("CREATE OR REPLACE TEMP TABLE gbatch_answered (key VARCHAR)"); err != nil {
		return err
	}
	rows, err := c.Appender("temp", "gbatch_answered", duck.Varchar)
	if err != nil {
		return err
	}
	for key := range w.keys {
		rows.SetText(0, key)
		if err := rows.Next(); err != nil {
			return err
		}
	}
	if err := rows.Close(); err != nil {
		return err
	}
	missing := fmt.Sprintf("SELECT i.chunk_id AS key, i.text_hash FROM %[1]s i WHERE i.text_hash IN (SELECT text_hash FROM %[1]s WHERE NOT twin AND chunk_id NOT IN (FROM gbatch_answered))", b.items)
	n, err := c.Count("SELECT count(*) FROM (" + missing + ")")
	if err != nil || n == 0 {
		return err
	}
	w.failed += int(n)
	w.asked += int(n)
	slog.Warn("keys were never answered: their chunks are pending again", "batch", w.batch, "keys", n)
	s, err := openSource(c, b.from, b.space)
	if err != nil {
		return err
	}
	return w.fail(c, b, s, fmt.Sprintf(`SELECT c.id, m.key, c.rid, m.text_hash, 0::BIGINT AS code, 'UNANSWERED' AS status, 'the job gave no answer for this key' AS message
		FROM (%s) m JOIN (SELECT %s AS id, %s AS rid, %s AS text_hash FROM %s) c ON c.id = TRY_CAST(m.key AS %s) AND c.text_hash = m.text_hash`,
		missing, s.id(), s.rid(), s.hash(), s.sql, s.idType))
}
