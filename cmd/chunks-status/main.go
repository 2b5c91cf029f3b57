// Chunks-status tells how many chunks are READY, QUEUED in a batch, PENDING and
// FAILED, for how many tokens and how much money, and what became of each batch.
// It prints a table on a terminal, and a JSON object a line elsewhere.
//
//	chunks-status kb.duckdb
//	chunks-status kb.duckdb | jq -r 'select(.status == "PENDING").chunks'
//
// Tokens are Google's count where there is one, else an estimate from above.
// A batch without a job in the database is CLAIMED, SUBMITTED or UNKNOWN, as the
// notes of gbatch-submit on this machine tell; UNKNOWN is a create whose outcome
// is not known. The age is that of the oldest open batch for QUEUED chunks. For
// PENDING ones it is an upper bound: when chunks-pending last left none.
//
// Which chunk has which status is in the view chunk_status, and why a chunk
// failed in its column error_message. The batches are those of --embeddings.
//
// Environment: XDG_STATE_HOME for the notes of gbatch-submit.
//
// Exit codes: 0 done, 1 failed, 2 usage, 5 the database is held by another
// process for longer than --lock-timeout.
package main

import (
	_ "embed"

	"gbatch/pkg/cli"
	"gbatch/pkg/store"
)

//go:embed main.go
var manual string

func main() { cli.Main(manual, new(store.Status)) }
