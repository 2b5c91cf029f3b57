// gemini-emulator is a local Gemini server: files and embedding batches, for
// demos, tests and your own CI. It takes any API key and costs nothing.
//
//	gemini-emulator --listen 127.0.0.1:8085 --dir /tmp/emulator &
//	export GOOGLE_GEMINI_BASE_URL=http://127.0.0.1:8085 GEMINI_API_KEY=any
//
// When it listens it prints one line, {"url":"http://127.0.0.1:8085","dir":"/tmp/emulator"}.
// It serves until it is stopped. Google's SDKs in Go, JavaScript and Python
// read GOOGLE_GEMINI_BASE_URL. The state is in --dir: when the emulator starts
// again there, also after kill -9, it knows every file and job. It listens on
// loopback only, unless --allow-remote is given. With --base-path /gemini all
// calls are below that path, as behind a gateway.
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
// The generic create, :batchGenerateContent, is a 404 for them, as at Google.
// It works with any other name, and its results are embeddings. A vector
// depends on text and size alone, and texts that share words have similar
// vectors. As at Google, a text is cut without an error after the tokens that
// the model reads: 2048 for gemini-embedding-001, 8192 for gemini-embedding-2.
// Here a token is four bytes.
//
// A key belongs to the project after its last @, or to a project of its own.
// Only keys of the same project see a file or a job.
//
// A job is PENDING at first. It is RUNNING at status request number --polls,
// and at its end at the next one, if it is as old as --delay. A job id has 36
// characters. The id of its result file is longer than the 40 that Google
// allows for a file, so all calls but the download refuse it. An uploaded file
// is PROCESSING for --processing status requests. A create that needs it is
// refused meanwhile, and counts as a status request.
//
// Faults are lines of words. They come by --fault, by --fault-file, or at any
// time by
//
//	curl --data-binary 'create nth=1 drop when=after' $u/emulator/faults
//
// which replaces the list. GET shows how often each fault struck. A line is an
// operation, which of its calls, and what happens:
//
//	upload.start status=503                       download cut=5000 times=1
//	create nth=2 status=429 retry=30s             download short=5000
//	any p=0.1 seed=7 drop when=after              get nth=1-3 state=BATCH_STATE_NEW
//	get every=3 delay=2s                          download status=502 body=html
//	get status=503 match=my-job                   list body='{"operations":[null]}'
//	get set='name="batches/other"'                list set=operations.*.name
//	list drip=50ms at=100                         upload.data hang unread
//	download header="Content-Range: bytes */*"    create status=302 header=Location:/x when=after
//	job nth=1 state=EXPIRED message="too old"     job state=PARTIALLY_SUCCEEDED
//	results error=13 keys=a,b message="internal"  results error='{"code":"503"}' first=3
//	results missing each=10                       results length=3 first=2
//	results values=nan last=1                     results swap each=5
//	results line=NaN keys=b                       results set='error={"code":0}' keys=b
//	create hold=sent when=before                  download hold=half at=5000
//
// Double quotes keep blanks together. Single quotes also keep double quotes.
//
// The operations are upload.start, upload.data, file.get, file.list,
// file.delete, download, create, get, list, cancel, delete, embed, and any,
// which is all of these; and job and results, which are a job at its end and
// its results.
//
// Which calls: nth=N or nth=N-M, every=N, times=N, p=P with seed=N, match=TEXT
// (in the path, the display name of the file, upload or job, or the body of a
// create).
//
// What happens to calls, with when=before (in place of the work) or when=after
// (the work is done, and the fault takes the place of the reply):
//
//	status=CODE   answer this code, with message=, retry=TIME (RetryInfo), retry-after=. A 429 without
//	              message= has Google's text. 1xx but 101 is an interim reply, and the call goes on
//	body=TEXT     answer 200, or the code of status=, with this body; html and empty are bodies too
//	drop          cut the connection
//	hang          say nothing until the client goes away
//	delay=TIME    wait, then go on
//	hold=NAME     wait for a release, then go on
//	nostatus      upload.data: a reply without X-Goog-Upload-Status
//
// What happens to calls whose work is done in any case:
//
//	set=PATH=JSON the real reply with this value at PATH, whose names and indexes have dots between (* is
//	              each index). set=PATH removes the value. May be repeated. Not for download
//	header=NAME:VALUE  the reply with this header; header=NAME removes it. May be repeated. Also for status= and body=
//	drip=TIME     the body byte by byte, this long for each
//	cut=N         cut the connection after N bytes of the body
//	state=NAME    get: another state in this reply only
//	hide=N        list: without the newest N jobs
//	order=oldest  list: oldest job first; order=shuffled: in a random order
//	repeat        list: each page begins with the last job of the page before
//	short=N       download: the file seems to have only N bytes
//	late=N        cancel: the job is CANCELLED at the Nth status request after this, and not at once
//
// With at=N, hang, delay, hold and drip begin after N bytes of the reply's
// body. With unread, hang, delay and hold of upload.data do not read the
// request's body before their end, so that the client cannot send all of it. The
// emulator does not notice that a client goes away meanwhile.
//
// For job: state=FAILED, CANCELLED or EXPIRED, with code= and message=. Any
// other state is an end with results.
//
// For results, on the lines that keys=A,B, each=N, first=N or last=N select, or
// on all: error=CODE or error=JSON (message=, place=response), missing,
// duplicate, foreign, nokey, swap, length=N, values=nan, nan-string, inf, huge,
// null-element, empty, null or absent, set=PATH=JSON, line=TEXT, garbage; and
// half, which cuts the last line of the file.
//
// A call at a hold waits until it is released or its client goes away:
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
