// Package store holds the commands that take a database: it adds chunks, claims
// pending chunks, applies vectors and reports the status. docs/database.md
// describes the tables.
//
// A chunk's status is derived, never stored: it follows from the hash of the
// chunk's present text, see [source.status].
package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gbatch/pkg/duck"
)

// schema is the name of the toolkit's schema. Statements contain it literally.
const schema = "gbatch"

// tables creates the toolkit's tables, and adds what tables of an older version
// lack. All times are UTC.
const tables = `
CREATE SCHEMA IF NOT EXISTS gbatch;
CREATE TABLE IF NOT EXISTS gbatch.jobs (
	batch VARCHAR, job VARCHAR, state VARCHAR, model VARCHAR, dim BIGINT, task_type VARCHAR,
	requests BIGINT, succeeded BIGINT, failed BIGINT, tokens BIGINT, canary BIGINT, input VARCHAR,
	claimed_at TIMESTAMP, submitted_at TIMESTAMP, ended_at TIMESTAMP, closed_at TIMESTAMP, error VARCHAR,
	source VARCHAR, embeddings VARCHAR, first_seq BIGINT, last_seq BIGINT);
ALTER TABLE gbatch.jobs ADD COLUMN IF NOT EXISTS vector_column VARCHAR;
ALTER TABLE gbatch.jobs ADD COLUMN IF NOT EXISTS tokens_likely BIGINT;
ALTER TABLE gbatch.jobs ADD COLUMN IF NOT EXISTS tokens_max BIGINT;
ALTER TABLE gbatch.jobs ADD COLUMN IF NOT EXISTS tokens_plain BIGINT;
ALTER TABLE gbatch.jobs ADD COLUMN IF NOT EXISTS shard VARCHAR;
CREATE TABLE IF NOT EXISTS gbatch.items (
	batch VARCHAR, seq BIGINT, chunk_id VARCHAR, title VARCHAR, text VARCHAR, text_hash UHUGEINT, twin BOOLEAN);
CREATE TABLE IF NOT EXISTS gbatch.failures (
	chunk_id VARCHAR, text_hash UHUGEINT, embeddings VARCHAR, code BIGINT, status VARCHAR, message VARCHAR,
	attempts BIGINT, final BOOLEAN, batch VARCHAR, failed_at TIMESTAMP);
CREATE TABLE IF NOT EXISTS gbatch.scans (
	source VARCHAR, embeddings VARCHAR, scanned_at TIMESTAMP);
CREATE TABLE IF NOT EXISTS gbatch.noted (
	source VARCHAR, chunk_id VARCHAR, text_hash UHUGEINT, status VARCHAR, row BIGINT, vector_column VARCHAR);`

// The names of a transaction's temporary tables begin with gbatch_, because
// DuckDB looks for a name among temporary tables before it looks among the
// user's tables.

// transact is [duck.Database.Transact] for the toolkit's tables.
func transact(ctx context.Context, d *duck.Database, mode duck.Access, work func(*duck.Conn) error) error {
	c, err := d.Connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return transactOn(c, d, mode, work)
}

// transactOn is [duck.Database.TransactOn] for the toolkit's tables.
func transactOn(c *duck.Conn, d *duck.Database, mode duck.Access, work func(*duck.Conn) error) error {
	err := d.TransactOn(c, mode, schema, func(c *duck.Conn) error {
		if mode != duck.Read {
			// Compression makes a vector at most a sixth smaller, and the outbox is
			// short-lived. Trying all of DuckDB's compressions takes longer than
			// writing the data.
			if err := c.Exec("SET force_compression = 'uncompressed'"); err != nil {
				return err
			}
		}
		return work(c)
	})
	if errors.Is(err, duck.ErrMissing) {
		err = fmt.Errorf("%w; create it with chunks-add or with DuckDB", err)
	}
	return err
}

// hasTables reports whether the database has the toolkit's tables.
func hasTables(c *duck.Conn) (bool, error) {
	n, err := c.Count("SELECT count(*) FROM duckdb_tables() WHERE database_name = current_database() AND schema_name = ? AND table_name IN ('jobs', 'items', 'failures')", schema)
	return n == 3, err
}

// items is a SELECT of the items of a batch. With the range of seq DuckDB skips
// most of the outbox, which may hold a million chunks.
func items(batch string, first, last int64) string {
	return fmt.Sprintf("(SELECT * FROM gbatch.items WHERE batch = %s AND seq BETWEEN %d AND %d)", duck.Literal(batch), first, last)
}

// now is the present time in the format of the tables.
func now() string { return time.Now().UTC().Format("2006-01-02 15:04:05.000000") }
