package gbatch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gbatch/pkg/emulator"
	"gbatch/pkg/gcs"
	"gbatch/pkg/wire"
)

// TestLiveVertex sends three small jobs to Vertex AI. They cost less than a hundredth of
// a cent, and take as long as Google does, up to three days. So it runs only with
// make test-live, a project, a location and a bucket. It prints what the documentation
// does not say; docs/vertex.md asks for the result.
func TestLiveVertex(t *testing.T) {
	if os.Getenv("GBATCH_LIVE") == "" {
		t.Skip("make test-live runs this")
	}
	for _, name := range []string{"GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION", "GBATCH_BUCKET"} {
		if os.Getenv(name) == "" {
			t.Skip("set GOOGLE_CLOUD_PROJECT, GOOGLE_CLOUD_LOCATION and GBATCH_BUCKET=gs://BUCKET/FOLDER")
		}
	}
	vertexLive(t, "https://"+os.Getenv("GOOGLE_CLOUD_LOCATION")+"-aiplatform.googleapis.com")
}

// The test that is meant for Google works with the emulator.
func TestLiveVertexEmulated(t *testing.T) {
	server, err := emulator.New(emulator.Options{Dir: filepath.Join(t.TempDir(), "emulator"), Polls: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	web := httptest.NewServer(server)
	defer web.Close()
	for name, value := range map[string]string{
		"GOOGLE_VERTEX_BASE_URL": web.URL, "STORAGE_EMULATOR_HOST": web.URL, "GCE_METADATA_HOST": strings.TrimPrefix(web.URL, "http://"),
		"GOOGLE_CLOUD_PROJECT": "my-project", "GOOGLE_CLOUD_LOCATION": "us-central1", "GBATCH_BUCKET": "gs://my-bucket/kb",
		"HOME": t.TempDir(), "GOOGLE_APPLICATION_CREDENTIALS": "", "GEMINI_API_KEY": "", "GOOGLE_API_KEY": "", "GBATCH_INTERVAL": "20ms",
	} {
		t.Setenv(name, value)
	}
	vertexLive(t, web.URL)
}

// vertexLive submits three rows, of which one is bad, a job that it cancels, and a job
// whose lines gbatch-submit would refuse.
func vertexLive(t *testing.T, base string) {
	token, err := wire.DefaultToken()
	if err != nil {
		t.Fatal(err)
	}
	storage, err := gcs.New(token, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := gcs.ParseURI(os.Getenv("GBATCH_BUCKET"))
	if err != nil {
		t.Fatal(err)
	}
	folder := bucket.Below("gbatch-live-" + time.Now().UTC().Format("20060102t150405"))
	objects := func(below gcs.Name) (all []*gcs.Object) {
		t.Helper()
		if err := storage.List(context.Background(), below, func(page []*gcs.Object) (bool, error) {
			all = append(all, page...)
			return true, nil
		}); err != nil {
			t.Error(err)
		}
		return all
	}
	defer func() {
		for _, o := range objects(folder.Below("")) {
			if err := storage.Delete(context.Background(), o.Name, gcs.Any); err != nil {
				t.Error(err)
			}
		}
	}()
	dir := t.TempDir()
	run := func(in string, codes []int, args ...string) string {
		t.Helper()
		cmd := exec.Command(args[0], args[1:]...)
		out := new(bytes.Buffer)
		cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+dir, "GBATCH_BACKEND=vertex", "GBATCH_BUCKET="+folder.String())
		cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, strings.NewReader(in), out, os.Stderr
		err := cmd.Run()
		code := 0
		if e := new(exec.ExitError); errors.As(err, &e) {
			code = e.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(codes, code) {
			t.Fatalf("%v: exit code %d, want one of %d: %s", args, code, codes, out)
		}
		return out.String()
	}
	line := func(key, text string) string {
		return fmt.Sprintf(`{"key":%q,"request":{"content":{"parts":[{"text":%q}]},"embed_content_config":{"output_dimensionality":768,"task_type":"RETRIEVAL_DOCUMENT"}}}`+"\n", key, text)
	}
	call := func(method, url string, body string) (reply map[string]json.RawMessage) {
		t.Helper()
		bearer, err := token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+bearer)
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d, %v, %s", url, resp.StatusCode, err, data)
		}
		if err := json.Unmarshal(data, &reply); err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		return reply
	}
	parent := base + "/v1/projects/" + os.Getenv("GOOGLE_CLOUD_PROJECT") + "/locations/" + os.Getenv("GOOGLE_CLOUD_LOCATION") + "/batchPredictionJobs"

	well, some, any := []int{0}, []int{3}, []int{0, 3}
	three := run(line("a", "Water boils at 100 degrees Celsius at sea level.")+line("b", "Вода кипит при 100 градусах Цельсия на уровне моря.")+line("bad", ""), well, "gbatch-submit")
	cancelled := run(line("c", "Quicksort partitions a list around a pivot.")+line("d", "Mergesort halves a list."), well, "gbatch-submit")
	begun := time.Now()
	run(cancelled, well, "gbatch-cancel")

	// The third job has two lines of one key, and options beside the content.
	raw := folder.Below("in/raw.jsonl")
	top := `{"key":"top","request":{"content":{"parts":[{"text":"Options beside the content."}]},"outputDimensionality":256}}` + "\n"
	if _, err := storage.Insert(t.Context(), raw, gcs.None, []byte(line("twice", "one")+line("twice", "two")+top), gcs.Content{Type: "application/jsonl"}); err != nil {
		t.Fatal(err)
	}
	job := call(http.MethodPost, parent, fmt.Sprintf(`{"displayName":"gbatch-live","model":"publishers/google/models/gemini-embedding-001","labels":{"gbatch_live":"raw"},
		"inputConfig":{"instancesFormat":"jsonl","gcsSource":{"uris":[%q]}},
		"outputConfig":{"predictionsFormat":"jsonl","gcsDestination":{"outputUriPrefix":%q}}}`, raw, folder.Below("out/raw")))
	var name string
	json.Unmarshal(job["name"], &name)
	created := time.Now()
	for shown := false; !shown; {
		page := call(http.MethodGet, parent+"?pageSize=100&filter=labels.gbatch_live%3D%22raw%22", "")
		if shown = bytes.Contains(page["batchPredictionJobs"], []byte(name)); !shown {
			if time.Since(created) > time.Hour {
				t.Fatal("after an hour the list does not show the job")
			}
			time.Sleep(time.Second) // nothing tells when the list is complete
		}
	}
	t.Logf("the list by label shows a new job after %v", time.Since(created).Round(100*time.Millisecond))

	// show prints a job and its results, with their vectors shortened.
	show := func(title, job string, below gcs.Name) {
		t.Logf("%s: %s", title, job)
		for _, o := range objects(below) {
			content, _, err := storage.Read(t.Context(), o.Name)
			if err != nil {
				t.Error(err)
			}
			t.Logf("%s, %d bytes: %s", o.Name, o.Size, numbers.ReplaceAllFunc(content, func(b []byte) []byte {
				return fmt.Appendf(nil, ", and %d more]", bytes.Count(b, []byte(",")))
			}))
		}
	}
	results := func(job string) gcs.Name { // of a job that gbatch-submit created
		var doc struct{ Input string }
		json.Unmarshal([]byte(job), &doc)
		return folder.Below("out/" + strings.TrimSuffix(path.Base(doc.Input), ".jsonl") + "/")
	}

	ended := run(three, well, "gbatch-wait")
	show("three rows, one of them bad", ended, results(three))
	answers := run(ended, some, "gbatch-fetch", "--keep-input")
	for _, want := range []string{`{"key":"a","dim":768,"vector":"`, `{"key":"b","dim":768,"vector":"`, `{"key":"bad","error":{`, `"succeeded":2,"failed":1`} {
		if !strings.Contains(answers, want) {
			t.Errorf("the answers lack %s: %s", want, answers)
		}
	}

	after := run(cancelled, any, "gbatch-wait") // it may have succeeded before
	t.Logf("the cancelled job ended within %v", time.Since(begun).Round(time.Second))
	show("cancelled", after, results(cancelled))

	last := run(fmt.Sprintf(`{"job":%q,"state":"QUEUED"}`, name), any, "gbatch-wait")
	show("two lines of one key, and options beside the content", last, folder.Below("out/raw/"))
}

// numbers matches the values of a vector but the first.
var numbers = regexp.MustCompile(`(,\s*-?[0-9.e-]+)+\]`)
