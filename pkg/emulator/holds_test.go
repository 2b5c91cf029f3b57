package emulator

import (
	"context"
	"net/http"
	"testing"
	"time"
)

func TestHolds(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		c := serve(t, Options{Faults: []string{"create nth=1-2 hold=sent when=" + when}})
		file := c.upload(line("a", "x", 3))
		made := func() int { return c.books().Creates }

		// The client disconnects. If the hold was before the work there is no job,
		// if it was after the work there is one.
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
		for len(c.s.holds.list()) > 0 { // until the server notices it
			if n := c.s.Release("other"); n != 0 {
				t.Errorf("%d released", n)
			}
		}

		// The call is released.
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
		c.create(model001, file).ok(t) // the third call is not held
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

// A call that hangs, a call that is held, and a wait for a hold all end when
// their client disconnects, or when the server closes.
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
