// gbatch-fetch prints the results of jobs.
//
//	gbatch-wait < jobs.ndjson | gbatch-fetch | vectors-apply kb.duckdb
//
// It reads jobs that have ended, as gbatch-wait prints them. For each that
// succeeded it prints a vector or an error for each key, in the order of
// Google's result file, which need not be that of the requests, and then the
// job again:
//
//	{"key":"chunk_123","batch":"b01","dim":768,"vector":"<base64 of little-endian float32>","tokens":3}
//	{"key":"chunk_456","batch":"b01","error":{"code":3,"status":"INVALID_ARGUMENT","message":"…"}}
//	{"job":"batches/abc","batch":"b01","state":"SUCCEEDED",…,"succeeded":1,"failed":1,"tokens":3}
//
// Only that last record says that the answers before it are complete. If a result
// is cut short, or has fewer answers than Google counts or than requests were
// sent, the job is printed with the reason in its error and without these counts:
// it stays open. A download that breaks continues where it stopped. A vector of
// another length than was asked for is an error of its key. So is a line that
// cannot be read; if its key cannot be read either, it is a warning, and the key
// gets no answer. Jobs that did not succeed, or have not ended, are printed as
// they came.
//
// A job that was submitted with --canary is read through before anything of it
// is printed. Where the answers to a request that was sent twice differ (by
// their bits, and with a cosine below 0.999), none of its vectors is printed.
//
// The input file is deleted from Google once the results are printed, unless
// --keep-input is given. The results stay there until they expire.
//
// Environment: GEMINI_API_KEY, or GOOGLE_API_KEY, which takes precedence;
// GOOGLE_GEMINI_BASE_URL for another server; TMPDIR for the results of jobs
// with canaries.
//
// Exit codes: 0 done, 1 failed, 2 usage, 3 done, but some jobs or keys failed,
// or a job's canaries did not agree, 4 some jobs have not ended, 5 try later,
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
