package store

import (
	"fmt"

	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
	"gbatch/pkg/model"
)

// prepareEmbeddings creates the embeddings table for chunks of src, or checks
// that the one that exists fits them and holds the same space.
func prepareEmbeddings(c *duck.Conn, table string, src *source, want model.Space) error {
	types := map[string]string{}
	there := table
	err := c.Each(func(r *duck.Rows) { types[r.Text(0)], there = r.Text(1), r.Text(2) },
		"SELECT column_name, data_type, table_name FROM duckdb_columns() WHERE database_name = current_database() AND schema_name = current_schema() AND lower(table_name) = lower(?)", table)
	if err != nil {
		return err
	}
	if there != table {
		return exit.Errorf(exit.Usage, "the table %s exists as %s; spell it so in --embeddings", table, there)
	}
	var have model.Space
	read := func(r *duck.Rows) { have = model.Space{Model: r.Text(0), TaskType: r.Text(1), Dim: int(r.Int(2))} }
	found, err := c.One(read, `SELECT model, task_type, dim FROM gbatch.jobs WHERE embeddings = ? AND (closed_at IS NULL OR succeeded > 0) LIMIT 1`, table)
	if err != nil {
		return err
	}
	if !found && types["batch"] != "" {
		// A job that failed may have left vectors that came before it ended.
		found, err = c.One(read, "SELECT model, task_type, dim FROM gbatch.jobs WHERE embeddings = ? AND batch IN (SELECT batch FROM "+duck.Ident(table)+") LIMIT 1", table)
		if err != nil {
			return err
		}
	}
	if found && have != want {
		return exit.Errorf(exit.Usage, "table %s holds %v, not %v: vectors of two spaces cannot be compared; give the other space its own table with --embeddings NAME", table, have, want)
	}
	vector := fmt.Sprintf("FLOAT[%d]", want.Dim)
	if len(types) > 0 && !found && types["text_hash"] == "UHUGEINT" && (types["embedding"] != vector || types["chunk_id"] != src.idType) {
		// A space that never got a vector left the table.
		if n, err := c.Count("SELECT count(*) FROM (SELECT 1 FROM " + duck.Ident(table) + " LIMIT 1)"); err != nil {
			return err
		} else if n == 0 {
			if err := c.Exec("DROP TABLE " + duck.Ident(table)); err != nil {
				return err
			}
			clear(types)
		}
	}
	if len(types) == 0 {
		return c.Exec(fmt.Sprintf("CREATE TABLE %s (chunk_id %s, text_hash UHUGEINT, embedding %s, tokens BIGINT, batch VARCHAR, embedded_at TIMESTAMP)", duck.Ident(table), src.idType, vector))
	}
	switch {
	case types["text_hash"] != "UHUGEINT" || types["batch"] == "":
		return exit.Errorf(exit.Usage, "table %s is not one of gbatch's; name another with --embeddings NAME", table)
	case types["embedding"] != vector:
		return exit.Errorf(exit.Usage, "table %s holds %s, not %s; give the other space its own table with --embeddings NAME", table, types["embedding"], vector)
	case types["chunk_id"] != src.idType:
		return exit.Errorf(exit.Usage, "table %s has ids of type %s, but the chunks' ids are %s; name another with --embeddings NAME", table, types["chunk_id"], src.idType)
	}
	return nil
}

// retire makes room in an embeddings table for new vectors of the chunks in the
// temporary table by, which has id and text_hash. A vector of another text is
// paid for, and that text may belong to another chunk by now: so such a row
// only loses its chunk, and stays until chunks-pending has scanned all chunks.
func retire(c *duck.Conn, table, by string) error {
	return c.Exec(fmt.Sprintf(`DELETE FROM %[1]s WHERE (chunk_id, text_hash) IN (SELECT (id, text_hash) FROM %[2]s);
		UPDATE %[1]s SET chunk_id = NULL WHERE chunk_id IN (SELECT id FROM %[2]s)`, duck.Ident(table), by))
}
