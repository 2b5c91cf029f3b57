package emulator

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
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
	{"create status=100", ""},
	{"create status=425 header=Location:/x", ""},
	{"list body='{\"operations\":[null]}'", ""},
	{`create status=503 body="two words" when=after`, ""},
	{"get set='metadata.state=\"X\"' set=response header=A", ""},
	{"download header=A:b", ""},
	{"any drip=1ms at=5", ""},
	{"get hang at=5", ""},
	{"upload.data hold=x unread", ""},
	{"list order=shuffled", ""},
	{"list repeat", ""},
	{"job state=HALF_BAKED", ""},
	{`results error='{"code":"503"}' place=response`, ""},
	{"results line=NaN each=2", ""},
	{"results set=key each=2", ""},
	{"create status=99", "less than 100"},
	{"create status=1000", "more than 999"},
	{"create nth=0 drop", "less than 1"},
	{"create nth=3-2 drop", "less than 3"},
	{"create p=0 drop", "probability"},
	{"create p=2 drop", "probability"},
	{"create when=later drop", "use before, after"},
	{"create delay=2 ", "missing unit"},
	{"create missing", "create has no action missing"},
	{"create state=X", "create has no action state"},
	{"create nostatus", "create has no action nostatus"},
	{"get short=3", "get has no action short"},
	{"results drop", "results has no action drop"},
	{"results values=odd", "use nan"},
	{"results error=13 place=key", "use response"},
	{"job state=SUCCEEDED", "is not a state in which a job can end"},
	{"job state=BATCH_STATE_RUNNING", "is not a state in which a job can end"},
	{"download drop when=after", "a download does not allow when=after"},
	{"get cut=5 when=after", "cannot be used with when=after"},
	{"get set=a=b", "not JSON"},
	{`get set=a="b"`, "not JSON"}, // the quotes belong to the word, not to the value
	{"get set=a..b", "path is empty"},
	{"get set=a when=after", "cannot be used with when=after"},
	{"get drip=1ms when=after", "cannot be used with when=after"},
	{"get hang at=5 when=after", "cannot be used with when=after"},
	{"get drop set=a", "get drop has no set"},
	{"get drop header=A", "drop has no header"},
	{"get drop body=x", "drop has no body"},
	{"download set=a", "has no set"},
	{"results header=A", "has no header"},
	{"results body=x", "no action status"},
	{"get hang unread", "unread can only be used with"},
	{"upload.data drop unread", "unread can only be used with"},
	{"upload.data hang unread when=after", "cannot be used with when=after"},
	{"get repeat", "no action repeat"},
	{"list order=newest", "use oldest, shuffled"},
	{"results error=x", "invalid syntax"},
	{"get drip=1", "missing unit"},
	{"list body='{}", "quote"},
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

// Each example in the manual is a valid fault, and the manual has each action.
func TestManual(t *testing.T) {
	manual, err := os.ReadFile("../../cmd/gemini-emulator/main.go")
	if err != nil {
		t.Fatal(err)
	}
	examples := 0
	for l := range strings.Lines(string(manual)) {
		l, ok := strings.CutPrefix(strings.TrimSpace(l), "//\t")
		op, _, _ := strings.Cut(l, " ")
		if !ok || !slices.Contains(callOps, op) && op != "job" && op != "results" {
			continue
		}
		for _, spec := range regexp.MustCompile(`  +`).Split(l, -1) {
			if err := new(Server).SetFaults([]string{spec}); err != nil {
				t.Error(err)
			}
			examples++
		}
	}
	if examples < 20 {
		t.Errorf("%d examples", examples)
	}
	for op, list := range actions {
		for _, action := range append(list, callActions...) {
			if !regexp.MustCompile(`\b`+action+`\b`).Match(manual) || !bytes.Contains(manual, []byte(op)) {
				t.Errorf("%s of %s is not in the manual", action, op)
			}
		}
	}
}

// Every text sent to /emulator/faults is either accepted as a list of faults or
// refused.
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

// For each call, match selects one job by its id and by its display name.
func TestMatch(t *testing.T) {
	c := serve(t, Options{})
	file := c.upload(line("a", "x", 3))
	create := func(name string) string {
		return c.do("POST", "/v1beta/models/"+model001+":asyncBatchEmbedContent",
			`{"batch":{"displayName":"`+name+`","inputConfig":{"fileName":"`+file+`"}}}`).ok(t)["name"].(string)
	}
	ill, well := create("ill"), create("well")
	for _, match := range []string{"ill", ill} {
		c.faults("get status=503 match=" + match)
		for range 3 {
			c.do("GET", "/v1beta/"+ill, nil).refused(t, 503, "UNAVAILABLE", "")
			c.do("GET", "/v1beta/"+well, nil).ok(t)
		}
	}
	c.faults()
	results := at(c.finish(ill), "response.responsesFile").(string)
	open := c.startUpload("an upload")
	for _, tt := range []struct {
		fault string
		reply func() reply
	}{
		{"download status=418 match=ill", func() reply { return c.download(results) }},
		{"cancel status=418 match=ill", func() reply { return c.do("POST", "/v1beta/"+ill+":cancel", nil) }},
		{"delete status=418 match=ill", func() reply { return c.do("DELETE", "/v1beta/"+ill, nil) }},
		{"file.get status=418 match=input", func() reply { return c.do("GET", "/v1beta/"+file, nil) }},
		{"file.delete status=418 match=input", func() reply { return c.do("DELETE", "/v1beta/"+file, nil) }},
		{`upload.data status=418 match="an upload"`, func() reply { return c.sendChunk(open, "query", 0, "") }},
	} {
		c.faults(tt.fault)
		tt.reply().refused(t, 418, "UNKNOWN", "")
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

// A job can end with results in a state that is not SUCCEEDED.
func TestOtherEnds(t *testing.T) {
	for _, state := range []string{"PARTIALLY_SUCCEEDED", "NEVER_HEARD_OF"} {
		dir := t.TempDir()
		c := serve(t, Options{Dir: dir, Faults: []string{"job state=" + state, "results missing keys=b", "results error=8 keys=c"}})
		job := c.job(model001, line("a", "x", 3), line("b", "y", 3), line("c", "z", 3))
		op := c.finish(job)
		if at(op, "metadata.state") != "BATCH_STATE_"+state || op["done"] != true || op["error"] != nil || at(op, "metadata.batchStats.failedRequestCount") != "1" {
			t.Errorf("%v", op)
		}
		r := c.download(at(op, "response.responsesFile").(string))
		got := byKey(t, strings.Split(strings.TrimSpace(string(r.body)), "\n"))
		if len(got) != 2 || !sameBits(got["a"].Response.Embedding.Values, Vector(model001, "x", 3)) || got["c"].Error == nil {
			t.Errorf("%s", r.body)
		}
		for _, c := range []*client{c, serve(t, Options{Dir: dir})} {
			if b := c.books(); b.Jobs["BATCH_STATE_"+state] != 1 || b.RequestsPaid != 1 || b.RequestsFailed != 1 || b.RequestsSpoiled != 1 {
				t.Errorf("%+v", b)
			}
			if op := c.do("GET", "/v1beta/"+job, nil).ok(t); at(op, "metadata.state") != "BATCH_STATE_"+state {
				t.Errorf("%v", op)
			}
		}
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
		bad     []int // lines whose answer is not the right vector
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
		{"results line=NaN keys=k2,k3", []int{2, 3}, 10, func(t *testing.T, _ map[string]string, lines []string) {
			if n := len(slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return l != "NaN" })); n != 2 {
				t.Errorf("%d lines are NaN", n)
			}
		}, 8, 0, 2},
		{`results line='{"key":"k2","response":{"emb' keys=k2`, []int{2}, 10, func(t *testing.T, raw map[string]string, _ []string) {
			if raw["k2"] != `{"key":"k2","response":{"emb` {
				t.Errorf("%s", raw["k2"])
			}
		}, 9, 0, 1},
		{`results error='{"code":"503","message":"try later","status":"UNAVAILABLE"}' keys=k2`, []int{2}, 10,
			holds(`"error":{"code":"503","message":"try later","status":"UNAVAILABLE"}`), 9, 1, 0},
		{`results error='"try later"' keys=k2`, []int{2}, 10, holds(`"error":"try later"`), 9, 1, 0},
		{`results error='{"code":429}' place=response keys=k2`, []int{2}, 10, holds(`"response":{"error":{"code":429}}`), 9, 1, 0},
		{`results set='error={"code":0}' keys=k2`, nil, 10, holds(`,"error":{"code":0}}`), 10, 0, 0},
		{`results set=response.tokenCount=3.5 keys=k2`, nil, 10, holds(`"tokenCount":3.5`), 10, 0, 0},
		{`results set='response.embedding.values="x"' keys=k2`, []int{2}, 10, holds(`"values":"x"`), 9, 0, 1},
		{`results set=response keys=k2`, []int{2}, 10, holds(`{"key":"k2"}`), 9, 0, 1},
		{`results set='key="other"' keys=k2`, []int{2}, 10, func(t *testing.T, raw map[string]string, _ []string) {
			if !sameBits(decode(t, raw["other"]).Response.Embedding.Values, vector(2)) {
				t.Errorf("%s", raw["other"])
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
				tt.bad = wrong[:min(1, len(wrong))] // the line that came last
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
