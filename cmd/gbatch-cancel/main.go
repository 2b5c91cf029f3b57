// gbatch-cancel asks Google to end jobs, and deletes files of ours that no living
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
// has read that a job is CANCELLED, its chunks are pending again, and the next
// line sends and pays for them again, unless they are removed before.
//
// What is forfeited is said on stderr. A job that ends CANCELLED has no results.
// Google stops working on it, and does not say whether it charges for requests
// that were under way. To cancel a job that has ended, or was cancelled before,
// is not an error.
//
// Refused, with exit code 3, and not printed, while the other records are
// handled:
//
//   - a job or a file that has no display name of gbatch-submit. The name is
//     asked from Google; what a record says is not enough
//   - a file that is the input of a job that has not ended. All jobs of the
//     project are listed before the first file is deleted
//   - a file whose submission is under way on this machine, by the notes of
//     gbatch-submit, or whose create has an unknown outcome
//   - a file of results. Google has no call that deletes it: its name is longer
//     than those calls take. It stays until it expires
//
// A submission on another machine is seen only once its job is in the list. Do
// not delete files while another machine submits.
//
// With --dry-run nothing is changed. What would be done is said on stderr, and
// the records are printed in the states that they have at Google.
//
// Environment: GEMINI_API_KEY, or GOOGLE_API_KEY, which takes precedence;
// GOOGLE_GEMINI_BASE_URL for another server; XDG_STATE_HOME for the notes of
// gbatch-submit.
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
