// gbatch-wait waits for jobs to end, and prints each as it ends.
//
//	gbatch-wait < jobs.ndjson
//	jobs-pending kb.duckdb | gbatch-wait --once | gbatch-fetch | vectors-apply kb.duckdb
//
// It reads jobs, as gbatch-submit and jobs-pending print them, and looks at
// each from the moment it is read. A job that has ended is printed with its
// state, SUCCEEDED, FAILED, CANCELLED or EXPIRED, and Google's reason:
//
//	{"job":"batches/abc","batch":"b01","state":"SUCCEEDED","model":"gemini-embedding-001","dim":768,"requests":2,"input":"files/x","created":"…","ended":"…"}
//
// An unknown state is waited on, unless Google says that the job is done. The time
// between two looks is --interval, and grows with the job's age. A job whose
// status fails for longer than --retry-for does not keep the others back.
//
// Jobs go on at Google whatever becomes of this command. With --once each is
// looked at once, with --timeout for so long; those that have not ended are
// not printed, and the exit code is 4. The same line again goes on waiting.
//
// Environment: GEMINI_API_KEY, or GOOGLE_API_KEY, which takes precedence;
// GOOGLE_GEMINI_BASE_URL for another server.
//
// Exit codes: 0 done, 1 failed, or a job is not visible to this key, 2 usage,
// 3 done, but some jobs did not succeed, 4 not finished yet, 5 try later,
// 7 input malformed.
package main

import (
	_ "embed"

	"gbatch/pkg/cli"
	"gbatch/pkg/gbatch"
)

//go:embed main.go
var manual string

func main() { cli.Main(manual, new(gbatch.Wait)) }
