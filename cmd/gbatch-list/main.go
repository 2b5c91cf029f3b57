// gbatch-list prints what is at Google: all jobs of the project, newest first as
// Google lists them, or with --files all files. It reads nothing.
//
//	gbatch-list
//	gbatch-list --files
//
// Jobs and files belong to a project, not to a key, so those of other programs
// are printed too. What gbatch-submit has made has a display name that begins
// with gbatch-. The record then also has what that name tells: the batch, unless
// the requests came without a header, and how many canaries are in it:
//
//	{"job":"batches/abc","batch":"b01","state":"SUCCEEDED","model":"gemini-embedding-001","dim":0,"requests":2,"input":"files/x","created":"…","ended":"…","display":"gbatch-b01-0123456789abcdef","output":"files/batch-abc","answers":2,"errors":0}
//	{"file":"files/x","batch":"b01","state":"ACTIVE","source":"UPLOADED","bytes":172,"display":"gbatch-b01-0123456789abcdef","created":"…","expires":"…"}
//
// answers and errors are Google's counts: requests with an answer, and answers
// that are errors. Google does not count them for every job. The list does not
// tell the length of the vectors, hence dim is 0.
//
// Jobs in the list can go on in the line. gbatch-fetch prints the results of a
// job that a lost database has paid for; gbatch-cancel ends jobs, and deletes
// files:
//
//	gbatch-list | jq -c 'select(.batch == "b01")' | gbatch-wait | gbatch-fetch > vectors.ndjson
//	gbatch-list --files | jq -c 'select(.batch == "b01")' | gbatch-cancel
//
// The list is printed page by page. If a page cannot be had, the exit code is 1
// or 5, and what was printed before is not all there is. A job that was created a
// moment ago may be missing: Google does not say how soon the list shows it.
//
// Environment: GEMINI_API_KEY, or GOOGLE_API_KEY, which takes precedence;
// GOOGLE_GEMINI_BASE_URL for another server.
//
// Exit codes: 0 done, 1 failed, 2 usage, 5 try later.
package main

import (
	_ "embed"

	"gbatch/pkg/cli"
	"gbatch/pkg/gbatch"
)

//go:embed main.go
var manual string

func main() { cli.Main(manual, new(gbatch.List)) }
