// gemini-emulator is a local Gemini server: files and embedding batches, for
// demos, tests and your own CI, in Gemini's API and in Vertex AI's with Cloud Storage.
// It accepts any API key and costs nothing.
//
//	gemini-emulator --listen 127.0.0.1:8085 --dir /tmp/emulator &
//	export GOOGLE_GEMINI_BASE_URL=http://127.0.0.1:8085 GEMINI_API_KEY=any
//
// When it listens it prints one line, {"url":"http://127.0.0.1:8085","dir":"/tmp/emulator"}.
// It serves until it is stopped. Google's SDKs in Go, JavaScript and Python read
// GOOGLE_GEMINI_BASE_URL. The state is in --dir. If the emulator is started again
// with the same --dir, also after kill -9, it knows every file and job. It listens
// on loopback only, unless --allow-remote is given. With --base-path /gemini all
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
// The models are gemini-embedding-001, gemini-embedding-2 and gemini-embedding-2-preview.
// For them the generic create, :batchGenerateContent, is a 404, as at Google. For
// any other name it works, and its results are embeddings. A vector depends only on
// the text and the number of values. Texts that share words have similar vectors. As
// at Google, a text that is longer than the model reads is truncated without an
// error: at 2048 tokens for gemini-embedding-001, at 8192 for gemini-embedding-2.
// Here a token is some letters of a word, a digit or a run of punctuation. The count is
// near to the count of Google's tokenizer for Gemma 3.
//
// The project of a key is the part after its last @. A key without @ has a project
// of its own. Only keys of the same project see a file or a job.
//
// A job is PENDING at first. It is RUNNING at status request number --polls. It ends
// at the next status request, if it is at least --delay old. A job id has 36
// characters. The id of its result file is longer than the 40 characters that Google
// allows for a file, so all calls but the download refuse it. An uploaded file is
// PROCESSING for --processing status requests. During that time a create that uses
// the file is refused, and counts as a status request.
//
// The emulator also has the JSON API of Cloud Storage: insert (media, multipart,
// resumable), read with a Range and a generation, list, patch, delete, and the
// preconditions ifGenerationMatch, ifGenerationNotMatch, ifMetagenerationMatch and
// ifMetagenerationNotMatch. Every bucket exists, and has no versions. With curl:
//
//	curl -s --data-binary @file "$u/upload/storage/v1/b/my-bucket/o?uploadType=media&name=in/file&ifGenerationMatch=0"
//	curl -s -r 0-99 "$u/storage/v1/b/my-bucket/o/in%2Ffile?alt=media"
//	curl -s "$u/storage/v1/b/my-bucket/o?prefix=in/"
//	export STORAGE_EMULATOR_HOST=127.0.0.1:8085    # for Google's libraries, except JavaScript
//
// Google's JavaScript library takes the URL as apiEndpoint. An upload that is
// interrupted keeps whole pieces of 256 KiB. These calls need no credentials. If a
// call has a token, the token must come from the emulator's metadata server, and is
// valid for --token-life:
//
//	export GCE_METADATA_HOST=127.0.0.1:8085        # for Google's libraries
//	curl -s -H 'Metadata-Flavor: Google' $u/computeMetadata/v1/instance/service-accounts/default/token
//
// Batch prediction of Vertex AI, for embedding models, is at
// /v1/projects/PROJECT/locations/LOCATION/batchPredictionJobs: create, get, list with
// filter, pageSize and readMask, cancel and delete. It needs a token. The input is an
// object, and so are the results: predictions.jsonl in a folder of its own below the
// output prefix, and the same lines in incremental_predictions/. A job is QUEUED and
// PENDING before it is RUNNING, and CANCELLING before it is CANCELLED. An input that
// cannot be read makes the job fail when it ends. The options of a request count only
// if they are in embed_content_config. Google's SDKs read GOOGLE_VERTEX_BASE_URL:
//
//	token=$(curl -s -H 'Metadata-Flavor: Google' $u/computeMetadata/v1/instance/service-accounts/default/token | jq -r .access_token)
//	curl -s -H "Authorization: Bearer $token" -d '{"displayName":"demo","model":"publishers/google/models/gemini-embedding-001",
//	  "inputConfig":{"instancesFormat":"jsonl","gcsSource":{"uris":["gs://my-bucket/in/file"]}},
//	  "outputConfig":{"predictionsFormat":"jsonl","gcsDestination":{"outputUriPrefix":"gs://my-bucket/out"}}}' \
//	  $u/v1/projects/my-project/locations/us-central1/batchPredictionJobs
//
// Faults are lines of words. They are set by --fault, by --fault-file, or at any time
// by
//
//	curl --data-binary 'create nth=1 drop when=after' $u/emulator/faults
//
// which replaces the list. GET shows how often each fault struck. A line names an
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
//	object.insert match=claims/ drop when=after   object.read cut=5000 nth=1
//	object.data take=300000                       object.list status=403
//	job state=EXPIRED done=4                      cancel done=3
//	results error=8 keys=b place=file             results files=3
//
// Double quotes keep blanks together. Single quotes also keep double quotes.
//
// The operations are upload.start, upload.data, file.get, file.list,
// file.delete, download, create, get, list, cancel, delete, embed; for objects of
// Cloud Storage object.insert (media and multipart), object.start and object.data (a
// resumable upload), object.get, object.read (the content), object.list,
// object.patch, object.delete; metadata; and any, which is all of these; and job
// and results, which are a job at its end and its results.
//
// These words select calls: nth=N or nth=N-M, every=N, times=N, p=P with seed=N,
// match=TEXT. match=TEXT selects a call that has TEXT in its path, in the display
// name of the file, upload or job, in the bucket/name of an object, or in the body of
// a create or of a call for an object (up to 64 kB).
//
// These faults take the place of the work (when=before), or of the reply after the
// work is done (when=after):
//
//	status=CODE   answer this code, with message=, retry=TIME (RetryInfo), retry-after=. A 429 without
//	              message= has Google's text. 1xx except 101 is an interim reply, and the call continues
//	body=TEXT     answer 200, or the code of status=, with this body; html and empty are built-in bodies
//	drop          cut the connection
//	hang          send nothing until the client disconnects
//	delay=TIME    wait, then continue
//	hold=NAME     wait for a release, then continue
//	nostatus      upload.data: a reply without X-Goog-Upload-Status
//
// With these faults the work is always done:
//
//	set=PATH=JSON the real reply with this value at PATH: names and indexes, separated by dots (* is
//	              every index). set=PATH removes the value. May be repeated. Not for download and object.read
//	header=NAME:VALUE  the reply with this header; header=NAME removes it. May be repeated. Also for status= and body=
//	drip=TIME     the body byte by byte, TIME apart
//	cut=N         cut the connection after N bytes of the body
//	state=NAME    get: this state, in this reply only
//	hide=N        list: without the newest N jobs
//	hide=TIME     list: without the jobs that were created in the last TIME, such as 500ms
//	order=oldest  list: oldest job first; order=shuffled: in a random order
//	repeat        list: each page begins with the last job of the page before
//	short=N       download, object.read: the file seems to have only N bytes
//	take=N        object.data: receive N bytes of the piece, then cut the connection
//	late=N        cancel: the job is CANCELLED at the Nth status request after this, and not at once
//
// With at=N, hang, delay, hold and drip begin after N bytes of the reply's
// body. With unread, hang, delay and hold of upload.data and object.data read the request's body
// only after they end, so that the client cannot send all of it. Until then the
// emulator does not notice that the client disconnects.
//
// For job: state=FAILED, CANCELLED or EXPIRED, with code= and message=. With any
// other state the job ends with results. With done=N a job of Vertex AI has answered N
// lines at its end, whatever its state is. done=N is also a fault of cancel.
//
// For results: the words keys=A,B, each=N, first=N and last=N select lines; without
// them all lines are selected. The faults are error=CODE or error=JSON (message=,
// place=response), missing, duplicate, foreign, nokey, swap, length=N, values=nan,
// nan-string, inf, huge, null-element, empty, null or absent, set=PATH=JSON,
// line=TEXT, garbage; and half, which cuts the last line of the file. For Vertex AI an
// error also has place=status, which is the default and has only the message, code,
// error, and file, which is errors_0001.jsonl; and files=N writes N files
// predictions_00001.jsonl and so on.
//
// A call at a hold waits until it is released or its client disconnects:
//
//	curl "$u/emulator/holds?wait=sent"              # returns when a call is held there
//	curl -X POST "$u/emulator/release?name=sent"
//
// The books count what was requested and paid for, by request and by text:
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
