package emulator

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

var faultSpecs = []struct{ spec, err string }{
	{"create status=503", ""},
	{`create nth=2-4 status=429 retry=1.5s retry-after=2 message="two words" when=after`, ""},
	{"any p=0.5 seed=3 drop", ""},
	{"results keys=a,b error=13 place=response", ""},
	{`job match="my job" state=FAILED code=3 message="a \b"`, ""},
	{"download hold=x at=5", ""},
	{"fly status=503", `unknown operation "fly"`},
	{"create", "no action"},
	{"create nth=1", "no action"},
	{"create status=503 drop", "a second action after status"},
	{"create drop=1", "drop=1: has a value"},
	{"create status", "has a value"},
	{"create status=x", "invalid syntax"},
	{"create status=100", "less than 200"},
	{"create nth=0 drop", "less than 1"},
	{"create nth=3-2 drop", "less than 3"},
	{"create p=0 drop", "probability"},
	{"create p=2 drop", "probability"},
	{"create when=later drop", "before or after"},
	{"create delay=2 ", "missing unit"},
	{"create missing", "create has no action missing"},
	{"create state=X", "create has no action state"},
	{"create nostatus", "create has no action nostatus"},
	{"get short=3", "get has no action short"},
	{"results drop", "results has no action drop"},
	{"results values=odd", "unknown kind"},
	{"results error=13 place=key", "use response"},
	{"job state=SUCCEEDED", "FAILED, CANCELLED or EXPIRED"},
	{"download drop when=after", "a download has no after"},
	{"get cut=5 when=after", "not for after"},
	{"create body=xml status=500", "html or empty"},
	{"create huh", "huh: unknown word"},
	{`create status=500 message="open`, "quote"},
}

func TestFaultGrammar(t *testing.T) {
	for _, tt := range faultSpecs {
		err := new(Server).SetFaults([]string{tt.spec})
		switch {
		case tt.err == "" && err != nil:
			t.Errorf("%s: %v", tt.spec, err)
		case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err) || !strings.Contains(err.Error(), tt.spec[:4])):
			t.Errorf("%s: error %v, want %s", tt.spec, err, tt.err)
		}
	}
	c := serve(t, Options{})
	c.faults("get drop")
	c.do("POST", "/emulator/faults", "# a comment\n\ncreate drop\nfly\n").refused(t, 400, "INVALID_ARGUMENT", "fly")
	if got := fmt.Sprint(c.s.Faults()); got != "[{get drop 0 0}]" {
		t.Errorf("a refused list changed the faults: %s", got)
	}
	c.faults("# a comment", "", " create drop ")
	if got := fmt.Sprint(c.s.Faults()); got != "[{create drop 0 0}]" {
		t.Errorf("faults %s", got)
	}
	if _, err := New(Options{Dir: t.TempDir(), Faults: []string{"x"}}); err == nil {
		t.Error("a bad fault in the options is taken")
	}
}

// Whatever is sent to /emulator/faults is taken or refused.
func FuzzFault(f *testing.F) {
	for _, tt := range faultSpecs {
		f.Add(tt.spec)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		s := new(Server)
		if err := s.SetFaults([]string{spec}); err == nil {
			for range 3 {
				s.faults.call("create", "x")
			}
			s.faults.results(&job{})
		}
	})
}

func TestWhichCallsAreStruck(t *testing.T) {
	strikes := func(which string) (got string) {
		c := serve(t, Options{Faults: []string{"get " + which + " status=500"}})
		for range 12 {
			got += map[int]string{404: ".", 500: "x"}[c.do("GET", "/v1beta/batches/none", nil).code]
		}
		return got
	}
	for _, tt := range []struct{ which, want string }{
		{"", "xxxxxxxxxxxx"},
		{"nth=3", "..x........."},
		{"nth=3-5", "..xxx......."},
		{"every=4", "...x...x...x"},
		{"every=4 times=2", "...x...x...."},
		{"times=2", "xx.........."},
		{"p=1 times=1", "x..........."},
		{"match=batches", "xxxxxxxxxxxx"},
		{"match=files", "............"},
	} {
		if got := strikes(tt.which); got != tt.want {
			t.Errorf("%s strikes %s, want %s", tt.which, got, tt.want)
		}
	}
	seven := strikes("p=0.5 seed=7")
	if n := strings.Count(seven, "x"); n < 2 || n > 10 || strikes("p=0.5 seed=7") != seven || strikes("p=0.5 seed=8") == seven {
		t.Errorf("half of the calls: %s", seven)
	}
	c := serve(t, Options{Faults: []string{`create match="job of another" status=500`}})
	c.create(model001, "files/x").refused(t, 404, "NOT_FOUND", "")
	c.faults(`create match="job of files" status=500`)
	c.create(model001, "files/x").refused(t, 500, "INTERNAL", "injected")
}

// Each call can be refused and dropped, before the work and after it.
func TestEachCallFails(t *testing.T) {
	var c *client
	var file, job, results, upload string
	calls := []struct {
		op    string
		again func() reply
		done  func() bool // whether the work was done
	}{
		{"upload.start", func() reply {
			return c.do("POST", "/upload/v1beta/files", "{}", "X-Goog-Upload-Protocol", "resumable", "X-Goog-Upload-Command", "start")
		}, func() bool { return c.books().OpenUploads == 2 }},
		{"upload.data", func() reply { return c.sendChunk(upload, "upload, finalize", 0, "x") }, func() bool { return len(c.books().Uploaded) == 2 }},
		{"file.get", func() reply { return c.do("GET", "/v1beta/"+file, nil) }, nil},
		{"file.list", func() reply { return c.do("GET", "/v1beta/files", nil) }, nil},
		{"file.delete", func() reply { return c.do("DELETE", "/v1beta/"+file, nil) }, func() bool { return len(c.books().Uploaded) == 0 }},
		{"download", func() reply { return c.download(results) }, nil},
		{"create", func() reply { return c.create(model001, file) }, func() bool { return c.books().Creates == 2 }},
		{"get", func() reply { return c.do("GET", "/v1beta/"+job, nil) }, nil},
		{"list", func() reply { return c.do("GET", "/v1beta/batches", nil) }, nil},
		{"delete", func() reply { return c.do("DELETE", "/v1beta/"+job, nil) }, func() bool { return c.books().DeletedJobs == 1 }},
		{"embed", func() reply {
			return c.do("POST", "/v1beta/models/"+model001+":embedContent", `{"content":{"parts":[{"text":"x"}]}}`)
		}, nil},
	}
	for _, call := range calls {
		for _, when := range []string{"before", "after"} {
			if call.op == "download" && when == "after" {
				continue
			}
			for _, action := range []string{"status=503", "drop"} {
				t.Run(call.op+" "+action+" "+when, func(t *testing.T) {
					c = serve(t, Options{})
					file = c.upload(line("a", "x", 3))
					job = c.create(model001, file).ok(t)["name"].(string)
					results = at(c.finish(job), "response.responsesFile").(string)
					upload = c.startUpload("")
					c.faults(call.op + " nth=1 " + action + " when=" + when)
					r := call.again()
					if action == "drop" {
						if r.err == nil {
							t.Errorf("the call was answered: %d %s", r.code, r.body)
						}
					} else {
						r.refused(t, 503, "UNAVAILABLE", "injected fault")
					}
					if call.done != nil && call.done() != (when == "after") {
						t.Errorf("the work was done: %v", call.done())
					}
					outcome := map[string]string{"drop": "dropped", "status=503": "503"}[action]
					if n := c.books().Operations[call.op][outcome]; n != 1 {
						t.Errorf("%d %s in the books", n, outcome)
					}
					if f := c.s.Faults()[0]; f.Calls != 1 || f.Fired != 1 {
						t.Errorf("%+v", f)
					}
					if when == "before" {
						call.again().ok(t)
					}
				})
			}
		}
	}
}

func TestStatusFaults(t *testing.T) {
	c := serve(t, Options{})
	get := func(spec string) reply {
		t.Helper()
		c.faults(spec)
		return c.do("GET", "/v1beta/batches/x", nil)
	}
	r := get("get status=429 retry=2.5s retry-after=7 message=slow")
	r.refused(t, 429, "RESOURCE_EXHAUSTED", "slow")
	if !strings.Contains(string(r.body), `"retryDelay": "2.5s"`) || r.header.Get("Retry-After") != "7" {
		t.Errorf("%v %s", r.header, r.body)
	}
	r = get("get status=429")
	r.refused(t, 429, "RESOURCE_EXHAUSTED", "injected")
	if strings.Contains(string(r.body), "details") || r.header.Get("Retry-After") != "" {
		t.Errorf("%v %s", r.header, r.body)
	}
	if r = get("get status=502 body=html"); r.code != 502 || !strings.Contains(string(r.body), "<html>") || !strings.HasPrefix(r.header.Get("Content-Type"), "text/html") {
		t.Errorf("%d %v %s", r.code, r.header, r.body)
	}
	if r = get("get status=200 body=html"); r.code != 200 || !strings.Contains(string(r.body), "<html>") {
		t.Errorf("%d %s", r.code, r.body)
	}
	if r = get("get status=500 body=empty"); r.code != 500 || len(r.body) != 0 {
		t.Errorf("%d %s", r.code, r.body)
	}
	get("get delay=1ns").refused(t, 404, "NOT_FOUND", "")
}

func TestUploadReplyWithoutStatus(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		c := serve(t, Options{Faults: []string{"upload.data nth=1 nostatus when=" + when}})
		url := c.startUpload("")
		r := c.sendChunk(url, "upload", 0, "12345")
		r.ok(t)
		if h, ok := r.header["X-Goog-Upload-Status"]; ok {
			t.Errorf("status %v", h)
		}
		want := map[string]string{"before": "0", "after": "5"}[when]
		if got := c.sendChunk(url, "query", 0, "").header.Get("X-Goog-Upload-Size-Received"); got != want {
			t.Errorf("%s: received %s, want %s", when, got, want)
		}
	}
}

func TestDownloadFaults(t *testing.T) {
	c := serve(t, Options{})
	file := at(c.finish(c.job(model001, line("a", "x", 500), line("b", "y", 500))), "response.responsesFile").(string)
	whole := c.download(file).body
	firstLine := strings.IndexByte(string(whole), '\n') + 1

	for _, n := range []int{0, 1, firstLine, len(whole) - 1, len(whole)} {
		c.faults(fmt.Sprintf("download times=1 cut=%d", n))
		r := c.download(file)
		if r.err == nil && n < len(whole) || len(r.body) != n || string(r.body) != string(whole[:n]) || r.header.Get("Content-Length") != fmt.Sprint(len(whole)) {
			t.Errorf("cut=%d: %d bytes, length %s, %v", n, len(r.body), r.header.Get("Content-Length"), r.err)
		}
		// It goes on where it was cut.
		if rest := c.download(file, "Range", fmt.Sprintf("bytes=%d-", n)); n < len(whole) && string(rest.body) != string(whole[n:]) {
			t.Errorf("cut=%d: the rest has %d bytes", n, len(rest.body))
		}
	}
	c.faults("download times=1 cut=10")
	if r := c.download(file, "Range", "bytes=100-"); string(r.body) != string(whole[100:110]) {
		t.Errorf("a cut range: %s", r.body)
	}
	for _, tt := range []struct{ short, want int }{{100, 100}, {firstLine, firstLine - 1}, {len(whole), len(whole) - 1}, {len(whole) * 2, len(whole) - 1}, {0, 0}} {
		c.faults(fmt.Sprintf("download times=1 short=%d", tt.short))
		r := c.download(file)
		if r.err != nil || r.code != 200 || string(r.body) != string(whole[:tt.want]) || r.header.Get("Content-Length") != fmt.Sprint(tt.want) {
			t.Errorf("short=%d: %d bytes, length %s, %v", tt.short, len(r.body), r.header.Get("Content-Length"), r.err)
		}
	}
	if r := c.download(file); string(r.body) != string(whole) {
		t.Errorf("without a fault: %d bytes, want %d", len(r.body), len(whole))
	}
}

func TestJobFaults(t *testing.T) {
	for state, code := range map[string]float64{"FAILED": 13, "CANCELLED": 1, "EXPIRED": 4} {
		c := serve(t, Options{Faults: []string{fmt.Sprintf(`job nth=2 state=%s code=%v message="so it goes"`, state, code)}})
		for i, want := range []string{succeeded, "BATCH_STATE_" + state, succeeded} {
			op := c.finish(c.job(model001, line("a", fmt.Sprint("x", i), 3)))
			if at(op, "metadata.state") != want {
				t.Errorf("job %d: %v", i+1, op)
			}
			if i == 1 && (at(op, "error.code") != code || at(op, "error.message") != "so it goes" || op["response"] != nil || at(op, "metadata.output") != "") {
				t.Errorf("%v", op)
			}
		}
		b := c.books()
		if b.Jobs[succeeded] != 2 || b.Jobs["BATCH_STATE_"+state] != 1 || b.RequestsCreated != 3 || b.RequestsPaid != 2 || b.Texts != 2 {
			t.Errorf("%+v", b)
		}
	}
}

func TestUnknownState(t *testing.T) {
	c := serve(t, Options{Faults: []string{"get nth=1-2 state=BATCH_STATE_NEVER_HEARD_OF"}})
	job := c.job(model001, line("a", "x", 3))
	for _, want := range []string{"BATCH_STATE_NEVER_HEARD_OF", "BATCH_STATE_NEVER_HEARD_OF", succeeded} {
		op := c.do("GET", "/v1beta/"+job, nil).ok(t)
		if at(op, "metadata.state") != want || (op["done"] == true) != (want == succeeded) {
			t.Errorf("%v", op)
		}
	}
}

func TestHiddenJobs(t *testing.T) {
	c := serve(t, Options{Faults: []string{"list nth=1 hide=1", "list nth=2 hide=9"}})
	old := c.job(model001, line("a", "x", 3))
	c.job(model001, line("a", "y", 3))
	list := func() []any {
		l, _ := c.do("GET", "/v1beta/batches", nil).ok(t)["operations"].([]any)
		return l
	}
	if l := list(); len(l) != 1 || at(l[0], "name") != old {
		t.Errorf("%v", l)
	}
	if l := list(); len(l) != 0 {
		t.Errorf("%v", l)
	}
	if l := list(); len(l) != 2 {
		t.Errorf("%v", l)
	}
}

func TestResultFaults(t *testing.T) {
	var input []string
	for i := range 10 {
		input = append(input, line(fmt.Sprintf("k%d", i), fmt.Sprintf("text %d", i), 5))
	}
	vector := func(i int) []float32 { return Vector(model001, fmt.Sprintf("text %d", i), 5) }
	for _, tt := range []struct {
		spec    string
		bad     []int // of these lines the answer is not the right vector
		lines   int
		check   func(t *testing.T, raw map[string]string, lines []string)
		paid    int
		failed  int
		spoiled int
	}{
		{`results error=13 message="an \internal" keys=k1,k3`, []int{1, 3}, 10, func(t *testing.T, raw map[string]string, _ []string) {
			if e := decode(t, raw["k1"]).Error; e == nil || *e != (rpcStatus{13, `an \internal`}) {
				t.Errorf("%s", raw["k1"])
			}
		}, 8, 2, 0},
		{"results error=3 place=response first=1", []int{0}, 10, func(t *testing.T, raw map[string]string, _ []string) {
			if r := decode(t, raw["k0"]); r.Error != nil || r.Response.Error == nil || r.Response.Error.Code != 3 {
				t.Errorf("%s", raw["k0"])
			}
		}, 9, 1, 0},
		{"results missing each=5", []int{4, 9}, 8, nil, 8, 0, 2},
		{"results missing", []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, 0, nil, 0, 0, 10},
		{"results duplicate last=2", nil, 12, func(t *testing.T, _ map[string]string, lines []string) {
			n := 0
			for _, l := range lines {
				if k := decode(t, l).Key; k == "k8" || k == "k9" {
					n++
				}
			}
			if n != 4 {
				t.Errorf("%d lines of k8 and k9", n)
			}
		}, 10, 0, 0},
		{"results foreign keys=k2", nil, 11, func(t *testing.T, raw map[string]string, _ []string) {
			if !sameBits(decode(t, raw["foreign-k2"]).Response.Embedding.Values, vector(2)) {
				t.Errorf("%s", raw["foreign-k2"])
			}
		}, 10, 0, 0},
		{"results nokey keys=k2", []int{2}, 10, nil, 9, 0, 1},
		{"results garbage keys=k2", []int{2}, 10, func(t *testing.T, _ map[string]string, lines []string) {
			if !slices.ContainsFunc(lines, func(l string) bool { return !json.Valid([]byte(l)) }) {
				t.Errorf("all is JSON")
			}
		}, 9, 0, 1},
		{"results length=7 keys=k2", []int{2}, 10, func(t *testing.T, raw map[string]string, _ []string) {
			if n := len(decode(t, raw["k2"]).Response.Embedding.Values); n != 7 {
				t.Errorf("%d values", n)
			}
		}, 9, 0, 1},
		{"results length=-1 keys=k2", []int{2}, 10, func(t *testing.T, raw map[string]string, _ []string) {
			if n := len(decode(t, raw["k2"]).Response.Embedding.Values); n != 4 {
				t.Errorf("%d values", n)
			}
		}, 9, 0, 1},
		{"results values=nan keys=k2", []int{2}, 10, holds(`"values":[NaN,`), 9, 0, 1},
		{"results values=nan-string keys=k2", []int{2}, 10, holds(`"values":["NaN",`), 9, 0, 1},
		{"results values=inf keys=k2", []int{2}, 10, holds(`"values":[Infinity,`), 9, 0, 1},
		{"results values=huge keys=k2", []int{2}, 10, holds(`"values":[1e39,`), 9, 0, 1},
		{"results values=null-element keys=k2", []int{2}, 10, holds(`"values":[null,`), 9, 0, 1},
		{"results values=empty keys=k2", []int{2}, 10, holds(`"values":[]`), 9, 0, 1},
		{"results values=null keys=k2", []int{2}, 10, holds(`"values":null`), 9, 0, 1},
		{"results values=absent keys=k2", []int{2}, 10, holds(`"embedding":{}`), 9, 0, 1},
		{"results swap keys=k1,k4,k7", []int{1, 4}, 10, func(t *testing.T, raw map[string]string, _ []string) {
			if !sameBits(decode(t, raw["k1"]).Response.Embedding.Values, vector(4)) || !sameBits(decode(t, raw["k4"]).Response.Embedding.Values, vector(1)) {
				t.Errorf("%s\n%s", raw["k1"], raw["k4"])
			}
		}, 8, 0, 2},
		{"results half", []int{-1}, 10, func(t *testing.T, _ map[string]string, lines []string) {
			if last := lines[9]; json.Valid([]byte(last)) || !strings.HasPrefix(last, "{") {
				t.Errorf("the last line is %s", last)
			}
		}, 9, 0, 1},
		{"results missing keys=k1\nresults error=8 keys=k2\nresults nth=2 garbage", []int{1, 2}, 9, nil, 8, 1, 1},
	} {
		t.Run(tt.spec, func(t *testing.T) {
			c := serve(t, Options{Faults: strings.Split(tt.spec, "\n")})
			lines := slices.DeleteFunc(c.results(model001, input...), func(l string) bool { return l == "" })
			if len(lines) != tt.lines {
				t.Errorf("%d lines, want %d", len(lines), tt.lines)
			}
			raw := map[string]string{}
			good := 0
			var wrong []int
			for _, l := range lines {
				var r result
				json.Unmarshal([]byte(l), &r)
				if _, key, ok := strings.Cut(l, `"key":"`); ok {
					key, _, _ = strings.Cut(key, `"`)
					raw[key] = l
				}
			}
			for i := range 10 {
				var r result
				if err := json.Unmarshal([]byte(raw[fmt.Sprintf("k%d", i)]), &r); err == nil && sameBits(r.Response.Embedding.Values, vector(i)) {
					good++
				} else {
					wrong = append(wrong, i)
				}
			}
			if tt.bad != nil && tt.bad[0] == -1 {
				tt.bad = wrong[:min(1, len(wrong))] // whichever came last
			}
			if !slices.Equal(wrong, tt.bad) {
				t.Errorf("bad answers for %v, want %v", wrong, tt.bad)
			}
			if tt.check != nil {
				tt.check(t, raw, lines)
			}
			if b := c.books(); b.RequestsCreated != 10 || b.RequestsPaid != tt.paid || b.RequestsFailed != tt.failed || b.RequestsSpoiled != tt.spoiled {
				t.Errorf("books %+v", b)
			}
			stats := at(c.do("GET", "/v1beta/batches", nil).ok(t)["operations"].([]any)[0], "metadata.batchStats.failedRequestCount")
			if want := map[bool]any{true: "", false: fmt.Sprint(tt.failed)}[tt.failed == 0]; stats != want {
				t.Errorf("failed requests %v, want %v", stats, want)
			}
		})
	}
}

func holds(text string) func(*testing.T, map[string]string, []string) {
	return func(t *testing.T, raw map[string]string, _ []string) {
		if !strings.Contains(raw["k2"], text) {
			t.Errorf("no %s in %s", text, raw["k2"])
		}
	}
}

func TestHolds(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		c := serve(t, Options{Faults: []string{"create nth=1-2 hold=sent when=" + when}})
		file := c.upload(line("a", "x", 3))
		made := func() int { return c.books().Creates }

		// The client goes away: before the work nothing is made, after it the
		// job is there.
		ctx, leave := context.WithCancel(t.Context())
		answer := make(chan reply)
		body := `{"batch":{"inputConfig":{"fileName":"` + file + `"}}}`
		path := "/v1beta/models/" + model001 + ":asyncBatchEmbedContent"
		go func() { answer <- c.doContext(ctx, "POST", path, body) }()
		c.do("GET", "/emulator/holds?wait=sent", nil).ok(t)
		leave()
		if r := <-answer; r.err == nil {
			t.Errorf("answered %d", r.code)
		}
		want := map[string]int{"before": 0, "after": 1}[when]
		if made() != want {
			t.Errorf("%s: %d jobs after the client left, want %d", when, made(), want)
		}
		for len(c.s.holds.list()) > 0 { // until the server, too, knows that it has gone
			if n := c.s.Release("other"); n != 0 {
				t.Errorf("%d released", n)
			}
		}

		// It is released.
		go func() { answer <- c.doContext(t.Context(), "POST", path, body) }()
		if err := c.s.WaitHold(t.Context(), "sent"); err != nil {
			t.Fatal(err)
		}
		if got := at(c.do("GET", "/emulator/holds", nil).ok(t), "holds.sent"); got != 1.0 {
			t.Errorf("held: %v", got)
		}
		if made() != want*2 {
			t.Errorf("%s: %d jobs while held", when, made())
		}
		if got := at(c.do("POST", "/emulator/release?name=sent", nil).ok(t), "released"); got != 1.0 {
			t.Errorf("released %v", got)
		}
		(<-answer).ok(t)
		if made() != want+1 {
			t.Errorf("%s: %d jobs", when, made())
		}
		c.create(model001, file).ok(t) // the third is not held
	}
}

func TestHoldInTheMiddleOfADownload(t *testing.T) {
	c := serve(t, Options{})
	file := at(c.finish(c.job(model001, line("a", "x", 500))), "response.responsesFile").(string)
	whole := c.download(file).body
	c.faults("download times=1 hold=half at=100")
	q, _ := http.NewRequest("GET", c.url+"/v1beta/"+file+":download?alt=media", nil)
	q.Header.Set("x-goog-api-key", c.key)
	p, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Body.Close()
	got := make([]byte, len(whole))
	for n := 0; n < 100; {
		m, err := p.Body.Read(got[n:])
		if n += m; err != nil || n > 100 {
			t.Fatalf("%d bytes, %v", n, err)
		}
	}
	if err := c.s.WaitHold(t.Context(), "half"); err != nil {
		t.Fatal(err)
	}
	c.s.Release("half")
	n := 100
	for n < len(whole) {
		m, err := p.Body.Read(got[n:])
		if n += m; err != nil && n < len(whole) {
			t.Fatalf("%d bytes, %v", n, err)
		}
	}
	if string(got) != string(whole) {
		t.Error("another content")
	}
}

// A hanging call, a held one and a wait for a hold end with their client, and
// with the server.
func TestCloseEndsHangingCalls(t *testing.T) {
	c := serve(t, Options{Faults: []string{"get hang", "list hold=x", "file.list delay=1000h"}})
	ctx, leave := context.WithTimeout(t.Context(), time.Millisecond)
	defer leave()
	if r := c.doContext(ctx, "GET", "/v1beta/batches/x", nil); r.err == nil {
		t.Errorf("answered %d", r.code)
	}
	answers := make(chan reply)
	for _, path := range []string{"/v1beta/batches/x", "/v1beta/batches", "/v1beta/files", "/emulator/holds?wait=never"} {
		go func() { answers <- c.doContext(t.Context(), "GET", path, nil) }()
	}
	if err := c.s.WaitHold(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	close(c.s.done)
	for range 4 {
		if r := <-answers; r.err == nil && r.code == 200 {
			t.Errorf("answered %s", r.body)
		}
	}
	c.s.done = make(chan struct{}) // for Close
}
