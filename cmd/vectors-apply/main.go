// Vectors-apply writes vectors and errors back to the database. It closes a batch
// when it reads the job record after the last answer of the batch.
//
// A vector is given to the chunks whose present text is the text that was sent, and
// to no others. If no chunk has that text now, the vector is stored without a chunk:
// it is paid for, and costs nothing when a chunk has the text again. An error is
// stored under its key, with its message. If the error is transient, the chunk is
// pending again, until its text was sent --max-attempts times. Applying the same
// records again changes nothing. If a job failed, expired or was cancelled, the
// chunks of its batch are pending again, and Google's reason is stored.
//
// If the source can no longer be read, or its courtesy columns cannot be written,
// the vectors are stored and the batch is closed all the same, with a warning. The
// next chunks-pending does the rest, at no cost. A batch that cannot be applied
// stays open, and the other batches are applied.
//
// It also reads the job records of gbatch-submit and gbatch-wait and stores them, so
// that jobs-pending can print them later.
//
//	jobs-pending kb.duckdb | gbatch-wait --once | gbatch-fetch | vectors-apply kb.duckdb
//
// It prints each job record after its effect is in the database.
//
// Files that are given are read in place of stdin. --output writes a file whole or not
// at all: gbatch --help has the rules.
//
// Exit codes: 0 done, 1 a batch could not be applied, 2 usage, 3 done, but some keys
// or jobs failed, or a part of the user's table could not be written, 5 another
// process holds the database for longer than --lock-timeout, 7 input cut short or
// malformed: what came before the error is in the database.
package main

import (
	_ "embed"

	"gbatch/pkg/cli"
	"gbatch/pkg/store"
)

//go:embed main.go
var manual string

func main() { cli.Main(manual, new(store.Apply)) }
