// Chunks-pending claims the chunks that need a vector, cuts them into batches
// and prints each batch: a header, then its chunks.
//
//	{"batch":"b01K…","count":2,"model":"gemini-embedding-001","dim":768,"task_type":"RETRIEVAL_DOCUMENT","keys":"0c07bcd4e6e4c5ef","tokens":12,"tokens_max":16}
//	{"id":"chunk_123","text":"A passage of text"}
//	{"id":"chunk_124","text":"Another one","title":"Its title"}
//
// A chunk needs a vector if the table of vectors has none for its present text in
// this model, dim and task type. With the task type RETRIEVAL_DOCUMENT, the title
// is part of the text. If several chunks have the same text, one of them is
// claimed. A chunk whose text already has a vector gets a copy of it, and is not
// printed.
//
// Batches that an earlier run claimed, and that have no job yet, are printed
// first, byte for byte as before. So nothing is lost when the reader of the output
// stops. A source must give the same rows each time it is read.
//
//	chunks-pending kb.duckdb | to-jsonl | gbatch-submit | vectors-apply kb.duckdb
//	chunks-pending kb.duckdb --from "SELECT doc AS id, body AS text FROM read_parquet('docs/*.parquet')" | …
//	chunks-pending kb.duckdb --dry-run
//
// A database that does not exist is created if --from is a SELECT. A SELECT or a view is
// read once for the chunks and once more to compare them, whatever their number.
//
// --shard 3/64 claims one of 64 shards of the source, 0/64 to 63/64, by a hash of the
// id. Each shard needs a database of its own, which refuses another shard later:
//
//	chunks-pending shard3.duckdb --shard 3/64 --from "FROM read_parquet('docs/*.parquet')" | …
//
// If stdout is a terminal, it claims nothing and prints one line for each batch
// that it would claim, and a total, as with --dry-run. If stdout is a pipe or a file,
// it claims.
//
// Before it claims, it tries on one row what vectors-apply will write to your
// tables, and rolls that back. If DuckDB refuses the write, nothing is claimed. If
// the table has the columns embedding_status and error_message, they are brought up
// to date. A chunk that you set back to PENDING is embedded again.
// docs/database.md has the rules.
//
// The defaults of the three limits --max-requests, --max-bytes and --max-tokens fit
// the lowest paid tier of the Gemini API. With --backend vertex they are those of a job
// of Vertex AI: 1,000,000 requests, 1 GB, and any number of tokens. --limit counts the requests that this run claims,
// not those that it prints again.
//
// Caps bound what is printed: --max-cost and --max-total-tokens in this run,
// --max-cost-per-day and --max-cost-per-month by what the database holds for the day
// or month in UTC, --max-enqueued-tokens or --tier by its open batches. They go by
// tokens_max, the estimate times 1.35. Batches that were claimed before count first. If a
// cap does not allow everything, the run is refused and changes nothing. With --cutoff
// fit it claims the requests that fit, and warns of the rest.
//
//	chunks-pending kb.duckdb --max-cost 5 --max-cost-per-month 50 --tier 1 --cutoff fit | …
//
// Google cuts off a text over the model's limit (2,048 tokens for
// gemini-embedding-001), and does not say so. --truncate warn names such texts, by the
// estimate. With --truncate error their chunks are FAILED and not sent; --truncate warn
// --retry-failed sends them after all.
//
// --output writes a file whole or not at all: gbatch --help has the rules.
//
// Exit codes: 0 done, 1 failed, 2 usage, 3 done, but the courtesy columns could not
// be written, or a batch that was claimed before cannot be sent and is left out,
// 5 another process holds the database for longer than --lock-timeout, 7 ids are
// missing or not unique, or the source gives other rows each time it is read, 8 refused
// by a cap.
package main

import (
	_ "embed"

	"gbatch/pkg/cli"
	"gbatch/pkg/store"
)

//go:embed main.go
var manual string

func main() { cli.Main(manual, new(store.Pending)) }
