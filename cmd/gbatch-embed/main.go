// gbatch-embed embeds chunks at once, by Google's online calls: questions, and texts
// that cannot wait for a batch. It costs twice the price of a batch.
//
//	chunks-near kb.duckdb --header | gbatch-embed --text 'What do gophers store?' | chunks-near kb.duckdb
//	chunks-pending kb.duckdb | gbatch-embed | vectors-apply kb.duckdb
//
// It reads chunks, one JSON object a line, and prints a vector or an error for each,
// in the same order and in the form of gbatch-fetch:
//
//	{"id":"q","text":"What do gophers store?"}
//	{"space":{"model":"gemini-embedding-001","dim":768,"task_type":"RETRIEVAL_QUERY"}}
//	{"key":"q","dim":768,"vector":"<base64 of little-endian float32>"}
//
// A record with the space comes before the first vector. Such a record may also be in
// the input: it says how the chunks after it are embedded. Flags are for chunks without
// one. --model and --dim must not differ from a space record. --task-type may, since
// documents can be asked with several task types: RETRIEVAL_QUERY, QUESTION_ANSWERING,
// FACT_VERIFICATION and CODE_RETRIEVAL_QUERY all go with RETRIEVAL_DOCUMENT. An
// environment variable (GBATCH_MODEL, GBATCH_DIM, GBATCH_TASK_TYPE) may differ: the
// record takes precedence. The models gemini-embedding-2… get the task type and the
// title as words in the text.
//
// --text embeds a text of the command line, after those of the input. Its key is the
// text itself. Give the flag several times for several texts.
//
// A batch of chunks-pending is embedded as its header says. After its last answer
// comes a job record, by which vectors-apply closes the batch. A batch that was
// submitted as a job, or may have been, is refused. If the pipe stops within a batch,
// the batch stays open, and the next run pays for it again: use small batches
// (chunks-pending --max-requests 500).
//
// Up to 100 texts are sent in a call, and --parallel calls at a time. Calls that fail
// with a transient error are repeated for up to --retry-for. If a reply is lost, its
// texts are paid for again. Google refuses a whole call because of one text: the call
// is then divided until only that text fails, which is free of charge. If the first 10
// texts are all refused, the run ends.
//
// Do not run gbatch-submit on the same database at the same time: both would be given the
// batches that were claimed before, and the one does not see what the other has sent.
//
// Vectors of questions are kept in $XDG_CACHE_HOME/gbatch (~/.cache/gbatch), in files
// that only you can read, without the texts: the last 10,000 of them. Chunks of batches
// and chunks with the task type RETRIEVAL_DOCUMENT are not kept. --no-cache neither
// reads nor writes the files.
//
// --max-cost and --max-total-tokens bound a run, at the price of online calls. A batch
// is checked by the tokens_max of its header before anything of it is sent, a chunk
// without a batch by an estimate. What is over the cap ends the run with exit code 8.
//
// On a terminal, or with -v, it says at its end how many tokens were sent, and their
// price. gemini-embedding-001 does not count the tokens of online calls: they are then
// estimated.
//
// With --array a vector is an array of numbers in place of base64.
//
// Files that are given are read in place of stdin. --output writes a file whole or not
// at all: gbatch --help has the rules. If the run fails, or is stopped by Ctrl-C, the file
// has the answers that were printed before, because they are paid for.
//
// Environment: GEMINI_API_KEY or GOOGLE_API_KEY (GOOGLE_API_KEY takes precedence if
// both are set); GOOGLE_GEMINI_BASE_URL for another server; XDG_CACHE_HOME;
// GBATCH_PRICES.
//
// Exit codes: 0 done, 1 failed, 2 usage, 3 done, but some keys failed, 5 try later,
// 7 input cut short or malformed, 8 refused by a cap.
package main

import (
	_ "embed"

	"gbatch/pkg/cli"
	"gbatch/pkg/gbatch"
)

//go:embed main.go
var manual string

func main() { cli.Main(manual, new(gbatch.Embed)) }
