package emulator

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
)

const jobsPath = "/v1/projects/my-project/locations/us-central1/batchPredictionJobs"

// vertexLine is an input line of Vertex AI.
func vertexLine(key, text string, dim int) string {
	return fmt.Sprintf(`{"key":%q,"request":{"content":{"parts":[{"text":%q}]},"embed_content_config":{"output_dimensionality":%d,"task_type":"RETRIEVAL_DOCUMENT"}}}`, key, text, dim)
}

// v does a call of Vertex AI, with a token.
func (c *client) v(method, path string, body any) reply {
	c.t.Helper()
	r := c.do("GET", "/computeMetadata/v1/instance/service-accounts/default/token", nil, "Metadata-Flavor", "Google").ok(c.t)
	if !strings.HasPrefix(path, "/") {
		path = "/v1/" + path
	}
	return c.do(method, path, body, "Authorization", "Bearer "+r["access_token"].(string))
}

func vertexBodyOf(name, model string) map[string]any {
	return map[string]any{
		"displayName": name, "model": "publishers/google/models/" + model, "labels": map[string]string{"gbatch": name},
		"inputConfig":  map[string]any{"instancesFormat": "jsonl", "gcsSource": map[string]any{"uris": []string{"gs://bucket/in/" + name}}},
		"outputConfig": map[string]any{"predictionsFormat": "jsonl", "gcsDestination": map[string]any{"outputUriPrefix": "gs://bucket/out/" + name + "/"}},
	}
}

// vertexJob uploads the lines and creates a job with them. It returns its name.
func (c *client) vertexJob(name string, lines ...string) string {
	c.t.Helper()
	c.put("in/"+name, strings.Join(lines, "\n")+"\n", "").ok(c.t)
	return c.v("POST", jobsPath, vertexBodyOf(name, model001)).ok(c.t)["name"].(string)
}

// ended polls until a job has ended, and returns it and the states that were seen.
func (c *client) ended(name string) (job map[string]any, states []string) {
	c.t.Helper()
	for range 100 {
		job = c.v("GET", name, nil).ok(c.t)
		states = append(states, strings.TrimPrefix(job["state"].(string), "JOB_STATE_"))
		if job["endTime"] != nil {
			return job, states
		}
	}
	c.t.Fatalf("%s does not end", name)
	return nil, nil
}

// outputs returns the objects of a job's output, by their names below its folder.
func (c *client) outputs(job map[string]any) map[string]string {
	c.t.Helper()
	folder, ok := strings.CutPrefix(fmt.Sprint(at(job, "outputInfo.gcsOutputDirectory")), "gs://bucket/")
	if !ok {
		return nil
	}
	found := map[string]string{}
	v := c.do("GET", bucket+"?prefix="+url.QueryEscape(folder+"/"), nil).ok(c.t)
	for _, item := range v["items"].([]any) {
		name := at(item, "name").(string)
		found[strings.TrimPrefix(name, folder+"/")] = string(c.do("GET", objectURL(name)+"?alt=media", nil).body)
	}
	return found
}

func TestVertexJob(t *testing.T) {
	c := serve(t, Options{Polls: 2})
	lines := []string{vertexLine("a", "one text", 3), vertexLine("b", "", 3), vertexLine("c", "another text", 4)}
	name := c.vertexJob("job-1", lines...)
	parent, id, _ := strings.Cut(name, "/batchPredictionJobs/")
	if parent != "projects/"+projectNumber("my-project")+"/locations/us-central1" || len(id) != 19 || strings.Trim(id, "0123456789") != "" {
		t.Errorf("name %s", name)
	}
	listed := c.v("GET", jobsPath, nil).ok(t)["batchPredictionJobs"].([]any)
	if len(listed) != 1 || at(listed[0], "state") != "JOB_STATE_QUEUED" || at(listed[0], "labels.gbatch") != "job-1" {
		t.Errorf("%v", listed)
	}
	c.do("DELETE", objectURL("in/job-1"), nil) // the job has read it
	job, states := c.ended(jobsPath + "/" + id)
	if fmt.Sprint(states) != "[PENDING RUNNING SUCCEEDED]" {
		t.Errorf("states %v", states)
	}
	if fmt.Sprint(job["completionStats"]) != "map[failedCount:1 successfulCount:2]" || job["displayName"] != "job-1" || job["startTime"] == nil ||
		at(job, "model") != "publishers/google/models/"+model001 {
		t.Errorf("%v", job)
	}
	out := c.outputs(job)
	if names := slices.Sorted(maps.Keys(out)); fmt.Sprint(names) != "[incremental_predictions/predictions-00001.jsonl predictions.jsonl]" {
		t.Errorf("%v", names)
	}
	results := strings.Split(strings.TrimSpace(out["predictions.jsonl"]), "\n")
	got := map[string]map[string]any{}
	for _, l := range results {
		var v map[string]any
		if err := json.Unmarshal([]byte(l), &v); err != nil {
			t.Fatal(err)
		}
		got[v["key"].(string)] = v
		if strings.Index(l, `"request":`) > strings.Index(l, `"response":`) {
			t.Errorf("the echo is behind the response: %s", l)
		}
	}
	if len(got) != 3 || at(got["a"], "request.content.parts").([]any)[0].(map[string]any)["text"] != "one text" || got["b"]["status"] != "content has no text" ||
		fmt.Sprint(got["b"]["response"]) != "map[]" || len(at(got["c"], "response.embedding.values").([]any)) != 4 {
		t.Errorf("%s", results)
	}
	if b := c.books(); b.Creates != 1 || b.RequestsPaid != 2 || b.RequestsFailed != 1 || b.Texts != 2 || b.MaxPaid != 1 || b.Jobs[succeeded] != 1 {
		t.Errorf("%+v", b)
	}
	// A job can be deleted after its end. Its results stay.
	if v := c.v("DELETE", name, nil).ok(t); v["done"] != true {
		t.Errorf("%v", v)
	}
	c.v("GET", name, nil).refused(t, 404, "NOT_FOUND", "not found")
	if len(c.outputs(job)) != 2 {
		t.Error("the results were deleted with the job")
	}
}

func TestVertexRefusals(t *testing.T) {
	c := serve(t, Options{})
	c.do("GET", jobsPath, nil).refused(t, 401, "UNAUTHENTICATED", "OAuth 2 access token")
	c.do("GET", jobsPath, nil, "Authorization", "Bearer x").refused(t, 401, "UNAUTHENTICATED", "Invalid Credentials")
	for change, text := range map[string]string{
		`"displayName":""`: "display_name", `"model":"models/gemini-embedding-001"`: "not found", `"model":"publishers/google/models/other"`: "not found",
		`"inputConfig":{"gcsSource":{"uris":["gs://bucket/in"]}}`: "instances_format", `"inputConfig":{"instancesFormat":"jsonl","gcsSource":{"uris":["in"]}}`: "gs://",
		`"outputConfig":{"predictionsFormat":"jsonl"}`: "output_uri_prefix", `"labels":{"gbatch":"Upper"}`: "Upper", `"other":1`: "other",
	} {
		body, _ := json.Marshal(vertexBodyOf("n", model001))
		name, _, _ := strings.Cut(change, ":")
		var doc, with map[string]any
		json.Unmarshal(body, &doc)
		json.Unmarshal([]byte("{"+change+"}"), &with)
		maps.Copy(doc, with)
		r := c.v("POST", jobsPath, doc)
		if r.code != 400 && r.code != 404 || !strings.Contains(string(r.body), text) {
			t.Errorf("%s: %d %s", name, r.code, r.body)
		}
	}
	// The input is read later: the job fails.
	missing := c.v("POST", jobsPath, vertexBodyOf("missing", model001)).ok(t)["name"].(string)
	bad := c.vertexJob("bad", "not JSON")
	for name, code := range map[string]string{missing: "5", bad: "3"} {
		job, _ := c.ended(name)
		if job["state"] != "JOB_STATE_FAILED" || fmt.Sprint(at(job, "error.code")) != code || job["outputInfo"] != nil {
			t.Errorf("%v", job)
		}
	}
	running := c.vertexJob("running", vertexLine("a", "x", 3))
	c.v("DELETE", running, nil).refused(t, 400, "FAILED_PRECONDITION", "has ended")
	other := strings.Replace(running, "us-central1", "us-east1", 1)
	c.v("GET", other, nil).refused(t, 404, "NOT_FOUND", "not found")
	if b := c.books(); b.RequestsCreated != 1 || b.Creates != 3 {
		t.Errorf("%+v", b)
	}
}

func TestVertexList(t *testing.T) {
	c := serve(t, Options{})
	for i := range 4 {
		c.vertexJob(fmt.Sprint("job-", i), vertexLine("a", fmt.Sprint("text ", i), 3))
	}
	body := vertexBodyOf("plain", model001)
	delete(body, "labels")
	c.v("POST", jobsPath, body).ok(t)
	all := c.v("GET", jobsPath, nil).ok(t)["batchPredictionJobs"].([]any)
	second := at(all[2], "createTime").(string) // of job-2
	c.ended(at(all[4], "name").(string))        // job-0
	for filter, want := range map[string]string{
		"":                            "plain job-3 job-2 job-1 job-0",
		`labels.gbatch="job-2"`:       "job-2",
		"labels.gbatch=job-2":         "job-2",
		"labels.gbatch:*":             "job-3 job-2 job-1 job-0",
		`NOT labels.gbatch:*`:         "plain",
		`display_name="job-1"`:        "job-1",
		`display_name!="job-1"`:       "plain job-3 job-2 job-0",
		`display_name:"job-*"`:        "job-3 job-2 job-1 job-0",
		`state="JOB_STATE_SUCCEEDED"`: "job-0",
		`labels.gbatch:* AND create_time>"` + second + `"`:                      "job-3",
		`labels.gbatch:* AND create_time>="` + second + `"`:                     "job-3 job-2",
		`labels.gbatch=job-1 OR labels.gbatch=job-2 AND state=JOB_STATE_QUEUED`: "job-2 job-1",
		`(labels.gbatch=job-0 OR labels.gbatch=job-2) AND NOT (display_name=x)`: "job-2 job-0",
		`labels.gbatch="none"`: "",
	} {
		var names []string
		for token := ""; ; {
			v := c.v("GET", jobsPath+"?pageSize=2&readMask=display_name,state&filter="+url.QueryEscape(filter)+"&pageToken="+token, nil).ok(t)
			list, _ := v["batchPredictionJobs"].([]any)
			for _, j := range list {
				names = append(names, at(j, "displayName").(string))
				if at(j, "state") == "" || at(j, "name") != "" {
					t.Errorf("the mask: %v", j)
				}
			}
			if token, _ = v["nextPageToken"].(string); token == "" {
				break
			}
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: %s, want %s", filter, got, want)
		}
	}
	for _, bad := range []string{"x", "labels.a", "labels.a>b", "state:*", "create_time>yesterday", "(labels.a:*", "labels.a:* labels.b:*", "labels.a:* AND"} {
		c.v("GET", jobsPath+"?filter="+url.QueryEscape(bad), nil).refused(t, 400, "INVALID_ARGUMENT", "filter")
	}
	c.faults("list hide=2", "list set='batchPredictionJobs.0.error={\"code\":7,\"details\":[{\"@type\":\"x\"}]}'")
	list := c.v("GET", jobsPath, nil).ok(t)["batchPredictionJobs"].([]any)
	if len(list) != 3 || at(list[0], "error.code") != 7.0 {
		t.Errorf("%v", list)
	}
}

// A job that is cancelled, or ends otherwise, has the results that were done, and
// they are paid for.
func TestVertexEnds(t *testing.T) {
	lines := make([]string, 10)
	for i := range lines {
		lines[i] = vertexLine(fmt.Sprint("k", i), fmt.Sprint("text ", i), 3)
	}
	for _, tt := range []struct {
		fault, states, stats string
		paid                 int
	}{
		{"", "RUNNING SUCCEEDED", "map[successfulCount:10]", 10},
		{"job state=FAILED code=7 message=bucket", "RUNNING FAILED", "<nil>", 0},
		{"job state=EXPIRED done=4", "RUNNING EXPIRED", "map[incompleteCount:6 successfulCount:4]", 4},
		{"job state=PARTIALLY_SUCCEEDED done=9", "RUNNING PARTIALLY_SUCCEEDED", "map[incompleteCount:1 successfulCount:9]", 9},
		{"job state=PARTIALLY_SUCCEEDED", "RUNNING PARTIALLY_SUCCEEDED", "map[successfulCount:10]", 10},
		{"get nth=1 state=JOB_STATE_PAUSED", "PAUSED SUCCEEDED", "map[successfulCount:10]", 10},
		{"cancel", "CANCELLED", "<nil>", 0},
		{"cancel done=3", "CANCELLED", "map[incompleteCount:7 successfulCount:3]", 3},
		{"cancel done=99", "CANCELLED", "map[successfulCount:10]", 10},
		{"cancel late=3 done=1", "CANCELLING CANCELLING CANCELLED", "map[incompleteCount:9 successfulCount:1]", 1},
	} {
		c := serve(t, Options{Polls: 1})
		if tt.fault != "cancel" {
			c.faults(tt.fault)
		}
		name := c.vertexJob("job", lines...)
		if strings.HasPrefix(tt.fault, "cancel") {
			c.v("POST", name+":cancel", "{}").ok(t)
			if v := c.v("GET", jobsPath, nil).ok(t)["batchPredictionJobs"].([]any)[0]; at(v, "state") != "JOB_STATE_CANCELLING" {
				t.Errorf("%s: %v", tt.fault, at(v, "state"))
			}
		}
		job, states := c.ended(name)
		if strings.Join(states, " ") != tt.states || fmt.Sprint(job["completionStats"]) != tt.stats || (job["error"] != nil) != (strings.HasSuffix(tt.states, "FAILED") || strings.HasSuffix(tt.states, "CANCELLED")) {
			t.Errorf("%s: %v %v %v", tt.fault, states, job["completionStats"], job["error"])
		}
		if n := strings.Count(c.outputs(job)["predictions.jsonl"], "\n"); n != tt.paid {
			t.Errorf("%s: %d results", tt.fault, n)
		}
		if b := c.books(); b.RequestsPaid != tt.paid || b.RequestsCreated != 10 || tt.paid > 0 && b.Tokens == 0 {
			t.Errorf("%s: %+v", tt.fault, b)
		}
		c.v("POST", name+":cancel", "{}").refused(t, 400, "FAILED_PRECONDITION", "has ended")
	}
}

// The three forms of a row that failed, and the other faults of results.
func TestVertexResultFaults(t *testing.T) {
	lines := []string{vertexLine("a", "one", 2), vertexLine("b", "two", 2), vertexLine("c", "three", 2)}
	for fault, want := range map[string]string{
		"results error=8 keys=b message=full":                "<nil> full map[] predictions.jsonl",
		"results error=8 keys=b message=full place=code":     "<nil> map[code:8 message:full] map[] predictions.jsonl",
		"results error=8 keys=b message=full place=response": "<nil> <nil> map[error:map[code:8 message:full]] predictions.jsonl",
		"results error=8 keys=b message=full place=error":    "map[code:8 message:full] <nil> <nil> predictions.jsonl",
		"results error=8 keys=b message=full place=file":     "map[code:8 message:full] <nil> <nil> errors_0001.jsonl",
	} {
		c := serve(t, Options{Faults: []string{fault}})
		job, _ := c.ended(c.vertexJob("job", lines...))
		found := ""
		for file, text := range c.outputs(job) {
			for l := range strings.Lines(text) {
				var v map[string]any
				if err := json.Unmarshal([]byte(l), &v); err != nil {
					t.Fatal(err)
				}
				if v["key"] == "b" && !strings.HasPrefix(file, "incremental") {
					found += fmt.Sprint(v["error"], " ", v["status"], " ", v["response"], " ", file)
				}
			}
		}
		if found != want || fmt.Sprint(at(job, "completionStats.failedCount")) != "1" {
			t.Errorf("%s: %s, want %s", fault, found, want)
		}
	}
	count := func(faults ...string) map[string]int {
		c := serve(t, Options{Faults: faults})
		job, _ := c.ended(c.vertexJob("job", lines...))
		n := map[string]int{}
		for file, text := range c.outputs(job) {
			n[file] = strings.Count(text, "\n")
		}
		return n
	}
	if n := count("results files=2"); n["predictions_00001.jsonl"] != 2 || n["predictions_00002.jsonl"] != 1 || len(n) != 3 {
		t.Errorf("%v", n)
	}
	if n := count("results missing"); n["predictions.jsonl"] != 0 || len(n) != 2 {
		t.Errorf("%v", n)
	}
	if n := count("results duplicate keys=a", "results foreign keys=b"); n["predictions.jsonl"] != 5 {
		t.Errorf("%v", n)
	}
	// Options beside the content are not read.
	c := serve(t, Options{})
	job, _ := c.ended(c.vertexJob("job", line("a", "one", 2)))
	if text := c.outputs(job)["predictions.jsonl"]; strings.Count(text, ",") < 3000 {
		t.Errorf("%.200s", text)
	}
}

// A second client: Google's JavaScript library, with tokens of the metadata server.
func TestNodeVertex(t *testing.T) {
	c := serve(t, Options{Polls: 1})
	node(t, "vertex.mjs", []string{
		"GCE_METADATA_HOST=" + strings.TrimPrefix(c.url, "http://"), "HOME=" + t.TempDir(), "GOOGLE_APPLICATION_CREDENTIALS=", "NO_PROXY=127.0.0.1",
	}, c.url)
}
