// Chunks-status tells how many chunks are READY, QUEUED in a batch, PENDING and
// FAILED, what was spent, which batches are open, and why chunks failed. It prints
// a board on a terminal, and otherwise one JSON object a line. It only reads the
// database.
//
//	chunks-status kb.duckdb
//	chunks-status kb.duckdb --failed
//	chunks-status kb.duckdb --watch
//	chunks-status kb.duckdb | jq -r 'select(.status == "PENDING").chunks'
//	chunks-status kb.duckdb | jq -e '.summary | select(.) | .failed == 0'
//
// Tokens are Google's count if Google has counted them. Otherwise they are an
// estimate, which may be too low or too high. The money is that of all tables of
// vectors in the database. A batch counts for the day, in UTC, on which its job was
// created. If the caps --max-cost-per-day and --max-cost-per-month are given, or
// their variables, the status shows what is left of them. It does not enforce them.
//
// A batch without a job in the database is CLAIMED, SUBMITTED or UNKNOWN, according
// to the intents of gbatch-submit on this machine. UNKNOWN means that the outcome of
// its create is unknown. The age of QUEUED chunks is the age of the oldest open
// batch. The age of PENDING chunks is an upper bound: the time since chunks-pending
// last left no chunk pending. Google makes a job expire 48 hours after it was
// created. A job of Vertex AI has ended after 96 hours, and its results do not expire:
// they are objects of yours. The batches are those of the table that --embeddings names.
//
// --failed prints the FAILED chunks instead, one object a line, with the error and
// the number of attempts. --spaces prints the tables of vectors, each with its
// model, dim, task type, tokens and cost.
//
// --watch looks every 2 seconds, or as often as --watch=INTERVAL says, until no
// batch is open. On a terminal it draws the board again. In a pipe it prints the
// summary, and again whenever more than the ages has changed. It holds the database
// only while it reads.
//
// --metrics writes the figures to a file for the textfile collector of Prometheus,
// and --html a page with plots, without a script. Each file is complete when it
// gets its name. With --watch it is written each time.
//
// --output writes a file whole or not at all: gbatch --help has the rules.
//
// Environment: XDG_STATE_HOME, the parent of the folder with the intents, and
// GBATCH_PRICES, a file of prices that replace the known prices. NO_COLOR turns
// off the colors.
//
// Exit codes: 0 done, 1 failed, 2 usage, 5 another process holds the database for
// longer than --lock-timeout, 130 stopped by Ctrl-C.
package main

import (
	_ "embed"

	"gbatch/pkg/board"
	"gbatch/pkg/cli"
)

//go:embed main.go
var manual string

func main() { cli.Main(manual, new(board.Status)) }
