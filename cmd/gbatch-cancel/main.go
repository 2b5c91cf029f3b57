// gbatch-cancel asks Google to cancel jobs, and deletes input files that no active
// job uses.
//
//	jobs-pending kb.duckdb | gbatch-cancel | gbatch-wait | gbatch-fetch | vectors-apply kb.duckdb
//	gbatch-list --files | gbatch-cancel --dry-run
//
// It reads jobs and files, as gbatch-list, jobs-pending and gbatch-submit print
// them, and prints each with its new state:
//
//	{"job":"batches/abc","batch":"b01","state":"CANCELLED","model":"gemini-embedding-001","dim":768,"requests":2,"input":"files/x","error":{"code":1,"status":"CANCELLED","message":"The operation was cancelled."}}
//	{"file":"files/x","batch":"b01","state":"DELETED","source":"UPLOADED","bytes":172,"display":"gbatch-b01-0123456789abcdef"}
//
// A record of a job that has ended is printed unchanged. A job may need time to
// end, and may still succeed: gbatch-wait waits for its end. When vectors-apply
// has read that a job is CANCELLED, its chunks are pending again. The next
// chunks-pending claims them, and they are paid for again. If they should not be
// embedded, remove them first.
//
// A job that ends CANCELLED has no results. Google may charge for the requests
// that it has worked on. A job of Vertex AI keeps the answers that it has, and they are
// paid for: gbatch-wait then prints it as SUCCEEDED. stderr reports how many requests lose their results. If
// a job has already ended, or was cancelled before, that is not an error.
//
// Some records are refused. They are not printed, the other records are handled,
// and the exit code is 3:
//
//   - a job or a file without a display name of gbatch-submit. The name is read
//     from Google, not from the record
//   - a file that is the input of a job that has not ended. gbatch-cancel reads
//     the list of all jobs before it deletes the first file
//   - a file that gbatch-submit on this machine is using, or whose create has an
//     unknown outcome, according to the notes of gbatch-submit. With --bucket, on
//     any machine that gives gbatch-submit the same --bucket
//   - a file of results. Google cannot delete it: its name is longer than the
//     call allows. It stays until it expires
//
// Without --bucket, a submission on another machine is visible only when its job is in
// the list. Do not delete files then while another machine submits.
//
// With --dry-run nothing is changed. stderr reports what would be done, and the
// records are printed with the states that they have at Google.
//
// Files that are given are read in place of stdin. --output writes a file whole or not
// at all: gbatch --help has the rules.
//
// Jobs of Vertex AI, projects/…/batchPredictionJobs/…, are handled too, with Google's
// Application Default Credentials. If GOOGLE_CLOUD_PROJECT is set, there need not be
// an API key.
//
// Environment: GEMINI_API_KEY or GOOGLE_API_KEY (GOOGLE_API_KEY takes precedence if
// both are set); GOOGLE_GEMINI_BASE_URL for another server; XDG_STATE_HOME for the
// notes of gbatch-submit; for --bucket Google's Application Default Credentials, or
// STORAGE_EMULATOR_HOST.
//
// Exit codes: 0 done, 1 failed, or a job is not visible to this key, 2 usage,
// 3 done, but some records were refused, 5 try later, 7 input malformed.
package main

import (
	_ "embed"

	"gbatch/pkg/cli"
	"gbatch/pkg/gbatch"
)

//go:embed main.go
var manual string

func main() { cli.Main(manual, new(gbatch.Cancel)) }
