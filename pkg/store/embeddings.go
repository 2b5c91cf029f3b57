package store

import (
	"fmt"
	"log/slog"

	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
	"gbatch/pkg/model"
)

// prepareEmbeddings creates the table of vectors for the chunks of src. If the
// table exists, it checks that the table fits the chunks and holds the same
// space.
func prepareEmbeddings(c *duck.Conn, table string, src *source) error {
	want := src.space
	types := map[string]string{}
	there := table
	err := c.Each(func(r *duck.Rows) { types[r.Text(0)], there = r.Text(1), r.Text(2) },
		"SELECT column_name, data_type, table_name FROM duckdb_columns() WHERE database_name = current_database() AND schema_name = current_schema() AND lower(table_name) = lower(?)", table)
	if err != nil {
		return err
	}
	if there != table {
		return exit.Errorf(exit.Usage, "the table %s exists as %s; use that spelling in --embeddings", table, there)
	}
	if len(types) > 0 && (types["text_hash"] != "UHUGEINT" || types["batch"] == "") {
		return exit.Errorf(exit.Usage, "table %s does not belong to gbatch; name another table with --embeddings NAME", table)
	}
	have, err := spaceOf(c, table)
	if err != nil {
		return err
	}
	if have != (model.Space{}) && have != want {
		if t, err := openVectors(c, table); err != nil {
			return err
		} else if !t.filled {
			return exit.Errorf(exit.Usage, "open batches claim table %s for %v, not %v, and no vector has arrived: give the batches back with chunks-release, or give the other space its own table with --embeddings NAME", table, have, want)
		}
		return exit.Errorf(exit.Usage, "table %s holds %v, not %v: vectors of two spaces cannot be compared; give the other space its own table with --embeddings NAME", table, have, want)
	}
	vector := fmt.Sprintf("FLOAT[%d]", want.Dim)
	if len(types) > 0 && have == (model.Space{}) && (types["embedding"] != vector || types["chunk_id"] != src.idType) {
		// The table is empty, and no open batch is for it.
		if err := c.Exec("DROP TABLE " + duck.Ident(table)); err != nil {
			return err
		}
		clear(types)
	}
	if len(types) == 0 {
		if err := createEmbeddings(c, table, src.idType, want.Dim); err != nil {
			return err
		}
		return noteSpace(c, table, want)
	}
	if types["embedding"] != vector {
		return exit.Errorf(exit.Usage, "table %s holds %s, not %s; give the other space its own table with --embeddings NAME", table, types["embedding"], vector)
	}
	if err := src.fitVectors(c, table); err != nil {
		return err
	}
	return noteSpace(c, table, want)
}

// createEmbeddings creates a table of vectors, if it does not exist.
func createEmbeddings(c *duck.Conn, table, idType string, dim int) error {
	return c.Exec(fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (chunk_id %s, text_hash UHUGEINT, embedding FLOAT[%d], tokens BIGINT, batch VARCHAR, embedded_at TIMESTAMP)", duck.Ident(table), idType, dim))
}

// fitVectors changes the type of the ids in a table of vectors to the type of
// the source's ids. That type may have changed: a file of numbers gets its first
// A3. fitVectors refuses if an id would become another id.
func (s *source) fitVectors(c *duck.Conn, table string) error {
	var have string
	_, err := c.One(func(r *duck.Rows) { have = r.Text(0) }, `SELECT data_type FROM duckdb_columns() WHERE database_name = current_database() AND schema_name = current_schema()
		AND table_name = ? AND column_name = 'chunk_id'`, table)
	if err != nil || have == s.idType || have == "" {
		return err
	}
	var id string
	lossy, err := c.One(func(r *duck.Rows) { id = r.Text(0) }, fmt.Sprintf(`SELECT key FROM (SELECT CAST(chunk_id AS VARCHAR) AS key FROM %s)
		WHERE key IS DISTINCT FROM CAST(TRY_CAST(key AS %s) AS VARCHAR) LIMIT 1`, duck.Ident(table), s.idType))
	if err != nil {
		return err
	}
	if lossy {
		return exit.Errorf(exit.Usage, `table %s has ids of type %s, the chunks' ids are %s, and id %.100q is not a valid %[3]s; no vector is lost: give the chunks' ids the type %[2]s again (ALTER TABLE … ALTER id TYPE %[2]s, or --from "SELECT CAST(id AS %[2]s) AS id, … FROM …"), or, if these are other chunks, name another table with --embeddings NAME`,
			table, have, s.idType, id)
	}
	alter := "ALTER TABLE " + duck.Ident(table) + " ALTER chunk_id TYPE " + s.idType
	if err := c.Exec(alter); err != nil {
		return exit.Errorf(exit.Usage, "table %s has ids of type %s, but the chunks' ids are %s, and the type cannot be changed (%w); no vector is lost: drop what depends on the column, and run %s", table, have, s.idType, err, alter)
	}
	slog.Info("the ids of the vectors now have the type of the chunks' ids", "table", table, "was", have, "is", s.idType)
	return nil
}

// embeddingColumns are the columns that the toolkit writes, in this order. The
// user may add other columns.
const embeddingColumns = "(chunk_id, text_hash, embedding, tokens, batch, embedded_at)"

// retire prepares a table of vectors for new vectors of the chunks in the
// temporary table by, which has id and text_hash. A chunk's vector of another
// text is paid for. So its row stays under the hash of that text and only loses
// its chunk, unless another row holds the same text.
func retire(c *duck.Conn, table, by string) error {
	return c.Exec(fmt.Sprintf(`
		DELETE FROM %[1]s WHERE (chunk_id IS NULL OR chunk_id IN (SELECT id FROM %[2]s)) AND text_hash IN (SELECT text_hash FROM %[2]s);
		CREATE OR REPLACE TEMP TABLE gbatch_left AS SELECT rowid AS row, text_hash FROM %[1]s WHERE chunk_id IN (SELECT id FROM %[2]s);
		DELETE FROM %[1]s WHERE rowid IN (SELECT l.row FROM (SELECT *, row_number() OVER (PARTITION BY text_hash ORDER BY row) AS n FROM gbatch_left) l
			WHERE n > 1 OR EXISTS (SELECT 1 FROM %[1]s e WHERE e.text_hash = l.text_hash AND e.rowid NOT IN (SELECT row FROM gbatch_left)));
		UPDATE %[1]s SET chunk_id = NULL WHERE chunk_id IN (SELECT id FROM %[2]s)`, duck.Ident(table), by))
}
