// gbatch-wait waits for jobs to end, and prints each as it ends.
//
//	gbatch-wait jobs.ndjson
//	jobs-pending kb.duckdb | gbatch-wait --once | gbatch-fetch | vectors-apply kb.duckdb
//
// It reads jobs, as gbatch-submit and jobs-pending print them, and asks Google for
// each job as soon as it is read. A job that has ended is printed with its state
// (SUCCEEDED, FAILED, CANCELLED or EXPIRED) and Google's reason:
//
//	{"job":"batches/abc","batch":"b01","state":"SUCCEEDED","model":"gemini-embedding-001","dim":768,"requests":2,"input":"files/x","created":"…","ended":"…"}
//
// If gbatch-wait does not know a job's state, it goes on waiting, unless Google says
// that the job is done. The time between two status requests is --interval at first,
// and grows with the age of the job. If the status of one job cannot be read for
// longer than --retry-for, the other jobs are still waited for.
//
// Jobs continue at Google if gbatch-wait stops. With --once, gbatch-wait asks for
// each job once. With --timeout, it waits for that long. Jobs that have not ended
// are not printed, and the exit code is 4. Run the whole pipe again to wait longer.
//
// Files that are given are read in place of stdin. --output writes a file whole or not
// at all: gbatch --help has the rules.
//
// Jobs of Vertex AI, projects/…/batchPredictionJobs/…, are handled too, with Google's
// Application Default Credentials. If GOOGLE_CLOUD_PROJECT is set, there need not be
// an API key.
//
// Environment: GEMINI_API_KEY or GOOGLE_API_KEY (GOOGLE_API_KEY takes precedence if
// both are set); GOOGLE_GEMINI_BASE_URL for another server.
//
// Exit codes: 0 done, 1 failed, or a job is not visible to this key, 2 usage,
// 3 done, but some jobs did not succeed, 4 some jobs have not ended, 5 try later,
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
