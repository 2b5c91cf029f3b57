// to-jsonl renders chunks as the request lines of Google's batch file.
//
//	chunks-pending kb.duckdb | to-jsonl | gbatch-submit
//	to-jsonl chunks.ndjson -o requests.jsonl
//
// It reads chunks, one JSON object a line, and prints one request for each, in the
// same order:
//
//	{"id":"chunk_123","text":"Some text","title":"A title"}
//	{"key":"chunk_123","request":{"content":{"parts":[{"text":"Some text"}]},"taskType":"RETRIEVAL_DOCUMENT","title":"A title","outputDimensionality":768}}
//
// id and text are required, and neither may be empty. An id may be a whole number.
// title is sent if the task type is RETRIEVAL_DOCUMENT. If context is not empty, it
// is embedded in place of text. Other members are ignored. No two chunks of a batch
// may have the same id. Ids that begin with gbatch-canary: are reserved.
//
// A batch header, as chunks-pending prints it, is passed on:
//
//	{"batch":"b01","count":2,"model":"gemini-embedding-001","dim":768,"task_type":"RETRIEVAL_DOCUMENT"}
//
// The next count lines are rendered with the header's model, dim and task type. If
// the header has no task_type, they are rendered without a task type. Each of these
// requests says that it is claimed, so that gbatch-submit refuses the request if the
// header is lost. gbatch-submit removes the member claimed before it uploads the line:
//
//	{"key":"chunk_123","claimed":true,"request":{…}}
//
// Flags are for chunks without a header. A flag that differs from a header is an
// error. An environment variable (GBATCH_MODEL, GBATCH_DIM, GBATCH_TASK_TYPE) that
// differs is not an error: the header takes precedence over it. models/x and
// publishers/google/models/x are other spellings of the model x.
//
// The models gemini-embedding-2… take neither a task type nor a title. For these
// models both are written into the text, in the words that Google documents:
// "title: A title | text: Some text", "task: search result | query: …".
//
// --shape is the form of a request line. rest is for the Gemini API. vertex is for
// batch prediction of Vertex AI, and the default with --backend vertex. sdk is the spelling of Google's SDKs; the
// embedding endpoint of the Gemini API refuses it.
//
// Strings are checked and copied as they are written. Text that is not UTF-8, half a
// surrogate pair or a control character is an error that names line and column.
// After an error nothing of the batch is submitted, because it has fewer requests
// than its header says. Without a header only the exit code shows the error: use
// set -o pipefail, or write to a file with --output.
//
// Files that are given are read in place of stdin. --output writes a file whole or not
// at all: gbatch --help has the rules.
//
// Exit codes: 0 done, 2 wrong usage, or a flag that differs from a header, 7 input
// cut short or malformed.
package main

import (
	_ "embed"

	"gbatch/pkg/cli"
	"gbatch/pkg/render"
)

//go:embed main.go
var manual string

func main() { cli.Main(manual, new(render.ToJSONL)) }
