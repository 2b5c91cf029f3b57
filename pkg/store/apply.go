package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"gbatch/pkg/exit"
	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/record"
	"gbatch/pkg/vector"
)

// Apply is vectors-apply: it writes vectors and errors of keys back, and closes
// a batch when the job record behind its last answer comes.
//
// A vector goes only to chunks whose text is still the one that was sent.
// Applying the same records again changes nothing.
type Apply struct {
	Database    `embed:""`
	Embeddings  string `help:"Refuse batches that were claimed for another table than this."`
	MaxAttempts int    `default:"3" help:"How often a text is sent whose errors may pass, before it counts as failed."`
	Column      string `help:"Also write vectors into this column of the chunks table."`
}

// transaction is how many answers are applied at a time, unless the batch ends
// before. It bounds the memory: 123 MB at 3072 values.
const transaction = 10_000

// Google's codes of errors that may pass: DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED,
// ABORTED, INTERNAL, UNAVAILABLE.
// Source: google/rpc/code.proto; ai.google.dev/gemini-api/docs/troubleshooting.
const transient = "(4, 8, 10, 13, 14)"

// An answer is a vector, or an error, for one key.
type answer struct {
	key    string
	values []float32
	tokens int64
	err    *record.Status
}

// A unit is what goes into the database in one transaction: answers of one
// batch, and how it goes on with the batch.
type unit struct {
	batch   string
	answers []answer
	arena   []float32           // holds the answers' values
	lines   int                 // vector and error lines of the batch up to here
	keys    map[string]struct{} // of the answers of the batch, whole in the last unit
	twice   int                 // second answers among them
	last    bool                // the batch has no more answers in the input
	job     *record.Job         // the record behind its last answer, where it came
}

// A divider reads the input and divides it into units.
type divider struct {
	ctx   context.Context
	units chan *unit
	free  chan *unit
	at    *unit
	err   error // what ended the reading, once units is closed; nil at the end of the input
}

func (d *divider) run(in io.Reader) {
	defer close(d.units)
	r := ndjson.NewReader(in)
	var parser record.AnswerParser
	for d.err == nil {
		line, err := r.Next()
		if err == nil {
			var rec record.Answer
			if rec, err = parser.Parse(line); err == nil {
				err = d.take(rec)
			}
			if err != nil {
				err = r.Errorf("%w", err)
			}
		}
		d.err = err
	}
	// What came whole before an error is kept: it is paid for.
	if d.at != nil {
		d.at.last = true
		d.send()
	}
	if d.err == io.EOF {
		d.err = nil
	}
}

// take adds a record to the unit at hand, or sends that on and begins another.
func (d *divider) take(rec record.Answer) error {
	if rec.Batch == "" {
		return errors.New("the record has no batch: its chunks were not claimed by chunks-pending, so there is no text to hold it against")
	}
	if d.at != nil && d.at.batch != rec.Batch {
		d.at.last = true
		d.send()
	}
	if d.at == nil {
		d.begin(rec.Batch, 0, map[string]struct{}{})
	}
	if rec.Job != nil {
		d.at.job, d.at.last = rec.Job, true
		d.send()
		return nil
	}
	if len(d.at.answers) == transaction {
		lines, keys := d.at.lines, d.at.keys
		d.send()
		d.begin(rec.Batch, lines, keys)
	}
	u := d.at
	u.lines++
	if _, again := u.keys[rec.Key]; again {
		slog.Warn("a key is answered twice: the second answer is dropped", "batch", u.batch, "key", rec.Key)
		u.twice++
		return nil
	}
	u.keys[rec.Key] = struct{}{}
	ans := answer{key: rec.Key, tokens: rec.Tokens, err: rec.Err}
	switch {
	case rec.Err != nil:
	case len(rec.Values) > model.MaxDim:
		ans.err = &record.Status{Code: 13, Status: "INTERNAL", Message: fmt.Sprintf("the vector has %d values", len(rec.Values))}
	case !vector.Finite(rec.Values):
		ans.err = &record.Status{Code: 13, Status: "INTERNAL", Message: "the vector has a value that is not a finite number"}
	default:
		if u.arena == nil {
			u.arena = make([]float32, 0, transaction*len(rec.Values))
			u.answers = slices.Grow(u.answers, transaction)
		}
		n := len(u.arena)
		u.arena = append(u.arena, rec.Values...)
		ans.values = u.arena[n:len(u.arena):len(u.arena)]
	}
	u.answers = append(u.answers, ans)
	return nil
}

// begin takes a free unit for answers of a batch.
func (d *divider) begin(batch string, lines int, keys map[string]struct{}) {
	select {
	case d.at = <-d.free:
	case <-d.ctx.Done():
		d.at = new(unit)
	}
	*d.at = unit{batch: batch, answers: d.at.answers[:0], arena: d.at.arena[:0], lines: lines, keys: keys}
}

func (d *divider) send() {
	select {
	case d.units <- d.at:
	case <-d.ctx.Done():
	}
	d.at = nil
}

// An applier is a run of Apply.
type applier struct {
	*Apply
	*unit      // at hand
	done  bool // the batch of the unit was closed before

	failed, dropped, lost, unwhole int
}

// Run applies the records of in, and prints to out each job record whose
// effect is in the database. The next records are read while some are written.
func (a *Apply) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	if a.MaxAttempts < 1 {
		return exit.Errorf(exit.Usage, "--max-attempts is at least 1")
	}
	defer a.end()
	reading, stop := context.WithCancel(ctx)
	defer stop()
	d := divider{ctx: reading, units: make(chan *unit), free: make(chan *unit, 2)}
	d.free <- new(unit)
	d.free <- new(unit)
	go d.run(in)
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

// apply writes the unit at hand in one transaction, and returns the job record
// whose effect is in the database now. A batch whose answers did not all come
// stays open.
func (w *applier) apply(ctx context.Context) (*record.Job, error) {
	j := w.job
	if j != nil && j.Whole() && w.lines != *j.Succeeded+*j.Failed {
		slog.Warn("not every answer of the job is in the input", "batch", j.Batch, "came", w.lines, "printed", *j.Succeeded+*j.Failed)
		j = nil
	}
	if err := w.transact(ctx, write, func(c *conn) error { return w.write(c, j) }); err != nil {
		return nil, err
	}
	w.dropped += w.twice
	if w.last && j == nil && !w.done {
		w.unwhole++
	}
	return j, nil
}

// verdict is the error of a run whose input came to its end.
func (w *applier) verdict() error {
	var parts []string
	add := func(n int, what string) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf(what, n))
		}
	}
	add(w.failed, "%d keys failed")
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

// A claim is what the database knows of a batch.
type claim struct {
	job, from, embeddings string
	dim                   int
	closed                bool
	first, last           int64  // seq of the items
	items                 string // a SELECT of them
}

func (w *applier) write(c *conn, j *record.Job) error {
	if ok, err := c.hasSchema(); err != nil {
		return err
	} else if !ok {
		return fmt.Errorf("no chunk of %s was ever claimed, so batch %s is not from it", w.DB, w.batch)
	}
	var b claim
	found, err := c.one(func(r *rows) {
		b = claim{job: r.string(0), from: r.string(1), embeddings: r.string(2), dim: int(r.int(3)), closed: r.bool(4), first: r.int(5), last: r.int(6)}
		b.items = items(w.batch, b.first, b.last)
	}, "SELECT job, source, embeddings, dim, closed_at IS NOT NULL, first_seq, last_seq FROM gbatch.jobs WHERE batch = ?", w.batch)
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
	return w.note(c, b, j)
}

// answer writes the answers at hand to embeddings and failures.
func (w *applier) answer(c *conn, b claim) error {
	s, err := c.source(b.from)
	if err != nil {
		return err
	}
	if w.Column != "" {
		if err := s.hasColumn(w.Column, b.dim); err != nil {
			return err
		}
	}
	if err := w.stage(c, b); err != nil {
		return err
	}
	if err := w.resolve(c, b, s); err != nil {
		return err
	}
	if n, err := c.count("SELECT (SELECT count(*) FROM gbatch_target) - (SELECT count(*) FROM gbatch_valid)"); err != nil {
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

// resolve finds which chunks the answers are for: those of the batch with the
// text of the key, into the temporary table target, and of these the ones whose
// text is that still, into valid, with those that the text has moved to.
func (w *applier) resolve(c *conn, b claim, s *source) error {
	err := c.exec(fmt.Sprintf(`CREATE OR REPLACE TEMP TABLE gbatch_target AS
			SELECT a.idx, i.chunk_id AS key, TRY_CAST(i.chunk_id AS %[1]s) AS id, i.text_hash
			FROM gbatch_answers a
			JOIN %[2]s k ON k.chunk_id = a.key AND NOT k.twin
			JOIN %[2]s i ON i.text_hash = k.text_hash;
		CREATE OR REPLACE TEMP TABLE gbatch_here AS
			SELECT t.*, c.%[3]s AS rid FROM %[4]s c JOIN gbatch_target t ON t.id = c.id`,
		s.idType, b.items, s.rid(), s.sql))
	if err != nil {
		return err
	}
	// Of a table, only the rows around those that matter are read: a batch was
	// claimed in the order of the table.
	between := ""
	if s.table {
		_, err := c.one(func(r *rows) { between = fmt.Sprintf("WHERE rowid BETWEEN %d AND %d", r.int(0), r.int(1)) }, "SELECT min(rid), max(rid) FROM gbatch_here")
		if err != nil {
			return err
		}
	}
	err = c.exec(fmt.Sprintf(`CREATE OR REPLACE TEMP TABLE gbatch_valid AS
		SELECT h.* FROM gbatch_here h JOIN (SELECT %s AS rid, %s AS text_hash FROM %s %s) c ON c.rid = h.rid WHERE c.text_hash = h.text_hash`,
		s.rid(), s.hash(), s.sql, between))
	if err != nil {
		return err
	}
	// A text that no chunk of the batch has any more is paid for all the same:
	// where it has moved to another chunk, that one takes the answer.
	const moved = "(SELECT text_hash, min(idx) AS idx FROM gbatch_target WHERE text_hash NOT IN (SELECT text_hash FROM gbatch_valid) GROUP BY text_hash)"
	if n, err := c.count("SELECT count(*) FROM " + moved); err != nil || n == 0 {
		return err
	}
	return c.exec(fmt.Sprintf(`INSERT INTO gbatch_valid SELECT m.idx, CAST(c.id AS VARCHAR), c.id, m.text_hash, c.rid
		FROM (SELECT id, %s AS rid, %s AS text_hash FROM %s) c JOIN `+moved+` m ON m.text_hash = c.text_hash`, s.rid(), s.hash(), s.sql))
}

// stage writes the answers at hand to the temporary table answers. A vector of
// another length than the batch's is an error like Google's own.
func (w *applier) stage(c *conn, b claim) error {
	if err := c.exec("CREATE OR REPLACE TEMP TABLE gbatch_answers (idx BIGINT, key VARCHAR, code BIGINT, status VARCHAR, message VARCHAR)"); err != nil {
		return err
	}
	rows, err := c.appender("temp", "main", "gbatch_answers", bigint(), varchar(), bigint(), varchar(), varchar())
	if err != nil {
		return err
	}
	for i := range w.answers {
		a := &w.answers[i]
		if a.err == nil && len(a.values) != b.dim {
			a.err = &record.Status{Code: 13, Status: "INTERNAL", Message: fmt.Sprintf("the vector has %d values instead of %d", len(a.values), b.dim)}
		}
		rows.setInt(0, int64(i))
		rows.setString(1, a.key)
		if a.err == nil {
			rows.setNull(2)
			rows.setNull(3)
			rows.setNull(4)
		} else {
			rows.setInt(2, int64(a.err.Code))
			rows.setString(3, a.err.Status)
			rows.setString(4, a.err.Message)
		}
		if err := rows.next(); err != nil {
			return err
		}
	}
	return rows.close()
}

// strangers reports answers for keys that the batch does not have.
func (w *applier) strangers(c *conn, b claim) error {
	r, err := c.query("SELECT key FROM gbatch_answers WHERE key NOT IN (SELECT chunk_id FROM " + b.items + " WHERE NOT twin) ORDER BY idx")
	if err != nil {
		return err
	}
	defer r.close()
	for r.next() {
		slog.Warn("a key was never asked for: its answer is dropped", "batch", w.batch, "key", r.string(0))
		w.dropped++
	}
	return nil
}

// vectors writes the vectors that are not in the table yet.
func (w *applier) vectors(c *conn, b claim, s *source) error {
	e := ident(b.embeddings)
	err := c.exec(fmt.Sprintf(`CREATE OR REPLACE TEMP TABLE gbatch_old AS
			SELECT rowid AS row, chunk_id, text_hash, batch FROM %[1]s WHERE chunk_id IN (SELECT id FROM gbatch_valid);
		CREATE OR REPLACE TEMP TABLE gbatch_fresh AS
			SELECT v.* FROM gbatch_valid v JOIN gbatch_answers a USING (idx) WHERE a.code IS NULL
			AND NOT EXISTS (SELECT 1 FROM gbatch_old e WHERE e.chunk_id = v.id AND e.text_hash = v.text_hash AND e.batch = %[2]s);
		DELETE FROM gbatch.failures WHERE embeddings = %[3]s AND chunk_id IN (SELECT key FROM gbatch_fresh)`, e, literal(w.batch), literal(b.embeddings)))
	if err != nil {
		return err
	}
	if n, err := c.count("SELECT count(*) FROM gbatch_old"); err != nil {
		return err
	} else if n > 0 {
		if err := c.retire(b.embeddings, "gbatch_fresh"); err != nil {
			return err
		}
	}
	r, err := c.query("SELECT DISTINCT idx, key, text_hash FROM gbatch_fresh ORDER BY idx, key")
	if err != nil {
		return err
	}
	defer r.close()
	// The rows may go in as the cores come to them.
	if err := c.exec("SET preserve_insertion_order = false"); err != nil {
		return err
	}
	rows, err := c.inserter(fmt.Sprintf("INSERT INTO %s SELECT CAST(id AS %s), text_hash, embedding, tokens, %s, %s::TIMESTAMP FROM appended", e, s.idType, literal(w.batch), literal(now())),
		[]string{"id", "text_hash", "embedding", "tokens"}, varchar(), hugeint(), floats(b.dim), bigint())
	if err != nil {
		return err
	}
	for r.next() {
		a := &w.answers[r.int(0)]
		rows.setString(0, r.borrow(1))
		rows.setHash(1, r.hash(2))
		rows.setVector(2, a.values)
		rows.setInt(3, max(a.tokens, 0))
		if err := rows.next(); err != nil {
			return err
		}
	}
	if err := rows.close(); err != nil {
		return err
	}
	if err := c.exec("RESET preserve_insertion_order"); err != nil {
		return err
	}
	return c.ready(s, b.embeddings, "gbatch_fresh", w.Column)
}

// failures writes the errors of keys. One that may pass leaves its chunk
// pending until the text was sent MaxAttempts times.
func (w *applier) failures(c *conn, b claim, s *source) error {
	for _, a := range w.answers {
		if a.err != nil {
			w.failed++
		}
	}
	return w.fail(c, b, s, "SELECT v.id, v.key, v.rid, v.text_hash, a.code, a.status, a.message FROM gbatch_valid v JOIN gbatch_answers a USING (idx) WHERE a.code IS NOT NULL")
}

// fail writes the failures that a SELECT of id, key, rid, text_hash, code,
// status and message gives. An attempt counts once however often it is
// applied.
func (w *applier) fail(c *conn, b claim, s *source, query string) error {
	err := c.exec(fmt.Sprintf(`CREATE OR REPLACE TEMP TABLE gbatch_failing AS
		SELECT q.*, n.attempts, n.attempts >= %[1]d OR q.code NOT IN `+transient+` AND q.code <> 0 AS final
		FROM (%[2]s) q
		JOIN (SELECT q.key, CASE WHEN f.batch = %[3]s THEN f.attempts ELSE coalesce(f.attempts, 0) + 1 END AS attempts FROM (%[2]s) q
			LEFT JOIN (SELECT * FROM gbatch.failures WHERE embeddings = %[4]s) f ON f.chunk_id = q.key AND f.text_hash = q.text_hash) n ON n.key = q.key`,
		w.MaxAttempts, query, literal(w.batch), literal(b.embeddings)))
	if err != nil {
		return err
	}
	n, err := c.count("SELECT count(*) FROM gbatch_failing")
	if err != nil || n == 0 {
		return err
	}
	err = c.exec(fmt.Sprintf(`DELETE FROM gbatch.failures WHERE embeddings = %[1]s AND chunk_id IN (SELECT key FROM gbatch_failing);
		INSERT INTO gbatch.failures SELECT key, text_hash, %[1]s, code, status, message, attempts, final, %[2]s, %[3]s::TIMESTAMP FROM gbatch_failing`,
		literal(b.embeddings), literal(w.batch), literal(now())))
	if err != nil || !s.courtesy() {
		return err
	}
	return c.exec(fmt.Sprintf("UPDATE %s AS t SET %s FROM gbatch_failing f WHERE t.rowid = f.rid", s.sql,
		s.setCourtesy("CASE WHEN f.final THEN 'FAILED' ELSE 'PENDING' END", "CASE WHEN f.final THEN f.message END")))
}

// note writes what a job record says of its batch. A job that ended closes it.
func (w *applier) note(c *conn, b claim, j *record.Job) error {
	reason := ""
	if j.Error != nil {
		reason = strings.TrimPrefix(fmt.Sprintf("%s: %s", j.Error.Status, j.Error.Message), ": ") // a status is optional
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
		if err := c.exec("DELETE FROM gbatch.items WHERE batch = ? AND seq BETWEEN ? AND ?", w.batch, b.first, b.last); err != nil {
			return err
		}
	}
	var ended any
	if j.Ended() {
		if ended = closed; j.EndedAt != "" {
			ended = j.EndedAt
		}
	}
	return c.exec(`UPDATE gbatch.jobs SET job = $2, state = $3, input = coalesce(nullif($4, ''), input), error = nullif($5, ''),
			succeeded = $6, failed = $7, tokens = $8, closed_at = $9::TIMESTAMP, ended_at = TRY_CAST($10 AS TIMESTAMP),
			submitted_at = coalesce(submitted_at, TRY_CAST(nullif($11, '') AS TIMESTAMP), $12::TIMESTAMP), canary = $13
		WHERE batch = $1`, w.batch, j.Job, j.State, j.Input, reason, succeeded, failed, tokens, closed, ended, j.CreatedAt, now(), j.Canary)
}

// unanswered makes the keys that the job never answered pending again, as an
// error that may pass: a key that is never answered ends as failed.
func (w *applier) unanswered(c *conn, b claim) error {
	if err := c.exec("CREATE OR REPLACE TEMP TABLE gbatch_answered (key VARCHAR)"); err != nil {
		return err
	}
	rows, err := c.appender("temp", "main", "gbatch_answered", varchar())
	if err != nil {
		return err
	}
	for key := range w.keys {
		rows.setString(0, key)
		if err := rows.next(); err != nil {
			return err
		}
	}
	if err := rows.close(); err != nil {
		return err
	}
	missing := fmt.Sprintf("SELECT i.chunk_id AS key, i.text_hash FROM %[1]s i WHERE i.text_hash IN (SELECT text_hash FROM %[1]s WHERE NOT twin AND chunk_id NOT IN (FROM gbatch_answered))", b.items)
	n, err := c.count("SELECT count(*) FROM (" + missing + ")")
	if err != nil || n == 0 {
		return err
	}
	w.failed += int(n)
	slog.Warn("keys were never answered: their chunks are pending again", "batch", w.batch, "keys", n)
	s, err := c.source(b.from)
	if err != nil {
		return err
	}
	return w.fail(c, b, s, fmt.Sprintf(`SELECT c.id, m.key, c.rid, m.text_hash, 0::BIGINT AS code, 'UNANSWERED' AS status, 'the job gave no answer for this key' AS message
		FROM (%s) m JOIN (SELECT id, %s AS rid, %s AS text_hash FROM %s) c ON c.id = TRY_CAST(m.key AS %s) AND c.text_hash = m.text_hash`,
		missing, s.rid(), s.hash(), s.sql, s.idType))
}

// ready keeps the courtesy columns, and the column for vectors, in step for
// the chunks of a temporary table with id and rid.
func (c *conn) ready(s *source, embeddings, table, column string) error {
	// One UPDATE, since a row may have another rowid after it.
	from, set := table+" u", ""
	if s.courtesy() {
		set = s.setCourtesy("'READY'", "NULL")
	}
	if column != "" {
		from += " JOIN " + ident(embeddings) + " e ON e.chunk_id = u.id"
		set = strings.TrimPrefix(set+", "+ident(column)+" = e.embedding", ", ")
	}
	if set == "" {
		return nil
	}
	return c.exec(fmt.Sprintf("UPDATE %s AS t SET %s FROM %s WHERE t.rowid = u.rid", s.sql, set, from))
}

// hasColumn refuses a column that cannot take vectors.
func (s *source) hasColumn(name string, dim int) error {
	want := []string{fmt.Sprintf("FLOAT[%d]", dim), "FLOAT[]"}
	switch t := s.columns[strings.ToLower(name)]; {
	case !s.table:
		return exit.Errorf(exit.Usage, "--column writes into a table, but the chunks come from %s", s.from)
	case t == "":
		return exit.Errorf(exit.Usage, "table %s has no column %s; make it with ALTER TABLE %s ADD COLUMN %s %s", s.from, name, s.from, name, want[0])
	case !slices.Contains(want, t):
		return exit.Errorf(exit.Usage, "column %s of table %s is %s, not %s", name, s.from, t, want[0])
	}
	return nil
}
