package gbatch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"gbatch/pkg/exit"
	"gbatch/pkg/gcs"
	"gbatch/pkg/ledger"
	"gbatch/pkg/progress"
	"gbatch/pkg/record"
	"gbatch/pkg/wire"
)

// vertexJobs matches the names that Vertex AI gives to jobs. The location becomes
// part of a host name.
var vertexJobs = regexp.MustCompile(`^projects/[a-z0-9][a-z0-9:.-]*/locations/([a-z0-9-]+)/batchPredictionJobs/[0-9]+$`)

// A vertex is the backend for batch prediction of Vertex AI, with inputs and results
// in Cloud Storage. All calls are made without the SDK: its list fails at one job
// that has failed with details, and it knows no labels.
type vertex struct {
	*wire.Transport
	storage  *gcs.Client
	base     string // GOOGLE_VERTEX_BASE_URL; "" for the host of each location
	patience time.Duration

	// The following are needed for new jobs and for the list.
	project, location string
	bucket            gcs.Name          // the folder for inputs and results
	labels            map[string]string // the user's
}

// newVertex takes the credentials from the environment, as Google's libraries do.
func newVertex(patience time.Duration) (*vertex, error) {
	base, err := serverURL("GOOGLE_VERTEX_BASE_URL", "", "an access token")
	if err != nil {
		return nil, err
	}
	token, err := wire.DefaultToken()
	if err != nil {
		return nil, err
	}
	storage, err := gcs.New(token, patience)
	if err != nil {
		return nil, err
	}
	v := &vertex{storage: storage, patience: patience, project: os.Getenv("GOOGLE_CLOUD_PROJECT"), location: os.Getenv("GOOGLE_CLOUD_LOCATION")}
	if base != nil {
		v.base = strings.TrimSuffix(base.String(), "/")
	}
	v.Transport = wire.NewTransport(wire.Credential{Token: token, Refused: "Vertex AI refused the credentials, check them and their rights in the project"})
	return v, nil
}

// place checks the project and the location, which new jobs and the list need.
func (v *vertex) place() error {
	switch {
	case v.project == "" || strings.ContainsAny(v.project, "/?#% "):
		return exit.Errorf(exit.Usage, "for Vertex AI set GOOGLE_CLOUD_PROJECT to the id of the project")
	case !regexp.MustCompile(`^[a-z0-9-]+$`).MatchString(v.location):
		return exit.Errorf(exit.Usage, "for Vertex AI set GOOGLE_CLOUD_LOCATION to a location that has the model: gemini-embedding-001 is in regions such as us-central1, gemini-embedding-2 in global, us and eu")
	}
	return nil
}

func (v *vertex) parent() string {
	return "projects/" + v.project + "/locations/" + v.location + "/batchPredictionJobs"
}

// url returns the URL of a resource.
func (v *vertex) url(name string) string {
	host := v.base
	if host == "" {
		switch location := strings.Split(name, "/")[3]; location {
		case "global":
			host = "https://aiplatform.googleapis.com"
		case "us", "eu":
			host = "https://aiplatform." + location + ".rep.googleapis.com"
		default:
			host = "https://" + location + "-aiplatform.googleapis.com"
		}
	}
	return host + "/v1/" + name
}

func (v *vertex) hide(text string) string { return v.Hide(text) }

// read sends a request and returns the whole reply.
func (v *vertex) read(ctx context.Context, method, url string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, wire.Permanent(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	reply, _, err := v.Whole(req)
	return reply, err
}

// ---- jobs

// labelOf returns a text as the value of a label, which has at most 63 lower-case
// letters, digits, dashes and underscores. Another text is replaced by its hash.
func labelOf(s string) string {
	s = strings.ToLower(s)
	if regexp.MustCompile(`^[a-z0-9_-]{0,63}$`).MatchString(s) {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:16])
}

// These labels are the ones of gbatch, for the look-up.
const (
	batchLabel = "gbatch_batch"
	hashLabel  = "gbatch_hash"
)

// lookUp asks for the jobs with p's labels. If there is none, there must not be
// results of one either.
func (v *vertex) lookUp(ctx context.Context, p *payload) (found []*operation, active int, err error) {
	filter := "labels." + hashLabel + `="` + p.hash + `"`
	if p.Batch != "" {
		filter += " OR labels." + batchLabel + `="` + labelOf(p.Batch) + `"`
	}
	err = v.list(ctx, filter, func(page []*operation) (bool, error) {
		for _, op := range page {
			if batch, hash, _, ok := parseLabel(op.display); ok && (batch == p.Batch || hash == p.hash) {
				if err := v.partial(ctx, op); err != nil {
					return false, err
				}
				found = append(found, op)
			}
		}
		return true, nil
	})
	if err != nil || len(found) > 0 {
		return found, 0, err
	}
	results := v.bucket.Below("out/" + p.name() + "/")
	err = v.storage.List(ctx, results, func(page []*gcs.Object) (bool, error) {
		if len(page) > 0 {
			return false, &oneBatch{fmt.Errorf("%s has no job in the list, but there are results in %s: look for the job in the project, or delete the results if it is not wanted", p, results)}
		}
		return true, nil
	})
	return nil, 0, err
}

// list calls each with the jobs that a filter selects, page by page.
func (v *vertex) list(ctx context.Context, filter string, each func([]*operation) (more bool, err error)) error {
	return wire.EveryPage(ctx, "batchPredictionJobs", func(ctx context.Context, token string) (p wire.Page, err error) {
		query := url.Values{"pageSize": {strconv.Itoa(wire.PageSize)}}
		if filter != "" {
			query.Set("filter", filter)
		}
		if token != "" {
			query.Set("pageToken", token)
		}
		err = wire.Retry(ctx, v.patience, func() error {
			body, err := v.read(ctx, http.MethodGet, v.url(v.parent())+"?"+query.Encode(), nil)
			if err == nil {
				p, err = wire.DecodePage(body, "batchPredictionJobs")
			}
			return err
		})
		return p, err
	}, func(p wire.Page) (bool, error) {
		page := make([]*operation, len(p.Items))
		for i, item := range p.Items {
			op, err := v.decode(item)
			if err != nil {
				return false, wire.Permanent(err)
			}
			page[i] = op
		}
		return each(page)
	})
}

func (v *vertex) jobs(ctx context.Context, each func([]*operation) (more bool, err error)) error {
	return v.list(ctx, "", each)
}

// decode reads a job. All members but the name and the state may be missing.
func (v *vertex) decode(body []byte) (*operation, error) {
	var doc struct {
		Name, DisplayName, Model, State, CreateTime, EndTime maybe[string]

		InputConfig     maybe[struct{ GCSSource struct{ URIs []string } }]
		OutputInfo      maybe[struct{ GCSOutputDirectory string }]
		CompletionStats maybe[struct{ SuccessfulCount, FailedCount, IncompleteCount *number }]
		Error           json.RawMessage
	}
	if err := json.Unmarshal(body, &doc); err != nil || !vertexJobs.MatchString(doc.Name.v) || doc.State.v == "" {
		return nil, fmt.Errorf("the reply is not a job: %.200s", v.Hide(wire.OneLine(string(body))))
	}
	_, model, _ := strings.Cut(doc.Model.v, "models/")
	op := &operation{
		name: doc.Name.v, display: doc.DisplayName.v, model: model, state: jobState(doc.State.v),
		partial: strings.HasSuffix(doc.State.v, "_PARTIALLY_SUCCEEDED"), created: doc.CreateTime.v, ended: doc.EndTime.v,
		output: doc.OutputInfo.v.GCSOutputDirectory, answers: -1, failed: -1, requests: -1, err: operationError(doc.Error, v.Hide),
	}
	if uris := doc.InputConfig.v.GCSSource.URIs; len(uris) == 1 {
		op.input = uris[0]
	}
	count := func(n *number) int64 { // zero is left out
		if n == nil {
			return 0
		}
		return int64(*n)
	}
	s := doc.CompletionStats.v
	if s.SuccessfulCount != nil || s.FailedCount != nil || s.IncompleteCount != nil {
		well, failed, rest := count(s.SuccessfulCount), count(s.FailedCount), count(s.IncompleteCount)
		if well >= 0 && failed >= 0 {
			op.answers, op.failed = well+failed, failed
			if rest >= 0 {
				op.requests = op.answers + rest
			}
		}
	}
	return op, nil
}

func (v *vertex) status(ctx context.Context, job string) (*operation, error) {
	if !vertexJobs.MatchString(job) {
		return nil, wire.Permanent(fmt.Errorf("%.100q is not a job of Vertex AI", job))
	}
	body, err := v.read(ctx, http.MethodGet, v.url(job), nil)
	if err != nil {
		return nil, err
	}
	op, err := v.decode(body)
	if err != nil {
		return nil, err
	}
	id := func(name string) string { return name[strings.LastIndexByte(name, '/'):] }
	if id(op.name) != id(job) { // the project may be its id or its number
		return nil, wire.Permanent(fmt.Errorf("google was asked for job %s and answered with %.100q", job, op.name))
	}
	op.name = job
	return op, v.partial(ctx, op)
}

// partial makes a job that ended without success, but has results, one that
// succeeded in part: what was done before is paid for.
func (v *vertex) partial(ctx context.Context, op *operation) error {
	if lives(op.state) || op.output == "" {
		return nil
	}
	files, err := v.outputs(ctx, op)
	if err != nil || len(files) == 0 {
		return err
	}
	slog.Warn("a job did not succeed, but has results, which are paid for: they count", "job", op.name, "state", op.state)
	op.state, op.partial, op.err = record.Succeeded, true, nil
	return nil
}

// create sends the one call that costs money.
func (v *vertex) create(ctx context.Context, p *payload, input string) (*operation, error) {
	labels := map[string]string{hashLabel: p.hash}
	if p.Batch != "" {
		labels[batchLabel] = labelOf(p.Batch)
	}
	maps.Copy(labels, v.labels)
	type m = map[string]any
	body, err := json.Marshal(m{
		"displayName": p.label(), "model": "publishers/google/models/" + p.Model, "labels": labels,
		"inputConfig":  m{"instancesFormat": "jsonl", "gcsSource": m{"uris": []string{input}}},
		"outputConfig": m{"predictionsFormat": "jsonl", "gcsDestination": m{"outputUriPrefix": v.bucket.Below("out/" + p.name()).String()}},
	})
	if err != nil {
		return nil, wire.Permanent(err)
	}
	var op *operation
	err = v.Once(ctx, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, v.url(v.parent()), bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := v.Client().Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			return fmt.Errorf("status %d", resp.StatusCode) // the outcome's error says more
		}
		reply, err := wire.ReadAll(resp)
		if err == nil {
			op, err = v.decode(reply)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	op.display, op.model, op.input = p.label(), p.Model, input
	return op, nil
}

// cancel retries transient errors: a second cancel does no harm.
func (v *vertex) cancel(ctx context.Context, job string) error {
	return wire.Retry(ctx, v.patience, func() error {
		_, err := v.read(ctx, http.MethodPost, v.url(job)+":cancel", []byte("{}"))
		return err
	})
}

// ---- inputs

// upload stores p as an object, if there is none of its name. An object with the
// same bytes is p. It continues the session of e's mark, if that is for the same
// object: the name of the object says what its bytes are.
func (v *vertex) upload(ctx context.Context, p *payload, e ledger.Entry, _ bool) (string, error) {
	bytes := progress.Of(ctx).Flow("bytes")
	before := bytes.Done()
	to := v.bucket.Below("in/" + p.label() + ".jsonl")
	u := gcs.Upload{
		To: to, Generation: gcs.None, Content: gcs.Content{Type: "application/jsonl", Metadata: map[string]string{"gbatch": p.label()}},
		Keep: func(session string) error {
			m := p.mark(ledger.Upload, to.String(), "")
			m.Session = session
			return e.Set(ctx, m)
		},
		Stored: func(n int64) { bytes.Set(before + n) },
	}
	if m := e.Mark(); m.Input == to.String() {
		u.Session = m.Session
	}
	_, err := v.storage.Upload(ctx, u, p.file, p.size)
	if gcs.NotMet(err) {
		err = &oneBatch{fmt.Errorf("another object is in its place, which does not have the lines of %s: %w", p, err)}
	}
	return to.String(), err
}

// tidy has nothing to do: all attempts at p store one object.
func (v *vertex) tidy(context.Context, *payload, string) error { return nil }

func (v *vertex) holds(ctx context.Context, input string) (bool, error) {
	name, err := gcs.ParseURI(input)
	if err != nil {
		return false, nil
	}
	if _, err = v.storage.Stat(ctx, name); wire.Missing(err) {
		return false, nil
	}
	return err == nil, err
}

func (v *vertex) drop(ctx context.Context, input string) {
	if input == "" {
		return
	}
	name, err := gcs.ParseURI(input)
	if err == nil {
		err = v.storage.Delete(ctx, name, gcs.Any)
	}
	if err != nil && ctx.Err() == nil {
		slog.Warn("an input was not deleted", "object", input, "error", err)
	}
}

var errObjects = exit.Errorf(exit.Usage, "the files of Vertex AI are objects in your bucket: list and delete them with gcloud storage")

func (v *vertex) files(context.Context, func([]*storedFile) (bool, error)) error { return errObjects }
func (v *vertex) file(context.Context, string) (*storedFile, error)              { return nil, errObjects }
func (v *vertex) remove(context.Context, string) error                           { return errObjects }

// ---- results

// outputs returns the objects with the results of a job: predictions.jsonl, or else
// all predictions*.jsonl, and errors*.jsonl. What is in incremental_predictions is
// the same lines; it counts only if a job that did not succeed, or not completely,
// has nothing else.
func (v *vertex) outputs(ctx context.Context, op *operation) (files []*gcs.Object, err error) {
	folder, err := gcs.ParseURI(op.output)
	if err != nil || folder.Object == "" {
		return nil, wire.Permanent(fmt.Errorf("job %s: its results are in %.200q, which is not a folder", op.name, op.output))
	}
	folder = folder.Below("")
	var whole, parts, incremental, failed []*gcs.Object
	err = v.storage.List(ctx, folder, func(page []*gcs.Object) (bool, error) {
		for _, o := range page {
			name := strings.TrimPrefix(o.Object, folder.Object)
			switch {
			case !strings.HasSuffix(name, ".jsonl"):
			case name == "predictions.jsonl":
				whole = append(whole, o)
			case strings.HasPrefix(name, "incremental_predictions/"):
				incremental = append(incremental, o)
			case strings.Contains(name, "/"):
			case strings.HasPrefix(name, "predictions"):
				parts = append(parts, o)
			case strings.HasPrefix(name, "errors"):
				failed = append(failed, o)
			}
		}
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	if whole == nil {
		whole = parts
	}
	if whole == nil && (op.partial || op.state != record.Succeeded) {
		whole = incremental
	}
	if whole == nil {
		return nil, nil
	}
	return append(whole, failed...), nil
}

func (v *vertex) results(ctx context.Context, op *operation) (io.ReadCloser, error) {
	if op.output == "" {
		return nil, wire.Permanent(errors.New("it succeeded but says not where its results are"))
	}
	files, err := v.outputs(ctx, op)
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, wire.Permanent(fmt.Errorf("it succeeded but has no results in %s", op.output))
	}
	return &joined{ctx: ctx, storage: v.storage, left: files, last: '\n'}, nil
}

// joined reads objects one after the other, each from the beginning of a line.
type joined struct {
	ctx     context.Context
	storage *gcs.Client
	left    []*gcs.Object
	now     io.ReadCloser
	last    byte
}

func (j *joined) Read(p []byte) (int, error) {
	for len(p) > 0 {
		if j.now == nil {
			if len(j.left) == 0 {
				return 0, io.EOF
			}
			if j.last != '\n' {
				p[0], j.last = '\n', '\n'
				return 1, nil
			}
			j.now, j.left = j.storage.Open(j.ctx, j.left[0]), j.left[1:]
		}
		n, err := j.now.Read(p)
		if n > 0 {
			j.last = p[n-1]
			return n, nil // the next call returns err
		}
		if err != io.EOF {
			return 0, err
		}
		j.now.Close()
		j.now = nil
	}
	return 0, nil
}

func (j *joined) Close() error {
	if j.now != nil {
		return j.now.Close()
	}
	return nil
}
