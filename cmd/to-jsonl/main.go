// to-jsonl renders chunks as the request lines of Google's batch file.
//
//	chunks-pending kb.duckdb | to-jsonl | gbatch-submit
//	to-jsonl < chunks.ndjson > requests.jsonl
//
// It reads chunks, one JSON object a line, and prints a request for each, in
// the same order:
//
//	{"id":"chunk_123","text":"Some text","title":"A title"}
//	{"key":"chunk_123","request":{"content":{"parts":[{"text":"Some text"}]},"taskType":"RETRIEVAL_DOCUMENT","title":"A title","outputDimensionality":768}}
//
// id and text are required, and neither may be empty. An id may be a whole
// number. title is sent for RETRIEVAL_DOCUMENT. If context is not empty, it is
// embedded in place of text. Other members are ignored. An id may come once in a
// batch; ids that begin with gbatch-canary: are reserved.
//
// A batch header, as chunks-pending prints it, is passed on:
//
//	{"batch":"b01","count":2,"model":"gemini-embedding-001","dim":768,"task_type":"RETRIEVAL_DOCUMENT"}
//
// The count lines after it are rendered as the header says; if the header has no
// task_type, without a task type. Each request then says that it is claimed, so
// that gbatch-submit refuses the request if the header gets lost. gbatch-submit
// takes the member claimed out again before it uploads the line:
//
//	{"key":"chunk_123","claimed":true,"request":{…}}
//
// Flags are for chunks without a header. A flag that is not what the header says is
// an error. A variable (GBATCH_MODEL, GBATCH_DIM, GBATCH_TASK_TYPE) is none: the
// header takes precedence over it. models/x and publishers/google/models/x are the
// model x.
//
// The models gemini-embedding-2… take no task type and no title. For these models
// both are written into the text, in the words that Google documents:
// "title: A title | text: Some text", "task: search result | query: …".
//
// The shapes of a line: rest is for the Gemini API, vertex for batch
// prediction on Google Cloud, sdk is the spelling of Google's SDKs, which the
// Gemini API's embedding endpoint refuses.
//
// Strings are checked and passed through as they are written. Text that is not
// UTF-8, half a surrogate pair or a control character is an error that names line
// and column. After an error nothing of the batch is submitted, since the header's
// count is not met. Without a header only the exit code tells: use set -o pipefail,
// or write to a file first.
//
// Exit codes: 0 done, 2 wrong usage, or a flag that is not what a header says, 7
// input cut short or malformed.
package main

import (
	_ "embed"

	"gbatch/pkg/cli"
	"gbatch/pkg/render"
)

//go:embed main.go
var manual string

func main() { cli.Main(manual, new(render.ToJSONL)) }
