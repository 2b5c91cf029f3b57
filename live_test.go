package gbatch

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestLive sends three chunks through the whole pipe to Google's own API, and
// then runs the pipe again. It costs less than a hundredth of a cent, and takes
// as long as Google does, up to a day. So it runs only with make test-live and a
// key.
func TestLive(t *testing.T) {
	if os.Getenv("GBATCH_LIVE") == "" {
		t.Skip("make test-live runs this")
	}
	if os.Getenv("GEMINI_API_KEY") == "" && os.Getenv("GOOGLE_API_KEY") == "" {
		t.Skip("set GEMINI_API_KEY")
	}
	dir := t.TempDir()
	shell := func(command, in string) string {
		t.Helper()
		cmd := exec.Command("bash", "-o", "pipefail", "-c", command)
		var out bytes.Buffer
		cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+dir)
		cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, strings.NewReader(in), &out, os.Stderr
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		return out.String()
	}
	shell("chunks-add kb.duckdb", `{"id":"a","text":"Water boils at 100 degrees Celsius at sea level."}
{"id":"b","text":"Вода кипит при 100 градусах Цельсия на уровне моря."}
{"id":"c","title":"Sorting","text":"Quicksort partitions a list around a pivot."}
`)
	line := "chunks-pending kb.duckdb | to-jsonl | gbatch-submit --canary 1 | gbatch-wait -v | gbatch-fetch | vectors-apply kb.duckdb"
	if out := shell(line, ""); !strings.Contains(out, `"succeeded":3,"failed":0`) {
		t.Errorf("the line printed %s", out)
	}
	if out := shell(line, ""); out != "" {
		t.Errorf("the second run printed %s", out)
	}
	got := shell(`sql kb.duckdb "SELECT embedding_status, len(embedding) FROM chunk_status"
sql kb.duckdb "SELECT array_cosine_similarity(a.embedding, b.embedding) > array_cosine_similarity(a.embedding, c.embedding) FROM chunk_status a, chunk_status b, chunk_status c WHERE a.id = 'a' AND b.id = 'b' AND c.id = 'c'"`, "")
	if got != "READY|768\nREADY|768\nREADY|768\ntrue\n" {
		t.Errorf("the database holds %s", got)
	}
}
