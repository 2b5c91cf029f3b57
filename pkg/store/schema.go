// Package store is DuckDB's side: it adds chunks, claims the pending ones,
// applies vectors and tells the status. docs/database.md describes the tables.
//
// A chunk's status is derived, never stored: it follows from the hash of the
// chunk's present text, see [source.status].
package store

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"

	"gbatch/pkg/exit"
	"gbatch/pkg/model"
)

// schema makes the toolkit's tables. All times are UTC.
const schema = `
CREATE SCHEMA IF NOT EXISTS gbatch;
CREATE TABLE IF NOT EXISTS gbatch.jobs (
	batch VARCHAR, job VARCHAR, state VARCHAR, model VARCHAR, dim BIGINT, task_type VARCHAR,
	requests BIGINT, succeeded BIGINT, failed BIGINT, tokens BIGINT, canary BIGINT, input VARCHAR,
	claimed_at TIMESTAMP, submitted_at TIMESTAMP, ended_at TIMESTAMP, closed_at TIMESTAMP, error VARCHAR,
	source VARCHAR, embeddings VARCHAR, first_seq BIGINT, last_seq BIGINT);
CREATE TABLE IF NOT EXISTS gbatch.items (
	batch VARCHAR, seq BIGINT, chunk_id VARCHAR, title VARCHAR, text VARCHAR, text_hash UHUGEINT, twin BOOLEAN);
CREATE TABLE IF NOT EXISTS gbatch.failures (
	chunk_id VARCHAR, text_hash UHUGEINT, embeddings VARCHAR, code BIGINT, status VARCHAR, message VARCHAR,
	attempts BIGINT, final BOOLEAN, batch VARCHAR, failed_at TIMESTAMP);`

// items is a SELECT of the items of a batch. The range of seq spares DuckDB
// most of the outbox, which may hold a million chunks.
func items(batch string, first, last int64) string {
	return fmt.Sprintf("(SELECT * FROM gbatch.items WHERE batch = %s AND seq BETWEEN %d AND %d)", literal(batch), first, last)
}

// hasSchema reports whether the toolkit has been at work in this database.
func (c *conn) hasSchema() (bool, error) {
	n, err := c.count("SELECT count(*) FROM duckdb_tables() WHERE database_name = current_database() AND schema_name = 'gbatch' AND table_name IN ('jobs', 'items', 'failures')")
	return n == 3, err
}

// now is the present time as the tables hold it.
func now() string { return time.Now().UTC().Format("2006-01-02 15:04:05.000000") }

// prepare makes the embeddings table for chunks of src, or checks that it is
// there for them and for the same space.
func (c *conn) prepare(table string, src *source, want model.Space) error {
	types := map[string]string{}
	there := table
	r, err := c.query("SELECT column_name, data_type, table_name FROM duckdb_columns() WHERE database_name = current_database() AND schema_name = current_schema() AND lower(table_name) = lower(?)", table)
	if err != nil {
		return err
	}
	for r.next() {
		types[r.string(0)], there = r.string(1), r.string(2)
	}
	r.close()
	if there != table {
		return exit.Errorf(exit.Usage, "table %s is there as %s; write it so with --embeddings", table, there)
	}
	var have model.Space
	read := func(r *rows) { have = model.Space{Model: r.string(0), TaskType: r.string(1), Dim: int(r.int(2))} }
	found, err := c.one(read, `SELECT model, task_type, dim FROM gbatch.jobs WHERE embeddings = ? AND (closed_at IS NULL OR succeeded > 0) LIMIT 1`, table)
	if err != nil {
		return err
	}
	if !found && types["batch"] != "" {
		// A job that ended badly may have left vectors that came before its end.
		found, err = c.one(read, "SELECT model, task_type, dim FROM gbatch.jobs WHERE embeddings = ? AND batch IN (SELECT batch FROM "+ident(table)+") LIMIT 1", table)
		if err != nil {
			return err
		}
	}
	if found && have != want {
		return exit.Errorf(exit.Usage, "table %s holds %v, not %v: vectors of two spaces cannot be compared; give the other one its own table with --embeddings NAME", table, have, want)
	}
	vector := fmt.Sprintf("FLOAT[%d]", want.Dim)
	if len(types) > 0 && !found && types["text_hash"] == "UHUGEINT" && (types["embedding"] != vector || types["chunk_id"] != src.idType) {
		// Left by a space that never got a vector.
		if n, err := c.count("SELECT count(*) FROM (SELECT 1 FROM " + ident(table) + " LIMIT 1)"); err != nil {
			return err
		} else if n == 0 {
			if err := c.exec("DROP TABLE " + ident(table)); err != nil {
				return err
			}
			clear(types)
		}
	}
	if len(types) == 0 {
		return c.exec(fmt.Sprintf("CREATE TABLE %s (chunk_id %s, text_hash UHUGEINT, embedding %s, tokens BIGINT, batch VARCHAR, embedded_at TIMESTAMP)", ident(table), src.idType, vector))
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

// retire makes room in an embeddings table for new vectors of the chunks of a
// temporary table with id and text_hash. The vector of another text is paid
// for, and that text may stand in another chunk by now: such a row loses its
// chunk only, until chunks-pending has looked at all chunks.
func (c *conn) retire(table, by string) error {
	return c.exec(fmt.Sprintf(`DELETE FROM %[1]s WHERE (chunk_id, text_hash) IN (SELECT (id, text_hash) FROM %[2]s);
		UPDATE %[1]s SET chunk_id = NULL WHERE chunk_id IN (SELECT id FROM %[2]s)`, ident(table), by))
}

// The temporary tables of a transaction are called gbatch_…, since DuckDB looks
// for a name among them before it looks among the user's tables.

// batchNames gives n new names that sort by the time they were made: a b and
// a ULID each.
func batchNames(n int) []string {
	var b [16]byte
	rand.Read(b[:])
	b[8] &= 0x7f // room to count up
	binary.BigEndian.PutUint64(b[:], uint64(time.Now().UnixMilli())<<16|uint64(binary.BigEndian.Uint16(b[6:])))
	low := binary.BigEndian.Uint64(b[8:])
	names := make([]string, n)
	for i := range names {
		binary.BigEndian.PutUint64(b[8:], low+uint64(i))
		names[i] = "b" + crockford(b)
	}
	return names
}

// crockford spells 128 bits as 26 characters of Crockford's base 32.
func crockford(b [16]byte) string {
	const digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	hi, lo := binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:])
	var out [26]byte
	for i := len(out) - 1; i >= 0; i-- {
		out[i] = digits[lo&31]
		lo, hi = lo>>5|hi<<59, hi>>5
	}
	return string(out[:])
}
