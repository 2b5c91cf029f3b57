package emulator

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const bucket = "/storage/v1/b/bucket/o"

// put inserts an object. query begins with & or is empty.
func (c *client) put(name string, data any, query string) reply {
	c.t.Helper()
	return c.do("POST", "/upload"+bucket+"?uploadType=media&name="+url.QueryEscape(name)+query, data, "Content-Type", "text/plain")
}

// object is the path of an object's metadata.
func objectURL(name string) string { return bucket + "/" + url.PathEscape(name) }

// startObject begins a resumable upload and returns the URL of its session.
func (c *client) startObject(name, metadata, query string) string {
	c.t.Helper()
	r := c.do("POST", "/upload"+bucket+"?uploadType=resumable&name="+url.QueryEscape(name)+query, metadata, "X-Upload-Content-Type", "application/jsonl")
	if r.code != 200 || r.header.Get("Location") == "" {
		c.t.Fatalf("start: %d, %v: %s", r.code, r.err, r.body)
	}
	return r.header.Get("Location")
}

// failed fails the test unless the reply is Cloud Storage's error with this code
// and reason.
func (r reply) failed(t testing.TB, code int, reason string) {
	t.Helper()
	if r.err != nil || r.code != code || !strings.Contains(string(r.body), `"reason": "`+reason+`"`) {
		t.Fatalf("reply %d, %v: %s\nwant %d %s", r.code, r.err, r.body, code, reason)
	}
}

// content fails the test unless the reply has these bytes.
func (r reply) content(t testing.TB, code int, want string) {
	t.Helper()
	if r.err != nil || r.code != code || string(r.body) != want {
		t.Fatalf("reply %d, %v: %.200q, want %d %.200q", r.code, r.err, r.body, code, want)
	}
}

func crcOf(data []byte) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))))
}

func TestObject(t *testing.T) {
	c := serve(t, Options{})
	const text = "some text\n"
	sum := md5.Sum([]byte(text))
	v := c.put("a/b c.txt", text, "").ok(t)
	if v["name"] != "a/b c.txt" || v["bucket"] != "bucket" || v["size"] != "10" || v["metageneration"] != "1" || v["contentType"] != "text/plain" ||
		v["crc32c"] != crcOf([]byte(text)) || v["md5Hash"] != base64.StdEncoding.EncodeToString(sum[:]) {
		t.Fatalf("%v", v)
	}
	generation := v["generation"].(string)
	if got := c.do("GET", objectURL("a/b c.txt"), nil).ok(t); fmt.Sprint(got) != fmt.Sprint(v) {
		t.Errorf("%v, want %v", got, v)
	}
	for _, read := range []string{objectURL("a/b c.txt") + "?alt=media", "/download" + objectURL("a/b c.txt") + "?alt=media&generation=" + generation} {
		r := c.do("GET", read, nil)
		r.content(t, 200, text)
		if r.header.Get("X-Goog-Generation") != generation || !strings.Contains(r.header.Get("X-Goog-Hash"), crcOf([]byte(text))) {
			t.Errorf("headers %v", r.header)
		}
		r = c.do("GET", read, nil, "Range", "bytes=5-7")
		r.content(t, 206, "tex")
		if r.header.Get("Content-Range") != "bytes 5-7/10" {
			t.Errorf("headers %v", r.header)
		}
		c.do("GET", read, nil, "Range", "bytes=5-700").content(t, 206, "text\n")
		if r := c.do("GET", read, nil, "Range", "bytes=10-"); r.code != 416 || r.header.Get("Content-Range") != "bytes */10" {
			t.Errorf("past the end: %d %v", r.code, r.header)
		}
	}
	// Another generation takes the place of the first one.
	next := c.put("a/b c.txt", "next", "&ifGenerationMatch="+generation).ok(t)
	if next["generation"].(string) <= generation {
		t.Errorf("generation %v after %s", next["generation"], generation)
	}
	if r := c.do("GET", objectURL("a/b c.txt")+"?alt=media&generation="+generation, nil, "Range", "bytes=0-2"); r.code != 404 || r.header.Get("Content-Type") != "text/html; charset=UTF-8" {
		t.Errorf("a replaced generation: %d %s", r.code, r.body)
	}
	c.do("DELETE", objectURL("a/b c.txt")+"?ifGenerationMatch="+generation, nil).failed(t, 412, "conditionNotMet")
	if r := c.do("DELETE", objectURL("a/b c.txt")+"?ifGenerationMatch="+next["generation"].(string), nil); r.code != 204 || len(r.body) > 0 {
		t.Errorf("delete: %d %s", r.code, r.body)
	}
	c.do("GET", objectURL("a/b c.txt"), nil).failed(t, 404, "notFound")
	c.do("DELETE", objectURL("a/b c.txt"), nil).failed(t, 404, "notFound")
	if left, _ := os.ReadDir(filepath.Join(c.s.Dir(), "objects")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestObjectRefusals(t *testing.T) {
	c := serve(t, Options{})
	c.put("", "x", "").failed(t, 400, "required")
	c.put("a\nb", "x", "").failed(t, 400, "invalid")
	c.put(strings.Repeat("n", 1025), "x", "").failed(t, 400, "invalid")
	c.put("n", "x", "&ifGenerationMatch=word").failed(t, 400, "invalid")
	c.do("POST", "/upload/storage/v1/b/Upper/o?uploadType=media&name=n", "x").failed(t, 400, "invalid")
	c.do("POST", "/upload"+bucket+"?uploadType=other&name=n", "x").failed(t, 400, "invalid")
	c.do("GET", bucket+"?maxResults=-1", nil).failed(t, 400, "invalid")
	c.do("PATCH", objectURL("none"), "{}").failed(t, 404, "notFound")
	c.do("PUT", "/upload"+bucket+"?upload_id=none", "x").failed(t, 404, "notFound")
	c.do("GET", "/storage/v1/b/bucket/x", nil).refused(t, 404, "NOT_FOUND", "no such method")
	if len(c.s.objects) != 0 {
		t.Errorf("objects %v", c.s.objects)
	}
}

// Metadata and bytes in one request. A wrong checksum stores nothing.
func TestObjectMultipart(t *testing.T) {
	c := serve(t, Options{})
	insert := func(metadata, query string) reply {
		body := "--b\r\nContent-Type: application/json\r\n\r\n" + metadata + "\r\n--b\r\nContent-Type: text/csv\r\n\r\nbytes\r\n--b--\r\n"
		return c.do("POST", "/upload"+bucket+"?uploadType=multipart"+query, body, "Content-Type", "multipart/related; boundary=b")
	}
	v := insert(`{"name":"n","metadata":{"sha256":"s"},"crc32c":"`+crcOf([]byte("bytes"))+`"}`, "").ok(t)
	if v["name"] != "n" || v["contentType"] != "text/csv" || at(v, "metadata.sha256") != "s" {
		t.Errorf("%v", v)
	}
	c.do("GET", objectURL("n")+"?alt=media", nil).content(t, 200, "bytes")
	insert(`{"crc32c":"AAAAAA=="}`, "&name=m").failed(t, 400, "invalid")
	insert(`{"md5Hash":"AAAAAA=="}`, "&name=m").failed(t, 400, "invalid")
	insert(`{`, "&name=m").failed(t, 400, "invalid")
	c.do("GET", objectURL("m"), nil).failed(t, 404, "notFound")
}

// Fifty clients insert one name if there is none. One of them succeeds.
func TestObjectRace(t *testing.T) {
	c := serve(t, Options{})
	for _, kind := range []string{"media", "resumable"} {
		var mu sync.Mutex
		codes := map[int]int{}
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				var r reply
				if kind == "media" {
					r = c.put(kind, fmt.Sprint(i), "&ifGenerationMatch=0")
				} else if r = c.do("POST", "/upload"+bucket+"?uploadType=resumable&ifGenerationMatch=0&name="+kind, ""); r.code == 200 {
					r = c.do("PUT", r.header.Get("Location"), fmt.Sprint(i))
				}
				mu.Lock()
				defer mu.Unlock()
				codes[r.code]++
			})
		}
		all.Wait()
		if fmt.Sprint(codes) != "map[200:1 412:49]" {
			t.Errorf("%s: %v", kind, codes)
		}
	}
}

func TestObjectPreconditions(t *testing.T) {
	c := serve(t, Options{})
	c.put("n", "x", "&ifGenerationMatch=1").failed(t, 412, "conditionNotMet")
	g := c.put("n", "x", "&ifGenerationMatch=0").ok(t)["generation"].(string)
	c.put("n", "y", "&ifGenerationMatch=0").failed(t, 412, "conditionNotMet")
	c.put("n", "y", "&ifGenerationNotMatch="+g).failed(t, 412, "conditionNotMet")
	c.do("PATCH", objectURL("n")+"?ifMetagenerationMatch=2", `{"metadata":{"k":"v"}}`).failed(t, 412, "conditionNotMet")
	v := c.do("PATCH", objectURL("n")+"?ifMetagenerationMatch=1", `{"metadata":{"k":"v","l":"w"}}`).ok(t)
	if v["metageneration"] != "2" || v["generation"] != g || at(v, "metadata.k") != "v" {
		t.Errorf("%v", v)
	}
	v = c.do("PATCH", objectURL("n")+"?ifGenerationMatch="+g, `{"metadata":{"k":null}}`).ok(t)
	if v["metageneration"] != "3" || at(v, "metadata.k") != "" || at(v, "metadata.l") != "w" {
		t.Errorf("%v", v)
	}
	c.do("PATCH", objectURL("n")+"?ifMetagenerationMatch=2", `{}`).failed(t, 412, "conditionNotMet")
	if r := c.do("GET", objectURL("n")+"?ifGenerationNotMatch="+g, nil); r.code != 304 {
		t.Errorf("not modified: %d", r.code)
	}
	c.do("GET", objectURL("n")+"?ifMetagenerationMatch=1", nil).failed(t, 412, "conditionNotMet")
	c.do("GET", objectURL("n")+"?alt=media&ifMetagenerationMatch=3", nil).content(t, 200, "x")
}

func TestObjectList(t *testing.T) {
	c := serve(t, Options{})
	names := []string{"a", "out/1/x", "out/1/y", "out/2/x", "out/x", "z"}
	for _, i := range []int{3, 0, 5, 1, 4, 2} {
		c.put(names[i], names[i], "").ok(t)
	}
	c.do("POST", "/upload/storage/v1/b/other/o?uploadType=media&name=out/elsewhere", "x").ok(t)
	list := func(query string) (items []string, prefixes []any) {
		t.Helper()
		for token, pages := "", 0; ; pages++ {
			v := c.do("GET", bucket+"?"+query+"&pageToken="+url.QueryEscape(token), nil).ok(t)
			if v["items"] != nil {
				for _, item := range v["items"].([]any) {
					items = append(items, at(item, "name").(string))
				}
			}
			if v["prefixes"] != nil {
				prefixes = append(prefixes, v["prefixes"].([]any)...)
			}
			if token, _ = v["nextPageToken"].(string); token == "" {
				return items, prefixes
			}
			if pages > len(names) {
				t.Fatal("the list does not end")
			}
		}
	}
	for query, want := range map[string]string{
		"":                                     "[a out/1/x out/1/y out/2/x out/x z] []",
		"maxResults=2":                         "[a out/1/x out/1/y out/2/x out/x z] []",
		"prefix=out/&maxResults=3":             "[out/1/x out/1/y out/2/x out/x] []",
		"prefix=out/&delimiter=/":              "[out/x] [out/1/ out/2/]",
		"prefix=out/&delimiter=/&maxResults=1": "[out/x] [out/1/ out/2/]",
		"delimiter=/":                          "[a z] [out/]",
		"startOffset=out/1/y&endOffset=out/x":  "[out/1/y out/2/x] []",
		"prefix=none":                          "[] []",
	} {
		items, prefixes := list(query)
		if got := fmt.Sprint(items, " ", prefixes); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
}

// An upload in pieces. Only whole pieces of 256 KiB are stored before the end.
func TestObjectResumable(t *testing.T) {
	c := serve(t, Options{})
	data := bytes.Repeat([]byte("0123456789abcdef"), 40_000) // 640,000 bytes
	at308 := func(r reply, want string) {
		t.Helper()
		if r.err != nil || r.code != 308 || r.header.Get("Range") != want {
			t.Fatalf("%d, %v, Range %q, want %q: %s", r.code, r.err, r.header.Get("Range"), want, r.body)
		}
	}
	u := c.startObject("n", `{"metadata":{"k":"v"},"crc32c":"`+crcOf(data)+`"}`, "&ifGenerationMatch=0")
	ask := func(total string) reply { return c.do("PUT", u, nil, "Content-Range", "bytes */"+total) }
	at308(ask("*"), "")
	at308(c.do("PUT", u, data[:100], "Content-Range", "bytes 0-99/*"), "")
	at308(c.do("PUT", u, data[:quantum+5], "Content-Range", fmt.Sprintf("bytes 0-%d/*", quantum+4)), fmt.Sprintf("bytes=0-%d", quantum-1))
	c.do("PUT", u, data[quantum+5:], "Content-Range", fmt.Sprintf("bytes %d-639999/640000", quantum+5)).failed(t, 400, "invalid") // a gap
	at308(ask("640000"), fmt.Sprintf("bytes=0-%d", quantum-1))
	// The second piece begins with bytes that are stored.
	at308(c.do("PUT", u, data[quantum-7:2*quantum], "Content-Range", fmt.Sprintf("bytes %d-%d/*", quantum-7, 2*quantum-1)), fmt.Sprintf("bytes=0-%d", 2*quantum-1))
	at308(c.do("PUT", u, data[:9], "Content-Range", "bytes 0-8/*"), fmt.Sprintf("bytes=0-%d", 2*quantum-1))
	for _, bad := range []string{"bytes 0-8", "bytes x-8/*", "bytes 8-0/*", "bytes 0-9/9", "0-8/*"} {
		c.do("PUT", u, data[:9], "Content-Range", bad).failed(t, 400, "invalid")
	}
	c.do("GET", objectURL("n"), nil).failed(t, 404, "notFound")
	v := c.do("PUT", u, data[2*quantum:], "Content-Range", fmt.Sprintf("bytes %d-639999/640000", 2*quantum)).ok(t)
	if v["size"] != "640000" || v["contentType"] != "application/jsonl" || v["metageneration"] != "1" {
		t.Errorf("%v", v)
	}
	for range 2 { // the reply may have been lost
		if again := ask("*").ok(t); again["generation"] != v["generation"] {
			t.Errorf("%v", again)
		}
	}
	c.do("GET", objectURL("n")+"?alt=media", nil).content(t, 200, string(data))

	// The precondition is checked at the end, and also at the start.
	c.do("POST", "/upload"+bucket+"?uploadType=resumable&ifGenerationMatch=0&name=n", "").failed(t, 412, "conditionNotMet")
	u = c.startObject("m", "", "&ifGenerationMatch=0")
	c.put("m", "another", "").ok(t)
	c.do("PUT", u, "x").failed(t, 412, "conditionNotMet")
	// Without a Content-Range the body is the whole object. An empty object has no
	// piece. Google's JavaScript library does not know where its last piece ends.
	u = c.startObject("m", "", "")
	if v := c.do("PUT", u, "whole").ok(t); v["size"] != "5" {
		t.Errorf("%v", v)
	}
	u = c.startObject("empty", "", "")
	if v := ask("0").ok(t); v["size"] != "0" || v["crc32c"] != "AAAAAA==" {
		t.Errorf("%v", v)
	}
	u = c.startObject("js", "", "")
	if v := c.do("PUT", u, "abc", "Content-Range", "bytes 0-*/*").ok(t); v["size"] != "3" {
		t.Errorf("%v", v)
	}
	// A wrong checksum.
	u = c.startObject("bad", `{"crc32c":"AAAAAA=="}`, "")
	c.do("PUT", u, "abc").failed(t, 400, "invalid")
	u = c.startObject("bad", "", "")
	c.do("PUT", u, "abc", "X-Goog-Hash", "crc32c=AAAAAA==").failed(t, 400, "invalid")
	// An upload that was ended.
	if r := c.do("DELETE", u, nil); r.code != 499 {
		t.Errorf("delete: %d", r.code)
	}
	ask("*").failed(t, 404, "notFound")
	if left, _ := filepath.Glob(filepath.Join(c.s.Dir(), "*", "*.tmp")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// The connection breaks in a piece: what is stored is a multiple of 256 KiB.
func TestObjectTake(t *testing.T) {
	c := serve(t, Options{Faults: []string{"object.data nth=1 take=300000", "object.data nth=3 status=503"}})
	data := bytes.Repeat([]byte("x"), 600_000)
	u := c.startObject("n", "", "")
	if r := c.do("PUT", u, data, "Content-Range", "bytes 0-599999/600000"); r.err == nil {
		t.Fatalf("reply %d %s", r.code, r.body)
	}
	r := c.do("PUT", u, nil, "Content-Range", "bytes */600000")
	if r.code != 308 || r.header.Get("Range") != "bytes=0-262143" {
		t.Fatalf("%d %v", r.code, r.header)
	}
	c.do("PUT", u, data[quantum:], "Content-Range", "bytes 262144-599999/600000").failed(t, 503, "backendError")
	if v := c.do("PUT", u, data[quantum:], "Content-Range", "bytes 262144-599999/600000").ok(t); v["crc32c"] != crcOf(data) {
		t.Errorf("%v", v)
	}
}

// A server is killed while it receives a piece, and while the client waits for the
// reply to the last one. Objects and sessions survive.
func TestObjectsKilledAndStartedAgain(t *testing.T) {
	dir := t.TempDir()
	c, process := spawn(t, Emulator{Listen: "127.0.0.1:0", Dir: dir, Fault: []string{"object.data match=held nth=1 hold=made when=after"}})
	first := c.put("n", "first", "").ok(t)
	second := c.put("n", "second", "").ok(t)
	open := c.startObject("open", "", "")
	c.do("PUT", open, bytes.Repeat([]byte("x"), quantum), "Content-Range", fmt.Sprintf("bytes 0-%d/*", quantum-1))
	held := c.startObject("held", "", "&ifGenerationMatch=0")
	lost := make(chan reply)
	go func() { lost <- c.do("PUT", held, "held") }()
	c.do("GET", "/emulator/holds?wait=made", nil).ok(t)
	process.Process.Kill()
	if r := <-lost; r.err == nil {
		t.Fatalf("the held piece was answered: %s", r.body)
	}

	before := c.url
	c, _ = spawn(t, Emulator{Listen: "127.0.0.1:0", Dir: dir})
	open, held = strings.Replace(open, before, c.url, 1), strings.Replace(held, before, c.url, 1)
	c.do("GET", objectURL("n")+"?alt=media", nil).content(t, 200, "second")
	if r := c.do("PUT", open, nil, "Content-Range", "bytes */*"); r.code != 308 || r.header.Get("Range") != "bytes=0-262143" {
		t.Errorf("%d %v", r.code, r.header)
	}
	if v := c.do("PUT", held, nil, "Content-Range", "bytes */4").ok(t); v["size"] != "4" {
		t.Errorf("%v", v)
	}
	if g := c.put("n", "third", "&ifGenerationMatch="+second["generation"].(string)).ok(t)["generation"].(string); g <= second["generation"].(string) || g <= first["generation"].(string) {
		t.Errorf("generation %s", g)
	}
}

// Tokens of the metadata server are accepted until they expire. A request without
// a token is accepted too.
func TestTokens(t *testing.T) {
	c := serve(t, Options{TokenLife: 300 * time.Millisecond, BasePath: "/below"})
	root := c.url
	c.url += "/below"
	if r := c.do("GET", root+"/computeMetadata/v1/instance/service-accounts/default/token", nil); r.code != 403 {
		t.Errorf("without the header: %d", r.code)
	}
	r := c.do("GET", root+"/computeMetadata/v1/instance/service-accounts/default/token?scopes=x", nil, "Metadata-Flavor", "Google")
	token, _ := r.ok(t)["access_token"].(string)
	if r.header.Get("Metadata-Flavor") != "Google" || token == "" {
		t.Fatalf("%v", r)
	}
	c.put("n", "x", "").ok(t)
	for _, wrong := range []string{"Bearer x", "Bearer ya29.emulator.99999999999999", "Basic x", "Bearer ya29.emulator.x.y"} {
		c.do("GET", objectURL("n"), nil, "Authorization", wrong).failed(t, 401, "authError")
	}
	c.do("GET", objectURL("n"), nil, "Authorization", "Bearer "+token).ok(t)
	for end := time.Now().Add(time.Minute); c.do("GET", objectURL("n"), nil, "Authorization", "Bearer "+token).code != 401; {
		if time.Now().After(end) {
			t.Fatal("the token does not expire")
		}
	}
	c.do("GET", root+"/computeMetadata/v1/project/project-id", nil, "Metadata-Flavor", "Google").content(t, 200, "emulator")
}

// curl knows nothing about the API. These are the calls of Google's documentation.
func TestCurlStorage(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("no curl")
	}
	c := serve(t, Options{})
	curl := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("curl", append([]string{"-sS"}, args...)...)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("curl %q: %v: %s", args, err, out)
		}
		return string(out)
	}
	file := filepath.Join(t.TempDir(), "file")
	data := strings.Repeat("line of text\n", 50_000)
	if err := os.WriteFile(file, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	head := curl("-D", "-", "-o", os.DevNull, "-X", "POST", "-H", "Content-Type: application/json", "-d", `{"contentType":"text/plain"}`,
		c.url+"/upload"+bucket+"?uploadType=resumable&name=from%20curl")
	_, after, _ := strings.Cut(strings.ToLower(head), "location: ")
	session, _, _ := strings.Cut(after, "\r")
	// The first piece, and the question where it stopped.
	curl("-X", "PUT", "-H", "Content-Range: bytes 0-262143/650000", "--data-binary", "@"+part(t, data[:quantum]), session)
	head = curl("-D", "-", "-X", "PUT", "-H", "Content-Length: 0", "-H", "Content-Range: bytes */650000", session)
	if !strings.Contains(head, "308") || !strings.Contains(head, "bytes=0-262143") {
		t.Fatalf("%s", head)
	}
	out := curl("-X", "PUT", "-H", "Content-Range: bytes 262144-649999/650000", "--data-binary", "@"+part(t, data[quantum:]), session)
	if !strings.Contains(out, `"size": "650000"`) {
		t.Fatalf("%s", out)
	}
	if got := curl("-r", "100-199", c.url+bucket+"/from%20curl?alt=media"); got != data[100:200] {
		t.Errorf("range: %q", got)
	}
	if got := curl("-X", "POST", "-T", file, "-H", "Content-Type: text/plain", c.url+"/upload"+bucket+"?uploadType=media&name=whole"); !strings.Contains(got, `"crc32c": "`+crcOf([]byte(data))) {
		t.Errorf("%s", got)
	}
	if got := curl(c.url + bucket + "?prefix=from"); !strings.Contains(got, `"name": "from curl"`) || strings.Contains(got, "whole") {
		t.Errorf("%s", got)
	}
	if got := curl("-X", "DELETE", "-w", "%{http_code}", c.url+bucket+"/whole"); got != "204" {
		t.Errorf("%s", got)
	}
}

// part writes a file and returns its name.
func part(t *testing.T, data string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "part")
	if err := os.WriteFile(name, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// The faults of calls strike the calls for objects, by bucket and name too.
func TestObjectFaults(t *testing.T) {
	c := serve(t, Options{})
	c.put("a", "0123456789\n", "").ok(t)
	c.faults("object.read nth=1 cut=4", "object.read nth=2 status=503", "object.read nth=3 short=11", "object.read nth=4 header=Content-Length:20",
		`object.insert match=bucket/claim body='{"kind":"x"}' when=after`, `object.insert match=phase:2 status=429`)
	read := objectURL("a") + "?alt=media"
	if r := c.do("GET", read, nil); r.err == nil || string(r.body) != "0123" {
		t.Errorf("cut: %v %q", r.err, r.body)
	}
	if r := c.do("GET", read, nil); r.code != 503 || string(r.body) != "injected fault" {
		t.Errorf("%d %s", r.code, r.body)
	}
	c.do("GET", read, nil).content(t, 200, "0123456789")
	if r := c.do("GET", read, nil); r.err == nil || string(r.body) != "0123456789\n" {
		t.Errorf("a wrong length: %v %q", r.err, r.body)
	}
	c.put("claim/x", "phase:1", "&ifGenerationMatch=0").content(t, 200, `{"kind":"x"}`)
	c.put("claim/x", "phase:1", "&ifGenerationMatch=0").content(t, 200, `{"kind":"x"}`)
	c.put("b", "phase:2", "").failed(t, 429, "rateLimitExceeded")
	c.do("GET", objectURL("claim/x"), nil).ok(t)
	for _, bad := range []string{"object.read when=after drop", "object.get take=1", "object.read set=a=1", "object.get drop unread"} {
		if err := c.s.SetFaults([]string{bad}); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
	if n := c.books().Operations["object.read"]; n["503"] != 1 || n["dropped"] != 1 {
		t.Errorf("operations %v", n)
	}
	if !slices.Contains(Actions("object.data"), "take") {
		t.Error("object.data has no take")
	}
	// A session is ended while a fault holds its piece.
	c.faults("object.data nth=1 hold=piece unread")
	u := c.startObject("n", "", "")
	done := make(chan reply)
	go func() { done <- c.do("PUT", u, "x") }()
	if err := c.s.WaitHold(context.Background(), "piece"); err != nil {
		t.Fatal(err)
	}
	c.do("DELETE", u, nil)
	c.s.Release("piece")
	if r := <-done; r.code != 404 {
		t.Errorf("%d %s", r.code, r.body)
	}
}
