// Chunks-release gives claimed batches back: their chunks are pending again, and
// the next chunks-pending claims them anew. Without names it gives back every
// batch that has no job in the database.
//
//	chunks-release kb.duckdb
//	chunks-release kb.duckdb b01K…
//	chunks-release kb.duckdb b01K… --force
//
// A batch that was surely never sent is given back at once: the notes that
// gbatch-submit keeps on this machine say nothing of it, or say that no create
// was sent. Others are kept, and the exit code is 3: run the line, which finds
// their jobs. With --force they are given back too. What has a job is then paid
// for twice; the message says how much that is. To these belong a batch with a
// job, such as one whose job was deleted; a batch whose create has an unknown
// outcome; and a claim older than three days, since gbatch-submit does not keep
// its notes for longer. A batch that gbatch-submit works on is always kept.
//
// Run it on the machine that submits, while no line is running.
//
// It prints the job of each batch given back that has one:
//
//	{"job":"batches/abc","batch":"b01K…","state":"QUEUED","model":"gemini-embedding-001","dim":768,"requests":2}
//
// If a batch that was given back is submitted after all, because its lines were
// in a pipe or a file, vectors-apply stores its answers as those of any other
// batch, for three days.
//
// Environment: XDG_STATE_HOME for the notes of gbatch-submit.
//
// Exit codes: 0 done, 1 failed, 2 usage, 3 some batches were not given back, 5
// the database is held by another process for longer than --lock-timeout.
package main

import (
	_ "embed"

	"gbatch/pkg/cli"
	"gbatch/pkg/store"
)

//go:embed main.go
var manual string

func main() { cli.Main(manual, new(store.Release)) }
