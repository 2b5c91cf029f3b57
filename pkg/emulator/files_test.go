package emulator

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func TestUploadInPieces(t *testing.T) {
	c := serve(t, Options{})
	url := c.startUpload("pieces")
	status := func(r reply, want string, size string) {
		t.Helper()
		if got := r.header.Get("X-Goog-Upload-Status"); got != want {
			t.Errorf("status %q, want %q", got, want)
		}
		if got := r.header.Get("X-Goog-Upload-Size-Received"); got != size {
			t.Errorf("received %q, want %q", got, size)
		}
	}
	r := c.sendChunk(url, "query", 0, "")
	r.ok(t)
	status(r, "active", "0")
	r = c.sendChunk(url, "upload", 0, "0123456789")
	r.ok(t)
	status(r, "active", "10")
	for _, offset := range []int{0, 9, 11} {
		r = c.sendChunk(url, "upload", offset, "again")
		r.refused(t, 400, "INVALID_ARGUMENT", "offset")
		status(r, "active", "10")
	}
	r = c.sendChunk(url, "upload", 10, "abc")
	status(r, "active", "13")
	r = c.sendChunk(url, "upload, finalize", 13, "")
	file := at(r.ok(t), "file").(map[string]any)
	status(r, "final", "13")

	sum := sha256.Sum256([]byte("0123456789abc"))
	want := map[string]any{
		"displayName": "pieces", "mimeType": "jsonl", "sizeBytes": "13", "state": "ACTIVE", "source": "UPLOADED",
		"sha256Hash": base64.StdEncoding.EncodeToString([]byte(hex.EncodeToString(sum[:]))),
		"uri":        c.url + "/v1beta/" + file["name"].(string),
	}
	for k, v := range want {
		if file[k] != v {
			t.Errorf("%s is %v, want %v", k, file[k], v)
		}
	}
	made, _ := time.Parse(time.RFC3339Nano, file["createTime"].(string))
	expires, _ := time.Parse(time.RFC3339Nano, file["expirationTime"].(string))
	if expires.Sub(made) != 48*time.Hour {
		t.Errorf("lives from %v to %v", made, expires)
	}
	// If the reply to the last chunk is lost, the client can still query the
	// upload.
	r = c.sendChunk(url, "query", 0, "")
	status(r, "final", "13")
	if got := at(r.ok(t), "file.name"); got != file["name"] {
		t.Errorf("query names %v", got)
	}
	c.sendChunk(url, "upload, finalize", 13, "").refused(t, 400, "INVALID_ARGUMENT", "final")

	url = c.startUpload("dropped")
	status(c.sendChunk(url, "cancel", 0, ""), "cancelled", "0")
	c.sendChunk(url, "query", 0, "").refused(t, 404, "NOT_FOUND", "no such upload")
	c.do("POST", "/upload/v1beta/files", "{}").refused(t, 400, "INVALID_ARGUMENT", "protocol")
	if open := c.books().OpenUploads; open != 0 {
		t.Errorf("%d open uploads", open)
	}
}

func TestUploadMultipart(t *testing.T) {
	c := serve(t, Options{})
	body := "--b\r\nContent-Type: application/json\r\n\r\n{\"file\":{\"display_name\":\"m\"}}\r\n--b\r\nContent-Type: application/jsonl\r\n\r\nthe content\r\n--b--\r\n"
	v := c.do("POST", "/upload/v1beta/files?uploadType=multipart", body, "Content-Type", "multipart/related; boundary=b").ok(t)
	if at(v, "file.displayName") != "m" || at(v, "file.sizeBytes") != "11" || at(v, "file.mimeType") != "application/jsonl" {
		t.Errorf("%v", v)
	}
	c.do("POST", "/upload/v1beta/files?uploadType=multipart", body).refused(t, 400, "INVALID_ARGUMENT", "boundary")
}

func TestFileNames(t *testing.T) {
	c := serve(t, Options{})
	start := func(name string) reply {
		return c.do("POST", "/upload/v1beta/files", fmt.Sprintf(`{"file":{"name":%q}}`, name),
			"X-Goog-Upload-Protocol", "resumable", "X-Goog-Upload-Command", "start")
	}
	r := start("files/my-file-1")
	r.ok(t)
	v := c.sendChunk(r.header.Get("X-Goog-Upload-URL"), "upload, finalize", 0, "x").ok(t)
	if at(v, "file.name") != "files/my-file-1" {
		t.Errorf("%v", v)
	}
	start("files/my-file-1").refused(t, 409, "ALREADY_EXISTS", "my-file-1")
	start("files/" + strings.Repeat("a", 40)).ok(t)
	for _, bad := range []string{"files/UPPER", "files/a/b", "files/../x", "files/-a", "files/a-", "files/" + strings.Repeat("a", 41)} {
		start(bad).refused(t, 400, "INVALID_ARGUMENT", "file name")
	}
	for _, id := range []string{"-a", "a-", strings.Repeat("a", 41)} {
		for _, method := range []string{"GET", "DELETE"} {
			c.do(method, "/v1beta/files/"+id, nil).refused(t, 400, "INVALID_ARGUMENT", "File ID")
		}
	}
}

func TestLongDisplayName(t *testing.T) {
	c := serve(t, Options{})
	start := func(name string) reply {
		return c.do("POST", "/upload/v1beta/files", map[string]any{"file": map[string]any{"display_name": name}},
			"X-Goog-Upload-Protocol", "resumable", "X-Goog-Upload-Command", "start")
	}
	start(strings.Repeat("é", 512)).ok(t)
	start(strings.Repeat("é", 513)).refused(t, 400, "INVALID_ARGUMENT", "cannot be more than 512")
}

func TestDeclaredLength(t *testing.T) {
	c := serve(t, Options{})
	start := func(length string) reply {
		return c.do("POST", "/upload/v1beta/files", "{}", "X-Goog-Upload-Protocol", "resumable", "X-Goog-Upload-Command", "start",
			"X-Goog-Upload-Header-Content-Length", length)
	}
	for _, tt := range []struct{ length, body string }{{"5", "12345"}, {"0", ""}} {
		c.sendChunk(start(tt.length).header.Get("X-Goog-Upload-URL"), "upload, finalize", 0, tt.body).ok(t)
	}
	files := len(c.books().Uploaded)
	for _, tt := range []struct{ length, body string }{{"5", "1234"}, {"5", "123456"}, {"0", "1"}, {"1", ""}} {
		r := c.sendChunk(start(tt.length).header.Get("X-Goog-Upload-URL"), "upload, finalize", 0, tt.body)
		r.refused(t, 400, "INVALID_ARGUMENT", tt.length+" were declared")
		if r.header.Get("X-Goog-Upload-Status") == "final" {
			t.Errorf("%+v is final", tt)
		}
	}
	// The client may still send the missing bytes.
	url := start("5").header.Get("X-Goog-Upload-URL")
	c.sendChunk(url, "upload, finalize", 0, "123").refused(t, 400, "INVALID_ARGUMENT", "3 bytes were uploaded")
	c.sendChunk(url, "upload, finalize", 3, "45").ok(t)
	for _, bad := range []string{"-1", "x"} {
		start(bad).refused(t, 400, "INVALID_ARGUMENT", "content length")
	}
	if n := len(c.books().Uploaded); n != files+1 {
		t.Errorf("%d files, want %d", n, files+1)
	}
}

// A file is PROCESSING for two calls: GETs, or creates that are refused.
func TestProcessing(t *testing.T) {
	dir := t.TempDir()
	c := serve(t, Options{Dir: dir, Processing: 2})
	state := func(file string) any { return at(c.do("GET", "/v1beta/"+file, nil).ok(t), "state") }
	v := c.sendChunk(c.startUpload(""), "upload, finalize", 0, line("a", "x", 3)).ok(t)
	file := at(v, "file.name").(string)
	if at(v, "file.state") != "PROCESSING" || at(c.do("GET", "/v1beta/files", nil).ok(t)["files"].([]any)[0], "state") != "PROCESSING" {
		t.Errorf("%v", v)
	}
	if s := state(file); s != "PROCESSING" {
		t.Errorf("the first GET: %v", s)
	}
	c.create(model001, file).refused(t, 400, "FAILED_PRECONDITION", "is not in an ACTIVE state")
	if n := c.books().Creates; n != 0 {
		t.Errorf("%d jobs", n)
	}
	c.create(model001, file).ok(t)
	if s := state(file); s != "ACTIVE" {
		t.Errorf("at last: %v", s)
	}
	c = serve(t, Options{Dir: dir, Processing: 2})
	if s := state(file); s != "ACTIVE" {
		t.Errorf("after a restart: %v", s)
	}
	if op := c.finish(c.create(model001, file).ok(t)["name"].(string)); at(op, "response.responsesFile") == "" {
		t.Errorf("%v", op)
	}
}

func TestFileTooLarge(t *testing.T) {
	c := serve(t, Options{MaxFile: 10})
	c.do("POST", "/upload/v1beta/files", "{}", "X-Goog-Upload-Protocol", "resumable", "X-Goog-Upload-Command", "start",
		"X-Goog-Upload-Header-Content-Length", "11").refused(t, 400, "INVALID_ARGUMENT", "larger than 10")
	url := c.startUpload("")
	c.sendChunk(url, "upload", 0, "1234567").ok(t)
	c.sendChunk(url, "upload", 7, "1234").refused(t, 400, "INVALID_ARGUMENT", "larger than 10")
}

func TestFileGetListDelete(t *testing.T) {
	c := serve(t, Options{})
	var names []string
	for i := range 25 {
		names = append([]string{c.upload(fmt.Sprint(i))}, names...)
	}
	if got := at(c.do("GET", "/v1beta/"+names[3], nil).ok(t), "name"); got != names[3] {
		t.Errorf("get gives %v", got)
	}
	list := func(query string) (got []string, next string) {
		v := c.do("GET", "/v1beta/files?"+query, nil).ok(t)
		files, _ := v["files"].([]any)
		for _, f := range files {
			got = append(got, at(f, "name").(string))
		}
		next, _ = v["nextPageToken"].(string)
		return got, next
	}
	var all []string
	var sizes []int
	for token := ""; ; {
		got, next := list("pageSize=12&pageToken=" + token)
		all, sizes = append(all, got...), append(sizes, len(got))
		if token = next; next == "" {
			break
		}
	}
	if fmt.Sprint(all) != fmt.Sprint(names) || fmt.Sprint(sizes) != "[12 12 1]" {
		t.Errorf("pages of %v: %v\nwant %v", sizes, all, names)
	}
	if got, next := list(""); len(got) != 10 || next == "" {
		t.Errorf("a default page of %d", len(got))
	}
	// The last page is full, and has no token for an empty page.
	if got, next := list("page_size=25"); len(got) != 25 || next != "" {
		t.Errorf("a page of %d, next %q", len(got), next)
	}
	c.do("GET", "/v1beta/files?pageToken=!", nil).refused(t, 400, "INVALID_ARGUMENT", "page token")
	c.do("GET", "/v1beta/files?pageSize=-1", nil).refused(t, 400, "INVALID_ARGUMENT", "page size")

	c.do("DELETE", "/v1beta/"+names[0], nil).ok(t)
	c.do("GET", "/v1beta/"+names[0], nil).refused(t, 403, "PERMISSION_DENIED", "may not exist")
	c.do("DELETE", "/v1beta/"+names[0], nil).refused(t, 403, "PERMISSION_DENIED", "may not exist")
	if _, err := os.Stat(c.s.filePath(strings.TrimPrefix(names[0], "files/"), ".data")); !os.IsNotExist(err) {
		t.Errorf("the content is still there: %v", err)
	}
	if n := len(c.books().Uploaded); n != 24 {
		t.Errorf("%d files in the books", n)
	}
}

func TestDownload(t *testing.T) {
	c := serve(t, Options{})
	job := c.finish(c.job(model001, line("a", "some text", 50), line("b", "other text", 50)))
	file := at(job, "response.responsesFile").(string)
	whole := c.download(file)
	if whole.code != 200 || bytes.Count(whole.body, []byte("\n")) != 2 {
		t.Fatalf("%d: %s", whole.code, whole.body)
	}
	for _, path := range []string{"/v1beta/", "/download/v1beta/"} {
		r := c.do("GET", path+file+":download?alt=media", nil, "Range", "bytes=100-")
		if r.code != 206 || !bytes.Equal(r.body, whole.body[100:]) || r.header.Get("Content-Range") != fmt.Sprintf("bytes 100-%d/%d", len(whole.body)-1, len(whole.body)) {
			t.Errorf("%s: range: %d, %v", path, r.code, r.header)
		}
		r = c.do("GET", path+file+":download", nil)
		if got := at(r.ok(t), "name"); got != file {
			t.Errorf("%s: without alt=media: %s", path, r.body)
		}
	}
	if r := c.download(file, "Range", fmt.Sprintf("bytes=%d-", len(whole.body))); r.code != 416 {
		t.Errorf("range at the end: %d", r.code)
	}
	for _, first := range []int{len(whole.body) + 1, 1 << 40} {
		if r := c.download(file, "Range", fmt.Sprintf("bytes=%d-", first)); r.code != 416 || r.header.Get("Content-Range") != fmt.Sprintf("bytes */%d", len(whole.body)) {
			t.Errorf("range from %d: %d, %v", first, r.code, r.header)
		}
	}
	// The id of a result file is too long for all calls but the download.
	if id := strings.TrimPrefix(file, "files/"); len(id) != 42 || !strings.HasPrefix(id, "batch-") {
		t.Errorf("the result file is %s", id)
	}
	for method, name := range map[string]string{"GET": "GetFileRequest", "DELETE": "DeleteFileRequest"} {
		c.do(method, "/v1beta/"+file, nil).refused(t, 400, "INVALID_ARGUMENT", "* "+name+".name: File ID (name excluding 'files/') cannot be more than 40 characters.")
	}
	meta := c.do("GET", "/v1beta/"+file+":download", nil).ok(t)
	if meta["source"] != "GENERATED" || meta["sizeBytes"] != fmt.Sprint(len(whole.body)) {
		t.Errorf("%v", meta)
	}
	c.download(c.upload("x")).refused(t, 400, "INVALID_ARGUMENT", "cannot be downloaded")
	c.download("files/none").refused(t, 403, "PERMISSION_DENIED", "may not exist")
}

func TestFilesExpire(t *testing.T) {
	c := serve(t, Options{})
	name := c.upload("x")
	c.s.mu.Lock()
	f := c.s.files[strings.TrimPrefix(name, "files/")]
	f.Expires = time.Now().Add(-time.Second)
	c.s.mu.Unlock()
	c.do("GET", "/v1beta/"+name, nil).refused(t, 403, "PERMISSION_DENIED", "may not exist")
	c.create(model001, name).refused(t, 404, "NOT_FOUND", name)
}

func TestLeftoversAreRemoved(t *testing.T) {
	dir := t.TempDir()
	s, err := New(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	left := []string{"files/a.data", "files/b.json.tmp", "uploads/c.data", "jobs/d.input", "jobs/d.paid", "jobs/e.json.tmp"}
	for _, name := range left {
		os.WriteFile(dir+"/"+name, []byte("x"), 0o600)
	}
	s, err = New(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, name := range left {
		if _, err := os.Stat(dir + "/" + name); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
	os.WriteFile(dir+"/jobs/bad.json", []byte("{"), 0o600)
	if _, err := New(Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "bad.json") {
		t.Errorf("a damaged job: %v", err)
	}
}

func TestFilesArePrivate(t *testing.T) {
	c := serve(t, Options{})
	c.finish(c.job(model001, line("a", "text", 3)))
	for _, sub := range []string{"files", "jobs", "."} {
		entries, err := os.ReadDir(c.s.Dir() + "/" + sub)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if info, _ := e.Info(); !e.IsDir() && info.Mode().Perm() != 0o600 {
				t.Errorf("%s/%s has mode %v", sub, e.Name(), info.Mode())
			}
		}
	}
}
