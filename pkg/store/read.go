package store

import (
	"fmt"

	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
)

// chunks opens the source of the claim for a round. A view or a SELECT may be a scan
// of many files. It is read once in a run: its pending chunks are copied to the
// temporary table gbatch_read, and all rounds take them from there. The table belongs
// to the connection. What does not fit into memory is in DuckDB's temporary files.
func (p *Claim) chunks(c *duck.Conn, r *round) (*source, error) {
	s, err := p.open(c)
	if err != nil || s.table {
		return s, err
	}
	if !r.read {
		if err := s.read(c, p.Embeddings); err != nil {
			return nil, err
		}
		r.read, r.checked = true, true
	}
	return &source{
		from: s.from, sql: "gbatch_read", space: s.space, table: true, stored: true, idType: s.idType, blank: s.blank,
		columns: map[string]string{"id": s.idType, "text": "VARCHAR", "title": "VARCHAR"},
	}, nil
}

// read copies the pending chunks to gbatch_read.
func (s *source) read(c *duck.Conn, embeddings string) error {
	err := c.Exec(fmt.Sprintf("CREATE OR REPLACE TEMP TABLE gbatch_read AS SELECT id, sent_title AS title, sent_body AS text, text_hash FROM (%s) WHERE status = 'PENDING'", s.work(embeddings, "")))
	if err != nil {
		return err
	}
	if n, err := c.Count("SELECT count(*) FROM gbatch_read"); err != nil || n == 0 {
		return err
	}
	if err := s.unique(c, "WHERE id IS NULL OR "+s.id()+" IN (SELECT id FROM gbatch_read)"); err != nil {
		return err
	}
	return s.steady(c)
}

// steady refuses a source that gives other chunks when it is read again: vectors-apply
// would not find them. The chunks in gbatch_read are compared, since the others cost
// nothing.
func (s *source) steady(c *duck.Conn) error {
	again := fmt.Sprintf("(SELECT %s AS id, %s AS text_hash FROM %s)", s.id(), s.hash(), s.sql)
	n, err := c.Count("SELECT (SELECT count(*) FROM gbatch_read) - (SELECT count(*) FROM gbatch_read r JOIN " + again + " s ON s.id = r.id WHERE s.text_hash = r.text_hash)")
	if err != nil || n == 0 {
		return err
	}
	id := ""
	_, err = c.One(func(r *duck.Rows) { id = r.Text(0) }, "SELECT CAST(r.id AS VARCHAR) FROM gbatch_read r ANTI JOIN "+again+" s ON s.id = r.id AND s.text_hash = r.text_hash ORDER BY 1 LIMIT 1")
	if err != nil {
		return err
	}
	return s.unsteady(id)
}

// unsteady is the error of a source that gives another chunk of an id each time.
func (s *source) unsteady(id string) error {
	return exit.Errorf(exit.Malformed, "--from %s gives other rows or texts each time it is read (for example for id %.100q), so nothing is claimed: a vector would be put on another text than its own; "+
		"write what the query yields to a table (CREATE TABLE chunks AS …) and name the table with --from", brief(s.from), id)
}
