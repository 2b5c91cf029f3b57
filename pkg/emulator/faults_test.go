package emulator

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"slices"
	"strconv"
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
	{"job state=SUCCEEDED", "not an end of its own"},
	{"job state=BATCH_STATE_RUNNING", "not an end of its own"},
	{"download drop when=after", "a download has no after"},
	{"get cut=5 when=after", "not for after"},
	{"get set=a=b", "not JSON"},
	{`get set=a="b"`, "not JSON"}, // the quotes are the fault's, not the value's
	{"get set=a..b", "path is empty"},
	{"get set=a when=after", "not for after"},
	{"get drip=1ms when=after", "not for after"},
	{"get hang at=5 when=after", "not for after"},
	{"get drop set=a", "get drop has no set"},
	{"get drop header=A", "drop has no header"},
	{"get drop body=x", "drop has no body"},
	{"download set=a", "has no set"},
	{"results header=A", "has no header"},
	{"results body=x", "no action status"},
	{"get hang unread", "unread is for"},
	{"upload.data drop unread", "unread is for"},
	{"upload.data hang unread when=after", "not for after"},
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
	r = get("get status=429 message=full")
	r.refused(t, 429, "RESOURCE_EXHAUSTED", "full")
	if strings.Contains(string(r.body), "details") || r.header.Get("Retry-After") != "" {
		t.Errorf("%v %s", r.header, r.body)
	}
	// Without a message it is Google's.
	r = get("get status=429")
	r.refused(t, 429, "RESOURCE_EXHAUSTED", "You exceeded your current quota, please check your plan and billing details")
	if !strings.Contains(string(r.body), "google.rpc.Help") || strings.Contains(string(r.body), "RetryInfo") || r.header.Get("Retry-After") != "" {
		t.Errorf("%v %s", r.header, r.body)
	}
	if r = get("get status=429 retry=1s"); !strings.Contains(string(r.body), "google.rpc.Help") || !strings.Contains(string(r.body), `"retryDelay": "1s"`) {
		t.Errorf("%s", r.body)
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
	if r = get(`get body='{"operations":[null], "it":"is"}'`); r.code != 200 || string(r.body) != `{"operations":[null], "it":"is"}` || !strings.HasPrefix(r.header.Get("Content-Type"), "application/json") {
		t.Errorf("%d %v %s", r.code, r.header, r.body)
	}
	if r = get("get body=null status=503"); r.code != 503 || string(r.body) != "null" {
		t.Errorf("%d %s", r.code, r.body)
	}
	get("get delay=1ns").refused(t, 404, "NOT_FOUND", "")
}

// Every code can be answered, to every call, before and after its work.
func TestEveryStatus(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		c := serve(t, Options{})
		file := c.upload(line("a", "x", 3))
		made := 0
		for _, status := range []int{101, 204, 300, 302, 304, 307, 400, 401, 403, 404, 405, 408, 409, 412, 413, 418, 425, 429, 451, 499, 500, 501, 502, 503, 504, 520, 599} {
			c.faults(fmt.Sprintf("any status=%d when=%s header=Location:/elsewhere", status, when))
			if r := c.create(model001, file); r.err != nil || r.code != status || r.header.Get("Location") != "/elsewhere" {
				t.Errorf("%d %s: reply %d, %v", status, when, r.code, r.err)
			}
			if when == "after" {
				made++
			}
			if n := c.books().Creates; n != made {
				t.Fatalf("%d %s: %d jobs, want %d", status, when, n, made)
			}
			if n := c.books().Operations["create"][fmt.Sprint(status)]; n != 1 {
				t.Errorf("%d %s: %d in the books", status, when, n)
			}
		}
		// An interim reply comes before the real one.
		for _, status := range []int{100, 102, 103, 199} {
			c.faults(fmt.Sprintf("create status=%d when=%s header=A:b", status, when))
			var interim []int
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				if interim = append(interim, code); h.Get("A") != "b" {
					t.Errorf("%d: headers %v", code, h)
				}
				return nil
			}})
			r := c.doContext(ctx, "POST", "/v1beta/models/"+model001+":asyncBatchEmbedContent", `{"batch":{"inputConfig":{"fileName":"`+file+`"}}}`)
			r.ok(t)
			if fmt.Sprint(interim) != fmt.Sprint([]int{status}) || r.header.Get("A") != "" {
				t.Errorf("%d %s: interim replies %v, headers %v", status, when, interim, r.header)
			}
		}
		if n := c.books().Operations["create"]["200"]; n != 4 {
			t.Errorf("%d creates in the books", n)
		}
	}
}

// The real reply with other values, and the work is done.
func TestChangedReplies(t *testing.T) {
	c := serve(t, Options{})
	first, second := c.job(model001, line("a", "x", 3)), c.job(model001, line("a", "y", 3))
	c.finish(first)
	c.finish(second)
	for _, tt := range []struct{ spec, path, want string }{
		{`get set='name="batches/other"'`, "name", "batches/other"},
		{`get set='metadata.batchStats.successfulRequestCount="7"'`, "metadata.batchStats.successfulRequestCount", "7"},
		{`get set='metadata.batchStats="x"'`, "metadata.batchStats", "x"},
		{`get set=metadata.batchStats`, "metadata.batchStats", ""},
		{`get set='metadata.batchStats.failedRequestCount=9223372036854775807'`, "metadata.batchStats.failedRequestCount", "9223372036854775807"},
		{`get set='metadata.state="BATCH_STATE_NEW"'`, "metadata.state", "BATCH_STATE_NEW"},
		{`get set=metadata set=response set=new.member=1`, "new.member", "1"},
		{`get set=metadata set=response`, "metadata", ""},
		{`list set='operations.0.name="batches/other"'`, "operations.0.name", "batches/other"},
		{`list set='operations.*.name'`, "operations.1.name", ""},
		{`list set=operations.0=null`, "operations.0", "<nil>"},
		{`list set=operations.0`, "operations.1", ""},
		{`list set=operations='{}'`, "operations", "map[]"},
		{`list set='nextPageToken="zzz"'`, "nextPageToken", "zzz"},
		{`create set='name="batches/other"'`, "name", "batches/other"},
		{`upload.data set='file.state="FAILED"'`, "file.state", "FAILED"},
	} {
		c.faults()
		file := c.upload(line("a", "x", 3))
		open := c.startUpload("")
		c.faults(tt.spec)
		creates := c.books().Creates
		var r reply
		switch op, _, _ := strings.Cut(tt.spec, " "); op {
		case "get":
			r = c.do("GET", "/v1beta/"+first, nil)
		case "list":
			r = c.do("GET", "/v1beta/batches?pageSize=2", nil)
		case "create":
			if r = c.create(model001, file); c.books().Creates != creates+1 {
				t.Errorf("%s: no job was made", tt.spec)
			}
		case "upload.data":
			r = c.sendChunk(open, "upload, finalize", 0, "x")
		}
		v := any(r.ok(t))
		if r.header.Get("Content-Length") != fmt.Sprint(len(r.body)) {
			t.Errorf("%s: %d bytes, length %s", tt.spec, len(r.body), r.header.Get("Content-Length"))
		}
		for name := range strings.SplitSeq(tt.path, ".") {
			switch x := v.(type) {
			case map[string]any:
				if v = x[name]; x[name] == nil {
					v = ""
				}
			case []any:
				i, _ := strconv.Atoi(name)
				if v = ""; i < len(x) {
					v = x[i]
				}
			}
		}
		if got := fmt.Sprint(v); got != tt.want && !(got == "9.223372036854776e+18" && strings.Contains(string(r.body), tt.want)) {
			t.Errorf("%s: %s is %q, want %q", tt.spec, tt.path, got, tt.want)
		}
	}
	// All else is as it was, in its order.
	c.faults()
	plain := c.do("GET", "/v1beta/"+first, nil)
	c.faults(`get set='metadata.model="m"'`)
	want := strings.Replace(string(plain.body), `"models/`+model001+`"`, `"m"`, 1)
	if got := c.do("GET", "/v1beta/"+first, nil); string(got.body) != strings.TrimSuffix(want, "\n") && string(got.body) != want {
		t.Errorf("changed: %s\nwant %s", got.body, want)
	}
}

func TestChangedHeaders(t *testing.T) {
	c := serve(t, Options{})
	file := at(c.finish(c.job(model001, line("a", "x", 50))), "response.responsesFile").(string)
	whole := c.download(file).body
	c.faults(`download header="Content-Range: bytes */*"`)
	if r := c.download(file, "Range", "bytes=10-"); r.code != 206 || r.header.Get("Content-Range") != "bytes */*" || string(r.body) != string(whole[10:]) {
		t.Errorf("%d %v", r.code, r.header)
	}
	if r := c.download(file, "Range", "bytes=99999-"); r.code != 416 || r.header.Get("Content-Range") != "bytes */*" {
		t.Errorf("%d %v", r.code, r.header)
	}
	c.faults("upload.start header=X-Goog-Upload-URL")
	r := c.do("POST", "/upload/v1beta/files", "{}", "X-Goog-Upload-Protocol", "resumable", "X-Goog-Upload-Command", "start")
	if r.ok(t); r.header.Get("X-Goog-Upload-URL") != "" || r.header.Get("X-Goog-Upload-Status") != "active" {
		t.Errorf("%v", r.header)
	}
}

func TestListOrders(t *testing.T) {
	c := serve(t, Options{})
	file := c.upload(line("a", "x", 3))
	var made []string // newest first
	for range 7 {
		made = append([]string{c.create(model001, file).ok(t)["name"].(string)}, made...)
	}
	list := func(fault string) (got []string) {
		c.faults(fault)
		for token, pages := "", 0; pages == 0 || token != ""; pages++ {
			if pages > 10 {
				return nil
			}
			v := c.do("GET", "/v1beta/batches?pageSize=3&pageToken="+token, nil).ok(t)
			for _, op := range v["operations"].([]any) {
				got = append(got, at(op, "name").(string))
			}
			token, _ = v["nextPageToken"].(string)
		}
		return got
	}
	reversed := slices.Clone(made)
	slices.Reverse(reversed)
	if got := list("list order=oldest"); !slices.Equal(got, reversed) {
		t.Errorf("oldest first: %v", got)
	}
	shuffled := list("list order=shuffled")
	if slices.Equal(shuffled, made) || slices.Equal(shuffled, reversed) || !slices.Equal(list("list order=shuffled"), shuffled) {
		t.Errorf("shuffled: %v", shuffled)
	}
	slices.Sort(shuffled)
	slices.Sort(reversed)
	if !slices.Equal(shuffled, reversed) {
		t.Errorf("shuffled: %v", shuffled)
	}
	// Jobs 3 and 5 are on two pages each.
	want := []string{made[0], made[1], made[2], made[2], made[3], made[4], made[4], made[5], made[6]}
	if got := list("list repeat"); !slices.Equal(got, want) {
		t.Errorf("repeated: %v\nwant %v", got, want)
	}
	// A token that leads back to the first page.
	if got := list(`list set='nextPageToken="zzz"'`); got != nil {
		t.Errorf("tokens that go round: %v", got)
	}
}

// One job can be chosen by its id and by its display name, for each call.
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

// A reply that drips comes a byte at a time.
func TestDrip(t *testing.T) {
	c := serve(t, Options{})
	job := c.job(model001, line("a", "x", 50))
	file := at(c.finish(job), "response.responsesFile").(string)
	whole, op := c.download(file).body, c.do("GET", "/v1beta/"+job, nil).body
	c.faults(fmt.Sprintf("download drip=1ms at=%d", len(whole)-20), "get drip=1us")
	begun := time.Now()
	if r := c.download(file); r.err != nil || string(r.body) != string(whole) || r.header.Get("Content-Length") != fmt.Sprint(len(whole)) {
		t.Errorf("%v, %d bytes", r.err, len(r.body))
	}
	if took := time.Since(begun); took < 20*time.Millisecond {
		t.Errorf("20 bytes took %v", took)
	}
	if r := c.do("GET", "/v1beta/"+job, nil); r.err != nil || string(r.body) != string(op) {
		t.Errorf("%v, %s", r.err, r.body)
	}
	// A pause of an hour after the 10th byte, until the client goes away.
	for _, spec := range []string{"download drip=1h at=10", "download delay=1h at=10", "download hang at=10"} {
		c.faults(spec)
		q, _ := http.NewRequestWithContext(t.Context(), "GET", c.url+"/v1beta/"+file+":download?alt=media", nil)
		q.Header.Set("x-goog-api-key", c.key)
		p, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 10)
		if _, err := io.ReadFull(p.Body, got); err != nil || string(got) != string(whole[:10]) {
			t.Errorf("%s: %q, %v", spec, got, err)
		}
		p.Body.Close()
	}
	for n := int64(0); n < 3; n = c.books().Operations["download"]["dropped"] { // until the server, too, knows that they have gone
		time.Sleep(time.Millisecond)
	}
}

// A server that does not read an upload: the sender cannot send all of it.
func TestUnreadUpload(t *testing.T) {
	c := serve(t, Options{})
	url := c.startUpload("")
	c.faults("upload.data times=1 hold=stuck unread")
	connection, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	const size = 64 << 20
	fmt.Fprintf(connection, "POST %s HTTP/1.1\r\nHost: x\r\nX-Goog-Upload-Command: upload\r\nX-Goog-Upload-Offset: 0\r\nContent-Length: %d\r\n\r\n",
		strings.TrimPrefix(url, c.url), size)
	if err := c.s.WaitHold(t.Context(), "stuck"); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, size)
	connection.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	sent, err := connection.Write(body)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d bytes were sent, %v", sent, err)
	}
	// Released, it reads on.
	connection.SetWriteDeadline(time.Time{})
	c.s.Release("stuck")
	if _, err := connection.Write(body[sent:]); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil || r.StatusCode != 200 || r.Header.Get("X-Goog-Upload-Size-Received") != fmt.Sprint(size) {
		t.Errorf("%+v, %v", r, err)
	}

	// The call ends when its connection is closed on the server's side.
	c.faults("upload.data hang unread")
	h := httptest.NewServer(c.s)
	connection, err = net.Dial("tcp", h.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	fmt.Fprintf(connection, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", strings.TrimPrefix(url, c.url), size)
	for c.s.Faults()[0].Fired == 0 {
		time.Sleep(time.Millisecond)
	}
	h.CloseClientConnections()
	h.Close()
	if n := c.books().Operations["upload.data"]["dropped"]; n != 1 {
		t.Errorf("%d dropped", n)
	}
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
