// Chunks-status tells how many chunks are READY, QUEUED in a batch, PENDING and
// FAILED, for how many tokens and how much money, and what became of each batch.
// It prints a table on a terminal, and a JSON object a line elsewhere.
//
//	chunks-status kb.duckdb
//	chunks-status kb.duckdb | jq -r 'select(.status == "PENDING").chunks'
//
// Tokens are Google's count where there is one, else an estimate from above.
// Which chunk has which status is in the view chunk_status, and why a chunk
// failed in its column error_message. The batches are those of --embeddings.
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
