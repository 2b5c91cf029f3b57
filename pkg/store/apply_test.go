package store

import (
	"fmt"
	"strings"
	"testing"

	"gbatch/pkg/exit"
	"gbatch/pkg/record"
)

// A vector is stored even if no chunk has its text at that moment, and costs
// nothing when a chunk has the text again.
func TestTextsThatAreAway(t *testing.T) {
	for name, test := range map[string]struct{ from, away, back string }{
		"a window":         {"SELECT * FROM chunks ORDER BY id LIMIT 3", "INSERT INTO chunks VALUES ('a', 'a'), ('b', 'b')", "DELETE FROM chunks WHERE id IN ('a', 'b')"},
		"a filter":         {"SELECT * FROM chunks WHERE text <> 'x'", "UPDATE chunks SET text = 'x' WHERE id = 'd'", "UPDATE chunks SET text = 'd' WHERE id = 'd'"},
		"a view":           {"shown", "DELETE FROM chunks WHERE id < 'f'", "INSERT INTO chunks VALUES ('d', 'd'), ('e', 'e')"},
		"an edit":          {"chunks", "UPDATE chunks SET text = 'new' WHERE id = 'd'", "UPDATE chunks SET text = 'd' WHERE id = 'd'"},
		"a deleted row":    {"chunks", "DELETE FROM chunks WHERE id = 'e'", "INSERT INTO chunks VALUES ('e', 'e')"},
		"all rows":         {"chunks", "DELETE FROM chunks", "INSERT INTO chunks VALUES ('1', 'd'), ('2', 'e'), ('3', 'f')"},
		"equal texts":      {"SELECT id, 'same' AS text FROM chunks", "CREATE TABLE kept AS FROM chunks; DELETE FROM chunks", "INSERT INTO chunks FROM kept"},
		"another spelling": {"main.chunks", "UPDATE chunks SET id = id || 'x', text = text || 'x'", "UPDATE chunks SET text = id[1]"},
	} {
		t.Run(name, func(t *testing.T) {
			k := open(t, simple, "INSERT INTO chunks VALUES ('d', 'd'), ('e', 'e'), ('f', 'f')", "CREATE VIEW shown AS FROM chunks")
			from := func(p *Pending) { p.From = test.from }
			out := k.must(k.pending(from), "")
			requests := k.batches(out)[0].Count
			k.sql(test.away)
			answers := k.answers(out)
			k.must(k.apply(), answers)
			k.expect(fmt.Sprintf("SELECT count(*) = %[1]d, count(DISTINCT text_hash) = %[1]d FROM embeddings", requests), "true|true")
			k.sql(test.back)
			if out := k.must(k.pending(from), ""); out != "" {
				t.Errorf("paid for again: %s", out)
			}
			k.expect("SELECT DISTINCT embedding_status FROM chunk_status", "READY")
			k.expect("SELECT count(*) FROM embeddings WHERE chunk_id IS NULL", "0")
		})
	}
}

// If one source lost a text and another waits for it, the text is paid for once.
func TestTextThatMovesToAnotherSource(t *testing.T) {
	k := open(t, "CREATE TABLE one (id VARCHAR, text VARCHAR)", "CREATE TABLE two (id VARCHAR, text VARCHAR)", "INSERT INTO one VALUES ('a', 'T')", "INSERT INTO two VALUES ('b', 'T')")
	from := func(name string) func(*Pending) { return func(p *Pending) { p.From = name } }
	out := k.must(k.pending(from("one")), "")
	k.sql("UPDATE one SET text = 'U'")
	k.must(k.apply(), k.answers(out))
	if again := k.must(k.pending(from("two")), ""); again != "" {
		t.Errorf("claimed %s", again)
	}
	k.expect(statuses, "b|READY")
	// The vector is kept when the second source loses the text too.
	k.sql("UPDATE two SET text = 'V'")
	for _, name := range []string{"one", "two"} {
		k.must(k.apply(), k.answers(k.must(k.pending(from(name)), "")))
	}
	k.sql("UPDATE one SET text = 'T'")
	if again := k.must(k.pending(from("one")), ""); again != "" {
		t.Errorf("claimed %s", again)
	}
	k.expect("SELECT count(*), count(DISTINCT text_hash) FROM embeddings", "3|3")
}

// If a batch cannot be applied, the other batches are applied.
func TestBatchesThatCannotBeApplied(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks SELECT 'c' || i, 'text ' || i FROM range(6) t(i)")
	out := k.must(k.pending(func(p *Pending) { p.MaxRequests = 2 }), "")
	b := k.batches(out)
	answers := k.answers(out)
	unknown := k.vectorLine("bUNKNOWN", "a", vec("a")) + k.jobLine("bUNKNOWN", record.Succeeded, 1, 0)
	other := strings.Replace(k.jobLine(b[2].Batch, record.Failed, 0, 0), `"batches/`, `"batches/x`, 1)
	k.must(k.apply(), k.jobLine(b[2].Batch, record.Queued, -1, 0))
	printed, err := k.run(k.apply(), unknown+other+answers)
	if exit.Code(err) != exit.Failed || !strings.Contains(err.Error(), "bUNKNOWN") {
		t.Error(err)
	}
	if strings.Contains(printed, "UNKNOWN") || strings.Count(printed, "\n") != 2 {
		t.Errorf("printed %s", printed)
	}
	k.expect("SELECT count(*) FROM gbatch.jobs WHERE closed_at IS NOT NULL", "2")
	k.must(k.apply(), answers)
	k.right()
}

// If a source cannot be read any more, its vectors are stored, and are given to
// its chunks as soon as the source can be read again.
func TestSourcesThatAreGone(t *testing.T) {
	for name, test := range map[string]struct{ gone, now string }{
		"renamed":            {"ALTER TABLE chunks RENAME TO renamed", "renamed"},
		"dropped":            {"CREATE TABLE renamed AS FROM chunks; DROP TABLE chunks", "renamed"},
		"without its text":   {"ALTER TABLE chunks RENAME COLUMN text TO body", "SELECT id, body AS text FROM chunks"},
		"with an odd id":     {"ALTER TABLE chunks ALTER id TYPE DATE USING '2026-11-01'::DATE + substr(id, 2)::INT", "SELECT 'c' || (id - '2026-11-01'::DATE) AS id, text FROM chunks"},
		"failing when read":  {"CREATE TABLE renamed AS FROM chunks; DROP TABLE chunks; CREATE VIEW chunks AS SELECT id, error('cannot be read')::VARCHAR AS text FROM renamed", "renamed"},
		"a name hides rowid": {"ALTER TABLE chunks ADD COLUMN rowid BIGINT", "SELECT id, text FROM chunks"},
	} {
		t.Run(name, func(t *testing.T) {
			k := open(t, simple, "INSERT INTO chunks SELECT 'c' || i, 'text ' || i % 4 FROM range(5) t(i)", "CREATE TABLE other (id VARCHAR, text VARCHAR)", "INSERT INTO other VALUES ('o', 'other')")
			first := k.must(k.pending(), "")
			all := k.must(k.pending(func(p *Pending) { p.From = "other" }), "")
			k.sql(test.gone)
			b := k.batches(first)[0].Batch
			in := strings.Replace(k.answers(all), k.vectorLine(b, "c3", vec("text 3")), k.errorLine(b, "c3", 3, "no good"), 1)
			in = strings.Replace(in, k.jobLine(b, record.Succeeded, 4, 0), k.jobLine(b, record.Succeeded, 3, 1), 1)
			if _, err := k.run(k.apply(), in); exit.Code(err) != exit.Partial {
				t.Error(err)
			}
			k.expect("SELECT count(*) FROM gbatch.jobs WHERE closed_at IS NULL", "0")
			k.expect("SELECT count(*), count(DISTINCT text_hash) FROM embeddings", "4|4")
			if out := k.must(k.pending(func(p *Pending) { p.From = test.now }), ""); out != "" {
				t.Errorf("paid for again: %s", out)
			}
			k.expect(statuses, "c0|READY\nc1|READY\nc2|READY\nc3|FAILED|no good\nc4|READY")
		})
	}
}

// A vector that comes for a batch that was given up is not dropped without a
// warning.
func TestVectorsOfABatchThatWasGivenUp(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks VALUES ('a', 'one')")
	out := k.must(k.pending(), "")
	k.run(k.apply(), k.jobLine(k.batches(out)[0].Batch, record.Failed, 0, 0))
	if _, err := k.run(k.apply(), k.answers(out)); exit.Code(err) != exit.Partial || !strings.Contains(err.Error(), "1 answers were dropped") {
		t.Error(err)
	}
}

// A table of vectors that was dropped while a job was active is made again, also
// if the chunks are away.
func TestVectorsTableDropped(t *testing.T) {
	for name, with := range map[string][]string{
		"the chunks are there": {"DROP VIEW chunk_status", "DROP TABLE embeddings"},
		"they are away":        {"DROP VIEW chunk_status", "DROP TABLE embeddings", "ALTER TABLE chunks RENAME TO away"},
	} {
		t.Run(name, func(t *testing.T) {
			k := open(t, "CREATE TABLE chunks (id BIGINT, text VARCHAR)", "INSERT INTO chunks SELECT i, 'text ' || i FROM range(3) t(i)")
			out := k.must(k.pending(), "")
			k.sql(with...)
			if _, err := k.run(k.apply(), k.answers(out)); len(with) == 2 && err != nil || len(with) > 2 && exit.Code(err) != exit.Partial {
				t.Error(err)
			}
			k.expect("SELECT count(*) FROM embeddings", "3")
			k.expect("SELECT count(*) FROM gbatch.jobs WHERE closed_at IS NULL", "0")
			if len(with) > 2 {
				k.sql("ALTER TABLE away RENAME TO chunks")
			}
			if out := k.must(k.pending(), ""); out != "" {
				t.Errorf("paid for again: %s", out)
			}
			k.expect(statuses, "0|READY\n1|READY\n2|READY")
		})
	}
}
