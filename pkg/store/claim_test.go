package store

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
	"gbatch/pkg/model"
)

// paid runs the commands in a pipe, with an answer for every text, and returns
// the number of requests.
func (k *kb) paid(set ...func(*Pending)) int {
	k.Helper()
	out := k.must(k.pending(set...), "")
	n := 0
	if out != "" {
		k.must(k.apply(), k.answers(out))
		for _, b := range k.batches(out) {
			n += b.Count
		}
	}
	return n
}

func clustering(p *Pending) { p.TaskType = "CLUSTERING" }

// A title is a part of the hash only if the request contains it.
func TestTitlesThatAreNotSent(t *testing.T) {
	k := open(t, "CREATE TABLE chunks (id VARCHAR, text VARCHAR, title VARCHAR, embedding_status VARCHAR)",
		"INSERT INTO chunks SELECT 'c' || i, 'text', 'Title ' || i, NULL FROM range(5) t(i)", "INSERT INTO chunks VALUES ('none', 'text', NULL, NULL), ('other', 'another', 'Title 1', NULL)")
	out := k.must(k.pending(clustering), "")
	if strings.Contains(out, "Title") || k.batches(out)[0].Count != 2 {
		t.Errorf("claimed %s", out)
	}
	k.must(k.apply(), k.answers(out))
	k.right()
	k.sql("UPDATE chunks SET title = 'edited' WHERE id = 'c0'")
	k.right()
	k.must(&Add{Database: k.Database, Table: "chunks"}, `{"id":"c1","text":"text","title":"edited"}`+"\n"+`{"id":"new","text":"text","title":"T"}`)
	k.expect("SELECT embedding_status FROM chunks WHERE id = 'c1'", "READY")
	if status := k.must(&Status{Database: k.Database, Embeddings: "embeddings"}, ""); !strings.Contains(status, `{"status":"READY","chunks":7,`) {
		t.Errorf("status: %s", status)
	}
	ready := 0
	err := Each(context.Background(), &k.Database, "chunks", "embeddings", func(c Chunk) error {
		if c.Status == "READY" {
			ready++
		}
		return nil
	})
	if ready != 7 || err != nil {
		t.Errorf("%d chunks are ready: %v", ready, err)
	}
	if n := k.paid(clustering); n != 0 {
		t.Errorf("%d requests for titles that are not sent", n)
	}
	k.right()
	// In a table of another space, the hashes of the same chunks include their
	// titles.
	documents := func(p *Pending) { p.Embeddings = "documents" }
	if n := k.paid(documents); n != 7 {
		t.Errorf("%d requests for 7 titles and texts", n)
	}
	k.sql("UPDATE chunks SET title = 'edited again' WHERE id = 'c0'")
	if n := k.paid(documents); n != 1 {
		t.Errorf("%d requests for an edited title that is sent", n)
	}
}

// older changes a database to what an older version left: hashes with the title
// in every space, the title in the outbox, and no comment on the table of
// vectors.
func (k *kb) older() {
	k.Helper()
	const hash = "md5_number(concat(strlen(coalesce(title, '')), ':', coalesce(title, ''), text))"
	k.sql("COMMENT ON TABLE embeddings IS NULL",
		"UPDATE embeddings AS e SET text_hash = "+hash+" FROM chunks c WHERE c.id = e.chunk_id",
		"UPDATE gbatch.failures AS f SET text_hash = "+hash+" FROM chunks c WHERE c.id = f.chunk_id",
		`CREATE TABLE older AS SELECT i.batch, i.seq, i.chunk_id, c.title, c.text, `+strings.NewReplacer("title", "c.title", "text", "c.text").Replace(hash)+` AS text_hash FROM gbatch.items i JOIN chunks c ON c.id = i.chunk_id`,
		"DELETE FROM gbatch.items",
		"INSERT INTO gbatch.items SELECT batch, seq, chunk_id, CASE WHEN n = 1 THEN title END, CASE WHEN n = 1 THEN text END, text_hash, n > 1 FROM (SELECT *, row_number() OVER (PARTITION BY batch, text_hash ORDER BY seq) AS n FROM older)",
		"DROP TABLE older",
		"UPDATE gbatch.jobs SET requests = (SELECT count(*) FROM gbatch.items i WHERE i.batch = jobs.batch AND NOT twin) WHERE closed_at IS NULL")
}

func TestHashesOfAnOlderVersion(t *testing.T) {
	for _, first := range []string{"vectors-apply", "chunks-pending"} {
		k := open(t, "CREATE TABLE chunks (id VARCHAR, text VARCHAR, title VARCHAR)",
			"INSERT INTO chunks VALUES ('stored', 'one', 'T'), ('failed', 'two', 'T'), ('untitled', 'three', NULL)")
		b := k.batches(k.must(k.pending(clustering), ""))[0]
		k.run(k.apply(), k.vectorLine(b.Batch, "stored", vec("one"))+k.errorLine(b.Batch, "failed", 3, "refused")+k.vectorLine(b.Batch, "untitled", vec("three"))+k.jobLine(b.Batch, "SUCCEEDED", 2, 1))
		k.sql("INSERT INTO chunks VALUES ('x1', 'out', 'T1'), ('x2', 'out', 'T2'), ('x3', 'out', NULL), ('x4', 'out', 'T1'), ('y', 'alone', 'T')")
		k.must(k.pending(clustering), "")
		k.older()
		before := k.rows("SELECT batch, title, text FROM gbatch.items WHERE NOT twin ORDER BY seq")
		out := ""
		if first == "chunks-pending" {
			out = k.must(k.pending(clustering), "")
			if again := k.must(k.pending(clustering), ""); again != out || k.batches(out)[0].Count != 4 || len(k.batches(out)) != 1 {
				t.Errorf("a claimed batch is printed as\n%s, then\n%s", out, again)
			}
			k.expect("SELECT batch, title, text FROM gbatch.items WHERE NOT twin ORDER BY seq", before)
		}
		open := k.rows("SELECT batch FROM gbatch.jobs WHERE closed_at IS NULL")
		in := ""
		for id, text := range map[string]string{"x1": "out", "x2": "out", "x3": "out", "y": "alone"} {
			in += k.vectorLine(open, id, vec(text))
		}
		k.must(k.apply(), in+k.jobLine(open, "SUCCEEDED", 4, 0))
		k.expect("SELECT id, embedding_status FROM (SELECT chunk_id AS id, 'READY' AS embedding_status FROM embeddings WHERE chunk_id IS NOT NULL) ORDER BY id", "stored|READY\nuntitled|READY\nx1|READY\nx2|READY\nx3|READY\nx4|READY\ny|READY")
		if n := k.paid(clustering); n != 0 {
			t.Errorf("%s first: %d requests are paid for again", first, n)
		}
		k.expect("SELECT id, embedding_status FROM chunk_status WHERE embedding_status <> 'READY'", "failed|FAILED")
		k.sql("DELETE FROM chunks WHERE id = 'failed'")
		k.right()
	}
	// If the title is sent, nothing changes.
	k := open(t, "CREATE TABLE chunks (id VARCHAR, text VARCHAR, title VARCHAR)", "INSERT INTO chunks VALUES ('a', 'one', 'T'), ('b', 'two', NULL)")
	k.paid()
	k.older()
	if n := k.paid(); n != 0 {
		t.Errorf("%d requests are paid for again", n)
	}
}

// If a query gives other rows each time it is read, nothing is claimed. Other
// sources are still claimed.
func TestSourcesThatChange(t *testing.T) {
	k := open(t, "CREATE TABLE t AS SELECT range AS id, 'text ' || range AS text FROM range(1000)", simple, "INSERT INTO chunks VALUES ('a', 'one')",
		"CREATE VIEW random_view AS SELECT id, text || random() AS text FROM t")
	for _, from := range []string{
		"SELECT id, text FROM t USING SAMPLE 10 ROWS",
		"SELECT id, text FROM t WHERE random() < 0.5",
		"SELECT id, text || random() AS text FROM t",
		"SELECT id, CASE WHEN id = 500 THEN uuid()::VARCHAR ELSE text END AS text FROM t",
		"SELECT uuid() AS id, text FROM t",
		"SELECT uuid()::VARCHAR AS id, text FROM t",
		"SELECT CASE WHEN id = 500 THEN 2000 + (random() * 1e9)::INT ELSE id END AS id, 'one text' AS text FROM t",
		"random_view",
	} {
		_, err := k.run(k.pending(func(p *Pending) { p.From, p.Embeddings = from, "e" }), "")
		if exit.Code(err) != exit.Malformed || !strings.Contains(err.Error(), "--from "+from+" gives other rows or texts each time it is read (for example for id ") {
			t.Errorf("--from %s: %v", from, err)
		}
		k.expect("SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'gbatch'", "0")
	}
	if n := k.paid(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// A query is read once, and its chunks are claimed in rounds. What changes in between
// does not change what was read; what is claimed in between is not claimed again.
func TestRoundsOfAQuery(t *testing.T) {
	k := open(t, "CREATE TABLE t AS SELECT range AS id, 'text ' || range % 900 AS text, if(range % 2 = 0, 'title', NULL) AS title FROM range(1000)")
	p := k.pending(func(p *Pending) { p.From, p.MaxRequests = "SELECT * FROM t ORDER BY id DESC", 100 })
	c, err := p.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer p.End()
	defer c.Close()
	rounds := 0
	for r := (round{size: 300}); !r.last; rounds++ {
		err := transactOn(c, &p.Database, duck.Write, func(c *duck.Conn) error {
			if !r.read {
				if err := p.prepare(c); err != nil {
					return err
				}
			}
			_, err := p.claim(c, &r)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		c.Detach()
		if rounds == 0 {
			// Another run claims some of the chunks, and the source changes.
			k.must(k.pending(func(p *Pending) { p.From = "SELECT * FROM t WHERE id BETWEEN 150 AND 199" }), "")
			k.sql("UPDATE t SET text = 'other' WHERE id BETWEEN 100 AND 109")
		}
	}
	// The ids from 900 have the texts of those below 100, and the same titles.
	if rounds < 3 {
		t.Errorf("%d rounds", rounds)
	}
	k.expect("SELECT count(DISTINCT text_hash), count(DISTINCT chunk_id) FROM gbatch.items WHERE NOT twin", "900|900")
	k.expect("SELECT count(*) FROM gbatch.items WHERE text = 'other'", "0")
	if n := k.paid(func(p *Pending) { p.From = "SELECT * FROM t ORDER BY id DESC" }); n != 902 {
		t.Errorf("%d requests for 900 texts and 2 that changed", n)
	}
	if n := k.paid(func(p *Pending) { p.From = "SELECT * FROM t ORDER BY id DESC" }); n != 0 {
		t.Errorf("%d requests more", n)
	}
	k.expect("SELECT count(*) FROM embeddings WHERE chunk_id IS NOT NULL", "1000")
}

// If embedding_status has an index, an UPDATE moves its rows to the end of the
// table, and within its own transaction far beyond that.
func TestRoundsOfRowsThatMove(t *testing.T) {
	k := open(t, "CREATE TABLE chunks (id BIGINT, text VARCHAR, embedding_status VARCHAR)", "CREATE INDEX by_status ON chunks (embedding_status)",
		"INSERT INTO chunks SELECT range, 'text ' || range, NULL FROM range(7000)")
	if dry := k.must(k.pending(func(p *Pending) { p.DryRun = true }), ""); !strings.HasPrefix(dry, `{"requests":7000,`) {
		t.Errorf("a dry run: %s", dry)
	}
	var lows []int64
	rounds := func(r round, prepare bool) {
		t.Helper()
		p := k.pending()
		for lows = nil; !r.last; prepare = false {
			err := k.transact(duck.Write, func(c *duck.Conn) error {
				if prepare {
					if err := p.prepare(c); err != nil {
						return err
					}
				}
				_, err := p.claim(c, &r)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			lows = append(lows, r.low)
		}
	}
	rounds(round{size: 3000}, true)
	k.expect("SELECT count(*), count(DISTINCT chunk_id) FROM gbatch.items", "7000|7000")
	if lows[0] != 3000 {
		t.Errorf("the rounds ended at the rows %v", lows)
	}
	// The rows of a round move when they are claimed. The next round continues.
	k.sql("INSERT INTO chunks SELECT range, 'text ' || range, NULL FROM range(7000, 12000)")
	low := k.rows("SELECT min(rowid) FROM chunks WHERE id = 7000")
	rounds(round{size: 2000}, false)
	k.expect("SELECT count(*), count(DISTINCT chunk_id) FROM gbatch.items", "12000|12000")
	for i := range lows[:len(lows)-1] {
		if i > 0 && lows[i] <= lows[i-1] {
			t.Errorf("from row %s, the rounds ended at the rows %v", low, lows)
		}
	}
}

// If a batch cannot be sent, the other batches are printed.
func TestBatchesThatCannotBeSent(t *testing.T) {
	for name, damage := range map[string]string{
		"items are missing":     "DELETE FROM gbatch.items WHERE seq = 13",
		"all items are missing": "DELETE FROM gbatch.items WHERE seq BETWEEN 11 AND 20",
		"no range":              "UPDATE gbatch.jobs SET first_seq = NULL, last_seq = NULL WHERE first_seq = 11",
		"an invalid name":       "UPDATE gbatch.jobs SET model = 'gemini/x' WHERE first_seq = 11",
		"a dim out of range":    "UPDATE gbatch.jobs SET dim = 0 WHERE first_seq = 11",
		"an unknown task type":  "UPDATE gbatch.jobs SET task_type = 'NONE' WHERE first_seq = 11",
	} {
		k := open(t, simple, "INSERT INTO chunks SELECT 'c' || i, 'text ' || i FROM range(30) t(i)")
		ten := func(p *Pending) { p.MaxRequests = 10 }
		all := k.batches(k.must(k.pending(ten), ""))
		k.sql(damage, "CREATE TABLE other AS SELECT 'o' AS id, 'other' AS text")
		out, err := k.run(k.pending(func(p *Pending) { p.From, p.Embeddings = "other", "e" }), "")
		if exit.Code(err) != exit.Partial || !strings.Contains(err.Error(), "1 batches that were claimed before cannot be sent") {
			t.Errorf("%s: %v", name, err)
		}
		var got []string
		for _, b := range k.batches(out) {
			got = append(got, fmt.Sprintf("%s %d", b.Batch, b.Count))
		}
		if len(got) != 3 || got[0] != all[0].Batch+" 10" || got[1] != all[2].Batch+" 10" || !strings.HasSuffix(got[2], " 1") {
			t.Errorf("%s: printed %v", name, got)
		}
	}
}

// Under a collation, two different ids or texts may compare as equal.
func TestCollations(t *testing.T) {
	for _, from := range []string{"chunks", "SELECT * FROM chunks"} {
		k := open(t, "CREATE TABLE chunks (id VARCHAR COLLATE NOCASE, text VARCHAR COLLATE NOCASE, title VARCHAR COLLATE NOCASE, context VARCHAR COLLATE NOACCENT, embedding_status VARCHAR COLLATE NOCASE, v FLOAT[4])",
			"INSERT INTO chunks (id, text) VALUES ('A', 'Polish'), ('a', 'polish'), ('b', 'POLISH'), ('B', 'polish')", "INSERT INTO chunks (id, context) VALUES ('c', chr(769))")
		set := func(p *Pending) {
			p.From = from
			if from == "chunks" {
				p.Column = "v"
			}
		}
		if n := k.paid(set); n != 4 {
			t.Errorf("%d requests for 4 texts", n)
		}
		k.expect("SELECT chunk_id FROM embeddings ORDER BY chunk_id", "A\nB\na\nb\nc")
		k.expect("SELECT embedding_status, count(*) FROM chunk_status GROUP BY ALL", "READY|5")
		k.must(k.pending(set), "")
		if from == "chunks" {
			k.expect("SELECT count(*) FROM chunks c JOIN embeddings e ON c.id COLLATE C = e.chunk_id AND c.v = e.embedding", "5")
		}
		k.expect("SELECT count(*) FROM chunks c JOIN chunk_status s USING (id)", "9") // the view has the original ids
		k.sql("DELETE FROM chunks WHERE id = 'c'")
		k.bytewise()
		// chunks-add distinguishes words that differ only in case.
		k.must(&Add{Database: k.Database, Table: "chunks"}, `{"id":"A","text":"POLISH"}`+"\n"+`{"id":"a","text":"polish","title":"T"}`+"\n"+`{"id":"new","text":"x"}`+"\n"+`{"id":"NEW","text":"X"}`)
		k.expect("SELECT id, text, title FROM chunks ORDER BY id COLLATE C, text COLLATE C", "A|POLISH\nB|polish\nNEW|X\na|polish|T\nb|POLISH\nnew|x")
		if n := k.paid(set); n != 3 {
			t.Errorf("%d requests for 3 new texts", n)
		}
		k.bytewise()
		k.must(&Add{Database: k.Database, Table: "chunks"}, `{"id":"a","text":"polish","title":"t"}`)
		k.expect("SELECT title FROM chunks WHERE id COLLATE C = 'a'", "t")
	}
}

// bytewise checks that every chunk has the vector of its text, if the ids have a
// collation.
func (k *kb) bytewise() {
	k.Helper()
	vectors := map[string]string{}
	err := Each(context.Background(), &k.Database, "chunks", "embeddings", func(c Chunk) error {
		if c.Status != "READY" {
			k.Errorf("chunk %s is %s", c.ID, c.Status)
		}
		vectors[c.ID] = fmt.Sprint(c.Vector)
		if want := fmt.Sprint(vec(c.Text)); c.ID != "a" && vectors[c.ID] != want {
			k.Errorf("chunk %s has %v, not %v", c.ID, vectors[c.ID], want)
		}
		return nil
	})
	if n := k.rows("SELECT count(*) FROM chunks"); err != nil || fmt.Sprint(len(vectors)) != n {
		k.Errorf("%d of %s chunks: %v", len(vectors), n, err)
	}
}

// The view can be read by all clients, including those older than this DuckDB.
func TestViewForAllClients(t *testing.T) {
	k := open(t, "CREATE TABLE chunks (id VARCHAR, text VARCHAR, title VARCHAR, embedding_status VARCHAR)", "INSERT INTO chunks (id, text, title) SELECT 'c' || i, 'text ' || i, CASE WHEN i % 2 = 0 THEN 'T' END FROM range(100) t(i)")
	k.paid()
	k.expect("SELECT contains(sql, 'md5_number(') FROM duckdb_views() WHERE view_name = 'chunk_status'", "false") // before DuckDB 1.3 its value is signed
	k.expect("SELECT count(*) FROM chunk_status WHERE embedding_status = 'READY' AND embedding IS NOT NULL", "100")
	k.sql("UPDATE chunks SET embedding_status = 'PENDING' WHERE id = 'c7'", "INSERT INTO chunks VALUES ('new', 'new', NULL, NULL), ('empty', '', NULL, NULL)")
	k.expect("SELECT id, embedding_status, embedding FROM chunk_status WHERE embedding IS NULL ORDER BY id", "c7|PENDING\nempty|PENDING\nnew|PENDING")
	k.expect("SELECT count(*) FROM chunk_status WHERE embedding_status = 'READY' AND embedding IS NOT NULL", "99")
}

func TestSpaceOnTheTable(t *testing.T) {
	two := func(p *Pending) { p.Model = "gemini-embedding-2" }
	wide := func(p *Pending) { p.Dim = 8 }
	refused := func(k *kb, what string, set func(*Pending), words string) {
		t.Helper()
		if _, err := k.run(k.pending(set), ""); exit.Code(err) != exit.Usage || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", what, err)
		}
	}
	fresh := func() *kb {
		k := open(t, simple, "INSERT INTO chunks VALUES ('a', 'one'), ('b', 'two')")
		k.paid()
		return k
	}
	const comment = "SELECT comment FROM duckdb_tables() WHERE table_name = 'embeddings'"
	const holds = "holds gemini-embedding-001 4 RETRIEVAL_DOCUMENT"
	k := fresh()
	k.expect(comment, holds+" (gbatch)")

	// Without the toolkit's schema, the comment on the table names its space.
	k.sql("DROP VIEW chunk_status", "DROP SCHEMA gbatch CASCADE")
	refused(k, "no schema", two, holds)
	refused(k, "no schema", clustering, holds)
	if n := k.paid(); n != 0 {
		t.Errorf("%d requests", n)
	}
	k.right()

	// Without the comment too, the space is unknown.
	k.sql("DROP VIEW chunk_status", "DROP SCHEMA gbatch CASCADE", "COMMENT ON TABLE embeddings IS 'my vectors'")
	refused(k, "no comment", two, "does not say which model its vectors are from")
	refused(k, "no comment", func(*Pending) {}, `COMMENT ON TABLE "embeddings" IS 'holds gemini-embedding-001 768 RETRIEVAL_DOCUMENT (gbatch)'`)
	k.sql("COMMENT ON TABLE embeddings IS 'mine holds gemini-embedding-001 4 RETRIEVAL_DOCUMENT (gbatch) yes'")
	if n := k.paid(); n != 0 {
		t.Errorf("%d requests", n)
	}
	k.expect(comment, "mine "+holds+" (gbatch) yes")

	// A comment of the user neither hides what gbatch.jobs knows nor is removed.
	for _, words := range []string{"my vectors", holds, holds + " (gbatch) " + holds + " (gbatch)", "holds x 0 (gbatch)", "holds . 99999999999999999999 Y (gbatch)", ""} {
		k = fresh()
		k.sql("COMMENT ON TABLE embeddings IS " + duck.Literal(words))
		refused(k, words, two, holds)
		if n := k.paid(); n != 0 {
			t.Errorf("%d requests", n)
		}
		if got := parseSpace(k.rows(comment)); got != k.pending().space() {
			t.Errorf("after %q the comment is %q", words, k.rows(comment))
		}
	}

	// An empty or missing table holds no space …
	for _, drop := range []string{"DROP TABLE embeddings", "DELETE FROM embeddings", "TRUNCATE embeddings"} {
		for _, set := range []func(*Pending){two, wide, clustering} {
			k := fresh()
			k.sql("DROP VIEW chunk_status", drop)
			if b := k.batches(k.must(k.pending(set), "")); len(b) != 1 || b[0].Count != 2 {
				t.Errorf("%s: claimed %v", drop, b)
			}
			k.expect(comment, spaceComment(k.pending(set).space()))
		}
	}
	// … unless an open batch is for the table.
	k = open(t, simple, "INSERT INTO chunks VALUES ('a', 'one'), ('b', 'two')")
	k.must(k.pending(), "")
	const claims = "open batches claim table embeddings for gemini-embedding-001 4 RETRIEVAL_DOCUMENT"
	refused(k, "an open batch", two, claims)
	k.sql("DROP VIEW chunk_status", "DROP TABLE embeddings")
	refused(k, "an open batch and no table", wide, claims)
	if n := k.paid(); n != 2 {
		t.Errorf("%d requests", n)
	}
}

func TestSpaceComments(t *testing.T) {
	for _, s := range []model.Space{
		{Model: "gemini-embedding-001", Dim: 768, TaskType: "RETRIEVAL_DOCUMENT"},
		{Model: "gemini-embedding-2-preview", Dim: 3072, TaskType: "CLUSTERING"},
		{Model: "x", Dim: 1},
	} {
		if got := parseSpace(spaceComment(s)); got != s {
			t.Errorf("%v is read as %v", s, got)
		}
	}
}
