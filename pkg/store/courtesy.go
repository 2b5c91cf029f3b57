package store

import (
	"fmt"
	"slices"
	"strings"

	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
)

// Courtesy columns are columns of the user's table that the toolkit keeps in
// step: embedding_status, error_message and the one of --column.

// reconcile sets the courtesy columns of a table that has no mark to the status
// of its chunks, and marks the table.
func (s *source) reconcile(c *duck.Conn, embeddings string) error {
	if !s.courtesy() || s.managed() {
		return nil
	}
	err := c.Exec(fmt.Sprintf(`UPDATE %s AS t SET %s FROM (
			SELECT rid, CASE status WHEN 'QUEUED' THEN 'PENDING' ELSE status END AS status, CASE WHEN status = 'FAILED' THEN message END AS message
			FROM (%s)) u
		WHERE t.rowid = u.rid AND t.embedding_status IS DISTINCT FROM u.status`, s.sql, s.setCourtesy("u.status", "u.message"), s.status(embeddings, "")))
	if err != nil {
		return err
	}
	s.comment = strings.TrimSpace(s.comment + " " + mark)
	return c.Exec("COMMENT ON COLUMN " + s.sql + ".embedding_status IS " + duck.Literal(s.comment))
}

// setCourtesy is the SET list of an UPDATE of the courtesy columns.
func (s *source) setCourtesy(status, message string) string {
	list := "embedding_status = " + status
	if s.columns["error_message"] == "VARCHAR" {
		list += ", error_message = " + message
	}
	return list
}

// ready writes READY to the courtesy columns, and the vectors to column if it is
// not empty, for the chunks of a temporary table with id and rid.
func (s *source) ready(c *duck.Conn, embeddings, table, column string) error {
	// This must be one UPDATE: it may give a row another rowid.
	from, set := table+" u", ""
	if s.courtesy() {
		set = s.setCourtesy("'READY'", "NULL")
	}
	if column != "" {
		from += " JOIN " + duck.Ident(embeddings) + " e ON e.chunk_id = u.id"
		set = strings.TrimPrefix(set+", "+duck.Ident(column)+" = e.embedding", ", ")
	}
	if set == "" {
		return nil
	}
	return c.Exec(fmt.Sprintf("UPDATE %s AS t SET %s FROM %s WHERE t.rowid = u.rid", s.sql, set, from))
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
