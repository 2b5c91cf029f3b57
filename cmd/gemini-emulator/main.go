// gemini-emulator is a local Gemini server: files and embedding batches, for
// demos, tests and your own CI. It takes any API key and costs nothing.
//
//	gemini-emulator --listen 127.0.0.1:8085 --dir /tmp/emulator &
//	export GOOGLE_GEMINI_BASE_URL=http://127.0.0.1:8085 GEMINI_API_KEY=any
//
// Once it listens it prints one line, {"url":"http://127.0.0.1:8085","dir":"/tmp/emulator"},
// and serves until it is stopped. Google's SDKs in Go, JavaScript and Python
// follow GOOGLE_GEMINI_BASE_URL. The state is in --dir: started again there,
// also after kill -9, it knows every file and job. It listens on loopback
// only, unless --allow-remote is given.
//
// With curl:
//
//	h="x-goog-api-key: any"; u=http://127.0.0.1:8085
//	at=$(curl -s -D - -o /dev/null -H "$h" -H 'X-Goog-Upload-Protocol: resumable' -H 'X-Goog-Upload-Command: start' \
//	  -d '{"file":{"displayName":"demo","mimeType":"jsonl"}}' $u/upload/v1beta/files | tr -d '\r' | sed -n 's/^X-Goog-Upload-Url: //ip')
//	curl -s -H 'X-Goog-Upload-Command: upload, finalize' -H 'X-Goog-Upload-Offset: 0' --data-binary @requests.jsonl "$at"
//	curl -s -H "$h" -d '{"batch":{"displayName":"demo","inputConfig":{"file_name":"files/ID"}}}' \
//	  $u/v1beta/models/gemini-embedding-001:asyncBatchEmbedContent
//	curl -s -H "$h" $u/v1beta/batches/ID
//	curl -s -H "$h" "$u/v1beta/files/batch-ID:download?alt=media"
//
// The models are gemini-embedding-001, gemini-embedding-2 and its -preview.
// The generic create, :batchGenerateContent, is a 404 for them, as at Google;
// it works with any other name, and answers with embeddings. A vector is a
// function of text and size alone, and texts that share words are alike.
//
// A key belongs to the project after its last @, or to one of its own; files
// and jobs are seen by keys of their project only.
//
// A job is PENDING when it is made, RUNNING at the status request of number
// --polls, and ended at the next, if it is as old as --delay.
//
// Faults are lines of words, by --fault, --fault-file, or at any time by
//
//	curl --data-binary 'create nth=1 drop when=after' $u/emulator/faults
//
// which replaces the list. GET tells how often each struck. A line is an
// operation, which of its calls, and what happens:
//
//	upload.start status=503                       download cut=5000 times=1
//	create nth=2 status=429 retry=30s             download short=5000
//	any p=0.1 seed=7 drop when=after              get nth=1-3 state=BATCH_STATE_NEW
//	get every=3 delay=2s                          download status=502 body=html
//	job nth=1 state=EXPIRED message="too old"     results missing each=10
//	results error=13 keys=a,b message="internal"  results length=3 first=2
//	results values=nan last=1                     results swap each=5
//	create hold=sent when=before                  download hold=half at=5000
//
// The operations: upload.start, upload.data, file.get, file.list,
// file.delete, download, create, get, list, cancel, delete, embed, or any;
// and job and results, which are a job that ends and its results.
// Which calls: nth=N or nth=N-M, every=N, times=N, p=P with seed=N, match=TEXT
// (path, for create and job the display name).
// For calls: status=CODE (message=, retry=, retry-after=, body=html or
// body=empty), drop, hang, delay=TIME, hold=NAME, cut=BYTES; each but cut
// with when=before or when=after the work. nostatus for upload.data, short=BYTES for
// download, state=NAME for get, hide=N (the newest jobs) for list.
// For job: state=FAILED, CANCELLED or EXPIRED, with code= and message=.
// For results: error=CODE (message=, place=response), missing, duplicate,
// foreign, nokey, swap, length=N, values=nan, nan-string, inf, huge,
// null-element, empty, null or absent, garbage, on the lines that keys=A,B,
// each=N, first=N or last=N select; and half, which cuts the last line.
//
// A call at a hold waits until it is released or its client is gone:
//
//	curl "$u/emulator/holds?wait=sent"              # returns when a call is held there
//	curl -X POST "$u/emulator/release?name=sent"
//
// The books say what was asked for and paid for, by request and by text:
//
//	curl $u/emulator/books
package main

import (
	_ "embed"

	"gbatch/pkg/cli"
	"gbatch/pkg/emulator"
)

//go:embed main.go
var manual string

func main() { cli.Main(manual, new(emulator.Emulator)) }
