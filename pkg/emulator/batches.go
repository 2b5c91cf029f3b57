package emulator

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// These are the states of a job, as metadata.state has them in a reply. A fault
// may end a job in any other state.
const (
	pending   = "BATCH_STATE_PENDING"
	running   = "BATCH_STATE_RUNNING"
	succeeded = "BATCH_STATE_SUCCEEDED"
	failed    = "BATCH_STATE_FAILED"
	cancelled = "BATCH_STATE_CANCELLED"
	expired   = "BATCH_STATE_EXPIRED"
)

func ended(state string) bool { return state != pending && state != running }

// hasResults reports whether a job that ended in this state has results.
func hasResults(state string) bool {
	return ended(state) && state != failed && state != cancelled && state != expired
}

// job is the content of jobs/<id>.json. The file is written again at every
// change of state.
type job struct {
	ID, Project, Model, DisplayName string
	Seq                             int64
	Generate                        bool   // made by batchGenerateContent
	InputFile                       string // without files/; "" for inline input
	Inline                          bool
	State                           string
	Polls                           int // number of status GETs; on disk, the number at the last change of state
	Created, Updated, Ended         time.Time
	Requests, Succeeded, Failed     int64
	Tokens                          int64
	Error                           *rpcStatus
	CancelAt                        int // the status GET at which a cancel ends the job; 0: none
	Deleted                         bool
	Done                            *int64     // the lines that were done when the job ended; nil: all
	Vertex                          *vertexJob // nil for a job of the Gemini API

	working chan struct{} // closed when the worker ends; nil before it starts
}

// rpcStatus is a google.rpc.Status. Its code is a gRPC code.
type rpcStatus struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (s *Server) jobPath(id, ext string) string { return filepath.Join(s.dir, "jobs", id+ext) }

func (s *Server) loadJobs() error {
	jobs, err := readAll[job](filepath.Join(s.dir, "jobs"))
	if err != nil {
		return err
	}
	for _, j := range jobs {
		s.jobs[j.ID] = j
	}
	removeOthers(filepath.Join(s.dir, "jobs"), func(id string) bool { return s.jobs[id] != nil })
	return nil
}

// change needs s.mu held. It writes the job to disk after a change.
func (s *Server) change(j *job) error {
	j.Updated = time.Now()
	return replaceFile(s.jobPath(j.ID, ".json"), j)
}

// lookupJob needs s.mu held.
func (s *Server) lookupJob(c *call) (*job, error) {
	j := s.jobs[c.id]
	if j == nil || j.Deleted || j.Project != c.project {
		return nil, errorf(http.StatusNotFound, "Requested entity was not found.")
	}
	return j, nil
}

// ---- models

// embeddingModels are the models of asyncBatchEmbedContent and embedContent.
var embeddingModels = []string{"gemini-embedding-001", "gemini-embedding-2", "gemini-embedding-2-preview"}

// checkModel answers like Google for a model that does not exist or does not
// have the method. The generic create accepts any model name that is not an
// embedding model's. Its results are embeddings too.
func checkModel(model, verb string) error {
	ok := slices.Contains(embeddingModels, model)
	if verb == "batchGenerateContent" {
		ok = model != "" && !strings.HasPrefix(model, "gemini-embedding-") && !strings.HasPrefix(model, "text-embedding-")
	}
	if !ok {
		return errorf(http.StatusNotFound, "models/%s is not found for API version v1beta, or is not supported for %s.", model, verb)
	}
	return nil
}

// ---- create

// createBody is the body of both creates, in both spellings of proto JSON.
// Google's SDKs send file_name.
type createBody struct {
	Batch struct {
		DisplayName  string
		DisplayName2 string `json:"display_name"`
		Model        string
		Name         string
		Priority     any
		InputConfig  *inputConfig
		InputConfig2 *inputConfig `json:"input_config"`
	}
}

type inputConfig struct {
	FileName  string
	FileName2 string `json:"file_name"`
	Requests  *struct {
		Requests []inlineRequest
	}
}

type inlineRequest struct {
	Request  json.RawMessage `json:"request"`
	Metadata json.RawMessage `json:"metadata,omitempty"`
}

// maxInline is Google's limit for a create with inline requests.
const maxInline = 20 << 20

// jobCreate makes a job. A repeated call makes another job, because creates are
// not idempotent at Google. Google's job ids have 36 characters.
func (s *Server) jobCreate(w http.ResponseWriter, r *http.Request, c *call) error {
	if err := checkModel(c.model, c.verb); err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, maxInline+1))
	if err != nil {
		return errorf(http.StatusBadRequest, "%v", err)
	}
	if len(data) > maxInline {
		return errorf(http.StatusBadRequest, "the request is larger than %d bytes; upload a file", maxInline)
	}
	var body createBody
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&body); err != nil {
		return invalidPayload(err)
	}
	input := body.Batch.InputConfig
	if input == nil {
		input = body.Batch.InputConfig2
	}
	if input == nil || (input.FileName+input.FileName2 == "") == (input.Requests == nil) {
		return errorf(http.StatusBadRequest, "batch.input_config needs either file_name or requests")
	}
	j := &job{
		ID: newID(36), Project: c.project, Model: c.model, Generate: c.verb == "batchGenerateContent",
		DisplayName: body.Batch.DisplayName + body.Batch.DisplayName2, State: pending, Created: time.Now(),
	}
	// If the job cannot be written to disk, the files made for it are removed.
	made := false
	defer func() {
		if !made {
			os.Remove(s.jobPath(j.ID, ".input"))
			os.Remove(s.jobPath(j.ID, ".paid"))
		}
	}()
	if input.Requests != nil {
		j.Inline = true
		err = s.inlineInput(j, input.Requests.Requests)
	} else {
		err = s.fileInput(j, input.FileName+input.FileName2)
	}
	if err != nil {
		return err
	}
	if err := s.check(j); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.quota(j); err != nil {
		return err
	}
	if err := s.enter(j); err != nil {
		return err
	}
	made = true
	return s.sendOperation(w, c, j)
}

// enter puts a new job behind the others.
func (s *Server) enter(j *job) error {
	s.seq++
	j.Seq = s.seq
	if err := s.change(j); err != nil {
		return err
	}
	s.jobs[j.ID] = j
	return nil
}

// invalidPayload is the error for a body that is not the expected message.
func invalidPayload(err error) error {
	if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return errorf(http.StatusBadRequest, "Invalid JSON payload received. Unknown name %s: Cannot find field.", field)
	}
	return errorf(http.StatusBadRequest, "Invalid JSON payload received. %v", err)
}

// fileInput links the uploaded file to the job, so that the job keeps its input
// when the file is deleted. A file that is not ACTIVE yet is refused.
func (s *Server) fileInput(j *job, name string) error {
	id, ok := strings.CutPrefix(name, "files/")
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := s.lookupFile(j.Project, id)
	if !ok || err != nil || f.Source != uploaded {
		return errorf(http.StatusNotFound, "input file %s is not found", name)
	}
	if s.processing(f) {
		e := errorf(http.StatusBadRequest, "The File %s is not in an ACTIVE state and usage is not allowed.", id)
		e.status = "FAILED_PRECONDITION"
		return cmp.Or[error](s.pollFile(f), e)
	}
	j.InputFile = id
	return os.Link(s.filePath(id, ".data"), s.jobPath(j.ID, ".input"))
}

// inlineInput writes inline requests as the lines of an input file. If the
// metadata of a request has a key, the books use it.
func (s *Server) inlineInput(j *job, requests []inlineRequest) error {
	var lines bytes.Buffer
	enc := json.NewEncoder(&lines)
	enc.SetEscapeHTML(false)
	for i, q := range requests {
		p := parser{generate: j.Generate}
		if _, err := p.bare(q.Request); err != nil {
			return errorf(http.StatusBadRequest, "Invalid JSON payload received at 'batch.input_config.requests.requests[%d].request': %v", i, err)
		}
		var metadata struct{ Key json.RawMessage }
		json.Unmarshal(q.Metadata, &metadata)
		if len(metadata.Key) == 0 || metadata.Key[0] != '"' {
			metadata.Key = nil
		}
		if err := enc.Encode(struct {
			Key json.RawMessage `json:"key,omitempty"`
			inlineRequest
		}{metadata.Key, q}); err != nil {
			return err
		}
	}
	return os.WriteFile(s.jobPath(j.ID, ".input"), lines.Bytes(), 0o600)
}

// check reads the whole input, and writes the cost of its lines to the books.
func (s *Server) check(j *job) error {
	input, err := os.Open(s.jobPath(j.ID, ".input"))
	if err != nil {
		return err
	}
	defer input.Close()
	paid, err := createFile(s.jobPath(j.ID, ".paid"))
	if err != nil {
		return err
	}
	err = checkInput(j, input, paid)
	return paid.close(err)
}

// quota needs s.mu held. It refuses a job if the quota is not sufficient.
func (s *Server) quota(j *job) error {
	jobs, tokens := 1, j.Tokens
	for _, other := range s.jobs {
		if other.Project == j.Project && !ended(other.State) && !other.Deleted {
			jobs++
			tokens += other.Tokens
		}
	}
	if jobs > s.opts.MaxJobs {
		return quotaError(fmt.Sprintf("\n* Quota exceeded: more than %d active batch jobs.", s.opts.MaxJobs))
	}
	if s.opts.MaxTokens > 0 && tokens > s.opts.MaxTokens {
		return quotaError(fmt.Sprintf("\n* Quota exceeded: %d tokens enqueued, the limit is %d.", tokens, s.opts.MaxTokens))
	}
	return nil
}

// ---- get, list, cancel, delete

// longestWork is how long a status GET waits for the work on a job. So a small
// job ends at a known GET. A larger job is RUNNING until its work is done.
const longestWork = 10 * time.Second

// jobGet answers with the job's state, and moves the job on. The job is RUNNING
// from GET number Options.Polls on. The work on it begins at the next GET, if
// the job is at least Options.Delay old.
func (s *Server) jobGet(w http.ResponseWriter, r *http.Request, c *call) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	j, err := s.lookupJob(c)
	if err != nil {
		return err
	}
	if !ended(j.State) {
		j.Polls++
		if j.State == pending && j.Polls >= s.opts.Polls {
			j.State = running
			if j.Vertex != nil {
				j.Vertex.Started = time.Now()
			}
			if err := s.change(j); err != nil {
				return err
			}
		}
		switch {
		case j.CancelAt > 0 && j.Polls >= j.CancelAt:
			if j.Vertex != nil && j.working == nil {
				s.startWork(j) // some lines may be done
			} else if err := s.endCancelled(j); err != nil {
				return err
			}
		case j.CancelAt == 0 && j.Polls > s.opts.Polls && time.Since(j.Created) >= s.opts.Delay:
			s.startWork(j)
		}
		if working := j.working; working != nil {
			s.mu.Unlock()
			t := time.NewTimer(longestWork)
			select {
			case <-working:
			case <-t.C:
			case <-s.done:
			case <-r.Context().Done():
			}
			t.Stop()
			s.mu.Lock()
		}
	}
	return s.sendOperation(w, c, j)
}

func (s *Server) jobList(w http.ResponseWriter, r *http.Request, c *call) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var mine []*job
	for _, j := range s.jobs {
		if j.Project == c.project && !j.Deleted && time.Since(j.Created) >= c.lag {
			mine = append(mine, j)
		}
	}
	q := r.URL.Query()
	if c.vertex != "" {
		selected, err := parseFilter(q.Get("filter"))
		if err != nil {
			return err
		}
		mine = slices.DeleteFunc(mine, func(j *job) bool { return !selected(j) })
	}
	newestFirst := func(j *job) int64 { return j.Seq }
	rank := newestFirst
	switch c.order {
	case "oldest":
		rank = func(j *job) int64 { return -j.Seq }
	case "shuffled":
		rank = func(j *job) int64 { return int64(mix(uint64(j.Seq)) >> 3) }
	}
	byRank := func(rank func(*job) int64) func(a, b *job) int {
		return func(a, b *job) int { return cmp.Compare(rank(b), rank(a)) }
	}
	slices.SortFunc(mine, byRank(newestFirst))
	mine = mine[min(c.hide, len(mine)):]
	slices.SortFunc(mine, byRank(rank))
	shown, next, err := page(r, mine, rank, 50, c.repeat)
	if err != nil {
		return err
	}
	if c.vertex != "" {
		reply := map[string]any{}
		var list []any
		for _, j := range shown {
			list = append(list, masked(j.vertexReply(), q.Get("readMask")))
		}
		if list != nil {
			reply["batchPredictionJobs"] = list
		}
		if next != "" {
			reply["nextPageToken"] = next
		}
		writeJSON(w, http.StatusOK, reply)
		return nil
	}
	reply := struct {
		Operations []*operation `json:"operations,omitempty"`
		Next       string       `json:"nextPageToken,omitempty"`
	}{Next: next}
	for _, j := range shown {
		op, err := s.operation(j, false)
		if err != nil {
			return err
		}
		reply.Operations = append(reply.Operations, op)
	}
	writeJSON(w, http.StatusOK, reply)
	return nil
}

// jobCancel ends a job, at once or at a later status GET. Google's reply for a
// job that has already ended is unknown; 400 FAILED_PRECONDITION is the usual
// code.
func (s *Server) jobCancel(w http.ResponseWriter, _ *http.Request, c *call) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	j, err := s.lookupJob(c)
	if err != nil {
		return err
	}
	if ended(j.State) {
		e := errorf(http.StatusBadRequest, "batches/%s has ended: %s", j.ID, j.State)
		e.status = "FAILED_PRECONDITION"
		return e
	}
	if j.Vertex != nil {
		c.late = max(1, c.late) // it is CANCELLING at first
		done := int64(c.done)
		j.Done = &done
	}
	if j.CancelAt = j.Polls + c.late; c.late > 0 {
		err = s.change(j)
	} else {
		err = s.endCancelled(j)
	}
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, struct{}{})
	return nil
}

// endCancelled ends a job as CANCELLED. The caller must hold s.mu.
func (s *Server) endCancelled(j *job) error {
	return s.end(j, cancelled, wasCancelled)
}

var wasCancelled = &rpcStatus{Code: 1, Message: "The operation was cancelled."}

// jobDelete hides a job. According to the reference it does not cancel the job:
// a job that was deleted before its end counts as paid in the books.
func (s *Server) jobDelete(w http.ResponseWriter, _ *http.Request, c *call) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	j, err := s.lookupJob(c)
	if err != nil {
		return err
	}
	if j.Vertex != nil && !ended(j.State) {
		e := errorf(http.StatusBadRequest, "The BatchPredictionJob is in state %s: only a job that has ended can be deleted.", j.vertexState())
		e.status = "FAILED_PRECONDITION"
		return e
	}
	j.Deleted = true
	if err := s.change(j); err != nil {
		return err
	}
	os.Remove(s.jobPath(j.ID, ".input"))
	os.Remove(s.jobPath(j.ID, ".results"))
	if j.Vertex != nil {
		writeJSON(w, http.StatusOK, map[string]any{"name": j.Vertex.Parent + "/operations/" + newDigits(19), "done": true})
		return nil
	}
	writeJSON(w, http.StatusOK, struct{}{})
	return nil
}

// end needs s.mu held.
func (s *Server) end(j *job, state string, status *rpcStatus) error {
	j.State, j.Error, j.Ended = state, status, time.Now()
	if err := s.change(j); err != nil {
		return err
	}
	os.Remove(s.jobPath(j.ID, ".input"))
	return nil
}

// ---- the operation on the wire

// batchStats has counts as strings. A count of zero is absent. A real reply is
// in googleapis/js-genai, test/unit/batch_embedding_test.ts.
type batchStats struct {
	Requests   int64 `json:"requestCount,omitempty,string"`
	Succeeded  int64 `json:"successfulRequestCount,omitempty,string"`
	Failed     int64 `json:"failedRequestCount,omitempty,string"`
	PendingNow int64 `json:"pendingRequestCount,omitempty,string"`
}

type output struct {
	Type          string `json:"@type,omitempty"`
	ResponsesFile string `json:"responsesFile,omitempty"`
	Inlined       any    `json:"inlinedResponses,omitempty"`
}

type metadata struct {
	Type        string            `json:"@type"`
	Model       string            `json:"model"`
	DisplayName string            `json:"displayName,omitempty"`
	InputConfig map[string]string `json:"inputConfig,omitempty"`
	Output      *output           `json:"output,omitempty"`
	Created     string            `json:"createTime"`
	Ended       string            `json:"endTime,omitempty"`
	Updated     string            `json:"updateTime"`
	Stats       batchStats        `json:"batchStats"`
	State       string            `json:"state"`
	Name        string            `json:"name"`
}

type operation struct {
	Name     string     `json:"name"`
	Metadata metadata   `json:"metadata"`
	Done     bool       `json:"done,omitempty"`
	Error    *rpcStatus `json:"error,omitempty"`
	Response *output    `json:"response,omitempty"`
}

// operation needs s.mu held. Only the reply to a GET has inline results.
func (s *Server) operation(j *job, results bool) (*operation, error) {
	kind := "EmbedContentBatch"
	if j.Generate {
		kind = "GenerateContentBatch"
	}
	const types = "type.googleapis.com/google.ai.generativelanguage.v1main."
	op := &operation{Name: "batches/" + j.ID, Done: ended(j.State), Error: j.Error}
	op.Metadata = metadata{
		Type: types + kind, Model: "models/" + j.Model, DisplayName: j.DisplayName, Name: op.Name, State: j.State,
		Created: timestamp(j.Created), Updated: timestamp(j.Updated),
		Stats: batchStats{Requests: j.Requests, Succeeded: j.Succeeded, Failed: j.Failed},
	}
	m := &op.Metadata
	if j.InputFile != "" {
		m.InputConfig = map[string]string{"fileName": "files/" + j.InputFile}
	}
	if !op.Done {
		m.Stats.PendingNow = j.Requests
		return op, nil
	}
	m.Ended = timestamp(j.Ended)
	if !hasResults(j.State) {
		return op, nil
	}
	m.Output = &output{}
	switch {
	case !j.Inline:
		m.Output.ResponsesFile = "files/" + resultFile(j)
	case results:
		data, err := os.ReadFile(s.jobPath(j.ID, ".results"))
		if err != nil {
			return nil, err
		}
		var lines []json.RawMessage
		for line := range bytes.Lines(data) {
			lines = append(lines, line)
		}
		m.Output.Inlined = map[string]any{"inlinedResponses": lines}
	}
	response := *m.Output
	response.Type = types + kind + "Output"
	op.Response = &response
	return op, nil
}

// resultPrefix and the job's id form the name of the file with the job's
// results, as at Google (google-gemini/cookbook, quickstarts/Batch_mode.ipynb).
const resultPrefix = "batch-"

func resultFile(j *job) string { return resultPrefix + j.ID }

// sendOperation needs s.mu held.
func (s *Server) sendOperation(w http.ResponseWriter, c *call, j *job) error {
	if j.Vertex != nil {
		reply := j.vertexReply()
		if c.state != "" {
			reply["state"] = c.state
			for _, name := range []string{"endTime", "error", "outputInfo", "completionStats"} {
				delete(reply, name)
			}
		}
		writeJSON(w, http.StatusOK, reply)
		return nil
	}
	op, err := s.operation(j, c.op == "get")
	if err != nil {
		return err
	}
	if c.state != "" {
		// A fault gives this reply another state, for example one of a later
		// version of the service.
		op.Metadata.State, op.Metadata.Output = c.state, nil
		op.Done, op.Error, op.Response = false, nil, nil
	}
	writeJSON(w, http.StatusOK, op)
	return nil
}

// ---- the synchronous calls

func (s *Server) embed(w http.ResponseWriter, r *http.Request, c *call) error {
	if err := checkModel(c.model, c.verb); err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return errorf(http.StatusBadRequest, "%v", err)
	}
	requests := []json.RawMessage{data}
	batch := c.verb == "batchEmbedContents"
	if batch {
		var body struct{ Requests []json.RawMessage }
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&body); err != nil {
			return invalidPayload(err)
		}
		if requests = body.Requests; len(requests) == 0 || len(requests) > 100 {
			return errorf(http.StatusBadRequest, "batchEmbedContents takes 1 to 100 requests, not %d", len(requests))
		}
	}
	type values struct {
		Values json.RawMessage `json:"values"`
	}
	var list []values
	var p parser
	var tokens int64
	m := resultMaker{s: s}
	for i, q := range requests {
		it, err := p.bare(q)
		if err == nil && len(it.text) == 0 {
			err = errors.New("content has no text")
		}
		if err == nil && len(it.model) > 0 && string(it.model) != "models/"+c.model {
			err = fmt.Errorf("model %s is not models/%s", it.model, c.model)
		}
		if err != nil {
			return errorf(http.StatusBadRequest, "Invalid JSON payload received at 'requests[%d]': %v", i, err)
		}
		v := append([]byte{'['}, m.values(c.model, it.text, it.size())...)
		list = append(list, values{append(v, ']')})
		tokens += it.tokens(c.model)
	}
	s.mu.Lock()
	s.online += tokens
	fmt.Fprintf(s.opsLog, "%s %d\n", onlineTokens, tokens)
	s.mu.Unlock()
	reply := map[string]any{"embeddings": list}
	if !batch {
		reply = map[string]any{"embedding": list[0]}
	}
	// Only newer models count tokens (maximhq/bifrost #7295, BerriAI/litellm #24339).
	if strings.HasPrefix(c.model, "gemini-embedding-2") {
		reply["usageMetadata"] = map[string]any{"promptTokenCount": tokens}
	}
	writeJSON(w, http.StatusOK, reply)
	return nil
}
