// gbatch-list prints all jobs of the project at Google, in the order of Google's
// list (newest first), or with --files all files. It does not read stdin.
//
//	gbatch-list
//	gbatch-list --files
//
// Jobs and files belong to a project, not to a key, so those of other programs
// are also printed. The jobs and files of gbatch-submit have a display name that
// begins with gbatch-. Their records also have what that name contains: the batch,
// unless the requests came without a header, and the number of canaries:
//
//	{"job":"batches/abc","batch":"b01","state":"SUCCEEDED","model":"gemini-embedding-001","dim":0,"requests":2,"input":"files/x","created":"…","ended":"…","display":"gbatch-b01-0123456789abcdef","output":"files/batch-abc","answers":2,"errors":0}
//	{"file":"files/x","batch":"b01","state":"ACTIVE","source":"UPLOADED","bytes":172,"display":"gbatch-b01-0123456789abcdef","created":"…","expires":"…"}
//
// answers and errors are Google's counts: requests with an answer, and answers
// that are errors. Google does not count them for every job. The list does not
// contain the length of the vectors, so dim is 0.
//
// The other commands accept these records. gbatch-fetch prints the results of
// jobs whose database is lost. gbatch-cancel cancels jobs, and deletes files:
//
//	gbatch-list | jq -c 'select(.batch == "b01")' | gbatch-wait | gbatch-fetch -o vectors.ndjson
//	gbatch-list --files | jq -c 'select(.batch == "b01")' | gbatch-cancel
//
// The list is printed page by page. If a page cannot be read, the exit code is 1
// or 5, and the printed list is incomplete. A job that was created a moment ago may
// be missing: Google does not say how soon the list shows it.
//
// --output writes a file whole or not at all: gbatch --help has the rules.
//
// --backend vertex lists the jobs of Vertex AI, in the project GOOGLE_CLOUD_PROJECT and
// the location GOOGLE_CLOUD_LOCATION. Their files are objects of your bucket.
//
// Environment: GEMINI_API_KEY or GOOGLE_API_KEY (GOOGLE_API_KEY takes precedence if
// both are set); GOOGLE_GEMINI_BASE_URL for another server.
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
