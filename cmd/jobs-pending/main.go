// Jobs-pending prints the jobs that were submitted and whose results are not in
// the database yet, oldest first:
//
//	{"job":"batches/abc","batch":"b01K…","state":"QUEUED","model":"gemini-embedding-001","dim":768,"requests":2,"input":"files/x"}
//
//	jobs-pending kb.duckdb | gbatch-wait --once | gbatch-fetch | vectors-apply kb.duckdb
//
// It only reads the database, with one exception: after a kill -9 it completes what
// DuckDB had not finished writing.
//
// --output writes a file whole or not at all: gbatch --help has the rules.
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

func main() { cli.Main(manual, new(store.Jobs)) }
