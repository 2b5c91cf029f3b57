package store

import (
	"strings"
	"testing"

	"gbatch/pkg/duck"
)

// second claims and embeds for another model, in another table of vectors.
func (k *kb) second(table string) (requests int) {
	k.Helper()
	return k.paid(func(p *Pending) { p.Model, p.Embeddings = "gemini-embedding-2", table })
}

const (
	byDefault = "SELECT count(embedding) FROM chunk_status"
	views     = "SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY 1"
)

// A second table of vectors gets its own view, and chunk_status stays that of the
// default table.
func TestViewOfEachTable(t *testing.T) {
	for _, name := range []string{"embeddings_2", `we'ird "t`, "CASE"} {
		t.Run(name, func(t *testing.T) {
			k := open(t, simple, "INSERT INTO chunks (id, text) VALUES ('a', 'one'), ('b', 'two')")
			k.embed()
			other := duck.Ident(name + "_status")
			// The chunks are claimed for the second table, but have no vectors in it.
			k.must(k.pending(func(p *Pending) { p.Model, p.Embeddings = "gemini-embedding-2", name }), "")
			k.expect(statuses, "a|READY\nb|READY")
			k.expect("SELECT id, embedding_status, embedding FROM "+other+" ORDER BY id", "a|QUEUED\nb|QUEUED")
			k.sql("UPDATE chunks SET text = 'edited' WHERE id = 'a'")
			k.expect(statuses, "a|PENDING\nb|READY")
			k.embed()
			k.expect(statuses, "a|READY\nb|READY")
			k.expect("SELECT id, embedding_status FROM "+other+" ORDER BY id", "a|PENDING\nb|READY")
			k.expect(views, strings.Join(sortedLines("chunk_status", name+"_status"), "\n"))
		})
	}
}

func sortedLines(a, b string) []string {
	if b < a {
		a, b = b, a
	}
	return []string{a, b}
}

// An older version gave the name chunk_status to the table of the last claim. It keeps
// that table.
func TestViewOfOlderVersion(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks (id, text) VALUES ('a', 'one')")
	k.embed()
	k.second("embeddings_2")
	k.sql(strings.Replace(k.rows("SELECT sql FROM duckdb_views() WHERE view_name = 'embeddings_2_status'"), "VIEW embeddings_2_status", "OR REPLACE VIEW chunk_status", 1), "DROP VIEW embeddings_2_status", "DROP TABLE embeddings_2")
	k.sql("ALTER TABLE embeddings RENAME TO embeddings_2", "CREATE TABLE embeddings AS FROM embeddings_2 LIMIT 0") // only the view's table has a vector
	k.expect(byDefault, "1")
	k.second("embeddings")
	k.expect(byDefault, "1")
	k.expect(views, "chunk_status\nembeddings_status")
	k.sql("DELETE FROM embeddings_2")
	k.expect(byDefault, "0")
	k.expect("SELECT count(embedding) FROM embeddings_status", "1")
}

// The name chunk_status is never given to another table than the default one, also if
// that table is not there. So a query for one space does not read another.
func TestViewOfDefaultTable(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks (id, text) VALUES ('a', 'one')")
	k.second("embeddings_2")
	k.expect(views, "embeddings_2_status")
	k.embed()
	k.expect(views, "chunk_status\nembeddings_2_status")
	k.sql("DELETE FROM embeddings_2")
	k.expect(byDefault, "1")
	k.sql("DROP VIEW chunk_status", "DROP TABLE embeddings")
	k.second("embeddings_2")
	k.expect(views, "embeddings_2_status")
	// A view of an older version whose table was dropped is of no use to a reader.
	k.sql(strings.Replace(k.rows("SELECT sql FROM duckdb_views() WHERE view_name = 'embeddings_2_status'"), "VIEW embeddings_2_status", "VIEW chunk_status", 1), "DROP VIEW embeddings_2_status", "DROP TABLE embeddings_2")
	k.embed()
	k.expect(views, "chunk_status")
	k.expect(byDefault, "1")
}

// What has the name of a view but is not the toolkit's is not changed.
func TestViewNameTaken(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks (id, text) VALUES ('a', 'one')", "CREATE TABLE Embeddings_2_Status AS SELECT 42 AS mine")
	k.embed()
	k.second("embeddings_2")
	k.expect("FROM embeddings_2_status", "42")
	k.second("chunk") // its view would be called chunk_status
	k.expect(views, "chunk_status")
	k.sql("DELETE FROM chunk")
	k.expect(byDefault, "1")
}
