package store

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
)

// Courtesy columns are columns of the user's table that the toolkit keeps in
// step: embedding_status, error_message and the one of --column.
//
// The table gbatch.noted holds what the toolkit wrote last, for which text and
// to which row. So PENDING on a row that the toolkit left READY or FAILED is
// known to be the user's wish. Any other PENDING is the toolkit's own, or the
// column's default in a row that was inserted again: it is set right at no cost.

// examine finds out what the courtesy columns of a table take, and whether there
// is a table of what was noted.
func (s *source) examine(c *duck.Conn) error {
	s.blank = "NULL"
	if !s.table {
		return nil
	}
	r, err := c.Query(`SELECT lower(column_name), comment, is_nullable, table_name = 'noted' FROM duckdb_columns() WHERE database_name = current_database()
		AND (schema_name = $1 AND table_name = $2 AND lower(column_name) IN ('embedding_status', 'error_message') OR schema_name = $3 AND table_name = 'noted')`, s.schema, s.name, schema)
	if err != nil {
		return err
	}
	defer r.Close()
	for r.Next() {
		switch {
		case r.Bool(3):
			s.noted = true
		case r.Borrow(0) == "embedding_status":
			s.comment = r.Text(1)
		case !r.Bool(2):
			s.blank = "''"
		}
	}
	return nil
}

// courtesy reports whether the source is a table with a column for the status.
func (s *source) courtesy() bool {
	t := s.columns["embedding_status"]
	return s.table && (t == "VARCHAR" || strings.HasPrefix(t, "ENUM("))
}

// explains reports whether the table has a column for the messages of errors.
func (s *source) explains() bool { return s.columns["error_message"] == "VARCHAR" }

// kept reports whether the source has columns that are kept in step.
func (s *source) kept() bool { return s.noted && (s.courtesy() || s.table && s.column != "") }

// managed reports whether the toolkit has set the courtesy columns before.
func (s *source) managed() bool { return strings.Contains(s.comment, mark) }

// follow takes over the column of --column of the last claim.
func (s *source) follow(c *duck.Conn, embeddings string) error {
	_, err := c.One(func(r *duck.Rows) {
		if name := r.Text(0); s.columns[strings.ToLower(name)] != "" {
			s.column = name
		}
	}, "SELECT vector_column FROM gbatch.jobs WHERE source = ? AND embeddings = ? ORDER BY batch DESC LIMIT 1", s.from, embeddings)
	return err
}

// reset is the SQL for whether a row says PENDING, which may be a wish.
func (s *source) reset() string {
	if !s.managed() || !s.kept() {
		return "false"
	}
	return "coalesce(embedding_status = 'PENDING', false)"
}

// says is the SQL for what the courtesy columns of a row hold, as more columns
// of a SELECT.
func (s *source) says() string {
	if !s.kept() {
		return ""
	}
	status, why, filled := "NULL", "NULL", "NULL"
	if s.courtesy() {
		status = "embedding_status::VARCHAR"
		if s.explains() {
			why = "error_message"
		}
	}
	if s.column != "" {
		filled = duck.Ident(s.column) + " IS NOT NULL"
	}
	return fmt.Sprintf(", %s AS says, %s AS says_why, %s AS filled", status, why, filled)
}

// recall joins what was noted to a SELECT of chunks with key, rid, text_hash,
// reset and [source.says]. It adds noted, the status that was written last to
// the row for its present text, noted_column, and remembered, which tells that
// anything was noted of the chunk. Of reset it leaves the wishes.
//
// An UPDATE of a list moves rows to other rowids, so with --column it is the
// vector in the column that tells a row from one that was inserted again.
func (s *source) recall(chunks string) string {
	if !s.kept() {
		return chunks
	}
	row, wish := " AND n.row = b.rid", "true"
	if s.column != "" {
		row, wish = "", "(b.filled OR n.status = 'FAILED')"
	}
	same := "n.text_hash = b.text_hash" + row
	return fmt.Sprintf(`SELECT b.* REPLACE (b.reset AND coalesce(%s AND %s, false) AS reset), CASE WHEN %[1]s THEN n.status END AS noted, n.vector_column AS noted_column, n.chunk_id IS NOT NULL AS remembered
		FROM (%[3]s) b LEFT JOIN (SELECT * FROM gbatch.noted WHERE source = %[4]s) n ON n.chunk_id = b.key`, same, wish, chunks, duck.Literal(s.sql))
}

// due is the SQL for two conditions on a row of [source.status]: that its
// status and message are not what they should be, and that it must be noted
// again, or what was noted forgotten.
func (s *source) due() (off, unnoted string) {
	if !s.kept() {
		return "false", "false"
	}
	off, unnoted = "false", "CASE WHEN status IN ('READY', 'FAILED') THEN noted IS DISTINCT FROM status ELSE remembered END"
	if s.courtesy() {
		off = "says IS DISTINCT FROM " + s.word("status")
		if s.explains() {
			off = fmt.Sprintf("(%s OR says_why IS DISTINCT FROM %s)", off, s.why("status", "message"))
		}
	}
	if s.column != "" {
		unnoted += " OR status = 'READY' AND (NOT filled OR noted_column IS DISTINCT FROM " + duck.Literal(s.column) + ")"
	}
	return off + " AND NOT reset", "(" + unnoted + ") AND NOT reset"
}

// word and why are the SQL for what embedding_status and error_message are to
// hold for a status and a message.
func (s *source) word(status string) string {
	return fmt.Sprintf("CASE %[1]s WHEN 'QUEUED' THEN 'PENDING' ELSE %[1]s END", status)
}
func (s *source) why(status, message string) string {
	return fmt.Sprintf("CASE WHEN %s = 'FAILED' THEN coalesce(%s, %s) ELSE %[3]s END", status, message, s.blank)
}

// setCourtesy is the SET list of an UPDATE of the courtesy columns.
func (s *source) setCourtesy(status, message string) string {
	list := "embedding_status = " + s.word(status)
	if s.explains() {
		list += ", error_message = " + s.why(status, message)
	}
	return list
}

// begin marks a table that is new, and forgets what was noted of another table
// of its name. If all rows that were READY say PENDING, the table was filled
// anew, and none of them is a wish. The same holds for more than manyAgain rows
// at the end of the table: DuckDB gives rows that were deleted and inserted again
// their old numbers if a checkpoint comes between.
func (s *source) begin(c *duck.Conn) error {
	if !s.courtesy() {
		return nil
	}
	forget := "DELETE FROM gbatch.noted WHERE source = " + duck.Literal(s.sql)
	if !s.managed() {
		s.comment = strings.TrimSpace(s.comment + " " + mark)
		return c.Exec(forget + "; COMMENT ON COLUMN " + s.sql + ".embedding_status IS " + duck.Literal(s.comment))
	}
	if s.column != "" {
		return nil // see recall
	}
	ready := fmt.Sprintf("FROM %s t JOIN gbatch.noted n ON n.row = t.rowid AND n.chunk_id = CAST(t.id AS VARCHAR) WHERE n.source = %s AND n.status = 'READY' AND embedding_status", s.sql, duck.Literal(s.sql))
	n, err := c.Count("SELECT count(*) FROM (SELECT 1 FROM " + s.sql + " WHERE embedding_status = 'PENDING' LIMIT 1)") // the usual case is fast
	if err != nil || n == 0 {
		return err
	}
	last, err := c.Count("SELECT coalesce(max(n.row), -1) " + ready + " IS DISTINCT FROM 'PENDING'")
	if err != nil {
		return err
	}
	behind := fmt.Sprintf(" AND n.row > %d", last)
	if n, err = c.Count("SELECT count(*) " + ready + " = 'PENDING'" + behind); err != nil || n == 0 || last >= 0 && n <= manyAgain {
		return err
	}
	slog.Warn("READY chunks up to the end of the table say PENDING: they count as inserted again, and no text is embedded again that has a vector (to embed texts again, delete their rows from the table of vectors)", "table", s.from, "chunks", n)
	return c.Exec(fmt.Sprintf("%s AND row > %d", forget, last))
}

// forget deletes what was noted of the chunks that a query yields: if the
// courtesy columns are not written after this, a PENDING in them is not a wish.
// For a source that is not known it is that of all tables.
func (s *source) forget(c *duck.Conn, keys string) error {
	of := "true"
	if s != nil {
		of = "source = " + duck.Literal(s.sql)
	}
	return c.Exec("DELETE FROM gbatch.noted WHERE " + of + " AND chunk_id IN (" + keys + ")")
}

// show writes the courtesy columns of the chunks in the temporary table
// gbatch_shown, which has id, key, rid, text_hash, status, message and off, and
// notes what it wrote. A row is only noted if it is not off and its vector is in
// the column of --column. It must come last in a transaction that uses rowids:
// an UPDATE may give a row another.
func (s *source) show(c *duck.Conn, embeddings string) error {
	if !s.kept() {
		return nil
	}
	if n, err := c.Count("SELECT count(*) FROM gbatch_shown"); err != nil || n == 0 {
		return err
	}
	filled := "NULL"
	if s.column != "" {
		filled = duck.Literal(s.column)
		set := duck.Ident(s.column) + " = e.embedding"
		if s.courtesy() {
			set += ", " + s.setCourtesy("u.status", "u.message")
		}
		err := c.Exec(fmt.Sprintf(`UPDATE %[1]s AS t SET %[2]s FROM gbatch_shown u JOIN %[3]s e ON e.chunk_id = u.id AND e.text_hash = u.text_hash
			WHERE t.rowid = u.rid AND u.status = 'READY' AND (u.off OR t.%[4]s IS DISTINCT FROM e.embedding)`, s.sql, set, duck.Ident(embeddings), duck.Ident(s.column)))
		if err != nil {
			return err
		}
	}
	if s.courtesy() {
		err := c.Exec(fmt.Sprintf("UPDATE %s AS t SET %s FROM gbatch_shown u WHERE t.rowid = u.rid AND u.off AND (%s IS NULL OR u.status <> 'READY')", s.sql, s.setCourtesy("u.status", "u.message"), filled))
		if err != nil {
			return err
		}
	}
	return c.Exec(fmt.Sprintf(`DELETE FROM gbatch.noted WHERE source = %[1]s AND chunk_id IN (SELECT key FROM gbatch_shown);
		INSERT INTO gbatch.noted SELECT DISTINCT ON (key) %[1]s, key, text_hash, status, rid, %[2]s FROM gbatch_shown WHERE status IN ('READY', 'FAILED')`, duck.Literal(s.sql), filled))
}

// hasColumn refuses a column that vectors cannot be written to.
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
