// Chunks-release gives claimed batches back: their chunks are pending again, and
// the next chunks-pending claims them again. If no batch is named, it gives back
// every batch that has no job in the database.
//
//	chunks-release kb.duckdb
//	chunks-release kb.duckdb b01K…
//	chunks-release kb.duckdb b01K… --force
//
// A batch is given back at once if it was certainly never sent: the intents of
// gbatch-submit on this machine do not name it, or say that no create was sent.
// All other batches are kept, and the exit code is 3. Run the whole pipe, which
// finds their jobs. With --force they are given back too. If such a batch has a
// job, its requests are then paid for twice. A warning says how many and how much.
// Such batches are:
//
//   - a batch with a job in the database, for example a job that was deleted
//   - a batch whose create has an unknown outcome
//   - a claim older than three days, because gbatch-submit keeps its intents for
//     three days only
//
// A batch that gbatch-submit is working on is always kept.
//
// Run chunks-release on the machine that submits, while no other command runs.
//
// It prints the job of each batch that is given back and has one:
//
//	{"job":"batches/abc","batch":"b01K…","state":"QUEUED","model":"gemini-embedding-001","dim":768,"requests":2}
//
// A batch that was given back may still be submitted, because its lines are in a
// pipe or a file. For three days vectors-apply stores its answers like those of any
// other batch.
//
// --output writes a file whole or not at all: gbatch --help has the rules.
//
// Environment: XDG_STATE_HOME, the parent of the folder with the intents.
//
// Exit codes: 0 done, 1 failed, 2 usage, 3 some batches were not given back,
// 5 another process holds the database for longer than --lock-timeout.
package main

import (
	_ "embed"

	"gbatch/pkg/cli"
	"gbatch/pkg/store"
)

//go:embed main.go
var manual string

func main() { cli.Main(manual, new(store.Release)) }
