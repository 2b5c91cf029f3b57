package emulator

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func sameBits(a, b []float32) bool { return slices.Equal(a, b) }

func TestJobStates(t *testing.T) {
	for polls, want := range [][]string{
		{succeeded},
		{running, succeeded},
		{pending, running, succeeded},
		{pending, pending, running, succeeded},
	} {
		c := serve(t, Options{Polls: polls})
		file := c.upload(line("a", "x", 3) + "\n" + line("b", "", 3))
		op := c.create(model001, file).ok(t)
		if at(op, "metadata.state") != pending || op["done"] != nil || op["response"] != nil || at(op, "metadata.output") != "" {
			t.Errorf("polls %d: created %v", polls, op)
		}
		job := op["name"].(string)
		for i, state := range want {
			// A list shows the state and does not change it.
			listed := at(c.do("GET", "/v1beta/batches", nil).ok(t), "operations").([]any)[0]
			if i > 0 && at(listed, "metadata.state") != want[i-1] {
				t.Errorf("polls %d: list before GET %d: %v", polls, i+1, at(listed, "metadata.state"))
			}
			op = c.do("GET", "/v1beta/"+job, nil).ok(t)
			if got := at(op, "metadata.state"); got != state {
				t.Errorf("polls %d: GET %d: %v, want %s", polls, i+1, got, state)
			}
		}
		stats, _ := json.Marshal(at(op, "metadata.batchStats"))
		if string(stats) != `{"failedRequestCount":"1","requestCount":"2","successfulRequestCount":"1"}` {
			t.Errorf("stats %s", stats)
		}
		if id := strings.TrimPrefix(job, "batches/"); len(id) != 36 {
			t.Errorf("the id is %s", id)
		}
		if at(op, "metadata.name") != job || at(op, "metadata.displayName") != "job of "+file || at(op, "metadata.model") != "models/"+model001 ||
			at(op, "metadata.inputConfig.fileName") != file || at(op, "response.responsesFile") != strings.Replace(job, "batches/", "files/batch-", 1) {
			t.Errorf("%v", op)
		}
	}
}

func TestDelay(t *testing.T) {
	c := serve(t, Options{Delay: time.Hour})
	job := c.job(model001, line("a", "x", 3))
	for range 3 {
		if got := at(c.do("GET", "/v1beta/"+job, nil).ok(t), "metadata.state"); got != running {
			t.Fatalf("state %v", got)
		}
	}
	c.s.mu.Lock()
	c.s.jobs[strings.TrimPrefix(job, "batches/")].Created = time.Now().Add(-time.Hour)
	c.s.mu.Unlock()
	if got := at(c.do("GET", "/v1beta/"+job, nil).ok(t), "metadata.state"); got != succeeded {
		t.Errorf("an hour later: %v", got)
	}
}

func TestResults(t *testing.T) {
	texts := map[string]string{}
	var input, keys []string
	for i := range 100 {
		key := fmt.Sprintf("key %d \"quoted\" \u2028 é", i)
		texts[key] = fmt.Sprintf("text number %d, with\ttabs, \"quotes\", emoji 😀 and \u2028", i)
		input = append(input, line(key, texts[key], 8))
		keys = append(keys, key)
	}
	for _, opts := range []Options{
		{}, {InOrder: true}, {Tokens: "number"}, {Tokens: "usage"}, {Tokens: "mixed", Spaces: true}, {Float64Digits: true}, {Cheap: true},
		{Cheap: true, Spaces: true},
	} {
		t.Run(fmt.Sprintf("%+v", opts), func(t *testing.T) {
			c := serve(t, opts)
			lines := c.results(model001, input...)
			forms := map[string]int{}
			var order []string
			first := 0
			for _, l := range lines {
				r := decode(t, l)
				order = append(order, r.Key)
				want := Vector(model001, texts[r.Key], 8)
				if opts.Cheap {
					want = CheapVector(texts[r.Key], 8)
				}
				if !sameBits(r.Response.Embedding.Values, want) {
					t.Fatalf("%q: %v, want %v", r.Key, r.Response.Embedding.Values, want)
				}
				switch {
				case r.Response.UsageMetadata.PromptTokenCount != nil:
					forms["usage"]++
				default:
					forms[fmt.Sprintf("%T", r.Response.TokenCount)]++
				}
				if strings.HasPrefix(l, `{"key"`) {
					first++
				}
				if got := strings.Contains(l, `": `) && strings.Contains(l, ", "); opts.Spaces && !got {
					t.Errorf("no blanks in %s", l)
				}
			}
			if slices.Equal(order, keys) != opts.InOrder {
				t.Errorf("in order: %v", !opts.InOrder)
			}
			slices.Sort(order)
			slices.Sort(keys)
			if !slices.Equal(order, keys) {
				t.Errorf("keys %q", order)
			}
			if first == 0 || first == 100 {
				t.Errorf("the key comes first in %d of 100 lines", first)
			}
			want := map[string]string{"": "map[string:100]", "number": "map[float64:100]", "usage": "map[usage:100]", "mixed": "map[float64:33 string:34 usage:33]"}
			if got := fmt.Sprint(forms); got != want[opts.Tokens] {
				t.Errorf("token counts: %s", got)
			}
			keys = keys[:0]
			for i := range 100 {
				keys = append(keys, fmt.Sprintf("key %d \"quoted\" \u2028 é", i))
			}
			if again := c.results(model001, input...); !slices.Equal(again, lines) {
				t.Error("a second job of the same input gives other lines")
			}
		})
	}
}

func TestEachCreateIsAJob(t *testing.T) {
	c := serve(t, Options{})
	file := c.upload(line("a", "x", 3))
	seen := map[any]bool{}
	for range 5 {
		seen[c.create(model001, file).ok(t)["name"]] = true
	}
	if len(seen) != 5 {
		t.Errorf("%d jobs", len(seen))
	}
	b := c.books()
	if b.Creates != 5 || b.RequestsCreated != 5 || b.MaxPaid != 5 {
		t.Errorf("%+v", b)
	}
}

// A text that is longer than the model reads is truncated without an error.
func TestLongTextIsCut(t *testing.T) {
	c := serve(t, Options{})
	for model, limit := range map[string]int{model001: 2048, model2: 8192} {
		fits := strings.TrimSpace(strings.Repeat("word ", limit))
		whole, long := fits+" é", fits+" and more"
		got := byKey(t, c.results(model, line("fits", fits, 3), line("long", long, 3), line("cut", whole, 3)))
		want := Vector(model, fits, 3)
		for key, r := range got {
			if !sameBits(r.Response.Embedding.Values, want) || r.Response.TokenCount != fmt.Sprint(limit) || r.Error != nil {
				t.Errorf("%s %s: %+v, want %v", model, key, r, want)
			}
		}
		if !sameBits(Vector(model, long, 3), want) {
			t.Errorf("%s: Vector does not cut", model)
		}
		v := c.do("POST", "/v1beta/models/"+model+":embedContent", `{"content":{"parts":[{"text":"`+long+`"}]},"outputDimensionality":3}`).ok(t)
		var values []float32
		for _, x := range at(v, "embedding.values").([]any) {
			values = append(values, float32(x.(float64)))
		}
		if !sameBits(values, want) {
			t.Errorf("%s: embedContent gives %v", model, values)
		}
	}
	if b := c.books(); b.Texts != 6 {
		t.Errorf("%d texts in the books", b.Texts)
	}
}

func TestModels(t *testing.T) {
	c := serve(t, Options{})
	file := c.upload(line("a", "x", 3))
	body := `{"batch":{"inputConfig":{"fileName":"` + file + `"}}}`
	post := func(model, verb string) reply { return c.do("POST", "/v1beta/models/"+model+":"+verb, body) }
	for _, model := range embeddingModels {
		post(model, "asyncBatchEmbedContent").ok(t)
		post(model, "batchGenerateContent").refused(t, 404, "NOT_FOUND",
			"models/"+model+" is not found for API version v1beta, or is not supported for batchGenerateContent")
	}
	post("text-embedding-004", "asyncBatchEmbedContent").refused(t, 404, "NOT_FOUND", "is not found for API version v1beta")
	post("gemini-pseudo", "asyncBatchEmbedContent").refused(t, 404, "NOT_FOUND", "not supported for asyncBatchEmbedContent")
	post("gemini-pseudo", "batchGenerateContent").ok(t)
}

func TestGenericCreate(t *testing.T) {
	c := serve(t, Options{})
	file := c.upload(strings.Join([]string{
		`{"key":"rest","request":{"content":{"parts":[{"text":"t"}]},"outputDimensionality":4}}`,
		`{"key":"vertex","request":{"content":{"parts":[{"text":"t"}]},"embed_content_config":{"output_dimensionality":4}}}`,
		`{"key":"sdk","request":{"model":"models/gemini-pseudo","contents":[{"parts":[{"text":"t"}]}],"config":{"task_type":"CLUSTERING","output_dimensionality":4}}}`,
	}, "\n"))
	op := c.do("POST", "/v1beta/models/gemini-pseudo:batchGenerateContent", `{"batch":{"input_config":{"file_name":"`+file+`"}}}`).ok(t)
	op = c.finish(op["name"].(string))
	r := c.download(at(op, "response.responsesFile").(string))
	got := byKey(t, strings.Split(strings.TrimSpace(string(r.body)), "\n"))
	for _, key := range []string{"rest", "vertex", "sdk"} {
		if !sameBits(got[key].Response.Embedding.Values, Vector("gemini-pseudo", "t", 4)) {
			t.Errorf("%s: %v", key, got[key])
		}
	}
}

func TestCreateRefused(t *testing.T) {
	c := serve(t, Options{})
	generatedFile := at(c.finish(c.job(model001, line("a", "x", 3))), "response.responsesFile").(string)
	post := func(body string) reply {
		return c.do("POST", "/v1beta/models/"+model001+":asyncBatchEmbedContent", body)
	}
	for _, tt := range []struct {
		body string
		code int
		text string
	}{
		{`{"batch":{"inputConfig":{"fileName":"files/none"}}}`, 404, "files/none"},
		{`{"batch":{"inputConfig":{"fileName":"none"}}}`, 404, "none"},
		{`{"batch":{"inputConfig":{"fileName":"` + generatedFile + `"}}}`, 404, generatedFile},
		{`{"batch":{"displayName":"x"}}`, 400, "needs either"},
		{`{"batch":{"inputConfig":{}}}`, 400, "needs either"},
		{`{"batch":{"inputConfig":{"fileName":"files/x","requests":{"requests":[]}}}}`, 400, "needs either"},
		{`{"batch":{"inputConfig":{"requests":{"requests":[]}}}}`, 400, "no request"},
		{`{"batch":{"webhookConfig":{},"inputConfig":{}}}`, 400, `Unknown name "webhookConfig": Cannot find field`},
		{`{"batch":`, 400, "Invalid JSON payload"},
		{`{"batch":{"inputConfig":{"requests":{"requests":[{"request":{"contents":[]}}]}}}}`, 400, "requests[0].request': invalid JSON, near column 2: no such field: 'contents'"},
	} {
		status := map[int]string{400: "INVALID_ARGUMENT", 404: "NOT_FOUND"}[tt.code]
		post(tt.body).refused(t, tt.code, status, tt.text)
	}
	post(`{"batch":{"displayName":"`+strings.Repeat("x", maxInline)+`"}}`).refused(t, 400, "INVALID_ARGUMENT", "upload a file")
	c.create(model001, c.upload("")).refused(t, 400, "INVALID_ARGUMENT", "no request")
	c.create(model001, c.upload("\n \n")).refused(t, 400, "INVALID_ARGUMENT", "no request")
	if b := c.books(); b.Creates != 1 || b.RequestsCreated != 1 {
		t.Errorf("refused creates are in the books: %+v", b)
	}
}

func TestAllBadLinesAreListed(t *testing.T) {
	c := serve(t, Options{})
	file := c.upload(strings.Join([]string{
		line("good", "x", 3),
		`{"key":"a","request":{"contents":[{"parts":[{"text":"t"}]}]}}`,
		``,
		`{"key":"b","request":{"content":{"parts":[{"text":"t"}]},"config":{"output_dimensionality":3}}}`,
		`{"key":"c","request":{"content":["t"]}}`,
		`{"key":"d","request":{"model":"models/other","content":{"parts":[{"text":"t"}]}}}`,
		"{\"key\":\"\xff\",\"request\":{}}",
	}, "\n"))
	want := `Error on line 2: invalid JSON, near column 23: no such field: 'contents'
Error on line 4: invalid JSON, near column 58: no such field: 'config'
Error on line 5: invalid JSON, near column 33: unexpected character: '['; expected '{'
Error on line 6: model 'models/other' is not the job's, 'models/gemini-embedding-001'
Error on line 7: invalid UTF-8`
	var got struct{ Error struct{ Message string } }
	r := c.create(model001, file)
	json.Unmarshal(r.body, &got)
	if r.code != 400 || got.Error.Message != want {
		t.Errorf("%d: %s\nwant %s", r.code, got.Error.Message, want)
	}

	many := c.upload(strings.Repeat(`{"request":{"x":1}}`+"\n", listedErrors+7))
	c.create(model001, many).refused(t, 400, "INVALID_ARGUMENT", "\nand 7 more lines")
}

func TestEmptyTextIsAnErrorOfItsKey(t *testing.T) {
	c := serve(t, Options{})
	got := byKey(t, c.results(model001, line("good", "x", 3), line("empty", "", 3), `{"key":"none","request":{}}`))
	for _, key := range []string{"empty", "none"} {
		if e := got[key].Error; e == nil || e.Code != 3 || e.Message == "" || got[key].Response.Embedding.Values != nil {
			t.Errorf("%s: %+v", key, got[key])
		}
	}
	if len(got["good"].Response.Embedding.Values) != 3 {
		t.Errorf("%+v", got["good"])
	}
}

func TestInline(t *testing.T) {
	c := serve(t, Options{})
	op := c.do("POST", "/v1beta/models/"+model2+":asyncBatchEmbedContent", `{"batch":{"displayName":"d","inputConfig":{"requests":{"requests":[
		{"request":{"content":{"parts":[{"text":"one"}]},"outputDimensionality":3},"metadata":{"key":"a","more":[1,2]}},
		{"request":{"content":{"parts":[{"text":""}]},"outputDimensionality":3},"metadata":{"key":"b"}},
		{"request":{"content":{"parts":[{"text":"three"}],"role":"user"},"outputDimensionality":3}}]}}}}`).ok(t)
	job := op["name"].(string)
	op = c.finish(job)
	seen := 0
	for _, path := range []string{"metadata.output.inlinedResponses.inlinedResponses", "response.inlinedResponses.inlinedResponses"} {
		items, _ := at(op, path).([]any)
		if len(items) != 3 {
			t.Fatalf("%s: %v", path, op)
		}
		for _, item := range items {
			text := map[any]string{"a": "one", "b": "", "": "three"}[at(item, "metadata.key")]
			if text == "" {
				if at(item, "error.code") != 3.0 {
					t.Errorf("%v", item)
				}
				continue
			}
			var r result
			data, _ := json.Marshal(item)
			json.Unmarshal(data, &r)
			if !sameBits(r.Response.Embedding.Values, Vector(model2, text, 3)) {
				t.Errorf("%v", item)
			}
			seen++
		}
	}
	if seen != 4 {
		t.Errorf("%d vectors", seen)
	}
	listed := at(c.do("GET", "/v1beta/batches", nil).ok(t), "operations").([]any)[0]
	if at(listed, "metadata.output.inlinedResponses") != "" || at(listed, "metadata.state") != succeeded {
		t.Errorf("the list carries results: %v", listed)
	}
	if b := c.books(); b.RequestsPaid != 2 || b.RequestsFailed != 1 {
		t.Errorf("%+v", b)
	}
}

func TestListPages(t *testing.T) {
	c := serve(t, Options{MaxJobs: 1000})
	file := c.upload(line("a", "x", 3))
	var want []any
	for range 7 {
		want = append([]any{c.create(model001, file).ok(t)["name"]}, want...)
	}
	var got []any
	for token := ""; ; {
		v := c.do("GET", "/v1beta/batches?pageSize=3&pageToken="+token, nil).ok(t)
		for _, op := range v["operations"].([]any) {
			got = append(got, at(op, "name"))
		}
		if len(got) == 3 {
			c.create(model001, file).ok(t) // is listed first, and must not shift the pages
		}
		if token, _ = v["nextPageToken"].(string); token == "" {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("pages give %v\nwant %v", got, want)
	}
	for range 45 {
		c.create(model001, file).ok(t)
	}
	v := c.do("GET", "/v1beta/batches", nil).ok(t)
	if len(v["operations"].([]any)) != 50 || v["nextPageToken"] == nil {
		t.Errorf("a default page of %d", len(v["operations"].([]any)))
	}
	if v := serve(t, Options{}).do("GET", "/v1beta/batches", nil).ok(t); len(v) != 0 {
		t.Errorf("an empty list is %v", v)
	}
}

func TestCancelAndDelete(t *testing.T) {
	c := serve(t, Options{Polls: 5})
	job := c.job(model001, line("a", "x", 3))
	c.do("POST", "/v1beta/"+job+":cancel", nil).ok(t)
	op := c.do("GET", "/v1beta/"+job, nil).ok(t)
	if at(op, "metadata.state") != cancelled || op["done"] != true || at(op, "error.code") != 1.0 || op["response"] != nil {
		t.Errorf("%v", op)
	}
	c.do("POST", "/v1beta/"+job+":cancel", "{}").refused(t, 400, "FAILED_PRECONDITION", "has ended")
	c.do("DELETE", "/v1beta/"+job, nil).ok(t)
	for _, r := range []reply{c.do("GET", "/v1beta/"+job, nil), c.do("DELETE", "/v1beta/"+job, nil), c.do("POST", "/v1beta/"+job+":cancel", nil), c.do("GET", "/v1beta/batches/none", nil)} {
		r.refused(t, 404, "NOT_FOUND", "not found")
	}
	active := c.job(model001, line("a", "y", 3))
	c.do("DELETE", "/v1beta/"+active, nil).ok(t)
	if v := c.do("GET", "/v1beta/batches", nil).ok(t); len(v) != 0 {
		t.Errorf("deleted jobs are listed: %v", v)
	}
	b := c.books()
	if b.Creates != 2 || b.DeletedJobs != 2 || b.RequestsCreated != 2 || b.RequestsPaid != 1 {
		t.Errorf("%+v", b)
	}
}

// A cancel may take its time. The job is RUNNING meanwhile.
func TestLateCancel(t *testing.T) {
	c := serve(t, Options{Faults: []string{"cancel times=1 late=2"}})
	job := c.job(model001, line("a", "x", 3))
	for _, want := range []string{running, cancelled} { // the second cancel is at once
		c.do("POST", "/v1beta/"+job+":cancel", nil).ok(t)
		if op := c.do("GET", "/v1beta/"+job, nil).ok(t); at(op, "metadata.state") != want {
			t.Errorf("%v instead of %s", op, want)
		}
	}
	if b := c.books(); b.Jobs[cancelled] != 1 || b.RequestsPaid != 0 {
		t.Errorf("%+v", b)
	}
	if err := c.s.SetFaults([]string{"cancel late=2"}); err != nil {
		t.Fatal(err)
	}
	job = c.job(model001, line("a", "x", 3))
	c.do("POST", "/v1beta/"+job+":cancel", nil).ok(t)
	for _, want := range []string{running, cancelled} {
		if op := c.do("GET", "/v1beta/"+job, nil).ok(t); at(op, "metadata.state") != want {
			t.Errorf("%v instead of %s", op, want)
		}
	}
}

func TestQuotas(t *testing.T) {
	c := serve(t, Options{Polls: 1, MaxJobs: 2, MaxTokens: 10})
	file := c.upload(line("a", "two words", 3)) // 2 tokens
	first := c.create(model001, file).ok(t)["name"].(string)
	c.create(model001, file).ok(t)
	r := c.create(model001, file)
	r.refused(t, 429, "RESOURCE_EXHAUSTED", "batch jobs")
	r.refused(t, 429, "RESOURCE_EXHAUSTED", quotaMessage)
	if !strings.Contains(string(r.body), "type.googleapis.com/google.rpc.Help") {
		t.Errorf("%s", r.body)
	}
	other := *c
	other.key = "k@elsewhere"
	other.job(model001, line("a", "x", 3))
	c.finish(first)
	big := c.upload(line("a", strings.Repeat("9", 9), 3)) // 9 tokens
	c.create(model001, big).refused(t, 429, "RESOURCE_EXHAUSTED", "11 tokens")
	c.create(model001, file).ok(t)
	if b := c.books(); b.Creates != 4 {
		t.Errorf("%d creates", b.Creates)
	}
}

func TestEmbed(t *testing.T) {
	c := serve(t, Options{})
	v := c.do("POST", "/v1beta/models/"+model2+":embedContent", `{"content":{"parts":[{"text":"hello"},{"text":"there"}]},"outputDimensionality":5}`).ok(t)
	var values []float32
	for _, x := range at(v, "embedding.values").([]any) {
		values = append(values, float32(x.(float64)))
	}
	if !sameBits(values, Vector(model2, "hello\nthere", 5)) {
		t.Errorf("several parts give %v", values)
	}
	v = c.do("POST", "/v1beta/models/"+model001+":batchEmbedContents", `{"requests":[{"model":"models/`+model001+`","content":{"parts":[{"text":"a"}]}},{"content":{"parts":[{"text":"b"}]}}]}`).ok(t)
	if list := v["embeddings"].([]any); len(list) != 2 || len(at(list[1], "values").([]any)) != 3072 {
		t.Errorf("%d embeddings", len(list))
	}
	post := func(verb, body string) reply { return c.do("POST", "/v1beta/models/"+model001+":"+verb, body) }
	post("embedContent", `{"content":{"parts":[{"text":""}]}}`).refused(t, 400, "INVALID_ARGUMENT", "no text")
	post("embedContent", `{"contents":[]}`).refused(t, 400, "INVALID_ARGUMENT", "no such field: 'contents'")
	post("batchEmbedContents", `{"requests":[]}`).refused(t, 400, "INVALID_ARGUMENT", "1 to 100")
	post("batchEmbedContents", `{"requests":[`+strings.Repeat("{},", 100)+`{}]}`).refused(t, 400, "INVALID_ARGUMENT", "not 101")
	post("batchEmbedContents", `{"request":1}`).refused(t, 400, "INVALID_ARGUMENT", "Unknown name")
	c.do("POST", "/v1beta/models/none:embedContent", `{}`).refused(t, 404, "NOT_FOUND", "models/none")
}

// If a job is cancelled or deleted while its results are made, it has no
// results. A server that closes stops the work on its jobs.
func TestWorkIsGivenUp(t *testing.T) {
	dir := t.TempDir()
	c := serve(t, Options{Dir: dir})
	name := c.job(model001, line("a", "x", 3))
	j := c.s.jobs[strings.TrimPrefix(name, "batches/")]
	c.s.mu.Lock()
	c.s.startWork(j) // the worker waits for the lock
	c.s.end(j, cancelled, nil)
	c.s.mu.Unlock()
	<-j.working
	if j.State != cancelled || len(c.books().Generated) != 0 {
		t.Errorf("state %s, %v", j.State, c.books().Generated)
	}
}

func BenchmarkCheapResults(b *testing.B) {
	var input bytes.Buffer
	for i := range 20000 {
		fmt.Fprintln(&input, line(fmt.Sprint("chunk_", i), fmt.Sprint(i, passage), 768))
	}
	c := serve(b, Options{Cheap: true})
	c.create(model001, c.upload(input.String())).ok(b)
	for _, j := range c.s.jobs {
		for b.Loop() {
			done, err := c.s.makeResults(j, nil, j.Requests)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(done.bytes)
		}
	}
}
