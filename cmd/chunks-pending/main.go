// Chunks-pending claims the chunks that need a vector, cuts them into batches
// and prints them, a header and its chunks each:
//
//	{"batch":"b01K…","count":2,"model":"gemini-embedding-001","dim":768,"task_type":"RETRIEVAL_DOCUMENT","keys":"0c07bcd4e6e4c5ef"}
//	{"id":"chunk_123","text":"A passage of text"}
//	{"id":"chunk_124","text":"Another one","title":"Its title"}
//
// A chunk needs a vector when no vector was made from what its request would
// carry now, in this model, dim and task type: its text, and its title where the
// task type is RETRIEVAL_DOCUMENT. Of chunks with the same text one is claimed; a chunk
// whose text has a vector already gets a copy, and is not printed.
//
// Batches that were claimed by an earlier run and have no job yet are printed
// first, the same bytes as before. So nothing is lost when a reader stops.
// A source must give the same rows each time it is read.
//
//	chunks-pending kb.duckdb | to-jsonl | gbatch-submit | vectors-apply kb.duckdb
//	chunks-pending kb.duckdb --from "SELECT doc AS id, body AS text FROM read_parquet('docs/*.parquet')" | …
//	chunks-pending kb.duckdb --dry-run
//
// On a terminal it claims nothing and prints what it would claim, a line for
// each batch, as with --dry-run. In a pipe or to a file it claims.
//
// Before it claims, it tries on a row what vectors-apply will write to your tables,
// and takes it back. If DuckDB refuses that, nothing is claimed. If the table has
// the columns embedding_status and error_message, they are set right; a chunk that
// you set back to PENDING is embedded again. docs/database.md has the rules.
//
// The defaults of the three limits fit the lowest paid tier of the API. --limit
// counts what this run claims, not what it prints again.
//
// Exit codes: 0 done, 1 failed, 2 usage, 3 done, but the courtesy columns could not
// be written, or a batch that was claimed before cannot be sent and is left out,
// 5 the database is held by another process for longer than --lock-timeout, 7 ids
// that are missing or not unique, or a source that gives other rows each time.
package main

import (
	_ "embed"

	"gbatch/pkg/cli"
	"gbatch/pkg/store"
)

//go:embed main.go
var manual string

func main() { cli.Main(manual, new(store.Pending)) }
