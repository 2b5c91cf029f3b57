package emulator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genai"
)

func sdk(t *testing.T, c *client) *genai.Client {
	t.Helper()
	g, err := genai.NewClient(t.Context(), &genai.ClientConfig{
		APIKey: c.key, Backend: genai.BackendGeminiAPI, HTTPOptions: genai.HTTPOptions{BaseURL: c.url},
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// Google's Go SDK makes each of its calls for batches and files.
func TestGoSDK(t *testing.T) {
	c := serve(t, Options{Polls: 1})
	g := sdk(t, c)
	ctx := context.Background()

	// If the size is a multiple of 8 MiB, the SDK finalizes with an empty chunk.
	input := line("a", "one text", 16) + "\n" + line("b", "", 16) + "\n"
	input += strings.Repeat(" ", 8<<20-len(input)-1) + "\n"
	file, err := g.Files.Upload(ctx, strings.NewReader(input), &genai.UploadFileConfig{DisplayName: "input", MIMEType: "jsonl"})
	if err != nil {
		t.Fatal(err)
	}
	if file.DisplayName != "input" || *file.SizeBytes != 8<<20 || file.State != genai.FileStateActive || file.Source != genai.FileSourceUploaded {
		t.Errorf("%+v", file)
	}
	path := filepath.Join(t.TempDir(), "two.jsonl")
	if err := os.WriteFile(path, []byte(input+line("c", "third", 16)), 0o600); err != nil {
		t.Fatal(err)
	}
	two, err := g.Files.UploadFromPath(ctx, path, &genai.UploadFileConfig{Name: "files/chosen-name", MIMEType: "application/jsonl"})
	if err != nil || two.Name != "files/chosen-name" || *two.SizeBytes < 8<<20 {
		t.Fatalf("%+v, %v", two, err)
	}
	if got, err := g.Files.Get(ctx, file.Name, nil); err != nil || got.Name != file.Name || got.ExpirationTime.Sub(got.CreateTime) != fileLife {
		t.Errorf("%+v, %v", got, err)
	}
	var names []string
	for f, err := range g.Files.All(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, f.Name)
	}
	if !slices.Equal(names, []string{two.Name, file.Name}) {
		t.Errorf("files %v", names)
	}

	model := model2
	var jobs []string
	for i := range 3 {
		job, err := g.Batches.CreateEmbeddings(ctx, &model, &genai.EmbeddingsBatchJobSource{FileName: file.Name},
			&genai.CreateEmbeddingsBatchJobConfig{DisplayName: fmt.Sprint("job ", i)})
		if err != nil {
			t.Fatal(err)
		}
		if job.State != genai.JobStatePending || job.DisplayName != fmt.Sprint("job ", i) || job.Model != "models/"+model {
			t.Errorf("%+v", job)
		}
		jobs = append([]string{job.Name}, jobs...)
	}
	var listed []string
	for page, err := g.Batches.List(ctx, &genai.ListBatchJobsConfig{PageSize: 2}); ; page, err = page.Next(ctx) {
		if errors.Is(err, genai.ErrPageDone) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, job := range page.Items {
			listed = append(listed, job.Name)
		}
	}
	if !slices.Equal(listed, jobs) {
		t.Errorf("jobs %v, want %v", listed, jobs)
	}
	var states []genai.JobState
	var job *genai.BatchJob
	for range 2 {
		if job, err = g.Batches.Get(ctx, jobs[0], nil); err != nil {
			t.Fatal(err)
		}
		states = append(states, job.State)
	}
	if !slices.Equal(states, []genai.JobState{genai.JobStateRunning, genai.JobStateSucceeded}) {
		t.Errorf("states %v", states)
	}
	data, err := g.Files.Download(ctx, genai.NewDownloadURIFromFile(&genai.File{DownloadURI: job.Dest.FileName}), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := byKey(t, strings.Split(strings.TrimSpace(string(data)), "\n"))
	if !sameBits(got["a"].Response.Embedding.Values, Vector(model, "one text", 16)) || got["b"].Error == nil || len(got) != 2 {
		t.Errorf("results %s", data)
	}

	if err := g.Batches.Cancel(ctx, jobs[1], nil); err != nil {
		t.Error(err)
	}
	if job, err := g.Batches.Get(ctx, jobs[1], nil); err != nil || job.State != genai.JobStateCancelled {
		t.Errorf("%+v, %v", job, err)
	}
	if _, err := g.Batches.Delete(ctx, jobs[1], nil); err != nil {
		t.Error(err)
	}
	var apiErr genai.APIError
	if _, err := g.Batches.Get(ctx, jobs[1], nil); !errors.As(err, &apiErr) || apiErr.Code != 404 || apiErr.Status != "NOT_FOUND" {
		t.Errorf("a deleted job: %v", err)
	}
	if _, err := g.Files.Delete(ctx, file.Name, nil); err != nil {
		t.Error(err)
	}
	_, err = g.Batches.Create(ctx, model, &genai.BatchJobSource{FileName: two.Name}, nil)
	if !errors.As(err, &apiErr) || apiErr.Code != 404 || !strings.Contains(apiErr.Message, "not supported for batchGenerateContent") {
		t.Errorf("the generic create: %v", err)
	}
	if job, err := g.Batches.Create(ctx, "gemini-pseudo", &genai.BatchJobSource{FileName: two.Name}, nil); err != nil || job.State != genai.JobStatePending {
		t.Errorf("the generic create of another model: %+v, %v", job, err)
	}
}

func TestGoSDKInlineAndEmbed(t *testing.T) {
	c := serve(t, Options{InOrder: true})
	g := sdk(t, c)
	ctx := context.Background()
	model, dim := model001, int32(6)
	config := &genai.EmbedContentConfig{TaskType: "RETRIEVAL_DOCUMENT", Title: "t", OutputDimensionality: &dim}
	contents := []*genai.Content{genai.NewContentFromText("first", genai.RoleUser), genai.NewContentFromText("second", genai.RoleUser)}

	reply, err := g.Models.EmbedContent(ctx, model, contents, config)
	if err != nil || len(reply.Embeddings) != 2 || !sameBits(reply.Embeddings[1].Values, Vector(model, "second", 6)) {
		t.Errorf("%+v, %v", reply, err)
	}
	job, err := g.Batches.CreateEmbeddings(ctx, &model, &genai.EmbeddingsBatchJobSource{
		InlinedRequests: &genai.EmbedContentBatch{Contents: contents, Config: config},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if job, err = g.Batches.Get(ctx, job.Name, nil); err != nil || job.State != genai.JobStateSucceeded {
		t.Fatalf("%+v, %v", job, err)
	}
	answers := job.Dest.InlinedEmbedContentResponses
	if len(answers) != 2 || !sameBits(answers[0].Response.Embedding.Values, Vector(model, "first", 6)) || answers[0].Response.TokenCount != 2 {
		t.Errorf("%+v", answers)
	}
}

// These are unusual replies, and what Google's Go SDK makes of them.
func TestGoSDKOddReplies(t *testing.T) {
	c := serve(t, Options{Processing: 1, Faults: []string{"job state=PARTIALLY_SUCCEEDED", "list drip=1us"}})
	g := sdk(t, c)
	ctx := context.Background()
	model := model001
	file, err := g.Files.Upload(ctx, strings.NewReader(line("a", "x", 3)), &genai.UploadFileConfig{DisplayName: "input", MIMEType: "jsonl"})
	if err != nil || file.State != genai.FileStateProcessing {
		t.Fatalf("%+v, %v", file, err)
	}
	source := &genai.EmbeddingsBatchJobSource{FileName: file.Name}
	var apiErr genai.APIError
	if _, err := g.Batches.CreateEmbeddings(ctx, &model, source, nil); !errors.As(err, &apiErr) || apiErr.Code != 400 || apiErr.Status != "FAILED_PRECONDITION" {
		t.Errorf("a file that is not ACTIVE: %v", err)
	}
	job, err := g.Batches.CreateEmbeddings(ctx, &model, source, &genai.CreateEmbeddingsBatchJobConfig{DisplayName: "odd"})
	if err != nil {
		t.Fatal(err)
	}
	// The SDK's enum has JOB_STATE_PARTIALLY_SUCCEEDED, but the SDK does not map
	// the REST API's name of the state to it.
	if job, err = g.Batches.Get(ctx, job.Name, nil); err != nil || job.State != "BATCH_STATE_PARTIALLY_SUCCEEDED" || job.Dest.FileName == "" {
		t.Fatalf("%+v, %v", job, err)
	}
	if _, err := g.Files.Delete(ctx, job.Dest.FileName, nil); !errors.As(err, &apiErr) || apiErr.Code != 400 || !strings.Contains(apiErr.Message, "cannot be more than 40 characters") {
		t.Errorf("the result file is deleted: %v", err)
	}
	if page, err := g.Batches.List(ctx, nil); err != nil || len(page.Items) != 1 || page.Items[0].DisplayName != "odd" {
		t.Errorf("a list that drips: %+v, %v", page, err)
	}
	c.faults(`get set='name="batches/other"'`)
	if other, err := g.Batches.Get(ctx, job.Name, nil); err != nil || other.Name != "batches/other" {
		t.Errorf("%+v, %v", other, err)
	}
	c.faults("get status=503 match=odd")
	if _, err := g.Batches.Get(ctx, job.Name, nil); !errors.As(err, &apiErr) || apiErr.Code != 503 {
		t.Errorf("%v", err)
	}
}

func TestGoSDKRefusals(t *testing.T) {
	c := serve(t, Options{Key: testKey, Faults: []string{"create nth=1 status=429 retry=30s message=full"}})
	ctx := context.Background()
	model := model001
	create := func(c *client) (err error) {
		_, err = sdk(t, c).Batches.CreateEmbeddings(ctx, &model, &genai.EmbeddingsBatchJobSource{FileName: "files/x"}, nil)
		return err
	}
	var apiErr genai.APIError
	if err := create(c); !errors.As(err, &apiErr) || apiErr.Code != 429 || apiErr.Message != "full" || fmt.Sprint(apiErr.Details) != "[map[@type:type.googleapis.com/google.rpc.RetryInfo retryDelay:30s]]" {
		t.Errorf("%v, details %v", apiErr, apiErr.Details)
	}
	// This is one of Google's own 429 replies.
	c.faults("create times=1 status=429")
	if err := create(c); !errors.As(err, &apiErr) || apiErr.Message != quotaMessage || len(apiErr.Details) != 1 || apiErr.Details[0]["@type"] != "type.googleapis.com/google.rpc.Help" {
		t.Errorf("%v, details %v", apiErr, apiErr.Details)
	}
	wrong := *c
	wrong.key = "wrong"
	if err := create(&wrong); !errors.As(err, &apiErr) || apiErr.Code != 400 || !strings.Contains(apiErr.Message, "API key not valid") {
		t.Errorf("%v", err)
	}
}

// curl knows nothing about the API. This test uses the paths, headers and bodies
// of Google's documentation.
func TestCurl(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("no curl")
	}
	c := serve(t, Options{Polls: 1})
	dir := t.TempDir()
	input := filepath.Join(dir, "requests.jsonl")
	text := line("a", "Explain GenAI", 3) + "\n" + `{"key":"b","request":{"output_dimensionality":4,"content":{"parts":[{"text":"zwei"}]}}}` + "\n"
	if err := os.WriteFile(input, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	curl := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("curl", append([]string{"-sS", "-H", "x-goog-api-key: " + c.key}, args...)...)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("curl %q: %v: %s", args, err, out)
		}
		return string(out)
	}
	object := func(args ...string) map[string]any {
		t.Helper()
		var v map[string]any
		if out := curl(args...); json.Unmarshal([]byte(out), &v) != nil {
			t.Fatalf("curl %q: %s", args, out)
		}
		return v
	}

	head := curl("-D", "-", "-o", os.DevNull, "-H", "X-Goog-Upload-Protocol: resumable", "-H", "X-Goog-Upload-Command: start",
		"-H", fmt.Sprintf("X-Goog-Upload-Header-Content-Length: %d", len(text)), "-H", "X-Goog-Upload-Header-Content-Type: jsonl",
		"-H", "Content-Type: application/json", "-d", `{"file":{"display_name":"by curl"}}`, c.url+"/upload/v1beta/files")
	var url string
	for l := range strings.Lines(head) {
		if name, value, _ := strings.Cut(l, ":"); strings.EqualFold(name, "x-goog-upload-url") {
			url = strings.TrimSpace(value)
		}
	}
	half := filepath.Join(dir, "half")
	os.WriteFile(half, []byte(text[:50]), 0o600)
	object("-H", "X-Goog-Upload-Command: upload", "-H", "X-Goog-Upload-Offset: 0", "--data-binary", "@"+half, url)
	os.WriteFile(half, []byte(text[50:]), 0o600)
	v := object("-H", "X-Goog-Upload-Command: upload, finalize", "-H", "X-Goog-Upload-Offset: 50", "--data-binary", "@"+half, url)
	file, _ := at(v, "file.name").(string)
	if at(v, "file.displayName") != "by curl" || at(v, "file.mimeType") != "jsonl" || at(v, "file.sizeBytes") != fmt.Sprint(len(text)) {
		t.Fatalf("%v", v)
	}

	v = object("-H", "Content-Type: application/json", "-d", `{"batch":{"display_name":"curl","input_config":{"file_name":"`+file+`"}}}`,
		c.url+"/v1beta/models/gemini-embedding-001:asyncBatchEmbedContent")
	job, _ := v["name"].(string)
	for _, state := range []string{running, succeeded} {
		if v = object(c.url + "/v1beta/" + job); at(v, "metadata.state") != state {
			t.Fatalf("%v", v)
		}
	}
	responses, _ := at(v, "response.responsesFile").(string)
	whole := curl(c.url + "/download/v1beta/" + responses + ":download?alt=media")
	got := byKey(t, strings.Split(strings.TrimSpace(whole), "\n"))
	if !sameBits(got["a"].Response.Embedding.Values, Vector(model001, "Explain GenAI", 3)) || !sameBits(got["b"].Response.Embedding.Values, Vector(model001, "zwei", 4)) {
		t.Errorf("%s", whole)
	}
	if rest := curl("-r", "20-", c.url+"/v1beta/"+responses+":download?alt=media"); rest != whole[20:] {
		t.Errorf("range: %s", rest)
	}
	if v = object(c.url + "/v1beta/batches?pageSize=10"); len(v["operations"].([]any)) != 1 {
		t.Errorf("%v", v)
	}
	object("-X", "POST", "-d", "{}", c.url+"/v1beta/models/none:asyncBatchEmbedContent")
	code := curl("-o", os.DevNull, "-w", "%{http_code}", "-X", "DELETE", c.url+"/v1beta/"+file)
	if code != fmt.Sprint(http.StatusOK) {
		t.Errorf("delete: %s", code)
	}
	// An upload without a declared length: curl sends its data with chunked
	// encoding.
	head = curl("-D", "-", "-o", os.DevNull, "-H", "X-Goog-Upload-Protocol: resumable", "-H", "X-Goog-Upload-Command: start", "-X", "POST", c.url+"/upload/v1beta/files")
	_, after, _ := strings.Cut(strings.ToLower(head), "x-goog-upload-url: ")
	url, _, _ = strings.Cut(after, "\r")
	v = object("-H", "X-Goog-Upload-Command: upload, finalize", "-H", "X-Goog-Upload-Offset: 0", "-H", "Transfer-Encoding: chunked", "--data-binary", "@"+input, url)
	if at(v, "file.sizeBytes") != fmt.Sprint(len(text)) {
		t.Errorf("%v", v)
	}
	if v := object("--data-binary", "get status=503 times=1", c.url+"/emulator/faults"); len(v["faults"].([]any)) != 1 {
		t.Errorf("%v", v)
	}
	if v := object(c.url + "/v1beta/" + job); at(v, "error.code") != 503.0 {
		t.Errorf("%v", v)
	}
}
