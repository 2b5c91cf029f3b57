package board

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"gbatch/pkg/store"
)

// report has n batches on some days, and vectors of several lengths.
func report(t *testing.T, n int) *store.Report {
	t.Helper()
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	r := &store.Report{DB: `a "b" <script>alert(1)</script> & c`, Table: "embeddings", At: at}
	var batches []string
	for i := range n {
		sent := at.Add(-time.Duration(i) * 12 * time.Hour)
		batches = append(batches, fmt.Sprintf(`{"batch":"b%d","submitted":%q,"ended":%q}`, i, sent.Format(time.RFC3339), sent.Add(time.Duration(1+i%7)*time.Hour).Format(time.RFC3339)))
		r.Days = append(r.Days, store.Day{Date: sent.Format(time.DateOnly), USD: float64(i % 5)})
		r.Norms = append(r.Norms, 0.7+float64(i%9)/30)
	}
	counts := `[{"status":"READY","chunks":90},{"status":"QUEUED","chunks":5},{"status":"PENDING","chunks":4},{"status":"FAILED","chunks":1}]`
	if err := json.Unmarshal([]byte(counts), &r.Counts); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte("["+strings.Join(batches, ",")+"]"), &r.Batches); err != nil {
		t.Fatal(err)
	}
	return r
}

// loads matches what makes a browser load something or run a script.
var loads = regexp.MustCompile(`(?i)<(script|link|img|image|iframe|object|embed|base|use)\b|\b(src|href|srcset|action|data)\s*=|@import|url\(|\son\w+\s*=`)

// The page is XML, and loads nothing.
func TestPage(t *testing.T) {
	for n, plots := range map[int]int{0: 1, 1: 4, 100: 4} {
		page, err := Page(report(t, n))
		if err != nil {
			t.Fatal(err)
		}
		texts := map[string]bool{}
		for d := xml.NewDecoder(strings.NewReader(string(page))); ; {
			token, err := d.Token()
			if err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("with %d batches the page is not XML: %v", n, err)
			}
			if text, ok := token.(xml.CharData); ok {
				texts[strings.TrimSpace(string(text))] = true
			}
		}
		if got := strings.Count(string(page), "<svg"); got != plots || !texts["READY"] || !texts["Chunks by status"] {
			t.Errorf("with %d batches, the page has %d plots:\n%s", n, got, page)
		}
		if found := loads.FindAllString(string(page), -1); found != nil {
			t.Errorf("with %d batches, the page has %q", n, found)
		}
		for _, address := range regexp.MustCompile(`https?://[^"' ]*`).FindAllString(string(page), -1) {
			if !strings.HasPrefix(address, "http://www.w3.org/") { // the name of a namespace
				t.Errorf("the page names %s", address)
			}
		}
	}
}

// A browser without a network shows the page, and asks nobody for anything: its
// only way out is a proxy that refuses, and that sees no request.
func TestBrowser(t *testing.T) {
	browser := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			browser = path
		}
	}
	if browser == "" {
		t.Skip("no browser is installed")
	}
	page, err := Page(report(t, 100))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "page.html")
	if err := os.WriteFile(file, page, 0o600); err != nil {
		t.Fatal(err)
	}
	asked := make(chan string, 100)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Host
		w.WriteHeader(http.StatusForbidden)
	}))
	defer proxy.Close()
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(browser, append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--user-data-dir=" + filepath.Join(dir, "profile"),
			"--disable-background-networking", "--disable-component-update", "--disable-sync", "--proxy-server=" + proxy.URL}, args...)...)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v", cmd.Args, err)
		}
		return string(out)
	}
	if dom := run("--dump-dom", "file://"+file); strings.Count(dom, "<svg") != 4 || strings.Contains(dom, "<script") || !strings.Contains(dom, "Length of the vectors") {
		t.Errorf("the browser shows:\n%s", dom)
	}
	image := filepath.Join(dir, "page.png")
	run("--screenshot="+image, "--window-size=900,1800", "file://"+file)
	if info, err := os.Stat(image); err != nil || info.Size() < 20_000 {
		t.Errorf("the picture of the page: %v, %v", info, err)
	}
	if hosts := foreign(asked); len(hosts) > 0 {
		t.Errorf("the browser asked for %q", hosts)
	}
	// A page that loads something is noticed.
	if err := os.WriteFile(file, []byte(`<img src="http://picture.example/a.png">`), 0o600); err != nil {
		t.Fatal(err)
	}
	run("--dump-dom", "file://"+file)
	if hosts := foreign(asked); len(hosts) == 0 {
		t.Error("the proxy does not see what a page loads")
	}
}

// foreign returns the hosts that were asked for, without those at which the browser
// looks for its own updates.
func foreign(asked <-chan string) (hosts []string) {
	for len(asked) > 0 {
		if host := <-asked; !regexp.MustCompile(`(^|\.)(google|googleapis|gvt1)\.com(:\d+)?$`).MatchString(host) {
			hosts = append(hosts, host)
		}
	}
	return hosts
}
