package store

import (
	"strings"
	"testing"

	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
)

const withStatus = "CREATE TABLE chunks (id VARCHAR PRIMARY KEY, text VARCHAR, embedding_status VARCHAR DEFAULT 'PENDING', error_message VARCHAR)"

// Only a PENDING that the user set asks for another vector. In each case the
// texts already have vectors, and the other changes cost the given number of
// requests.
func TestWishes(t *testing.T) {
	const fill = "INSERT INTO chunks (id, text) SELECT 'c' || i, 'text ' || i FROM range(6) t(i)"
	again := func(k *kb) { k.must(k.pending(), "") }
	for name, test := range map[string]struct {
		steps []any // statements, and functions of the test
		cost  int
	}{
		"a wish":                        {[]any{"UPDATE chunks SET embedding_status = 'PENDING' WHERE id = 'c1'"}, 1},
		"a wish, claimed later":         {[]any{again, "UPDATE chunks SET embedding_status = 'PENDING' WHERE id IN ('c1', 'c2')"}, 2},
		"edited, claimed, edited back":  {[]any{"UPDATE chunks SET text = 'new' WHERE id = 'c1'", again, "UPDATE chunks SET text = 'text 1' WHERE id = 'c1'"}, 0},
		"edited back by chunks-add":     {[]any{func(k *kb) { k.must(&Add{Database: k.Database, Table: "chunks"}, `{"id":"c1","text":"new"}`) }, "UPDATE chunks SET text = 'text 1' WHERE id = 'c1'"}, 0},
		"all rows inserted again":       {[]any{"DELETE FROM chunks", fill}, 0},
		"all rows and one more":         {[]any{"DELETE FROM chunks", "INSERT INTO chunks (id, text) VALUES ('new', 'text 3')", fill}, 0},
		"most rows inserted again":      {[]any{"DELETE FROM chunks", fill, "DELETE FROM chunks WHERE id IN ('c1', 'c2')"}, 0},
		"all rows replaced":             {[]any{"INSERT OR REPLACE INTO chunks (id, text) SELECT id, text FROM chunks"}, 0},
		"all replaced, in two rounds":   {[]any{"INSERT OR REPLACE INTO chunks (id, text) SELECT id, text FROM chunks", (*kb).claimByThrees}, 0},
		"one row inserted again":        {[]any{"DELETE FROM chunks WHERE id = 'c1'", "INSERT INTO chunks (id, text) VALUES ('c1', 'text 1')"}, 0},
		"half of the rows":              {[]any{"DELETE FROM chunks WHERE id < 'c3'", "INSERT INTO chunks (id, text) SELECT 'c' || i, 'text ' || i FROM range(3) t(i)"}, 0},
		"a table of the same name":      {[]any{"DROP TABLE chunks", withStatus, fill}, 0},
		"another order":                 {[]any{"CREATE OR REPLACE TABLE chunks AS FROM chunks ORDER BY id DESC", "UPDATE chunks SET embedding_status = 'PENDING' WHERE id < 'c4'"}, 0},
		"rows that changed their texts": {[]any{"UPDATE chunks SET text = CASE id WHEN 'c1' THEN 'text 2' WHEN 'c2' THEN 'text 1' ELSE text END, embedding_status = 'PENDING' WHERE id IN ('c1', 'c2')"}, 0},
		"another table of vectors": {[]any{func(k *kb) {
			other := func(p *Pending) { p.Embeddings = "other" }
			k.must(k.apply(), k.answers(k.must(k.pending(other), "")))
			k.sql("UPDATE chunks SET text = 'new' WHERE id = 'c1'")
			k.must(k.apply(), k.answers(k.must(k.pending(other), "")))
			k.sql("UPDATE chunks SET text = 'text 1' WHERE id = 'c1'")
		}}, 0},
		"a wish whose job failed": {[]any{"UPDATE chunks SET embedding_status = 'PENDING' WHERE id = 'c1'", func(k *kb) {
			k.run(k.apply(), k.jobLine(k.batches(k.must(k.pending(), ""))[0].Batch, "FAILED", 0, 0))
		}}, 1},
		"a wish for a text that is edited": {[]any{"UPDATE chunks SET embedding_status = 'PENDING', text = 'new' WHERE id = 'c1'", again, "UPDATE chunks SET text = 'text 1' WHERE id = 'c1'"}, 0},
		"the table of vectors":             {[]any{"DELETE FROM embeddings WHERE text_hash IN (SELECT text_hash FROM embeddings WHERE chunk_id = 'c1')"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			k := open(t, withStatus, fill)
			k.embed()
			for _, step := range test.steps {
				switch step := step.(type) {
				case string:
					k.sql(step)
				case func(*kb):
					step(k)
				}
			}
			// A batch that a step left open is given up.
			k.sql("DELETE FROM gbatch.items", "UPDATE gbatch.jobs SET closed_at = now() WHERE closed_at IS NULL")
			if n := k.embed(); n != test.cost {
				t.Errorf("%d requests, not %d", n, test.cost)
			}
			k.right()
			k.expect("SELECT DISTINCT embedding_status, error_message FROM chunks", "READY")
			if n := k.embed(); n != 0 {
				t.Errorf("%d requests in the next run", n)
			}
		})
	}
}

// claimByThrees runs chunks-pending with small rounds, and stops after the first
// round.
func (k *kb) claimByThrees() {
	p := k.pending()
	r := round{size: 3}
	err := k.transact(duck.Write, func(c *duck.Conn) error {
		if err := p.prepare(c); err != nil {
			return err
		}
		_, err := p.claim(c, &r)
		return err
	})
	if err != nil {
		k.Fatal(err)
	}
}

// The same with --column: a row that was deleted and inserted again has no
// vector in that column.
func TestWishesBesideAColumn(t *testing.T) {
	for change, cost := range map[string]int{
		"UPDATE chunks SET embedding_status = 'PENDING' WHERE id IN ('c1', 'c2')":                                                                      2,
		"UPDATE chunks SET embedding_status = 'PENDING'":                                                                                               6,
		"INSERT OR REPLACE INTO chunks (id, text) SELECT id, text FROM chunks":                                                                         0,
		"INSERT OR REPLACE INTO chunks (id, text) VALUES ('c1', 'text 1'), ('c2', 'text 2')":                                                           0,
		"DELETE FROM chunks WHERE id < 'c3'; INSERT INTO chunks (id, text) SELECT 'c' || i, 'text ' || i FROM range(3) t(i)":                           0,
		"CREATE OR REPLACE TEMP TABLE old AS FROM chunks; DELETE FROM chunks; INSERT INTO chunks (id, text) SELECT id, text FROM old ORDER BY id DESC": 0,
	} {
		k := open(t, strings.Replace(withStatus, ")", ", v FLOAT[4])", 1), "INSERT INTO chunks (id, text) SELECT 'c' || i, 'text ' || i FROM range(6) t(i)")
		column := func(p *Pending) { p.Column = "v" }
		k.must(k.apply(), k.answers(k.must(k.pending(column), ""))) // --column is remembered
		k.sql(change)
		out := k.must(k.pending(column), "")
		n := 0
		for _, b := range k.batches(out) {
			n += b.Count
		}
		if n != cost {
			t.Errorf("%s: %d requests, not %d", change, n, cost)
		}
		k.must(k.apply(), k.answers(out))
		k.right()
		k.expect("SELECT count(*) FROM chunks c JOIN embeddings e ON e.chunk_id = c.id AND c.v = e.embedding WHERE embedding_status = 'READY'", "6")
	}
}

// Whatever the courtesy columns hold, chunks-pending corrects them.
func TestCourtesyIsReconciled(t *testing.T) {
	k := open(t, strings.Replace(withStatus, ")", ", v FLOAT[])", 1), "INSERT INTO chunks (id, text) SELECT 'c' || i, 'text ' || i FROM range(6) t(i)")
	column := func(p *Pending) { p.Column = "v" }
	k.must(k.apply(), k.answers(k.must(k.pending(column), "")))
	right := func(want string) {
		t.Helper()
		k.expect("SELECT id, c.embedding_status, c.error_message FROM chunks c JOIN chunk_status s USING (id) WHERE c.embedding_status <> CASE s.embedding_status WHEN 'QUEUED' THEN 'PENDING' ELSE s.embedding_status END OR c.error_message IS DISTINCT FROM s.error_message", "")
		k.expect("SELECT count(*) FROM chunks c JOIN embeddings e ON e.chunk_id = c.id AND c.v = e.embedding::FLOAT[] WHERE embedding_status = 'READY'", want)
	}
	for _, test := range []struct{ change, want string }{
		{"UPDATE chunks SET embedding_status = 'FAILED', error_message = 'by hand' WHERE id = 'c1'", "6"},
		{"UPDATE chunks SET embedding_status = NULL", "6"},
		{"UPDATE chunks SET error_message = 'left'", "6"},
		{"UPDATE chunks SET v = NULL WHERE id = 'c2'", "6"},
		{"DELETE FROM gbatch.noted; UPDATE chunks SET v = [1, 2, 3, 4]", "6"}, // as an older version leaves it
		{"UPDATE chunks SET text = 'text 1' WHERE id = 'c2'", "6"},
		{"UPDATE chunks SET text = 'text 2' WHERE id = 'c2'; DELETE FROM embeddings WHERE chunk_id = 'c2'", "6"},
		{"INSERT INTO chunks VALUES ('new', 'text 3', 'READY', 'odd', [0, 0, 0, 0]) ON CONFLICT DO NOTHING;", "7"},
	} {
		k.sql(test.change)
		k.must(k.pending(column), "")
		if test.want == "7" {
			right(test.want)
			k.sql("DELETE FROM chunks WHERE id = 'new'")
		} else {
			right(test.want)
		}
	}
	// A chunk whose text is in flight for another chunk is not READY, and does
	// not become READY without a message.
	k.sql("INSERT INTO chunks (id, text) VALUES ('other', 'in flight')")
	out := k.must(k.pending(column), "")
	k.sql("UPDATE chunks SET text = 'in flight' WHERE id = 'c5'")
	k.must(k.pending(column), "")
	right("5")
	k.must(k.apply(), k.answers(out))
	k.must(k.pending(column), "")
	right("7")
	// A text is edited, and the batch that vectors-apply applies was claimed
	// without --column.
	k.sql("UPDATE chunks SET text = 'edited' WHERE id = 'c4'")
	k.must(k.apply(), k.answers(k.must(k.pending(), "")))
	k.must(k.pending(column), "")
	right("7")
}

// If DuckDB refuses to write a courtesy column, the vectors are still stored.
func TestTheEssentialFirst(t *testing.T) {
	for name, test := range map[string]struct{ break_, mend string }{
		"a constraint":         {"CREATE TABLE old AS FROM chunks; DROP TABLE chunks; CREATE TABLE chunks (id VARCHAR, text VARCHAR, embedding_status VARCHAR CHECK (embedding_status <> 'READY'), error_message VARCHAR, v FLOAT[4]); INSERT INTO chunks FROM old", "CREATE OR REPLACE TABLE chunks AS FROM chunks"},
		"a foreign key":        {"CREATE TABLE tags (chunk VARCHAR REFERENCES chunks (id)); INSERT INTO tags VALUES ('b')", "DROP TABLE tags"},
		"a column was dropped": {"ALTER TABLE chunks DROP COLUMN v", "ALTER TABLE chunks ADD COLUMN v FLOAT[4]"},
		"another type":         {"ALTER TABLE chunks ALTER v TYPE VARCHAR", "ALTER TABLE chunks DROP v; ALTER TABLE chunks ADD COLUMN v FLOAT[4]"},
	} {
		t.Run(name, func(t *testing.T) {
			k := open(t, strings.Replace(withStatus, ")", ", v FLOAT[4])", 1), "INSERT INTO chunks (id, text) VALUES ('a', 'one'), ('b', 'two'), ('c', 'three')")
			column := func(p *Pending) { p.Column = "v" }
			out := k.must(k.pending(column), "")
			k.sql(strings.Split(test.break_, "; ")...)
			b := k.batches(out)[0].Batch
			in := strings.Replace(k.answers(out), k.vectorLine(b, "c", vec("three")), k.errorLine(b, "c", 3, "no good"), 1)
			in = strings.Replace(in, k.jobLine(b, "SUCCEEDED", 3, 0), k.jobLine(b, "SUCCEEDED", 2, 1), 1)
			if _, err := k.run(k.apply(), in); exit.Code(err) != exit.Partial || !strings.Contains(err.Error(), "courtesy columns of 1 batches") {
				t.Error(err)
			}
			k.expect("SELECT count(*) FROM gbatch.jobs WHERE closed_at IS NULL", "0")
			k.expect(statuses, "a|READY\nb|READY\nc|FAILED|no good")
			k.sql(strings.Split(test.mend, "; ")...)
			if out := k.must(k.pending(column), ""); out != "" {
				t.Errorf("paid for again: %s", out)
			}
			k.expect("SELECT id, embedding_status, error_message, v = embedding FROM chunks LEFT JOIN embeddings ON chunk_id = id ORDER BY id", "a|READY|true\nb|READY|true\nc|FAILED|no good")
		})
	}
}
