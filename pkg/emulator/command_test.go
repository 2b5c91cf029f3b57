package emulator

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestListenOnLoopbackOnly(t *testing.T) {
	for _, tt := range []struct {
		listen string
		remote bool
		err    string
	}{
		{"127.0.0.1:0", false, ""},
		{"[::1]:0", false, ""},
		{"localhost:0", false, ""},
		{"0.0.0.0:0", false, "not a loopback address"},
		{":0", false, "not a loopback address"},
		{"[::]:0", false, "not a loopback address"},
		{"example.com:80", false, "not a loopback address"},
		{"0.0.0.0:0", true, ""},
		{"127.0.0.1", false, "bad --listen"},
	} {
		err := (&Emulator{Listen: tt.listen, AllowRemote: tt.remote}).checkListen()
		if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%s: %v", tt.listen, err)
		}
	}
	err := (&Emulator{Listen: "0.0.0.0:0"}).Run(t.Context(), nil, io.Discard)
	var coded interface{ ExitCode() int }
	if !errors.As(err, &coded) || coded.ExitCode() != 2 {
		t.Errorf("%v has no exit code 2", err)
	}
}

// Behind a gateway with a path, the upload URL also has the path.
func TestBasePath(t *testing.T) {
	for _, base := range []string{"/gemini", "gemini/", "/a/b"} {
		c, _ := spawn(t, Emulator{Listen: "127.0.0.1:0", BasePath: base})
		if path := "/" + strings.Trim(base, "/"); !strings.HasSuffix(c.url, path) {
			t.Errorf("%s: the URL is %s", base, c.url)
		}
		if url := c.startUpload(""); !strings.HasPrefix(url, c.url+"/upload/v1beta/files?upload_id=") {
			t.Errorf("%s: uploads go to %s", base, url)
		}
		op := c.finish(c.job(model001, line("a", "x", 3)))
		file := at(op, "response.responsesFile").(string)
		if r := c.download(file); len(byKey(t, strings.Split(strings.TrimSpace(string(r.body)), "\n"))) != 1 {
			t.Errorf("%s", r.body)
		}
		meta := c.do("GET", "/v1beta/"+file+":download", nil).ok(t)
		if uri := meta["downloadUri"].(string); c.do("GET", uri, nil).code != 200 || !strings.HasPrefix(uri, c.url) {
			t.Errorf("the URI is %v", uri)
		}
		if b := c.books(); b.Creates != 1 || b.Operations["upload.start"]["200"] != 2 {
			t.Errorf("%+v", b)
		}
		// Above the path there are only the control calls.
		root := *c
		root.url = strings.TrimSuffix(c.url, "/"+strings.Trim(base, "/"))
		for _, path := range []string{"/v1beta/batches", "/upload/v1beta/files", "/geminix/v1beta/batches", "/"} {
			root.do("GET", path, nil).refused(t, 404, "NOT_FOUND", "no such path")
		}
		root.books()
	}
}

func TestRun(t *testing.T) {
	faults := filepath.Join(t.TempDir(), "faults")
	if err := os.WriteFile(faults, []byte("# of a file\nlist status=501\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	r, w := io.Pipe()
	ended := make(chan error)
	go func() {
		e := &Emulator{Listen: "127.0.0.1:0", Fault: []string{"file.list status=502"}, FaultFile: faults}
		ended <- e.Run(ctx, nil, w)
	}()
	var hello struct{ URL, Dir string }
	if err := json.NewDecoder(r).Decode(&hello); err != nil {
		t.Fatal(err)
	}
	c := &client{t, hello.URL, testKey, nil}
	c.do("GET", "/v1beta/files", nil).refused(t, 502, "UNAVAILABLE", "")
	c.do("GET", "/v1beta/batches", nil).refused(t, 501, "UNIMPLEMENTED", "")
	if _, err := os.Stat(hello.Dir); err != nil {
		t.Error(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
	if _, err := os.Stat(hello.Dir); !os.IsNotExist(err) {
		t.Errorf("the temporary folder is left: %v", err)
	}
	if err := (&Emulator{Listen: "127.0.0.1:0", FaultFile: faults + "x"}).Run(t.Context(), nil, io.Discard); err == nil {
		t.Error("a missing fault file was not refused")
	}
	if err := (&Emulator{Listen: "127.0.0.1:0", Tokens: "x"}).Run(t.Context(), nil, io.Discard); err == nil {
		t.Error("an unknown form of token counts was not refused")
	}
}
