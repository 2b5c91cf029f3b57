package emulator

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// This file is the batch prediction of Vertex AI, for embedding models: the REST
// type is google.cloud.aiplatform.v1.BatchPredictionJob. Its jobs are jobs like
// those of the Gemini API, with the same faults and books. Their input is an object
// of the bucket, and their results are objects too.

// vertexJob is what only a job of Vertex AI has.
type vertexJob struct {
	Parent       string // projects/NUMBER/locations/LOCATION
	Labels       map[string]string
	Input        string // gs://…
	OutputPrefix string // gs://…
	Directory    string // the folder with the results, below OutputPrefix; "" before they are written
	Started      time.Time
	Bad          *rpcStatus // the reason why the input cannot be read
	Tokens       int64      // of the lines that were done
}

const (
	maxRows     = 1_000_000 // of one job
	maxRowBytes = 1 << 30   // of its input
)

// routeVertex finds /v1/projects/P/locations/L/batchPredictionJobs/…
func (s *Server) routeVertex(r *http.Request, c *call) handler {
	words := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if len(words) < 6 || len(words) > 7 || words[0] != "v1" && words[0] != "v1beta1" ||
		words[1] != "projects" || words[3] != "locations" || words[5] != "batchPredictionJobs" {
		return nil
	}
	c.vertex = "projects/" + projectNumber(words[2]) + "/locations/" + words[4]
	if len(words) == 7 {
		c.id, c.verb, _ = strings.Cut(words[6], ":")
	}
	set := func(op string, h handler) handler {
		c.op = op
		return h
	}
	switch r.Method + " " + c.verb {
	case "POST ":
		if c.id == "" {
			return set("create", s.vertexCreate)
		}
	case "GET ":
		if c.id == "" {
			return set("list", s.jobList)
		}
		return set("get", s.jobGet)
	case "DELETE ":
		if c.id != "" {
			return set("delete", s.jobDelete)
		}
	case "POST cancel":
		return set("cancel", s.jobCancel)
	}
	return nil
}

// vertexBody is the body of a create. Other members are refused.
type vertexBody struct {
	DisplayName, Model string
	InputConfig        struct {
		InstancesFormat string
		GCSSource       *struct{ URIs []string }
	}
	OutputConfig struct {
		PredictionsFormat string
		GCSDestination    *struct{ OutputURIPrefix string }
	}
	Labels map[string]string
}

var label = regexp.MustCompile(`^[\p{Ll}\p{Lo}\d_-]{0,63}$`)

// check returns the model of a create, or the error of a wrong body. The texts are
// not Google's, which are not documented.
func (b *vertexBody) check() (model string, err error) {
	invalid := func(format string, args ...any) (string, error) {
		return "", errorf(http.StatusBadRequest, format, args...)
	}
	in, out := b.InputConfig, b.OutputConfig
	switch {
	case b.DisplayName == "" || utf8.RuneCountInString(b.DisplayName) > 128:
		return invalid("display_name needs 1 to 128 characters")
	case in.InstancesFormat != "jsonl" || in.GCSSource == nil || len(in.GCSSource.URIs) != 1 || !gcsURI.MatchString(in.GCSSource.URIs[0]):
		return invalid("input_config needs instances_format jsonl and one URI gs://BUCKET/OBJECT in gcs_source")
	case out.PredictionsFormat != "jsonl" || out.GCSDestination == nil || !gcsURI.MatchString(out.GCSDestination.OutputURIPrefix):
		return invalid("output_config needs predictions_format jsonl and gcs_destination.output_uri_prefix gs://BUCKET/PREFIX")
	}
	for k, v := range b.Labels {
		if k == "" || !label.MatchString(k) || !label.MatchString(v) {
			return invalid("label %q=%q: up to 63 lower-case letters, digits, _ and -", k, v)
		}
	}
	_, model, ok := strings.Cut(b.Model, "publishers/google/models/")
	if !ok || !slices.Contains(embeddingModels, model) {
		return "", errorf(http.StatusNotFound, "Model %s is not found.", b.Model)
	}
	return model, nil
}

var gcsURI = regexp.MustCompile(`^gs://[a-z0-9][a-z0-9._-]*[a-z0-9]/.`)

// vertexCreate makes a job. At Google the input is read later. Here it is read at
// once, for the books, but an input that cannot be read makes the job fail later.
func (s *Server) vertexCreate(w http.ResponseWriter, r *http.Request, c *call) error {
	data, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return errorf(http.StatusBadRequest, "%v", err)
	}
	var body vertexBody
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&body); err != nil {
		return invalidPayload(err)
	}
	model, err := body.check()
	if err != nil {
		return err
	}
	v := &vertexJob{
		Parent: c.vertex, Labels: body.Labels, Input: body.InputConfig.GCSSource.URIs[0],
		OutputPrefix: strings.TrimSuffix(body.OutputConfig.GCSDestination.OutputURIPrefix, "/"),
	}
	j := &job{
		ID: newDigits(19), Project: c.project, Model: model, DisplayName: body.DisplayName, State: pending, Created: time.Now(), Vertex: v,
	}
	made := false
	defer func() {
		if !made {
			os.Remove(s.jobPath(j.ID, ".input"))
			os.Remove(s.jobPath(j.ID, ".paid"))
		}
	}()
	err = s.vertexInput(j)
	if bad := (*apiError)(nil); errors.As(err, &bad) {
		v.Bad = &rpcStatus{Code: map[int]int{http.StatusNotFound: 5}[bad.code], Message: bad.message}
		v.Bad.Code = cmp.Or(v.Bad.Code, 3)
		j.Requests, j.Tokens = 0, 0
		err = os.WriteFile(s.jobPath(j.ID, ".paid"), nil, 0o600)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.enter(j); err != nil {
		return err
	}
	made = true
	return s.sendOperation(w, c, j)
}

// vertexInput links the input object to the job, and checks it.
func (s *Server) vertexInput(j *job) error {
	bucket, name, _ := strings.Cut(strings.TrimPrefix(j.Vertex.Input, "gs://"), "/")
	s.mu.Lock()
	o, err := s.lookupObject(&call{bucket: bucket, object: name}, url.Values{})
	if err == nil {
		err = os.Link(s.objectPath(o.ID, ".data"), s.jobPath(j.ID, ".input"))
	}
	s.mu.Unlock()
	switch {
	case err != nil:
		return err
	case o.Size > maxRowBytes:
		return errorf(http.StatusBadRequest, "The input has %d bytes, the limit is %d.", o.Size, maxRowBytes)
	}
	if err := s.check(j); err != nil {
		return err
	}
	if j.Requests > maxRows {
		return errorf(http.StatusBadRequest, "The input has %d rows, the limit is %d.", j.Requests, maxRows)
	}
	return nil
}

// ---- the job on the wire

// vertexState is the name of a state at Vertex AI.
func (j *job) vertexState() string {
	switch {
	case !ended(j.State) && j.CancelAt > 0:
		return "JOB_STATE_CANCELLING"
	case j.State == pending && j.Polls == 0:
		return "JOB_STATE_QUEUED"
	}
	return "JOB_STATE_" + strings.TrimPrefix(j.State, "BATCH_STATE_")
}

// vertexReply needs s.mu held. An int64 is a string.
func (j *job) vertexReply() map[string]any {
	v := j.Vertex
	m := map[string]any{
		"name": v.Parent + "/batchPredictionJobs/" + j.ID, "displayName": j.DisplayName,
		"model":        "publishers/google/models/" + j.Model,
		"inputConfig":  map[string]any{"instancesFormat": "jsonl", "gcsSource": map[string]any{"uris": []string{v.Input}}},
		"outputConfig": map[string]any{"predictionsFormat": "jsonl", "gcsDestination": map[string]any{"outputUriPrefix": v.OutputPrefix}},
		"state":        j.vertexState(), "createTime": timestamp(j.Created), "updateTime": timestamp(j.Updated),
		"modelVersionId": "1",
	}
	if len(v.Labels) > 0 {
		m["labels"] = v.Labels
	}
	if !v.Started.IsZero() {
		m["startTime"] = timestamp(v.Started)
	}
	if !ended(j.State) {
		return m
	}
	m["endTime"] = timestamp(j.Ended)
	if j.Error != nil && (j.State == failed || j.State == cancelled) {
		m["error"] = j.Error
	}
	if v.Directory != "" {
		m["outputInfo"] = map[string]any{"gcsOutputDirectory": v.Directory}
		stats := map[string]any{"successfulCount": strconv.FormatInt(j.Succeeded, 10)}
		if j.Failed > 0 { // a count of zero is absent
			stats["failedCount"] = strconv.FormatInt(j.Failed, 10)
		}
		if rest := j.Requests - j.Succeeded - j.Failed; rest > 0 {
			stats["incompleteCount"] = strconv.FormatInt(rest, 10)
		}
		m["completionStats"] = stats
	}
	return m
}

// masked returns the members of a reply that a readMask names.
func masked(m map[string]any, mask string) map[string]any {
	if mask == "" || mask == "*" {
		return m
	}
	out := map[string]any{}
	for name := range strings.SplitSeq(mask, ",") {
		name, _, _ = strings.Cut(strings.TrimSpace(name), ".")
		if parts := strings.Split(name, "_"); len(parts) > 1 { // snake case
			name = parts[0]
			for _, p := range parts[1:] {
				name += strings.ToUpper(p[:min(1, len(p))]) + p[min(1, len(p)):]
			}
		}
		if v, ok := m[name]; ok {
			out[name] = v
		}
	}
	return out
}

// ---- results

// addPredictions makes the objects of the results of a job, from the files that
// makeResults wrote. Google also writes them bit by bit, to incremental_predictions.
func (s *Server) addPredictions(j *job, files int) (directory string, err error) {
	bucket, prefix, _ := strings.Cut(strings.TrimPrefix(j.Vertex.OutputPrefix, "gs://"), "/")
	folder := prefix + "/prediction-model-" + time.Now().UTC().Format("2006-01-02T15:04:05.000000Z")
	results, errs := s.jobPath(j.ID, ".results.tmp"), s.jobPath(j.ID, ".errors.tmp")
	add := func(name, path string, keep bool) {
		if err == nil {
			_, err = s.addObject(bucket, folder+"/"+name, &objectSpec{ContentType: "application/octet-stream"}, url.Values{}, path, keep)
		}
	}
	add("incremental_predictions/predictions-00001.jsonl", results, true)
	if _, serr := os.Stat(errs); serr == nil {
		add("errors_0001.jsonl", errs, false)
	}
	if files <= 1 {
		add("predictions.jsonl", results, false)
		return "gs://" + bucket + "/" + folder, err
	}
	data, rerr := os.ReadFile(results)
	err = cmp.Or(err, rerr)
	parts := make([][]byte, files)
	i := 0
	for l := range bytes.Lines(data) {
		parts[i%files] = append(parts[i%files], l...)
		i++
	}
	for i, p := range parts {
		path := s.objectPath(newID(20), ".tmp")
		err = cmp.Or(err, os.WriteFile(path, p, 0o600))
		add(fmt.Sprintf("predictions_%05d.jsonl", i+1), path, false)
	}
	return "gs://" + bucket + "/" + folder, err
}

// putVertex writes one line of results: the request as it came, and the body. The
// key comes first, in the middle or last. Every second good line has a status.
func (m *resultMaker) putVertex(it *item, key []byte, at int, good bool, body func()) {
	member := func(name string, value []byte) {
		if value != nil {
			m.name(name)
			m.add(value...)
			m.comma()
		}
	}
	m.add('{')
	if at%3 == 0 {
		member("key", key)
	}
	if good && at%2 == 0 {
		member("status", []byte(`""`))
	}
	member("request", it.request)
	if at%3 == 1 {
		member("key", key)
	}
	member("processed_time", []byte(`"2026-11-25T12:00:00.000+00:00"`))
	if at%3 == 2 {
		member("key", key)
	}
	body()
	m.puts("}\n")
}

// vertexError writes the answer to a line that failed. No such line of an embedding
// model is published: these are the forms of other models.
func (m *resultMaker) vertexError(it *item, key []byte, at int, f *fault) error {
	status := func() {
		if f.error != nil {
			m.add(f.error...)
			return
		}
		m.puts(`{"code":` + strconv.Itoa(f.code) + `,"message":`)
		m.buf = appendJSON(m.buf, f.message)
		m.add('}')
	}
	switch f.place {
	case "response":
		m.putVertex(it, key, at, false, func() { m.puts(`"response":{"error":`); status(); m.add('}') })
	case "error":
		m.putVertex(it, key, at, false, func() { m.puts(`"error":`); status() })
	case "code":
		m.putVertex(it, key, at, false, func() { m.puts(`"status":`); status(); m.puts(`,"response":{}`) })
	case "file":
		start := len(m.buf)
		m.putVertex(it, key, at, false, func() { m.puts(`"error":`); status() })
		line := slices.Clone(m.buf[start:])
		m.buf = m.buf[:start]
		out, err := os.OpenFile(m.s.jobPath(m.j.ID, ".errors.tmp"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = out.Write(line)
		return cmp.Or(err, out.Close())
	default:
		m.putVertex(it, key, at, false, func() { m.puts(`"status":`); m.buf = appendJSON(m.buf, f.message); m.puts(`,"response":{}`) })
	}
	return nil
}
