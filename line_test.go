package gbatch

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gbatch/pkg/emulator"
	"gbatch/pkg/record"
)

// TestLineBitForBit sends 10,000 chunks of about 1.5 KB through the whole pipe,
// as processes over HTTP. It compares every vector in the database with the
// emulator's vector for that text.
func TestLineBitForBit(t *testing.T) {
	if testing.Short() {
		t.Skip("takes several seconds")
	}
	dir := t.TempDir()
	server, err := emulator.New(emulator.Options{Dir: filepath.Join(dir, "emulator"), Tokens: "mixed"})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	web := httptest.NewServer(server)
	defer web.Close()
	shell := func(command string, in []byte) {
		t.Helper()
		cmd := exec.Command("bash", "-o", "pipefail", "-c", command)
		cmd.Env = append(os.Environ(), "GOOGLE_GEMINI_BASE_URL="+web.URL, "GEMINI_API_KEY=k", "XDG_STATE_HOME="+dir, "GBATCH_INTERVAL=10ms")
		cmd.Dir, cmd.Stdin = dir, bytes.NewReader(in)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
	}
	const line = "chunks-pending kb.duckdb | to-jsonl | gbatch-submit | gbatch-wait | gbatch-fetch | vectors-apply kb.duckdb"

	const count = 10_000
	random := rand.New(rand.NewPCG(1, 2))
	words := strings.Fields("alpha Бета gamma δέλτα \"epsilon\" zeta\\eta theta\tiota 中文 kappa λ mu 🙂 nu\u2028xi omicron")
	var in bytes.Buffer
	for i := range count {
		var text strings.Builder
		for text.Len() < 1500 {
			fmt.Fprintf(&text, "%s %d ", words[random.IntN(len(words))], random.IntN(1000))
		}
		if err := json.NewEncoder(&in).Encode(record.Chunk{ID: fmt.Sprintf("chunk %d", i), Text: text.String()}); err != nil {
			t.Fatal(err)
		}
	}
	shell("chunks-add kb.duckdb", in.Bytes())
	shell(line, nil)
	books, err := server.Books()
	if err != nil {
		t.Fatal(err)
	}
	if books.RequestsPaid != count || books.MaxPaid != 1 || len(books.Uploaded) > 0 {
		t.Errorf("paid for %d requests, at most %d times for a text, and left %d files", books.RequestsPaid, books.MaxPaid, len(books.Uploaded))
	}
	shell(line, nil)
	if again, err := server.Books(); err != nil || again.Creates != books.Creates {
		t.Errorf("the second run made %d jobs (%v)", again.Creates-books.Creates, err)
	}

	db, err := sql.Open("duckdb", filepath.Join(dir, "kb.duckdb"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query("SELECT c.text, s.embedding::FLOAT[] FROM chunks c JOIN chunk_status s USING (id) WHERE s.embedding_status = 'READY'")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	seen := 0
	for ; rows.Next(); seen++ {
		var text string
		var values []any
		if err := rows.Scan(&text, (*list)(&values)); err != nil {
			t.Fatal(err)
		}
		got := make([]float32, len(values))
		for i, v := range values {
			got[i] = v.(float32)
		}
		if want := emulator.Vector("gemini-embedding-001", text, 768); !slices.Equal(got, want) {
			t.Fatalf("the vector of %.40q is not the one of its text", text)
		}
	}
	if seen != count {
		t.Errorf("%d of %d chunks are READY", seen, count)
	}
}

// A list is a DuckDB list as database/sql scans it.
type list []any

func (l *list) Scan(v any) error {
	values, ok := v.([]any)
	if !ok {
		return fmt.Errorf("%T is not a list", v)
	}
	*l = values
	return nil
}
