// gbatch-submit submits batches of requests to Google's Gemini Batch API, or
// finds the jobs that an earlier run created for them.
//
//	chunks-pending kb.duckdb | to-jsonl | gbatch-submit > jobs.ndjson
//	gbatch-submit --model gemini-embedding-2 < requests.jsonl
//
// It reads request lines, as to-jsonl prints them, each batch behind its
// header. It uploads each batch as a file, creates a job for it and prints the
// job:
//
//	{"job":"batches/abc","batch":"b01","state":"QUEUED","model":"gemini-embedding-001","dim":768,"requests":2,"input":"files/x"}
//
// A header whose count is not met means that a command before this one ended
// early: nothing of the batch is sent, exit 7. Requests without a header are
// cut into batches at --max-requests and --max-bytes. With --allow-partial a
// shorter batch is submitted, but not one that comes from chunks-pending.
//
// A request that to-jsonl rendered below a header is marked as claimed. Without a
// header it is refused, exit 7: as a request by hand it would be paid for again.
// Below the header of another batch it is refused too, if the header has the sum
// of its batch's keys, as those of chunks-pending have. The mark is not uploaded.
//
// No batch is paid for twice. A job's display name holds the batch's name and
// a hash of its lines. Before a job is created, all jobs of the project are
// listed. If one has the same name, it is taken, unless it failed, expired or was
// cancelled. If one has the same lines under another batch's name, as after a
// database was restored from a backup, it is taken with a warning until its
// results are collected. A batch that was submitted before with other lines is
// refused.
//
// A create is sent once. If its reply is lost, or is anything but Google's clear
// refusal, the list is searched until the job shows or --settle has passed since
// the attempt ended. Then the exit code is 6: run the line again. Notes in
// $XDG_STATE_HOME/gbatch (~/.local/state/gbatch) say how far a submission has
// come, so that a run after kill -9 knows it, and two runs at once create one
// job. If a note names a job that the key cannot see, nothing is created: exit 1.
// For a batch to be found again, the same lines must come again: chunks-pending
// sees to it.
//
// With --canary N, N requests of each batch are sent a second time under
// reserved keys, spread through the file; gbatch-fetch compares the answers
// and refuses a job whose answers are under the wrong keys. They are paid for
// like the others.
//
// A quota that is full is waited for, for --retry-for. If it stays full and no
// other job is active, the batch is larger than the quota: exit 1.
//
// Environment: GEMINI_API_KEY, or GOOGLE_API_KEY, which takes precedence;
// GOOGLE_GEMINI_BASE_URL for another server; TMPDIR for a copy of the batch at
// work and of the next one.
//
// Exit codes: 0 done, 1 failed, 2 usage, 5 try later, 6 the outcome of a
// create is unknown, 7 input cut short or malformed, 8 a batch over 2 GB.
package main

import (
	_ "embed"

	"gbatch/pkg/cli"
	"gbatch/pkg/gbatch"
)

//go:embed main.go
var manual string

func main() { cli.Main(manual, new(gbatch.Submit)) }
