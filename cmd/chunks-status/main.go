// Chunks-status tells how many chunks are READY, QUEUED in a batch, PENDING and
// FAILED, how many tokens they have and what they cost, and the state of each
// batch. It prints a table on a terminal, and otherwise one JSON object a line.
//
//	chunks-status kb.duckdb
//	chunks-status kb.duckdb | jq -r 'select(.status == "PENDING").chunks'
//
// Tokens are Google's count if Google has counted them. Otherwise they are an
// estimate that is an upper bound. A batch without a job in the database is CLAIMED,
// SUBMITTED or UNKNOWN, according to the intents of gbatch-submit on this machine.
// UNKNOWN means that the outcome of its create is unknown. The age of QUEUED chunks
// is the age of the oldest open batch. The age of PENDING chunks is an upper bound:
// the time since chunks-pending last left no chunk pending.
//
// The view chunk_status has the status of each chunk. Its column error_message says
// why a chunk failed. The batches are those of the table that --embeddings names.
//
// Environment: XDG_STATE_HOME, the parent of the folder with the intents.
//
// Exit codes: 0 done, 1 failed, 2 usage, 5 another process holds the database for
// longer than --lock-timeout.
package main

import (
	_ "embed"

	"gbatch/pkg/cli"
	"gbatch/pkg/store"
)

//go:embed main.go
var manual string

func main() { cli.Main(manual, new(store.Status)) }
