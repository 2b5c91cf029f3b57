package emulator

import (
	"bufio"
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

// Every call can be refused and dropped, before the work and after it.
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
	// Without message= the message is Google's.
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

// Every code can be the reply to every call, before and after the work.
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
		// An interim reply comes before the real reply.
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

// The real reply is sent with other values, and the work is done.
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
	// All other members are unchanged, and in the same order.
	c.faults()
	plain := c.do("GET", "/v1beta/"+first, nil)
	c.faults(`get set='metadata.model="m"'`)
	want := strings.Replace(string(plain.body), `"models/`+model001+`"`, `"m"`, 1)
	if got := c.do("GET", "/v1beta/"+first, nil); string(got.body) != want {
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
	// Jobs 3 and 5 are each on two pages.
	want := []string{made[0], made[1], made[2], made[2], made[3], made[4], made[4], made[5], made[6]}
	if got := list("list repeat"); !slices.Equal(got, want) {
		t.Errorf("repeated: %v\nwant %v", got, want)
	}
	// A fault sets a token that leads back to the first page.
	if got := list(`list set='nextPageToken="zzz"'`); got != nil {
		t.Errorf("tokens that go round: %v", got)
	}
}

// A reply that drips comes one byte at a time.
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
	// A pause of an hour begins after the 10th byte, and ends when the client
	// disconnects.
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
	for n := int64(0); n < 3; n = c.books().Operations["download"]["dropped"] { // until the server notices it
		time.Sleep(time.Millisecond)
	}
}

// If a server does not read an upload, the client cannot send all of it.
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
	// After the release the server reads the rest.
	connection.SetWriteDeadline(time.Time{})
	c.s.Release("stuck")
	if _, err := connection.Write(body[sent:]); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil || r.StatusCode != 200 || r.Header.Get("X-Goog-Upload-Size-Received") != fmt.Sprint(size) {
		t.Errorf("%+v, %v", r, err)
	}

	// The call ends when the server closes its connection.
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
		// A range continues at the cut.
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
	c := serve(t, Options{Faults: []string{"list nth=1 hide=1", "list nth=2 hide=9", "list nth=3 hide=1h", "list nth=4 hide=1ns"}})
	old := c.job(model001, line("a", "x", 3))
	c.job(model001, line("a", "y", 3))
	list := func() []any {
		l, _ := c.do("GET", "/v1beta/batches", nil).ok(t)["operations"].([]any)
		return l
	}
	if l := list(); len(l) != 1 || at(l[0], "name") != old {
		t.Errorf("%v", l)
	}
	for i, want := range []int{0, 0, 2, 2} {
		if l := list(); len(l) != want {
			t.Errorf("list %d: %v", i+2, l)
		}
	}
}
