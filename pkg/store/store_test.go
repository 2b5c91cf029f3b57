package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gbatch/pkg/cli"
	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
	"gbatch/pkg/model"
	"gbatch/pkg/record"
)

const dim = 4

// A kb is a database under test.
type kb struct {
	*testing.T
	duck.Database
}

func open(t *testing.T, statements ...string) *kb {
	k := &kb{t, duck.Database{DB: filepath.Join(t.TempDir(), "kb.duckdb"), LockTimeout: 10 * time.Second}}
	k.sql(statements...)
	return k
}

// transact runs work in a new DuckDB, as a command would.
func (k *kb) transact(mode duck.Access, work func(*duck.Conn) error) error {
	d := k.Database
	defer d.End()
	return transact(context.Background(), &d, mode, work)
}

// sql runs statements, each in its own transaction.
func (k *kb) sql(statements ...string) {
	k.Helper()
	for _, s := range statements {
		if err := k.transact(duck.Create, func(c *duck.Conn) error { return c.Exec(s) }); err != nil {
			k.Fatalf("%s: %v", s, err)
		}
	}
}

// rows returns a query's rows, with their columns joined by a bar.
func (k *kb) rows(query string) string {
	k.Helper()
	var lines []string
	err := k.transact(duck.Read, func(c *duck.Conn) error {
		r, err := c.Query("SELECT concat_ws('|', *COLUMNS(*)) FROM (SELECT COLUMNS(*)::VARCHAR FROM (" + query + "))")
		if err != nil {
			return err
		}
		defer r.Close()
		for r.Next() {
			lines = append(lines, r.Text(0))
		}
		return nil
	})
	if err != nil {
		k.Fatalf("%s: %v", query, err)
	}
	return strings.Join(lines, "\n")
}

func (k *kb) expect(query, want string) {
	k.Helper()
	if got := k.rows(query); got != want {
		k.Errorf("%s\n got %q\nwant %q", query, got, want)
	}
}

const statuses = "SELECT id, embedding_status, error_message FROM chunk_status ORDER BY id"

func (k *kb) run(cmd cli.Command, in string) (string, error) {
	var out bytes.Buffer
	err := cmd.Run(context.Background(), strings.NewReader(in), &out)
	return out.String(), err
}

func (k *kb) must(cmd cli.Command, in string) string {
	k.Helper()
	out, err := k.run(cmd, in)
	if err != nil {
		k.Fatal(err)
	}
	return out
}

func (k *kb) pending(set ...func(*Pending)) *Pending {
	p := &Pending{Database: k.Database, Claim: Claim{From: "chunks", Model: "gemini-embedding-001", Dim: dim, TaskType: "RETRIEVAL_DOCUMENT",
		Embeddings: "embeddings", MaxRequests: 10000, MaxBytes: 1e8, MaxTokens: 400000}}
	for _, f := range set {
		f(p)
	}
	return p
}

func (k *kb) apply() *Apply { return &Apply{Database: k.Database, MaxAttempts: 3} }

// vec returns the vector of a text in these tests.
func vec(text string) []float32 {
	h := fnv.New64a()
	h.Write([]byte(text))
	v := make([]float32, dim)
	for i := range v {
		v[i] = float32(h.Sum64()>>(8*i)&0xffff) / 65536
	}
	return v
}

func (k *kb) line(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		k.Fatal(err)
	}
	return string(b) + "\n"
}

func (k *kb) vectorLine(batch, key string, v []float32) string {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return k.line(record.Vector{Key: key, Batch: batch, Dim: len(v), Vector: b, Tokens: 3})
}

func (k *kb) errorLine(batch, key string, code int, message string) string {
	return k.line(record.KeyError{Key: key, Batch: batch, Error: record.Status{Code: code, Message: message}})
}

func (k *kb) jobLine(batch, state string, succeeded, failed int) string {
	j := record.Job{Job: "batches/" + batch, Batch: batch, State: state, Model: "gemini-embedding-001", Dim: dim}
	if state == record.Succeeded && succeeded >= 0 {
		tokens := int64(3 * succeeded)
		j.Succeeded, j.Failed, j.Tokens = &succeeded, &failed, &tokens
	}
	if state == record.Failed {
		j.Error = &record.Status{Code: 13, Status: "INTERNAL", Message: "Google's own reason"}
	}
	return k.line(j)
}

type batch struct {
	record.Header
	chunks []record.Chunk
}

// batches parses what Pending printed.
func (k *kb) batches(out string) (batches []batch) {
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, `{"batch":`) {
			var b batch
			if err := json.Unmarshal([]byte(line), &b.Header); err != nil {
				k.Fatal(err)
			}
			batches = append(batches, b)
			continue
		}
		var c record.Chunk
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			k.Fatal(err)
		}
		b := &batches[len(batches)-1]
		b.chunks = append(b.chunks, c)
	}
	for _, b := range batches {
		if b.Count != len(b.chunks) {
			k.Fatalf("batch %s announces %d chunks and has %d", b.Batch, b.Count, len(b.chunks))
		}
	}
	return batches
}

// answers returns the vector of each chunk that Pending printed.
func (k *kb) answers(out string) string {
	var lines strings.Builder
	for _, b := range k.batches(out) {
		for _, c := range b.chunks {
			lines.WriteString(k.vectorLine(b.Batch, c.ID, vec(c.Title+c.Text)))
		}
		lines.WriteString(k.jobLine(b.Batch, record.Succeeded, len(b.chunks), 0))
	}
	return lines.String()
}

// embed runs the commands in a pipe, with an answer for every text, and returns
// the number of requests.
func (k *kb) embed() int {
	k.Helper()
	out := k.must(k.pending(), "")
	if out == "" {
		return 0
	}
	k.must(k.apply(), k.answers(out))
	n := 0
	for _, b := range k.batches(out) {
		n += b.Count
	}
	return n
}

// right checks that every chunk is READY with the vector of its text.
func (k *kb) right() {
	k.Helper()
	err := k.transact(duck.Read, func(c *duck.Conn) error {
		r, err := c.Query("SELECT s.id::VARCHAR, s.embedding_status, c.text, s.embedding FROM chunk_status s JOIN chunks c USING (id)")
		if err != nil {
			return err
		}
		defer r.Close()
		for r.Next() {
			if r.Text(1) != "READY" {
				k.Errorf("chunk %s is %s", r.Text(0), r.Text(1))
				continue
			}
			got := make([]float32, dim)
			r.Floats(3, got)
			if want := vec(r.Text(2)); fmt.Sprint(got) != fmt.Sprint(want) {
				k.Errorf("chunk %s has %v, not %v", r.Text(0), got, want)
			}
		}
		return nil
	})
	if err != nil {
		k.Fatal(err)
	}
}

const simple = "CREATE TABLE chunks (id VARCHAR, text VARCHAR)"

func TestLine(t *testing.T) {
	for _, table := range []string{
		simple,
		"CREATE TABLE chunks (id VARCHAR PRIMARY KEY, text VARCHAR, title VARCHAR, context VARCHAR)",
		"CREATE TABLE chunks (id VARCHAR PRIMARY KEY, text VARCHAR, embedding_status VARCHAR DEFAULT 'PENDING', error_message VARCHAR)",
		"CREATE TABLE chunks (text VARCHAR, id VARCHAR UNIQUE, embedding_status VARCHAR, n INTEGER[])",
	} {
		k := open(t, table, "INSERT INTO chunks (id, text) SELECT 'c' || i, 'text ' || i FROM range(100) t(i)")
		if n := k.embed(); n != 100 {
			t.Errorf("%d requests for 100 texts", n)
		}
		k.right()
		if n := k.embed(); n != 0 {
			t.Errorf("%d requests in the second run", n)
		}
		k.expect("SELECT count(*) FROM gbatch.items", "0")
		k.expect("SELECT state, requests, succeeded, failed, tokens, closed_at IS NOT NULL FROM gbatch.jobs", "SUCCEEDED|100|100|0|300|true")

		k.sql("UPDATE chunks SET text = 'another' WHERE id = 'c7'")
		if n := k.embed(); n != 1 {
			t.Errorf("%d requests after one edit", n)
		}
		k.right()
	}
}

func TestIDs(t *testing.T) {
	for _, id := range []string{"BIGINT", "INTEGER", "UUID", "VARCHAR"} {
		k := open(t, "CREATE TABLE chunks (id "+id+", text VARCHAR)")
		switch id {
		case "UUID":
			k.sql("INSERT INTO chunks SELECT uuid(), 'text ' || i FROM range(50) t(i)")
		case "VARCHAR":
			k.sql(`INSERT INTO chunks SELECT 'a "b" c'' ' || chr(10) || '☃' || chr(8232) || i, 'text ' || i FROM range(50) t(i)`)
		default:
			k.sql("INSERT INTO chunks SELECT i - 25, 'text ' || i FROM range(50) t(i)")
		}
		if n := k.embed(); n != 50 {
			t.Errorf("%s: %d requests for 50 texts", id, n)
		}
		k.right()
		k.expect("SELECT data_type FROM duckdb_columns() WHERE table_name = 'embeddings' AND column_name = 'chunk_id'", id)
	}
}

func TestClaimsPrintTwiceTheSame(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks SELECT 'c' || i, 'text ' || i || chr(9) || '\"é' FROM range(25) t(i)")
	first := k.must(k.pending(func(p *Pending) { p.MaxRequests = 10 }), "")
	if n := len(k.batches(first)); n != 3 {
		t.Fatalf("%d batches", n)
	}
	k.sql("UPDATE chunks SET text = 'edited' WHERE id = 'c3'", "DELETE FROM chunks WHERE id = 'c4'")
	second := k.must(k.pending(func(p *Pending) { p.MaxRequests = 10 }), "")
	if !strings.HasPrefix(second, first) {
		t.Errorf("a claimed batch was printed again with other bytes")
	}
	if more := k.batches(second[len(first):]); len(more) != 1 || more[0].Count != 1 || more[0].chunks[0].ID != "c3" {
		t.Errorf("the edited chunk was not claimed by itself: %v", more)
	}
}

func TestLimits(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks SELECT 'c' || i, repeat('x', 1000) || i FROM range(20) t(i)")
	counts := func(set func(*Pending)) (n []int) {
		for line := range strings.Lines(k.must(k.pending(func(p *Pending) { p.DryRun = true }, set), "")) {
			var plan planned
			if err := json.Unmarshal([]byte(line), &plan); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(line, `{"jobs":`) {
				continue
			}
			n = append(n, plan.Requests)
		}
		return n
	}
	for _, test := range []struct {
		set  func(*Pending)
		want string
	}{
		{func(p *Pending) {}, "[20]"},
		{func(p *Pending) { p.MaxRequests = 8 }, "[8 8 4]"},
		{func(p *Pending) { p.MaxBytes = 12000 }, "[10 10]"},
		{func(p *Pending) { p.MaxBytes = 10 }, "[1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1]"},
		{func(p *Pending) { p.MaxTokens = 700 }, "[5 5 5 5]"},
		{func(p *Pending) { p.Limit = 7; p.MaxRequests = 5 }, "[5 2]"},
	} {
		if got := fmt.Sprint(counts(test.set)); got != test.want {
			t.Errorf("got %s, want %s", got, test.want)
		}
	}
	k.expect("SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'gbatch'", "0") // a dry run leaves nothing
	out := k.must(k.pending(func(p *Pending) { p.Limit = 3 }), "")
	if b := k.batches(out); len(b) != 1 || b[0].Count != 3 {
		t.Errorf("--limit 3 claimed %v", b)
	}
}

// A claim takes several rounds through a table. Most of its middle is already in
// flight.
func TestRounds(t *testing.T) {
	k := open(t, "CREATE TABLE chunks AS SELECT range AS id, 'text ' || range AS text FROM range(80000)")
	const middle = "SELECT * FROM chunks WHERE id BETWEEN 10000 AND 69999 AND id % 100 <> 0"
	k.must(k.pending(func(p *Pending) { p.From = middle; p.MaxTokens = 1e9 }), "")
	p := k.pending(func(p *Pending) { p.MaxRequests = 1000 })
	r := round{size: 6000}
	var batches []int
	for !r.last {
		var names []string
		err := k.transact(duck.Write, func(c *duck.Conn) (err error) {
			names, err = p.claim(c, &r)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		batches = append(batches, len(names))
	}
	if fmt.Sprint(batches) != "[6 6 6 3]" {
		t.Errorf("the rounds have %v batches", batches)
	}
	// Every chunk is claimed once, and each batch of the table is in its order.
	k.expect("SELECT count(*), count(DISTINCT chunk_id) FROM gbatch.items", "80000|80000")
	k.expect("SELECT count(*) FROM (SELECT chunk_id::BIGINT < lag(chunk_id::BIGINT) OVER (PARTITION BY batch ORDER BY seq) AS back FROM gbatch.items JOIN gbatch.jobs USING (batch) WHERE source = 'chunks') WHERE back", "0")
}

// If DuckDB renumbers rows between two rounds, no row is missed.
func TestRoundsOfATableThatChanges(t *testing.T) {
	k := open(t, "CREATE TABLE chunks AS SELECT range AS id, 'text ' || range AS text FROM range(7000)")
	k.must(k.pending(func(p *Pending) { p.Limit = 1 }), "") // creates the toolkit's tables
	p := k.pending()
	for r := (round{size: 3000}); !r.last; {
		err := k.transact(duck.Write, func(c *duck.Conn) error {
			_, err := p.claim(c, &r)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		k.sql("DELETE FROM chunks WHERE id < 2500")
	}
	k.expect("SELECT count(*) FROM gbatch.items WHERE chunk_id::INT >= 3000", "4000")
	k.expect("SELECT max(rowid) < 6999 FROM chunks", "true") // DuckDB has renumbered the rows
}

// The user's tables may have the names of the toolkit's temporary tables.
func TestNamesOfTables(t *testing.T) {
	for _, name := range []string{"answers", "target", "pending", "picked", "next", "temp", "memory", "items"} {
		k := open(t, "CREATE TABLE "+duck.Ident(name)+" (id VARCHAR, text VARCHAR)", "INSERT INTO "+duck.Ident(name)+" VALUES ('a', 'one'), ('b', 'two')")
		out := k.must(k.pending(func(p *Pending) { p.From, p.Embeddings = name, "old" }), "")
		k.must(k.apply(), k.answers(out))
		k.expect("SELECT chunk_id FROM old ORDER BY ALL", "a\nb")
	}
}

func TestEqualTexts(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks SELECT 'c' || i, 'text ' || i % 3 FROM range(9) t(i)")
	if n := k.embed(); n != 3 {
		t.Errorf("%d requests for 3 texts", n)
	}
	k.right()
	k.sql("INSERT INTO chunks VALUES ('late', 'text 1')")
	if n := k.embed(); n != 0 {
		t.Errorf("%d requests for a text that has a vector", n)
	}
	k.right()
	// Two chunks swap their texts.
	k.sql("UPDATE chunks SET text = CASE id WHEN 'c0' THEN 'text 1' WHEN 'c1' THEN 'text 0' ELSE text END")
	if n := k.embed(); n != 0 {
		t.Errorf("%d requests for texts that have vectors", n)
	}
	k.right()
	k.expect("SELECT count(*), count(DISTINCT chunk_id) FROM embeddings", "10|10")
}

func TestTwinOfAnOpenBatchIsQueued(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks VALUES ('a', 'same')")
	out := k.must(k.pending(), "")
	k.sql("INSERT INTO chunks VALUES ('b', 'same')")
	if again := k.must(k.pending(), ""); again != out {
		t.Errorf("claimed a text that is in an open batch: %s", again)
	}
	k.expect(statuses, "a|QUEUED\nb|QUEUED")
	k.must(k.apply(), k.answers(out))
	if n := k.embed(); n != 0 {
		t.Errorf("%d requests", n)
	}
	k.right()
}

func TestRebuiltTableKeepsItsVectors(t *testing.T) {
	for _, columns := range []string{"id VARCHAR, text VARCHAR", "id VARCHAR, text VARCHAR, embedding_status VARCHAR DEFAULT 'PENDING', error_message VARCHAR"} {
		build := []string{"CREATE OR REPLACE TABLE chunks (" + columns + ")", "INSERT INTO chunks (id, text) SELECT 'c' || i, 'text ' || i FROM range(10) t(i)"}
		k := open(t, build...)
		k.embed()
		k.sql(build...)
		if n := k.embed(); n != 0 {
			t.Errorf("%d requests for a table built again", n)
		}
		k.right()
	}
}

func TestSetBackToPending(t *testing.T) {
	k := open(t, "CREATE TABLE chunks (id VARCHAR PRIMARY KEY, text VARCHAR, embedding_status VARCHAR DEFAULT 'PENDING', error_message VARCHAR)",
		"INSERT INTO chunks (id, text) VALUES ('a', 'one'), ('b', 'two'), ('c', 'two')")
	k.embed()
	k.expect("SELECT id, embedding_status FROM chunks ORDER BY id", "a|READY\nb|READY\nc|READY")
	k.sql("UPDATE chunks SET embedding_status = 'PENDING' WHERE id = 'b'")
	k.expect(statuses, "a|READY\nb|PENDING\nc|READY")
	if n := k.embed(); n != 1 {
		t.Errorf("%d requests for a chunk set back", n)
	}
	k.right()
	k.expect("SELECT id, embedding_status FROM chunks ORDER BY id", "a|READY\nb|READY\nc|READY")
	if n := k.embed(); n != 0 {
		t.Errorf("%d requests after that", n)
	}
}

func TestStaleTextIsNotApplied(t *testing.T) {
	k := open(t, "CREATE TABLE chunks (id VARCHAR, text VARCHAR, embedding_status VARCHAR)", "INSERT INTO chunks (id, text) VALUES ('a', 'one'), ('b', 'two'), ('c', 'three')")
	out := k.must(k.pending(), "")
	k.sql("UPDATE chunks SET text = 'new' WHERE id = 'a'", "DELETE FROM chunks WHERE id = 'b'")
	k.must(k.apply(), k.answers(out))
	k.expect("SELECT chunk_id FROM embeddings WHERE chunk_id IS NOT NULL", "c")
	k.expect("SELECT count(*), count(DISTINCT text_hash) FROM embeddings", "3|3") // all of them are paid for
	k.expect(statuses, "a|PENDING\nc|READY")
	if n := k.embed(); n != 1 {
		t.Errorf("%d requests for one edited text", n)
	}
	k.right()
}

// If a text moves to another chunk, its vector moves too, even if the first
// chunk has got another vector.
func TestTextsThatMove(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks (id, text) SELECT 'c' || i, 'text ' || i FROM range(10, 30) t(i)")
	k.embed()
	k.sql("UPDATE chunks SET text = 'new' WHERE id = 'c10'")
	out := k.must(k.pending(), "")
	k.sql("UPDATE chunks SET text = 'text 10' WHERE id = 'c11'")
	k.must(k.apply(), k.answers(out))
	if n := k.embed(); n != 0 {
		t.Errorf("a text that moved is paid for again: %d requests", n)
	}
	k.right()

	// In each round every text moves to the next chunk.
	k.sql("UPDATE chunks SET text = 'text ' || (substr(id, 2)::INT - 1) WHERE id BETWEEN 'c13' AND 'c29'")
	p := k.pending()
	for r := (round{size: 3}); !r.last; {
		var names []string
		err := k.transact(duck.Write, func(c *duck.Conn) (err error) {
			names, err = p.claim(c, &r)
			return err
		})
		if err != nil || len(names) > 0 {
			t.Fatal(names, err)
		}
	}
	k.right()
	// One row is left for each text, whether or not a chunk has it.
	k.expect("SELECT count(*), count(DISTINCT text_hash), count(DISTINCT chunk_id) FROM embeddings", "22|21|20")
}

func TestErrorsOfKeys(t *testing.T) {
	k := open(t, "CREATE TABLE chunks (id VARCHAR, text VARCHAR, embedding_status VARCHAR, error_message VARCHAR)", "INSERT INTO chunks (id, text) SELECT 'c' || i, 'text ' || i FROM range(6) t(i)")
	fail := func() {
		t.Helper()
		for _, b := range k.batches(k.must(k.pending(), "")) {
			var in string
			bad := 0
			for _, c := range b.chunks {
				switch c.ID {
				case "c0":
					in += k.errorLine(b.Batch, c.ID, 3, "c0 is no good")
					bad++
				case "c1":
					in += k.errorLine(b.Batch, c.ID, 13, "come again")
					bad++
				case "c2": // a key without an answer
				case "c3":
					in += k.vectorLine(b.Batch, c.ID, []float32{1, 2})
				case "c4":
					in += k.vectorLine(b.Batch, c.ID, []float32{1, 2, float32(math.NaN()), 3})
				default:
					in += k.vectorLine(b.Batch, c.ID, vec(c.Text))
				}
			}
			in += k.jobLine(b.Batch, record.Succeeded, strings.Count(in, "vector"), bad)
			if _, err := k.run(k.apply(), in); exit.Code(err) != exit.Partial {
				t.Errorf("got %v", err)
			}
		}
	}
	fail()
	k.expect(statuses, "c0|FAILED|c0 is no good\nc1|PENDING\nc2|PENDING\nc3|PENDING\nc4|PENDING\nc5|READY")
	k.expect("SELECT id, embedding_status, error_message FROM chunks ORDER BY id", k.rows(statuses))
	fail()
	fail()
	k.expect(statuses, "c0|FAILED|c0 is no good\nc1|FAILED|come again\nc2|FAILED|the job gave no answer for this key\n"+
		"c3|FAILED|the vector has 2 values instead of 4\nc4|FAILED|the vector has a value that is not a finite number\nc5|READY")
	k.expect("SELECT id, embedding_status, error_message FROM chunks ORDER BY id", k.rows(statuses))
	if n := k.embed(); n != 0 {
		t.Errorf("%d requests for chunks that failed permanently", n)
	}
	out := k.must(k.pending(func(p *Pending) { p.RetryFailed = true }), "")
	k.must(k.apply(), k.answers(out))
	k.right()
	k.expect("SELECT count(*) FROM gbatch.failures", "0")
}

func TestForeignAndSecondAnswers(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks VALUES ('a', 'one'), ('b', 'two'), ('other', 'not claimed')")
	out := k.must(k.pending(func(p *Pending) { p.Limit = 2 }), "")
	b := k.batches(out)[0].Batch
	in := k.vectorLine(b, "a", vec("one")) + k.vectorLine(b, "a", vec("wrong")) + k.vectorLine(b, "other", vec("wrong")) + k.vectorLine(b, "nobody", vec("wrong")) + k.vectorLine(b, "b", vec("two"))
	if _, err := k.run(k.apply(), in+k.jobLine(b, record.Succeeded, 5, 0)); exit.Code(err) != exit.Partial || !strings.Contains(err.Error(), "3 answers were dropped") {
		t.Errorf("got %v", err)
	}
	k.expect(statuses, "a|READY\nb|READY\nother|PENDING")
	k.expect("SELECT count(*) FROM embeddings", "2")
	k.sql("DELETE FROM chunks WHERE id = 'other'")
	k.right()
}

func TestWithoutTheClosingRecord(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks SELECT 'c' || i, 'text ' || i FROM range(10) t(i)")
	out := k.must(k.pending(), "")
	answers := k.answers(out)
	lines := strings.SplitAfter(answers, "\n")
	for name, in := range map[string]string{
		"cut short":         strings.Join(lines[:5], ""),
		"cut in a line":     strings.Join(lines[:5], "") + lines[5][:20],
		"an answer missing": strings.Join(lines[1:], ""),
		"job alone":         lines[10],
	} {
		if _, err := k.run(k.apply(), in); exit.Code(err) != exit.Malformed {
			t.Errorf("%s: %v", name, err)
		}
		k.expect("SELECT closed_at IS NULL FROM gbatch.jobs", "true")
		if again := k.must(k.pending(), ""); again != out {
			t.Errorf("%s: the batch is not printed again as it was", name)
		}
	}
	k.must(k.apply(), answers)
	k.right()
	// Applying all of it again changes nothing.
	before := k.rows("FROM embeddings ORDER BY ALL")
	k.must(k.apply(), answers)
	k.expect("FROM embeddings ORDER BY ALL", before)
	k.expect("SELECT count(*) FROM gbatch.failures", "0")
}

func TestSubmittedJobs(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks SELECT 'c' || i, 'text ' || i FROM range(10) t(i)")
	out := k.must(k.pending(func(p *Pending) { p.MaxRequests = 5 }), "")
	b := k.batches(out)
	if printed := k.must(k.apply(), k.jobLine(b[0].Batch, record.Queued, -1, 0)); !strings.Contains(printed, b[0].Batch) {
		t.Errorf("the job record is not passed on: %q", printed)
	}
	if left := k.batches(k.must(k.pending(), "")); len(left) != 1 || left[0].Batch != b[1].Batch {
		t.Errorf("a batch with a job is printed again: %v", left)
	}
	if jobs := k.must(&Jobs{Database: k.Database}, ""); strings.Count(jobs, "\n") != 1 || !strings.Contains(jobs, b[0].Batch) {
		t.Errorf("jobs-pending: %s", jobs)
	}
	// The record of gbatch-wait, also with SUCCEEDED, does not close a batch.
	k.must(k.apply(), k.jobLine(b[0].Batch, record.Succeeded, -1, 0))
	k.expect("SELECT state, closed_at IS NULL FROM gbatch.jobs ORDER BY batch LIMIT 1", "SUCCEEDED|true")
	// The chunks of a job that failed are pending again.
	if _, err := k.run(k.apply(), k.jobLine(b[1].Batch, record.Failed, 0, 0)); exit.Code(err) != exit.Partial {
		t.Errorf("got %v", err)
	}
	k.expect("SELECT state, error FROM gbatch.jobs ORDER BY batch DESC LIMIT 1", "FAILED|INTERNAL: Google's own reason")
	again := k.batches(k.must(k.pending(), ""))
	if len(again) != 1 || again[0].Count != 5 || again[0].Batch == b[1].Batch {
		t.Errorf("the chunks of the failed job came back as %v", again)
	}
	// The end of another job does not close this batch.
	other := strings.Replace(k.jobLine(b[0].Batch, record.Failed, 0, 0), `"batches/`, `"batches/x`, 1)
	if _, err := k.run(k.apply(), other); err == nil {
		t.Error("the failure of another job was taken for the batch's")
	}
}

func TestLargeBatchTakesSeveralTransactions(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks SELECT 'c' || i, 'text ' || i FROM range(25000) t(i)")
	out := k.must(k.pending(func(p *Pending) { p.MaxRequests = 100000 }), "")
	answers := k.answers(out)
	cut := answers[:len(answers)*9/10]
	cut = cut[:strings.LastIndexByte(cut, '\n')+1]
	if _, err := k.run(k.apply(), cut); exit.Code(err) != exit.Malformed {
		t.Errorf("got %v", err)
	}
	k.must(k.apply(), answers)
	k.right()
	k.expect("SELECT count(*), count(DISTINCT chunk_id) FROM embeddings", "25000|25000")
	if n := k.embed(); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestSpaces(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks VALUES ('a', 'one')")
	k.embed()
	for _, set := range []func(*Pending){
		func(p *Pending) { p.Dim = 8 },
		func(p *Pending) { p.Model = "gemini-embedding-2" },
		func(p *Pending) { p.TaskType = "CLUSTERING" },
	} {
		if _, err := k.run(k.pending(set), ""); exit.Code(err) != exit.Usage || !strings.Contains(err.Error(), "--embeddings NAME") {
			t.Errorf("got %v", err)
		}
		out := k.must(k.pending(set, func(p *Pending) { p.Embeddings = `other "one" ` + p.Model + p.TaskType + fmt.Sprint(p.Dim) }), "")
		all := k.batches(out)
		b := all[len(all)-1]
		if b.Count != 1 || (model.Space{Model: b.Model, Dim: b.Dim, TaskType: b.TaskType}) != k.pending(set).space() {
			t.Errorf("a space of its own got %v", b)
		}
	}
	if _, err := k.run(&Apply{Database: k.Database, MaxAttempts: 3, Embeddings: "elsewhere"}, k.jobLine(k.rows("SELECT min(batch) FROM gbatch.jobs"), record.Queued, 0, 0)); exit.Code(err) != exit.Usage {
		t.Errorf("got %v", err)
	}
}

func TestColumn(t *testing.T) {
	for _, key := range []string{"", " PRIMARY KEY"} {
		k := open(t, "CREATE TABLE chunks (id BIGINT"+key+", text VARCHAR, v FLOAT[4])", "INSERT INTO chunks (id, text) VALUES (1, 'one'), (2, 'two')")
		column := func(p *Pending) { p.Column = "v" }
		apply := k.apply()
		apply.Column = "v"
		k.must(apply, k.answers(k.must(k.pending(column), "")))
		k.sql("INSERT INTO chunks (id, text) VALUES (3, 'one')")
		if out := k.must(k.pending(column), ""); out != "" {
			t.Errorf("printed %s", out)
		}
		k.expect("SELECT count(*) FROM chunks c JOIN embeddings e ON e.chunk_id = c.id AND c.v = e.embedding", "3")
		k.sql("UPDATE chunks SET v = NULL WHERE id < 3")
		k.must(k.pending(column), "")
		k.expect("SELECT count(*) FROM chunks c JOIN embeddings e ON e.chunk_id = c.id AND c.v = e.embedding", "3")
		for _, name := range []string{"nothing", "text"} {
			if _, err := k.run(k.pending(func(p *Pending) { p.Column = name }), ""); exit.Code(err) != exit.Usage {
				t.Errorf("--column %s: %v", name, err)
			}
		}
	}
}

// If an updated column has an index, an UPDATE gives the row another rowid.
func TestColumnBesideAnIndex(t *testing.T) {
	k := open(t, "CREATE TABLE chunks (id BIGINT, text VARCHAR, embedding_status VARCHAR, v FLOAT[4])", "CREATE INDEX by_status ON chunks (embedding_status)",
		"INSERT INTO chunks (id, text) VALUES (1, 'one'), (2, 'two')")
	apply := k.apply()
	apply.Column = "v"
	for _, text := range []string{"one", "changed", "again"} {
		k.sql("UPDATE chunks SET text = '" + text + "' WHERE id = 1")
		k.must(apply, k.answers(k.must(k.pending(func(p *Pending) { p.Column = "v" }), "")))
		k.right()
		k.expect("SELECT count(*) FROM chunks c JOIN embeddings e ON e.chunk_id = c.id AND c.v = e.embedding WHERE embedding_status = 'READY'", "2")
	}
}

func TestSources(t *testing.T) {
	k := open(t, `CREATE TABLE "my docs" (id INTEGER, text VARCHAR)`, `INSERT INTO "my docs" VALUES (1, 'one'), (2, 'two')`,
		`CREATE VIEW v AS SELECT id, text, '' AS title, NULL::VARCHAR AS context FROM "my docs"`,
		"CREATE SCHEMA s", `CREATE TABLE s.t AS SELECT id AS ID, text AS Text FROM "my docs"`)
	for i, from := range []string{"my docs", "v", "s.t", `SELECT id, text FROM "my docs"`, `FROM v`, `(SELECT 7 AS id, 'x' AS text) UNION ALL SELECT 8, 'y'`} {
		e := fmt.Sprint("e", i)
		out := k.must(k.pending(func(p *Pending) { p.From, p.Embeddings = from, e }), "")
		if b := k.batches(out); len(b) != 1 || b[0].Count != 2 {
			t.Errorf("--from %s: %v", from, b)
		}
		k.must(k.apply(), k.answers(out))
		k.expect("SELECT count(*) FROM "+e, "2")
		k.expect("SELECT DISTINCT embedding_status FROM "+duck.Ident(e+"_status"), "READY")
	}
	for from, want := range map[string]string{
		"nowhere":                               "no table or view",
		"SELECT 1 AS id":                        "no column text",
		"SELECT 'a' AS text":                    "no column id",
		"SELECT 1.5 AS id, 'a' AS text":         "ids of type",
		"SELECT 1 AS id, 2 AS text":             "column text is INTEGER",
		"SELECT 1 AS id; DROP TABLE v":          "syntax error",
		"SELECT 1 AS id, 'a' AS text FROM gone": "gone",
		"SELECT NULL::VARCHAR AS id, 'a' AS text UNION ALL SELECT NULL, 'b'": "2 rows have no id",
		"SELECT '' AS id, 'a' AS text":                                       "no id",
		"SELECT 'x' AS id, 'a' AS text UNION ALL SELECT 'x', 'b'":            `id "x" occurs 2 times`,
		"SELECT 1 AS id, 'a' AS text, 3 AS title":                            "column title is INTEGER",
		"SELECT 1 AS id, 'a'::BLOB AS text":                                  "column text is BLOB",
		"SELECT error('boom') AS id, 'a' AS text":                            "boom",
		"SELECT id, text FROM read_parquet('no such file')":                  "no such file",
		"VALUES (1, 'a')": "no column id",
	} {
		_, err := k.run(k.pending(func(p *Pending) { p.From = from }), "")
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("--from %s: %v", from, err)
		}
	}
	k.expect("SELECT count(*) FROM v", "2")
}

func TestTextsThatCannotBeEmbedded(t *testing.T) {
	k := open(t, "CREATE TABLE chunks (id VARCHAR, text VARCHAR, context VARCHAR)",
		"INSERT INTO chunks VALUES ('empty', '', NULL), ('null', NULL, ''), ('context', '', 'embedded'), ('long', repeat('x', 17000000), NULL), ('ok', 'x', NULL), ('big', repeat('y', 5000000), NULL)")
	out := k.must(k.pending(), "")
	if b := k.batches(out); len(b) != 1 || b[0].Count != 3 {
		t.Fatalf("claimed %d batches", len(b))
	}
	k.expect(statuses, "big|QUEUED\ncontext|QUEUED\nempty|FAILED|the text is empty\nlong|FAILED|the text is longer than a line may be: 16 MiB\nnull|FAILED|the text is empty\nok|QUEUED")
	if again := k.must(k.pending(func(p *Pending) { p.RetryFailed = true }), ""); again != out {
		t.Error("a second run claims more")
	}
}

func TestAdd(t *testing.T) {
	k := &kb{t, duck.Database{DB: filepath.Join(t.TempDir(), "new.duckdb"), LockTimeout: time.Second}}
	add := &Add{Database: k.Database, Table: "chunks"}
	k.must(add, "")
	if _, err := os.Stat(k.DB); err == nil {
		t.Error("nothing to add made a database")
	}
	k.must(add, "\ufeff{\"id\":\"a\",\"text\":\"one\"}\r\n\n{\"text\":\"t\\u0077o\",\"id\":\"b\",\"extra\":[1],\"title\":\"T\"}\n{\"id\":7,\"text\":\"x\",\"context\":\"c\"}")
	k.expect("FROM chunks ORDER BY id", "7|x|c\na|one\nb|two|T")
	k.must(add, `{"id":"a","text":"changed"}`)
	k.expect("FROM chunks ORDER BY id", "7|x|c\na|changed\nb|two|T")
	for in, want := range map[string]string{
		`{"id":"z","text":"x"}` + "\n" + `{"id":"z","text":"y"}`: `line 2: id "z" was already on line 1`,
		`{"text":"x"}`:                                   "line 1: no id: a chunk has id and text",
		`{"id":"z","text":""}`:                           `line 1: key "z": the text is empty`,
		`{"id":"z"}`:                                     `line 1: key "z": no text`,
		`{"id":"z","text":5}`:                            `line 1: key "z": text is 5; it must be a string`,
		`{"id":1.5,"text":"x"}`:                          "line 1: the id is 1.5",
		`{"id":"z","text":"x"}` + "\n{nonsense":          "line 2: ",
		`{"id":"z","text":"` + "\xff" + `"}`:             "line 1: ",
		`{"id":"z","text":"x"}` + "\n" + `{"id":"y","te`: "line 2: ",
	} {
		_, err := k.run(add, in)
		if exit.Code(err) != exit.Malformed || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", in, err, want)
		}
	}
	k.expect("SELECT count(*) FROM chunks", "3")

	k.sql("CREATE TABLE numbers (id BIGINT PRIMARY KEY, text VARCHAR, embedding_status VARCHAR)")
	add.Table = "numbers"
	k.must(add, `{"id":1,"text":"one"}`+"\n"+`{"id":"2","text":"two"}`)
	for in, want := range map[string]string{
		`{"id":3,"text":"x"}` + "\n" + `{"id":"x","text":"x"}`: `line 2: id "x" is not a valid BIGINT`,
		`{"id":3,"text":"x","title":"T"}`:                      "no such column",
	} {
		if _, err := k.run(add, in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", in, err, want)
		}
	}
	k.sql("UPDATE numbers SET embedding_status = 'READY'")
	k.must(add, `{"id":1,"text":"one"}`+"\n"+`{"id":2,"text":"changed"}`)
	k.expect("FROM numbers ORDER BY id", "1|one|READY\n2|changed|PENDING")
}

func TestFilesThatAreNoDatabase(t *testing.T) {
	k := open(t, simple)
	dir := t.TempDir()
	for path, want := range map[string]string{
		dir:                        "is a directory",
		filepath.Join(dir, "none"): "does not exist",
		"schema.go":                "is not a DuckDB database",
	} {
		_, err := k.run(&Jobs{Database: duck.Database{DB: path}}, "")
		if exit.Code(err) != exit.Failed || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestNamesOfFiles(t *testing.T) {
	for _, name := range []string{"gbatch.duckdb", "Gbatch.db", "memory.duckdb", "temp", "select.duckdb", "it's my \"kb\".duckdb"} {
		k := &kb{t, duck.Database{DB: filepath.Join(t.TempDir(), name), LockTimeout: time.Second}}
		k.must(&Add{Database: k.Database, Table: "chunks"}, `{"id":"a","text":"one"}`)
		if n := k.embed(); n != 1 {
			t.Errorf("%s: %d requests", name, n)
		}
		k.right()
	}
}

func TestApplyToTheWrongDatabase(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks VALUES ('a', 'one')")
	in := k.vectorLine("b1", "a", vec("one"))
	if _, err := k.run(k.apply(), in); exit.Code(err) != exit.Failed {
		t.Errorf("got %v", err)
	}
	k.must(k.pending(), "")
	if _, err := k.run(k.apply(), in); err == nil || !strings.Contains(err.Error(), "was not claimed from") {
		t.Errorf("got %v", err)
	}
	if _, err := k.run(k.apply(), k.vectorLine("", "a", vec("one"))); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("got %v", err)
	}
}

// failing fails after n bytes, like a pipe whose reader has stopped.
type failing struct{ n int }

var errLeft = errors.New("the reader left")

func (f *failing) Write(p []byte) (int, error) {
	if f.n -= len(p); f.n < 0 {
		return 0, errLeft
	}
	return len(p), nil
}

func TestReaderThatLeavesLosesNothing(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks SELECT 'c' || i, 'text ' || i FROM range(1000) t(i)")
	p := k.pending(func(p *Pending) { p.MaxRequests = 100 })
	if err := p.Run(context.Background(), nil, &failing{5000}); !errors.Is(err, errLeft) {
		t.Fatal(err)
	}
	if n := k.embed(); n != 1000 {
		t.Errorf("%d requests", n)
	}
	k.right()
}

// A column called rowid would hide DuckDB's own rowid.
func TestColumnRowid(t *testing.T) {
	k := open(t, "CREATE TABLE chunks (id VARCHAR, text VARCHAR, rowid BIGINT)", "INSERT INTO chunks VALUES ('a', 'one', 1), ('b', 'two', 1)")
	if _, err := k.run(k.pending(), ""); err == nil || !strings.Contains(err.Error(), "its column rowid hides DuckDB's own") {
		t.Error(err)
	}
	from := func(p *Pending) { p.From = "SELECT id, text FROM chunks" }
	k.must(k.apply(), k.answers(k.must(k.pending(from), "")))
	k.expect(statuses, "a|READY\nb|READY")
}

// A chunk that is added again, or edited and edited back, keeps its vector.
func TestAddAgain(t *testing.T) {
	k := open(t, "CREATE TABLE chunks (id VARCHAR, text VARCHAR, title VARCHAR, embedding_status VARCHAR)")
	add := &Add{Database: k.Database, Table: "chunks"}
	const input = `{"id":"a","text":"one"}` + "\n" + `{"id":"b","text":"two"}`
	k.must(add, input)
	k.expect("SELECT id, embedding_status FROM chunks ORDER BY id", "a|PENDING\nb|PENDING")
	k.embed()
	k.sql("DELETE FROM chunks")
	k.must(add, input)
	k.expect("SELECT id, embedding_status FROM chunks ORDER BY id", "a|READY\nb|READY")
	k.must(add, `{"id":"a","text":"changed"}`)
	k.expect("SELECT id, embedding_status FROM chunks ORDER BY id", "a|PENDING\nb|READY")
	k.must(add, input)
	if n := k.embed(); n != 0 {
		t.Errorf("%d texts are paid for again", n)
	}
	k.right()
}

// Different ids that the table would store as one id are refused.
func TestAddOddIDs(t *testing.T) {
	k := open(t, "CREATE TABLE numbers (id INTEGER, text VARCHAR)", "CREATE TABLE uuids (id UUID, text VARCHAR)")
	const uuid = "F47AC10B-58cc-4372-a567-0e02b2c3d479"
	for in, want := range map[string]string{
		`{"id":"7.4","text":"x"}`: "numbers|line 1: id \"7.4\" is not a valid INTEGER",
		`{"id":"07","text":"x"}`:  "numbers|line 1: id \"07\" is not a valid INTEGER",
		`{"id":"1e3","text":"x"}`: "numbers|line 1: id \"1e3\" is not a valid INTEGER",
		`{"id":"` + uuid + `","text":"x"}` + "\n" + `{"id":"` + strings.ToLower(uuid) + `","text":"x"}`: "uuids|line 2: id ",
	} {
		table, want, _ := strings.Cut(want, "|")
		_, err := k.run(&Add{Database: k.Database, Table: table}, in)
		if exit.Code(err) != exit.Malformed || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", in, err)
		}
	}
	k.must(&Add{Database: k.Database, Table: "uuids"}, `{"id":"`+uuid+`","text":"x"}`)
	k.must(&Add{Database: k.Database, Table: "numbers"}, `{"id":-7,"text":"x"}`)
}

// Rows may get the id of another row after they were claimed …
func TestIDsThatBecomeOne(t *testing.T) {
	for _, from := range []string{"chunks", "SELECT * FROM chunks"} {
		k := open(t, "CREATE TABLE chunks (id VARCHAR, text VARCHAR)", "INSERT INTO chunks VALUES ('a', 'one'), ('b', 'two')")
		set := func(p *Pending) { p.From = from }
		out := k.must(k.pending(set), "")
		k.sql("INSERT INTO chunks VALUES ('a', 'one')")
		k.must(k.apply(), k.answers(out))
		k.expect("SELECT chunk_id FROM embeddings ORDER BY ALL", "a\nb")
		// Both rows have the vector of their text. As soon as one needs another, which
		// the other would lose, nothing is claimed.
		if out := k.must(k.pending(set), ""); out != "" {
			t.Errorf("claimed %s", out)
		}
		k.sql("UPDATE chunks SET text = 'three' WHERE rowid = 2")
		if out, err := k.run(k.pending(set), ""); exit.Code(err) != exit.Malformed || out != "" {
			t.Error(out, err)
		}
		k.expect("SELECT count(*) FROM gbatch.jobs", "1")
	}
	// … or between two rounds.
	k := open(t, "CREATE TABLE chunks AS SELECT 'c' || range AS id, 'text ' || range AS text FROM range(100)")
	p := k.pending(func(p *Pending) { p.From, p.Limit = "SELECT * FROM chunks", 1 })
	k.must(p, "")
	r := round{size: 10}
	for i := range 2 {
		err := k.transact(duck.Write, func(c *duck.Conn) error {
			_, err := p.claim(c, &r)
			return err
		})
		if (err == nil) != (i == 0) {
			t.Errorf("round %d: %v", i, err)
		}
		k.sql("INSERT INTO chunks VALUES ('c50', 'another')")
	}
}

// Vectors that came before their job failed belong to its space.
func TestSpaceOfAPart(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks (id, text) VALUES ('a', 'one'), ('b', 'two')")
	b := k.batches(k.must(k.pending(), ""))[0]
	k.run(k.apply(), k.vectorLine(b.Batch, "a", vec("one")))
	k.run(k.apply(), k.jobLine(b.Batch, record.Failed, 0, 0))
	_, err := k.run(k.pending(func(p *Pending) { p.Model = "gemini-embedding-2" }), "")
	if exit.Code(err) != exit.Usage || !strings.Contains(err.Error(), "two spaces cannot be compared") {
		t.Error(err)
	}
	if n := k.embed(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// DuckDB ignores case in names.
func TestCaseOfNames(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks (id, text) VALUES ('a', 'one')", "CREATE VIEW Chunk_Status AS SELECT 42 AS mine")
	k.must(k.apply(), k.answers(k.must(k.pending(), "")))
	k.expect("FROM chunk_status", "42")
	_, err := k.run(k.pending(func(p *Pending) { p.Embeddings = "Embeddings" }), "")
	if exit.Code(err) != exit.Usage || !strings.Contains(err.Error(), "exists as embeddings") {
		t.Error(err)
	}
}

// If an id is not allowed in a request, only its chunk fails.
func TestReservedID(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks (id, text) VALUES ('gbatch-canary:0:a', 'one'), ('b', 'one')")
	if n := k.embed(); n != 1 {
		t.Errorf("%d requests", n)
	}
	k.expect(statuses, "b|READY\ngbatch-canary:0:a|FAILED|ids that begin with gbatch-canary: are reserved")
	_, err := k.run(&Add{Database: k.Database, Table: "chunks"}, `{"id":"gbatch-canary:1:x","text":"x"}`)
	if exit.Code(err) != exit.Malformed {
		t.Error(err)
	}
}

// If the vector of a line is far too long, only its key has an error.
func TestVectorOutOfMeasure(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks (id, text) VALUES ('a', 'one'), ('b', 'two')")
	b := k.batches(k.must(k.pending(), ""))[0]
	in := k.vectorLine(b.Batch, "a", make([]float32, 3_000_000)) + k.vectorLine(b.Batch, "b", vec("two")) + k.jobLine(b.Batch, record.Succeeded, 2, 0)
	if _, err := k.run(k.apply(), in); exit.Code(err) != exit.Partial {
		t.Error(err)
	}
	k.expect("SELECT id, embedding_status FROM chunk_status ORDER BY id", "a|PENDING\nb|READY")
}

// A chunk is set back to PENDING, and another chunk with the same text gets a
// copy of the vector.
func TestSetBackBesideANewOne(t *testing.T) {
	k := open(t, "CREATE TABLE chunks (id VARCHAR, text VARCHAR, embedding_status VARCHAR)", "INSERT INTO chunks VALUES ('b', 'one', NULL), ('c', 'two', NULL)")
	k.embed()
	k.sql("UPDATE chunks SET embedding_status = 'PENDING' WHERE id = 'b'", "INSERT INTO chunks VALUES ('a', 'one', NULL)")
	if n := k.embed(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// Texts may move out of a part of the chunks. Their vectors are kept even if
// only that part is claimed.
func TestPartsOfATable(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks (id, text) VALUES ('a', 'one'), ('b', 'two'), ('z', 'three')")
	k.embed()
	k.sql("UPDATE chunks SET text = 'new' WHERE id = 'a'")
	out := k.must(k.pending(func(p *Pending) { p.From = "SELECT * FROM chunks WHERE id < 'm'" }), "")
	k.must(k.apply(), k.answers(out))
	k.sql("UPDATE chunks SET text = 'one' WHERE id = 'z'")
	k.must(k.pending(func(p *Pending) { p.From = "SELECT * FROM chunks WHERE id < 'm'" }), "")
	if n := k.embed(); n != 0 {
		t.Errorf("%d texts are paid for again", n)
	}
	k.right()
}

// Without --from, chunks-status uses the source that was claimed last.
func TestStatusOfAnotherTable(t *testing.T) {
	k := open(t, "CREATE TABLE mine (id BIGINT, text VARCHAR)", "INSERT INTO mine VALUES (1, 'one'), (2, '')")
	k.must(k.pending(func(p *Pending) { p.From = "mine" }), "")
	out := k.must(&Status{Database: k.Database, Embeddings: "embeddings"}, "")
	for _, want := range []string{`{"status":"QUEUED","chunks":1,`, `{"status":"FAILED","chunks":1,`} {
		if !strings.Contains(out, want) {
			t.Errorf("%s is not in %s", want, out)
		}
	}
}

func TestIsQuery(t *testing.T) {
	for from, want := range map[string]bool{
		"SELECT id, text FROM t": true, "select*from t;": true, "(SELECT 1)": true, "\n FROM t": true, "FROM 'x.parquet'": true, "from\"t\"": true,
		"with a as (select 1) from a": true, "VALUES (1, 'x')": true, "TABLE t": true,
		"chunks": false, "selected": false, "from": false, "with-dash": false, "from.chunks": false, "my docs": false, "": false, "table_2": false,
	} {
		if _, is := asQuery(from); is != want {
			t.Errorf("%q is a query: %v", from, !want)
		}
	}
	k := open(t, simple, "INSERT INTO chunks (id, text) VALUES ('a', 'one')")
	for _, from := range []string{"SELECT*FROM chunks;", "TABLE chunks ; ", "FROM chunks -- all of them;"} {
		k.must(k.pending(func(p *Pending) { p.From, p.DryRun = from, true }), "")
	}
}
