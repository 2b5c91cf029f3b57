// gbatch-fetch prints the results of jobs.
//
//	gbatch-wait jobs.ndjson | gbatch-fetch | vectors-apply kb.duckdb
//
// It reads jobs that have ended, as gbatch-wait prints them. For each job that
// succeeded it prints a vector or an error for each key, and then the job again.
// The order is that of Google's result file, which may differ from the order of the
// requests.
//
//	{"key":"chunk_123","batch":"b01","dim":768,"vector":"<base64 of little-endian float32>","tokens":3}
//	{"key":"chunk_456","batch":"b01","error":{"code":3,"status":"INVALID_ARGUMENT","message":"…"}}
//	{"job":"batches/abc","batch":"b01","state":"SUCCEEDED",…,"succeeded":1,"failed":1,"tokens":3}
//
// With --array a vector is an array of numbers in place of base64, for jq, Miller or
// PostgreSQL. The numbers have the fewest digits that give the same float32 values again.
// Such a line is about 1.7 times as long. vectors-apply reads both forms.
//
// Only that last record says that the answers before it are complete. A result may
// be cut short, or have fewer answers than Google counts or than requests were
// sent. The job is then printed with the reason in its error and without the
// counts, and its batch stays open. A download that breaks continues where it
// stopped.
//
// A vector with the wrong number of values is an error of its key. A line that
// cannot be read is an error of its key too. If its key cannot be read either, there
// is a warning, and the key gets no answer. Jobs that did not succeed, or have not
// ended, are printed unchanged.
//
// A job that was submitted with --canary is read to its end before anything of it
// is printed. The answers to a request and to its canary are the same if their bits
// are equal or their cosine is at least 0.999. If any such answers differ, no vector
// of the job is printed.
//
// The input file is deleted from Google after the results are printed, unless
// --keep-input is given. The results stay at Google until they expire; those of Vertex
// AI stay in your bucket until you delete them.
//
// Files that are given are read in place of stdin. --output writes a file whole or not
// at all: gbatch --help has the rules.
//
// Jobs of Vertex AI, projects/…/batchPredictionJobs/…, are handled too, with Google's
// Application Default Credentials. If GOOGLE_CLOUD_PROJECT is set, there need not be
// an API key.
//
// Environment: GEMINI_API_KEY or GOOGLE_API_KEY (GOOGLE_API_KEY takes precedence if
// both are set); GOOGLE_GEMINI_BASE_URL for another server; TMPDIR for the results
// of jobs with canaries.
//
// Exit codes: 0 done, 1 failed, 2 usage, 3 done, but some jobs or keys failed, or
// the canaries of a job did not agree, 4 some jobs have not ended, 5 try later,
// 7 input malformed, or a result cut short.
package main

import (
	_ "embed"

	"gbatch/pkg/cli"
	"gbatch/pkg/gbatch"
)

//go:embed main.go
var manual string

func main() { cli.Main(manual, new(gbatch.Fetch)) }
