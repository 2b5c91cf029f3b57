package store

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"

	"gbatch/pkg/duck"
	"gbatch/pkg/record"
)

// transient is Google's codes of transient errors: DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED,
// ABORTED, INTERNAL, UNAVAILABLE.
// Source: google/rpc/code.proto; ai.google.dev/gemini-api/docs/troubleshooting.
const transient = "(4, 8, 10, 13, 14)"

// errApart is the error of batches that cannot be applied together.
var errApart = errors.New("two of the batches have the same text")

// answer writes the answers of a group to embeddings and failures.
func (w *applier) answer(c *duck.Conn, g *group) error {
	if err := g.join(c); err != nil {
		return err
	}
	s, err := w.open(c, g.origin)
	if err != nil {
		return err
	}
	// The user may have dropped the table since the claim.
	if err := createEmbeddings(c, g.embeddings, s.ids(), g.space.Dim); err != nil {
		return err
	}
	if s != nil {
		if err := s.fitVectors(c, g.embeddings); err != nil {
			return err
		}
	}
	if err := noteSpace(c, g.embeddings, g.space); err != nil {
		return err
	}
	if w.effort == everything && g.column != "" {
		s.column = g.column
		if err := s.hasColumn(g.column, g.space.Dim); err != nil {
			return err
		}
	}
	if err := w.stage(c, g); err != nil {
		return err
	}
	if err := w.resolve(c, g, s); err != nil {
		return err
	}
	if err := w.strangers(c, g); err != nil {
		return err
	}
	if err := w.vectors(c, g, s); err != nil {
		return err
	}
	return w.failures(c, g, s)
}

// join sets answers and items.
func (g *group) join(c *duck.Conn) error {
	var names []string
	first, end := int64(math.MaxInt64), int64(-1)
	for _, p := range g.parts {
		for i := range p.answers {
			g.answers = append(g.answers, &p.answers[i])
		}
		names = append(names, duck.Literal(p.batch))
		first, end = min(first, p.firstItem), max(end, p.endItem)
	}
	g.items = fmt.Sprintf("(SELECT * FROM gbatch.items WHERE batch IN (%s) AND seq BETWEEN %d AND %d)", strings.Join(names, ", "), first, end)
	if len(g.parts) == 1 {
		return nil
	}
	n, err := c.Count("SELECT count(*) FROM (SELECT text_hash FROM " + g.items + " GROUP BY text_hash HAVING min(batch) <> max(batch))")
	if err == nil && n > 0 {
		err = errApart
	}
	return err
}

// open is openSource for the batch's source. It returns nil if only the essential is
// written.
func (w *applier) open(c *duck.Conn, o origin) (*source, error) {
	if w.effort == noSource {
		return nil, nil
	}
	return openSource(c, o.from, o.space)
}

// resolve finds the chunks that the answers are for. The temporary table
// gbatch_target gets the chunks of the batch that have the text of an answer's
// key; gbatch_valid gets those of them that still have it, and the chunks to
// which such a text has moved. Without a source gbatch_valid is empty.
func (w *applier) resolve(c *duck.Conn, g *group, s *source) error {
	err := c.Exec(fmt.Sprintf(`CREATE OR REPLACE TEMP TABLE gbatch_target AS
			SELECT a.idx, i.chunk_id AS key, TRY_CAST(i.chunk_id AS %[1]s) AS id, i.text_hash
			FROM gbatch_answers a
			JOIN %[2]s k ON k.batch = a.batch AND k.chunk_id = a.key AND NOT k.twin
			JOIN %[2]s i ON i.batch = k.batch AND i.text_hash = k.text_hash`, s.ids(), g.items))
	if err != nil {
		return err
	}
	if s == nil {
		return c.Exec("CREATE OR REPLACE TEMP TABLE gbatch_valid AS SELECT t.* REPLACE (e.chunk_id AS id), NULL::BIGINT AS rid FROM gbatch_target t, " + duck.Ident(g.embeddings) + " e LIMIT 0")
	}
	err = c.Exec(fmt.Sprintf("CREATE OR REPLACE TEMP TABLE gbatch_here AS SELECT t.*, c.%s AS rid FROM %s c JOIN gbatch_target t ON t.id = c.%s", s.rid(), s.sql, s.id()))
	if err != nil {
		return err
	}
	// A batch is claimed in the order of the table, so only a part of the table
	// must be read. Of another source only the texts of the batch are hashed.
	part := fmt.Sprintf("WHERE %s IN (SELECT id FROM gbatch_here)", s.id())
	if s.table {
		_, err := c.One(func(r *duck.Rows) { part = fmt.Sprintf("WHERE rowid BETWEEN %d AND %d", r.Int(0), r.Int(1)) }, "SELECT min(rid), max(rid) FROM gbatch_here")
		if err != nil {
			return err
		}
	}
	err = c.Exec(fmt.Sprintf(`CREATE OR REPLACE TEMP TABLE gbatch_valid AS
		SELECT h.* FROM gbatch_here h JOIN (SELECT %s AS rid, %s AS text_hash FROM %s %s) c ON c.rid = h.rid WHERE c.text_hash = h.text_hash`,
		s.rid(), s.hash(), s.sql, part))
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
func (w *applier) stage(c *duck.Conn, g *group) error {
	if err := c.Exec("CREATE OR REPLACE TEMP TABLE gbatch_answers (idx BIGINT, batch VARCHAR, key VARCHAR, code BIGINT, status VARCHAR, message VARCHAR)"); err != nil {
		return err
	}
	rows, err := c.Appender("temp", "gbatch_answers", duck.BigInt, duck.Varchar, duck.Varchar, duck.BigInt, duck.Varchar, duck.Varchar)
	if err != nil {
		return err
	}
	for i, a := range g.answers {
		if a.err == nil && len(a.values) != g.space.Dim {
			a.err = &record.Status{Code: 13, Status: "INTERNAL", Message: fmt.Sprintf("the vector has %d values instead of %d", len(a.values), g.space.Dim)}
		}
		rows.SetInt(0, int64(i))
		rows.SetText(1, a.batch)
		rows.SetText(2, a.key)
		if a.err == nil {
			rows.SetNull(3)
			rows.SetNull(4)
			rows.SetNull(5)
		} else {
			rows.SetInt(3, int64(a.err.Code))
			rows.SetText(4, a.err.Status)
			rows.SetText(5, a.err.Message)
		}
		if err := rows.Next(); err != nil {
			return err
		}
	}
	return rows.Close()
}

// strangers reports answers for keys that their batch does not have. resolve found
// nothing for them.
func (w *applier) strangers(c *duck.Conn, g *group) error {
	return c.Each(func(r *duck.Rows) {
		a := g.answers[r.Int(0)]
		slog.Warn("a key was not in the batch: its answer is dropped", "batch", a.batch, "key", a.key)
		a.unknown++
		w.dropped++
	}, "SELECT idx FROM gbatch_answers WHERE idx NOT IN (SELECT idx FROM gbatch_target) ORDER BY idx")
}

// vectors writes the vectors that are not in the table yet.
func (w *applier) vectors(c *duck.Conn, g *group, s *source) error {
	e := duck.Ident(g.embeddings)
	err := c.Exec(fmt.Sprintf(`CREATE OR REPLACE TEMP TABLE gbatch_old AS
			SELECT rowid AS row, chunk_id, text_hash, batch FROM %[1]s WHERE chunk_id IN (SELECT id FROM gbatch_valid);
		CREATE OR REPLACE TEMP TABLE gbatch_fresh AS
			SELECT v.* FROM gbatch_valid v JOIN gbatch_answers a USING (idx) WHERE a.code IS NULL
			AND NOT EXISTS (SELECT 1 FROM gbatch_old e WHERE e.chunk_id = v.id AND e.text_hash = v.text_hash AND e.batch = a.batch);
		DELETE FROM gbatch.failures WHERE embeddings = %[2]s AND chunk_id IN (SELECT key FROM gbatch_fresh)`, e, duck.Literal(g.embeddings)))
	if err != nil {
		return err
	}
	// show replaces what was noted of the same chunks.
	if w.effort > everything || !s.kept() {
		if err := s.forget(c, "SELECT key FROM gbatch_fresh"); err != nil {
			return err
		}
	}
	if err := w.keep(c, g); err != nil {
		return err
	}
	if n, err := c.Count("SELECT count(*) FROM gbatch_old"); err != nil {
		return err
	} else if n > 0 {
		if err := retire(c, g.embeddings, "gbatch_fresh"); err != nil {
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
	rows, err := c.Inserter(fmt.Sprintf("INSERT INTO %s %s SELECT CAST(id AS %s), text_hash, embedding, tokens, batch, %s::TIMESTAMP FROM appended", e, embeddingColumns, s.ids(), duck.Literal(now())),
		[]string{"id", "text_hash", "embedding", "tokens", "batch"}, duck.Varchar, duck.UHugeInt, duck.FloatArray(g.space.Dim), duck.BigInt, duck.Varchar)
	if err != nil {
		return err
	}
	for r.Next() {
		a := g.answers[r.Int(0)]
		if key := r.Borrow(1); key == "" {
			rows.SetNull(0)
		} else {
			rows.SetText(0, key)
		}
		rows.SetUint128(1, r.Uint128(2))
		rows.SetFloats(2, a.values)
		rows.SetInt(3, max(a.tokens, 0))
		rows.SetText(4, a.batch)
		if err := rows.Next(); err != nil {
			return err
		}
	}
	if err := rows.Close(); err != nil {
		return err
	}
	if err := c.Exec("RESET preserve_insertion_order"); err != nil || w.effort > everything {
		return err
	}
	if err := c.Exec("CREATE OR REPLACE TEMP TABLE gbatch_shown AS SELECT id, key, rid, text_hash, 'READY' AS status, NULL::VARCHAR AS message, true AS off FROM gbatch_fresh WHERE key IS NOT NULL"); err != nil {
		return err
	}
	return s.show(c, g.embeddings)
}

// keep adds the texts that no chunk shows now to gbatch_fresh, without a chunk.
// A text whose vector is stored already is not added.
func (w *applier) keep(c *duck.Conn, g *group) error {
	kept, err := c.Count(fmt.Sprintf(`INSERT INTO gbatch_fresh (idx, text_hash) SELECT min(t.idx), t.text_hash FROM gbatch_target t JOIN gbatch_answers a USING (idx)
		WHERE a.code IS NULL AND t.text_hash NOT IN (SELECT text_hash FROM gbatch_valid) AND NOT EXISTS (SELECT 1 FROM %s e WHERE e.text_hash = t.text_hash) GROUP BY t.text_hash`, duck.Ident(g.embeddings)))
	if err == nil && kept > 0 && w.effort < noSource {
		slog.Info("no chunk has these texts now: their vectors are stored without a chunk", "batch", g.parts[0].batch, "texts", kept)
	}
	return err
}

// failures writes the errors of keys. A transient one leaves its chunk pending
// until the text was sent MaxAttempts times.
func (w *applier) failures(c *duck.Conn, g *group, s *source) error {
	failed := 0
	for _, a := range g.answers {
		if a.err != nil {
			failed++
		}
	}
	if failed == 0 {
		return nil
	}
	w.failed += failed
	failing := "gbatch_valid"
	if s == nil {
		failing = "(SELECT *, NULL::BIGINT AS rid FROM gbatch_target)"
	}
	return w.fail(c, g.origin, s, "SELECT v.id, v.key, v.rid, v.text_hash, a.batch, a.code, a.status, a.message FROM "+failing+" v JOIN gbatch_answers a USING (idx) WHERE a.code IS NOT NULL")
}

// fail writes the failures that query yields as id, key, rid, text_hash, batch,
// code, status and message. A batch counts as one attempt, however often it is
// applied.
func (w *applier) fail(c *duck.Conn, o origin, s *source, query string) error {
	err := c.Exec(fmt.Sprintf(`CREATE OR REPLACE TEMP TABLE gbatch_failing AS
		SELECT q.*, n.attempts, n.attempts >= %[1]d OR q.code NOT IN `+transient+` AND q.code <> 0 AS final
		FROM (%[2]s) q
		JOIN (SELECT q.key, CASE WHEN f.batch = q.batch THEN f.attempts ELSE coalesce(f.attempts, 0) + 1 END AS attempts FROM (%[2]s) q
			LEFT JOIN (SELECT * FROM gbatch.failures WHERE embeddings = %[3]s) f ON f.chunk_id = q.key AND f.text_hash = q.text_hash) n ON n.key = q.key`,
		w.MaxAttempts, query, duck.Literal(o.embeddings)))
	if err != nil {
		return err
	}
	n, err := c.Count("SELECT count(*) FROM gbatch_failing")
	if err != nil || n == 0 {
		return err
	}
	err = c.Exec(fmt.Sprintf(`DELETE FROM gbatch.failures WHERE embeddings = %[1]s AND chunk_id IN (SELECT key FROM gbatch_failing);
		INSERT INTO gbatch.failures SELECT key, text_hash, %[1]s, code, status, message, attempts, final, batch, %[2]s::TIMESTAMP FROM gbatch_failing`,
		duck.Literal(o.embeddings), duck.Literal(now())))
	if err == nil {
		err = s.forget(c, "SELECT key FROM gbatch_failing WHERE final")
	}
	if err != nil || w.effort > everything || !s.courtesy() {
		return err
	}
	// A chunk that was to get another vector still has its old one.
	err = c.Exec(fmt.Sprintf(`CREATE OR REPLACE TEMP TABLE gbatch_shown AS SELECT id, key, rid, text_hash, 'FAILED' AS status, message, true AS off FROM gbatch_failing f
		WHERE final AND NOT EXISTS (SELECT 1 FROM %s e WHERE e.chunk_id = f.id AND e.text_hash = f.text_hash)`, duck.Ident(o.embeddings)))
	if err != nil {
		return err
	}
	return s.show(c, o.embeddings)
}

// unanswered makes the keys that the job did not answer pending again, by a
// transient error: a key that is not answered in MaxAttempts batches fails.
func (w *applier) unanswered(c *duck.Conn, p *part) error {
	if len(p.keys)-w.unknown[p.batch]-p.unknown == p.requests {
		return nil
	}
	if err := c.Exec("CREATE OR REPLACE TEMP TABLE gbatch_answered (key VARCHAR)"); err != nil {
		return err
	}
	rows, err := c.Appender("temp", "gbatch_answered", duck.Varchar)
	if err != nil {
		return err
	}
	for key := range p.keys {
		rows.SetText(0, key)
		if err := rows.Next(); err != nil {
			return err
		}
	}
	if err := rows.Close(); err != nil {
		return err
	}
	missing := fmt.Sprintf("SELECT i.chunk_id AS key, i.text_hash FROM %[1]s i WHERE i.text_hash IN (SELECT text_hash FROM %[1]s WHERE NOT twin AND chunk_id NOT IN (FROM gbatch_answered))", items(p.batch, p.firstItem, p.endItem))
	n, err := c.Count("SELECT count(*) FROM (" + missing + ")")
	if err != nil || n == 0 {
		return err
	}
	w.failed += int(n)
	w.asked += int(n)
	slog.Warn("keys were never answered: their chunks are pending again", "batch", p.batch, "keys", n)
	batch := duck.Literal(p.batch)
	s, err := w.open(c, p.origin)
	if err != nil {
		return err
	}
	if s == nil {
		return w.fail(c, p.origin, s, "SELECT NULL AS id, key, NULL::BIGINT AS rid, text_hash, "+batch+" AS batch, 0::BIGINT AS code, 'UNANSWERED' AS status, 'the job gave no answer for this key' AS message FROM ("+missing+")")
	}
	return w.fail(c, p.origin, s, fmt.Sprintf(`SELECT c.id, m.key, c.rid, m.text_hash, %s AS batch, 0::BIGINT AS code, 'UNANSWERED' AS status, 'the job gave no answer for this key' AS message
		FROM (%s) m JOIN (SELECT %s AS id, %s AS rid, %s AS text_hash FROM %s) c ON c.id = TRY_CAST(m.key AS %s) AND c.text_hash = m.text_hash`,
		batch, missing, s.id(), s.rid(), s.hash(), s.sql, s.idType))
}
