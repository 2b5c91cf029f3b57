// gbatch-submit submits batches of requests to Google's Gemini Batch API, or
// finds the jobs that an earlier run created for them.
//
//	chunks-pending kb.duckdb | to-jsonl | gbatch-submit -o jobs.ndjson
//	gbatch-submit --model gemini-embedding-2 requests.jsonl
//
// It reads request lines as to-jsonl prints them, each batch after its header. It
// uploads each batch as a file, creates a job for it and prints the job:
//
//	{"job":"batches/abc","batch":"b01","state":"QUEUED","model":"gemini-embedding-001","dim":768,"requests":2,"input":"files/x"}
//
// If a batch has fewer requests than its header says, a command earlier in the pipe
// ended early. Nothing of the batch is sent, and the exit code is 7. With
// --allow-partial a shorter batch is submitted, unless chunks-pending claimed it.
// Requests without a header are cut into batches at --max-requests and --max-bytes.
//
// A request that to-jsonl rendered below a header says that it is claimed. Without a
// header such a request is refused with exit code 7. Without this check it would be
// submitted as a request without a batch, and paid for again. The headers of
// chunks-pending hold a sum over the keys of the batch, so that requests below the
// header of another batch are refused too. The member claimed is not uploaded.
//
// No batch is paid for twice. The display name of a job holds the batch's name and
// a hash of its lines. Before gbatch-submit creates a job, it lists all jobs of the
// project. A job with the same display name is adopted, unless it failed, expired or
// was cancelled. A job may have the same lines under another batch's name, for
// example after the database was restored from a backup. It is adopted with a
// warning, unless its results were already collected. A batch that was submitted
// before with other lines is refused.
//
// A create is sent once. Its outcome is unknown if the reply is lost, or is not
// clearly a refusal by Google. gbatch-submit then searches the list until the job
// shows, or until --settle has passed since the attempt ended. If the job does not
// show, the exit code is 6: run the whole pipe again. Intents in
// $XDG_STATE_HOME/gbatch (~/.local/state/gbatch) record how far a submission has
// come, so that a run after kill -9 knows it, and two runs at the same time create
// one job. If an intent names a job that the key cannot see, nothing is created and
// the exit code is 1. A batch is recognised only if its lines are the same:
// chunks-pending prints the same lines again.
//
// With --canary N, N requests of each batch are sent a second time under reserved
// keys, spread through the file. gbatch-fetch compares the two answers, and refuses
// a job whose answers are under the wrong keys. The canaries cost money like other
// requests.
//
// --max-cost and --max-total-tokens bound the jobs that this run creates. They are
// checked before a byte of a batch is sent, by tokens_max of its header. If the header does
// not say, each request counts the model's limit, and so does a canary. A job that exists
// already costs nothing again. A batch that does not fit is refused, the later batches are
// tried, and the exit code is 8. A refused batch stays claimed: the next chunks-pending
// prints it again.
//
// With --dry-run, gbatch-submit prints for each batch whether it would create a job,
// adopt one, or wait, because the outcome of a create is unknown or another process is
// submitting the batch. It only reads.
//
// The intents belong to one machine. With --bucket gs://BUCKET/FOLDER, objects in
// FOLDER/claims say the same to all machines, so that machines that submit the same
// batches at the same time create one job for each. A claim without a job counts for
// --lease since it was written, by the clock of Cloud Storage. Its process renews it at a
// fifth of that time. Another process waits for up to --retry-for, and takes the claim
// over when it is released or its lease has passed; then it looks for a job that the
// other process may have created. If the claim is still held, the exit code is 5. After
// each create the job is looked up once more. If there are two jobs for one batch, the
// younger one is cancelled while it is queued. The rules are in docs/vertex.md.
//
// With --backend vertex the jobs are created at Vertex AI, for up to a million requests
// or 1 GB a batch. --bucket is needed: inputs and results are there too. The
// requests must have the shape vertex of to-jsonl. The jobs have labels, by which they
// are found again; --labels adds some:
//
//	export GBATCH_BACKEND=vertex GBATCH_BUCKET=gs://my-bucket/kb GOOGLE_CLOUD_PROJECT=my-project GOOGLE_CLOUD_LOCATION=us-central1
//	chunks-pending kb.duckdb | to-jsonl | gbatch-submit | gbatch-wait | gbatch-fetch | vectors-apply kb.duckdb
//
// If the quota is full, gbatch-submit waits for up to --retry-for. If the quota
// stays full and no other job is active, the batch is larger than the quota, and the
// exit code is 1.
//
// Files that are given are read in place of stdin. --output writes a file whole or not
// at all: gbatch --help has the rules. If the run fails, or is stopped by Ctrl-C, the file
// has the jobs that were printed before. If the file cannot be written, the next run
// adopts the jobs.
//
// Environment: GEMINI_API_KEY or GOOGLE_API_KEY (GOOGLE_API_KEY takes precedence if
// both are set); GOOGLE_GEMINI_BASE_URL for another server; for Vertex AI
// GOOGLE_CLOUD_PROJECT, GOOGLE_CLOUD_LOCATION and Google's Application Default
// Credentials, GOOGLE_VERTEX_BASE_URL and STORAGE_EMULATOR_HOST for other servers; TMPDIR for copies of the
// present batch and the next one; XDG_STATE_HOME, the parent of the folder with the
// intents. --bucket needs the Application Default Credentials with the Gemini API too.
//
// Exit codes: 0 done, 1 failed, 2 usage, 5 try later, 6 the outcome of a create is
// unknown, 7 input cut short or malformed, 8 refused by a cap, or a batch over
// 2 GB (at Vertex AI 1 GB, or a million requests).
package main

import (
	_ "embed"

	"gbatch/pkg/cli"
	"gbatch/pkg/gbatch"
)

//go:embed main.go
var manual string

func main() { cli.Main(manual, new(gbatch.Submit)) }
