// Vectors-apply writes vectors and errors back to the database, and closes a
// batch when the job record behind its last answer comes.
//
// A vector goes to the chunks whose text is still the one it was made from, and
// to no others. If no chunk has the text now, the vector is stored without a
// chunk: it is paid for, and costs nothing when the text is back. The error of a
// key is kept with its message. If the error is transient, the chunk is pending
// again, until its text was sent --max-attempts times. Applying the same records
// again changes nothing. A batch whose job failed, expired or was cancelled gives
// its chunks back, and keeps Google's reason.
//
// If the source cannot be read any more, or its courtesy columns cannot be
// written, the vectors are stored and the batch is closed all the same, with a
// warning; the next chunks-pending does the rest, at no cost. A batch that cannot
// be applied stays open, and the others are applied.
//
// It also takes the job records of gbatch-submit and gbatch-wait, and notes them:
// jobs-pending prints them later.
//
//	jobs-pending kb.duckdb | gbatch-wait --once | gbatch-fetch | vectors-apply kb.duckdb
//
// It prints each job record once its effect is in the database.
//
// Exit codes: 0 done, 1 a batch could not be applied, 2 usage, 3 done, but some
// keys or jobs failed, or a part of the user's table could not be written,
// 5 the database is held by another process for longer than --lock-timeout,
// 7 input cut short or malformed: what came before it is in the database.
package main

import (
	_ "embed"

	"gbatch/pkg/cli"
	"gbatch/pkg/store"
)

//go:embed main.go
var manual string

func main() { cli.Main(manual, new(store.Apply)) }
