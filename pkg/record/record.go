// Package record is the specification of the lines on the pipes.
//
// Every command of the suite reads and writes NDJSON: one JSON object a line, in
// UTF-8, at most [gbatch/pkg/ndjson.MaxLine] long. Members are in the order of
// the structs below. Readers ignore members they do not know, skip blank lines
// and a byte order mark, and accept CRLF. The kind of a line follows from the
// member that only this kind has:
//
//	header   count     what the next count lines belong to
//	chunk    id        a passage, embedded as one unit
//	end      end       the chunks before it are all that there are
//	request  request   a line of Google's batch file
//	job      job       Google's work on a batch
//	file     file      a file at Google
//	space    space     the space of the lines that follow
//	vector   vector    the answer for one key
//	error    error     the failure of one key (a job has error too: job is looked for first)
//
// This package has no struct for the members of a request: they are Google's,
// and are copied unchanged. Below a header a request also says that it is claimed:
//
//	{"key":"chunk_123","claimed":true,"request":{"content":{"parts":[{"text":"…"}]},"taskType":"RETRIEVAL_DOCUMENT","title":"…","outputDimensionality":768}}
//
// key is the chunk's id. It is not empty and occurs once in a batch. A claimed
// request is sent only below a header, and without the member claimed. request
// is an EmbedContentRequest, or a GenerateContentRequest for
// gbatch-submit --method generate. Source:
// ai.google.dev/gemini-api/docs/batch-api.
package record

// A Header announces a batch: exactly the next Count lines belong to it. Fewer
// lines before the end of the stream mean that a command earlier in the pipe
// ended early: nothing of the batch may be sent then.
type Header struct {
	Batch    string `json:"batch"`               // the batch's name, never used again
	Count    int    `json:"count"`               // how many lines follow
	Model    string `json:"model"`               // without "models/"
	Dim      int    `json:"dim"`                 // values per vector
	TaskType string `json:"task_type,omitempty"` // in Google's spelling, such as RETRIEVAL_DOCUMENT
	Keys     string `json:"keys,omitempty"`      // the KeySum of the lines that follow

	Tokens    int64 `json:"tokens,omitempty"`     // how many tokens the batch probably has; 0: not known
	TokensMax int64 `json:"tokens_max,omitempty"` // the number that caps go by, above the likely one; 0: not known
}

// A Space is the space of the chunks or vectors that follow and belong to no
// batch, up to the next such record.
type Space struct {
	Space SpaceMembers `json:"space"`
}

// SpaceMembers is the value of the member space.
type SpaceMembers struct {
	Model    string `json:"model"`               // without "models/"
	Dim      int    `json:"dim"`                 // values per vector
	TaskType string `json:"task_type,omitempty"` // in Google's spelling
}

// A Chunk is a passage of text embedded as one unit. If Context is not empty,
// it is embedded in place of Text.
type Chunk struct {
	ID      string `json:"id"`
	Text    string `json:"text"`
	Title   string `json:"title,omitempty"`
	Context string `json:"context,omitempty"`
}

// An End is the last line of chunks that are complete: the command that printed them
// has not failed, and left nothing out.
type End struct {
	End bool `json:"end"` // true
}

// These are the states of a job, from Google's JOB_STATE_ and BATCH_STATE_
// names. Google's PENDING is QUEUED here, because PENDING is the status of a
// chunk. Other states, such as PAUSED, are passed on unchanged.
const (
	Queued    = "QUEUED"
	Running   = "RUNNING"
	Succeeded = "SUCCEEDED"
	Failed    = "FAILED"
	Cancelled = "CANCELLED"
	Expired   = "EXPIRED"
)

// A Job is Google's work on one batch.
//
// gbatch-fetch prints the job again after its last answer, with Succeeded,
// Failed and Tokens set: only that record closes the batch. gbatch-submit and
// gbatch-wait leave the three nil.
type Job struct {
	Job       string  `json:"job"`                        // Google's name, batches/…
	Batch     string  `json:"batch,omitempty"`            // empty if the requests came without a header
	State     string  `json:"state"`                      // one of the states above, or an unknown one
	Model     string  `json:"model"`                      // without "models/"
	Dim       int     `json:"dim"`                        // values per vector
	Requests  int     `json:"requests"`                   // number of requests, without canaries
	Input     string  `json:"input,omitempty"`            // the uploaded file, files/…
	Canary    int     `json:"canary,omitempty"`           // number of requests that were sent a second time to check the answers
	Succeeded *int    `json:"succeeded,omitempty"`        // vectors printed before this line
	Failed    *int    `json:"failed,omitempty"`           // errors of keys printed before this line
	Tokens    *int64  `json:"tokens,omitempty"`           // as counted by Google, canaries included
	Estimated *int64  `json:"tokens_estimated,omitempty"` // only of online calls whose tokens Google does not count
	CreatedAt string  `json:"created,omitempty"`          // RFC 3339, by Google's clock; set by wait
	EndedAt   string  `json:"ended,omitempty"`            // likewise
	Display   string  `json:"display,omitempty"`          // Google's display name; only gbatch-list sets this and the next three
	Output    string  `json:"output,omitempty"`           // the file of the results, files/…
	Answers   *int64  `json:"answers,omitempty"`          // requests with an answer, as counted by Google, canaries included
	Errors    *int64  `json:"errors,omitempty"`           // answers that are errors, likewise
	Error     *Status `json:"error,omitempty"`            // why the job ended without results, or why gbatch-fetch could not get them
}

// Ended reports whether the job is over. An unknown state counts as not ended.
func (j *Job) Ended() bool {
	switch j.State {
	case Succeeded, Failed, Cancelled, Expired:
		return true
	}
	return false
}

// OnlinePrefix is how the name of a job begins that gbatch-embed did by online
// calls. The name of its batch follows.
const OnlinePrefix = "online/"

// Whole reports whether the record closes its batch: all answers of the job came
// before it.
func (j *Job) Whole() bool { return j.State == Succeeded && j.Succeeded != nil && j.Failed != nil }

// Deleted is the state of a file that gbatch-cancel has deleted. The other states
// of a file are Google's.
const Deleted = "DELETED"

// A File is a file at Google: the requests of a batch, or the results of a job.
type File struct {
	File      string `json:"file"`              // Google's name, files/…
	Batch     string `json:"batch,omitempty"`   // from the display name
	State     string `json:"state"`             // ACTIVE, PROCESSING, FAILED or DELETED
	Source    string `json:"source,omitempty"`  // UPLOADED, or GENERATED for results
	Bytes     int64  `json:"bytes"`             // size of the file
	Canary    int    `json:"canary,omitempty"`  // how many requests are in the file twice, from the display name
	Display   string `json:"display,omitempty"` // Google's display name
	CreatedAt string `json:"created,omitempty"` // RFC 3339, by Google's clock
	ExpiresAt string `json:"expires,omitempty"` // when Google deletes the file
}

// A Status is Google's error: a gRPC code, its name and a message for people.
type Status struct {
	Code    int    `json:"code"`
	Status  string `json:"status,omitempty"`
	Message string `json:"message"`
}

// A Vector is the answer for one key: dim float32 values, little-endian, in
// base64 as encoding/base64.StdEncoding writes it. With --array the vector is a JSON
// array of dim numbers, which gives the same float32 values. Each reader takes both.
type Vector struct {
	Key    string `json:"key"`
	Batch  string `json:"batch,omitempty"`
	Dim    int    `json:"dim"`
	Vector []byte `json:"vector"` // 4×dim bytes; base64 on the line
	Tokens int64  `json:"tokens,omitempty"`
}

// A KeyError is the failure of one key.
type KeyError struct {
	Key   string `json:"key"`
	Batch string `json:"batch,omitempty"`
	Error Status `json:"error"`
}
