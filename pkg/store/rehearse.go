package store

import (
	"fmt"

	"gbatch/pkg/duck"
)

// rehearse tries every write to the user's tables that vectors-apply will make,
// each on a row and in a transaction of its own that is rolled back. refused
// says which of them fails, and what to do. It is called at the beginning of a
// transaction and ends at the beginning of another one.
func (p *Claim) rehearse(c *duck.Conn) (refused, err error) {
	attempt := func(write func() error) error {
		failed := write()
		if err = c.Exec("ROLLBACK"); err == nil {
			err = c.Exec("BEGIN")
		}
		return failed
	}
	var s *source
	var updates []string
	failed := attempt(func() (err error) {
		if err = c.Exec(tables); err == nil {
			s, err = p.open(c)
		}
		if err == nil {
			updates, err = s.updates(c, p.Dim)
		}
		return err
	})
	if failed != nil || err != nil {
		return nil, err // the claim meets the same error, and reports it
	}
	for _, update := range updates {
		if failed := attempt(func() error { return c.Exec(update) }); failed != nil {
			return fmt.Errorf(`nothing is claimed, because table %s does not take what vectors-apply writes to its courtesy columns: %w; change the table, or only let it be read, with --from "SELECT id, text FROM %[1]s" and without --column`, s.from, failed), err
		}
		if err != nil {
			return nil, err
		}
	}
	// The new vector of another text, and that of the same text.
	for _, hash := range []string{"0::UHUGEINT", "text_hash"} {
		fits := true
		failed := attempt(func() error {
			if err := c.Exec(tables); err != nil {
				return err
			}
			if err := prepareEmbeddings(c, p.Embeddings, s); err != nil {
				fits = false
				return err
			}
			return p.rehearseVectors(c, s, hash)
		})
		if !fits || err != nil {
			return nil, err // the same
		}
		if failed != nil {
			return fmt.Errorf("nothing is claimed, because table %s does not take what vectors-apply writes to it: %w; change the table, or name another one with --embeddings NAME", p.Embeddings, failed), nil
		}
	}
	return nil, nil
}

// updates are the UPDATEs of the courtesy columns that vectors-apply and
// chunks-pending make, each for one row: for the first one, and for one that
// each foreign key refers to.
func (s *source) updates(c *duck.Conn, dim int) (updates []string, err error) {
	if !s.kept() {
		return nil, nil
	}
	var sets []string
	if s.courtesy() {
		sets = []string{s.setCourtesy("'PENDING'", "NULL"), s.setCourtesy("'FAILED'", "'the reason'"), s.setCourtesy("'READY'", "NULL")}
	}
	if s.column != "" {
		ready := duck.Ident(s.column) + " = " + anyVector(dim)
		if s.courtesy() {
			ready += ", " + s.setCourtesy("'READY'", "NULL")
		}
		sets = append(sets, ready)
	}
	rows := []string{"SELECT rowid FROM " + s.sql + " LIMIT 1"}
	r, err := c.Query(`SELECT schema_name, table_name, list_reduce(list_transform(list_zip(referenced_column_names, constraint_column_names),
			lambda x: 't."' || replace(x[1], '"', '""') || '" = f."' || replace(x[2], '"', '""') || '"'), lambda a, b: a || ' AND ' || b)
		FROM duckdb_constraints() WHERE database_name = current_database() AND constraint_type = 'FOREIGN KEY' AND schema_name = ? AND referenced_table = ?`, s.schema, s.name)
	if err != nil {
		return nil, err
	}
	for r.Next() {
		rows = append(rows, fmt.Sprintf("SELECT t.rowid FROM %s t JOIN %s.%s f ON %s LIMIT 1", s.sql, duck.Ident(r.Text(0)), duck.Ident(r.Text(1)), r.Text(2)))
	}
	r.Close()
	for _, row := range rows {
		var rowid int64
		found, err := c.One(func(r *duck.Rows) { rowid = r.Int(0) }, row)
		if err != nil {
			return nil, err
		}
		if !found {
			continue
		}
		for _, set := range sets {
			updates = append(updates, fmt.Sprintf("UPDATE %s AS t SET %s WHERE t.rowid = %d", s.sql, set, rowid))
		}
	}
	return updates, nil
}

// rehearseVectors writes a vector for the first chunk of the table of vectors,
// with the text that hash stands for, and one without a chunk. In a table
// without vectors, it is for the first chunk of the source.
func (p *Claim) rehearseVectors(c *duck.Conn, s *source, hash string) error {
	e := duck.Ident(p.Embeddings)
	err := c.Exec(fmt.Sprintf("CREATE OR REPLACE TEMP TABLE gbatch_rehearsed AS SELECT chunk_id AS id, %s AS text_hash FROM %s WHERE chunk_id IS NOT NULL LIMIT 1", hash, e))
	if err != nil {
		return err
	}
	n, err := c.Count("SELECT count(*) FROM gbatch_rehearsed")
	switch {
	case err != nil:
		return err
	case n > 0:
		err = retire(c, p.Embeddings, "gbatch_rehearsed")
	default:
		err = c.Exec("INSERT INTO gbatch_rehearsed SELECT id, 0::UHUGEINT FROM " + s.sql + " LIMIT 1")
	}
	if err != nil {
		return err
	}
	row := fmt.Sprintf("%s, 1, %s, %s::TIMESTAMP", anyVector(p.Dim), duck.Literal(batchNames(1)[0]), duck.Literal(now()))
	return c.Exec(fmt.Sprintf("INSERT INTO %[1]s %[2]s SELECT id, text_hash, %[3]s FROM gbatch_rehearsed; INSERT INTO %[1]s %[2]s VALUES (NULL, 1::UHUGEINT, %[3]s)", e, embeddingColumns, row))
}

// anyVector is the SQL for a vector.
func anyVector(dim int) string {
	return fmt.Sprintf("list_resize([1], %d, 0)::FLOAT[%[1]d]", dim)
}
