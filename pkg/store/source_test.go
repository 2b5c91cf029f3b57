package store

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
)

func TestExtentOfAQuery(t *testing.T) {
	const q = "SELECT 1"
	for sql, want := range map[string]string{
		q: q, "-- x\n" + q: q, "/* x */ " + q: q, "/* a /* b */ c */" + q: q, q + ";": q, q + " ; -- the end": q, q + ";; /* the end": q, q + " -- a; b": q, ";" + q: q,
		"SELECT ';--' AS a;": "SELECT ';--' AS a", `SELECT 1 AS ";--"; --`: `SELECT 1 AS ";--"`, `SELECT e'\';--'; -- x`: `SELECT e'\';--'`, "SELECT 'it''s; --'; -- x": "SELECT 'it''s; --'",
		"SELECT $$ ; -- $$; -- x": "SELECT $$ ; -- $$", "SELECT $a$ ; -- $$ $a$;": "SELECT $a$ ; -- $$ $a$", "SELECT 1; SELECT 2;": "SELECT 1; SELECT 2",
		"SELECT 1 -- x\n + 2 -- y": "SELECT 1 -- x\n + 2", "SELECT 'é☃' -- é": "SELECT 'é☃'", "SELECT 'open; -- x": "SELECT 'open", "-- nothing": "", "": "",
	} {
		if begin, end := extent(sql); sql[begin:end] != want {
			t.Errorf("%q: %q, want %q", sql, sql[begin:end], want)
		}
	}
}

func TestQueriesWithComments(t *testing.T) {
	k := open(t, simple, "INSERT INTO chunks VALUES ('a', 'one')")
	for _, from := range []string{
		"-- the handbook\nSELECT id, text FROM chunks", "/* the handbook */SELECT id, text FROM chunks", "SELECT id, text FROM chunks; -- the end",
		"(/* x */ SELECT id, text FROM chunks)", "SELECT/* x */id, text FROM chunks -- ; \n ; /* end */ ", "-- chunks;\n\n  -- more\n FROM chunks;\n", "SELECT id, 'x;--y' AS text FROM chunks",
	} {
		if out := k.must(k.pending(func(p *Pending) { p.From, p.DryRun = from, true }), ""); !strings.HasPrefix(out, `{"requests":1,`) {
			t.Errorf("--from %q: %s", from, out)
		}
	}
	// The value of --from is stored unchanged, and is run again when vectors are
	// applied.
	from := func(p *Pending) { p.From = "-- mine\nSELECT id, text FROM chunks; -- the end" }
	k.must(k.apply(), k.answers(k.must(k.pending(from), "")))
	k.right()
}

// If a schema has the name of a database, DuckDB refuses a table's name that
// does not begin with the database.
func TestSchemasCalledAsADatabase(t *testing.T) {
	for _, test := range []struct{ file, schema string }{{"docs.duckdb", "docs"}, {"Docs.db", "docs"}, {"kb.duckdb", "memory"}, {"kb.duckdb", "temp"}, {"main.duckdb", "main"}, {"gbatch.duckdb", "attached"}, {"docs.duckdb", "other"}} {
		k := &kb{t, duck.Database{DB: filepath.Join(t.TempDir(), test.file), LockTimeout: time.Second}}
		k.must(&Add{Database: k.Database, Table: "chunks"}, `{"id":"a","text":"one"}`)
		err := k.transact(duck.Write, func(c *duck.Conn) (err error) {
			var name string
			if _, err = c.One(func(r *duck.Rows) { name = r.Text(0) }, "SELECT current_database()"); err == nil {
				err = c.Exec("CREATE SCHEMA IF NOT EXISTS " + duck.Ident(name) + "." + duck.Ident(test.schema))
			}
			return err
		})
		if err != nil {
			t.Errorf("%v: %v", test, err)
			continue
		}
		table := test.schema + ".pages"
		k.must(&Add{Database: k.Database, Table: table}, `{"id":"a","text":"one"}`)
		k.must(&Add{Database: k.Database, Table: strings.ToUpper(table)}, `{"id":"a","text":"edited"}`+"\n"+`{"id":"b","text":"two"}`)
		out := k.must(k.pending(func(p *Pending) { p.From = table }), "")
		if b := k.batches(out); len(b) != 1 || b[0].Count != 2 {
			t.Errorf("%v: %v", test, b)
		}
		k.must(k.apply(), k.answers(out))
		k.expect("SELECT embedding_status, count(*) FROM chunk_status GROUP BY ALL", "READY|2")
		if status := k.must(&Status{Database: k.Database, Embeddings: "embeddings"}, ""); !strings.Contains(status, `{"status":"READY","chunks":2,`) {
			t.Errorf("%v: %s", test, status)
		}
	}
}

func TestFilesAsASource(t *testing.T) {
	k := open(t, simple)
	for from, hint := range map[string]string{"docs/a.parquet": "FROM 'docs/a.parquet'", "it's.csv": "FROM 'it''s.csv'", "docs/*.json.gz": "FROM 'docs/*.json.gz'", "nowhere": ""} {
		_, err := k.run(k.pending(func(p *Pending) { p.From = from }), "")
		if err == nil || (hint != "") != strings.Contains(err.Error(), "if it is a file: --from") || !strings.Contains(err.Error(), hint) {
			t.Errorf("--from %s: %v", from, err)
		}
	}
}

// The toolkit maintains an ENUM with the words of a status like a text column.
func TestStatusOfAnEnum(t *testing.T) {
	k := open(t, "CREATE TYPE st AS ENUM ('READY', 'FAILED', 'PENDING', 'it''s')", "CREATE TABLE chunks (id VARCHAR, text VARCHAR, embedding_status st DEFAULT 'PENDING', error_message VARCHAR)",
		"INSERT INTO chunks (id, text) VALUES ('a', 'one'), ('b', 'two'), ('empty', '')")
	k.paid()
	k.expect("SELECT id, embedding_status, error_message FROM chunks ORDER BY id", "a|READY\nb|READY\nempty|FAILED|the text is empty")
	k.must(&Add{Database: k.Database, Table: "chunks"}, `{"id":"a","text":"edited"}`+"\n"+`{"id":"new","text":"two"}`)
	k.expect("SELECT id, embedding_status FROM chunks ORDER BY id", "a|PENDING\nb|READY\nempty|FAILED\nnew|PENDING")
	if n := k.paid(); n != 1 {
		t.Errorf("%d requests", n)
	}
	k.sql("UPDATE chunks SET embedding_status = 'PENDING' WHERE id = 'b'")
	if n := k.paid(); n != 1 {
		t.Errorf("%d requests for a chunk set back", n)
	}
	k.sql("DELETE FROM chunks WHERE id = 'empty'")
	k.right()
	k.expect("SELECT DISTINCT embedding_status FROM chunks", "READY")
}

// The user's own words in embedding_status are not overwritten.
func TestStatusOfTheUsersOwn(t *testing.T) {
	for columns, want := range map[string]string{
		"embedding_status VARCHAR DEFAULT 'done'":                               `column embedding_status of table chunks holds "done", which is not a status of gbatch`,
		"embedding_status VARCHAR DEFAULT 'ready'":                              `holds "ready"`,
		"embedding_status VARCHAR COLLATE NOCASE DEFAULT 'ready'":               `holds "ready"`,
		"embedding_status VARCHAR DEFAULT ''":                                   `holds ""`,
		"embedding_status ENUM ('new', 'READY', 'PENDING')":                     "has no value FAILED",
		"embedding_status ENUM ('PENDINGS', 'READY', 'FAILED')":                 "has no value PENDING",
		"embedding_status ENUM ('x', 'READY', 'PENDING', 'FAILED') DEFAULT 'x'": `holds "x"`,
	} {
		k := open(t, "CREATE TABLE chunks (id VARCHAR, text VARCHAR, "+columns+")", "INSERT INTO chunks (id, text) VALUES ('a', 'one')")
		before := k.rows("FROM chunks")
		_, err := k.run(k.pending(), "")
		if exit.Code(err) != exit.Usage || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", columns, err)
		}
		_, err = k.run(&Add{Database: k.Database, Table: "chunks"}, `{"id":"a","text":"edited"}`)
		if exit.Code(err) != exit.Usage || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", columns, err)
		}
		k.expect("FROM chunks", before)
		k.must(k.pending(func(p *Pending) { p.From = "SELECT id, text FROM chunks" }), "")
	}
	k := open(t, "CREATE TABLE chunks (id VARCHAR, text VARCHAR, embedding_status VARCHAR)", "INSERT INTO chunks VALUES ('a', 'one', 'QUEUED'), ('b', 'two', NULL), ('c', 'three', 'FAILED'), ('d', 'four', 'READY')")
	if n := k.paid(); n != 4 {
		t.Errorf("%d requests", n)
	}
	k.right()
	k = open(t, "CREATE TABLE chunks (id VARCHAR, text VARCHAR, embedding_status INTEGER)", "INSERT INTO chunks VALUES ('a', 'one', 7)")
	k.paid()
	k.expect("SELECT embedding_status FROM chunks", "7")
}

// If the type of the ids changes, the ids of the vectors follow, also while a
// job is open.
func TestTypeOfIDsThatChanges(t *testing.T) {
	for _, change := range []struct{ from, to string }{{"INTEGER", "VARCHAR"}, {"INTEGER", "BIGINT"}, {"BIGINT", "UTINYINT"}, {"VARCHAR", "INTEGER"}, {"UUID", "VARCHAR"}, {"VARCHAR", "UUID"}} {
		for _, out := range []bool{false, true} {
			k := open(t, "CREATE TABLE chunks (id "+change.from+", text VARCHAR)")
			if strings.Contains(change.from+change.to, "UUID") {
				k.sql("INSERT INTO chunks SELECT uuid()::VARCHAR, 'text ' || i FROM range(10) t(i)")
			} else {
				k.sql("INSERT INTO chunks SELECT i, 'text ' || i FROM range(10) t(i)")
			}
			k.paid()
			answers := ""
			if out {
				k.sql("UPDATE chunks SET text = 'edited ' || text WHERE text < 'text 5'")
				answers = k.answers(k.must(k.pending(), ""))
			}
			k.sql("DROP VIEW chunk_status", "ALTER TABLE chunks ALTER id TYPE "+change.to)
			if change.to == "VARCHAR" {
				k.sql("INSERT INTO chunks VALUES ('A3', 'text 9')") // this text already has a vector
			}
			if status := k.must(&Status{Database: k.Database, Embeddings: "embeddings"}, ""); !strings.Contains(status, `{"status":"FAILED","chunks":0,`) {
				t.Errorf("%v: status %s", change, status)
			}
			k.must(k.apply(), answers)
			if n := k.paid(); n != 0 {
				t.Errorf("%v: %d requests are paid for again", change, n)
			}
			k.right()
			k.expect("SELECT data_type FROM duckdb_columns() WHERE table_name = 'embeddings' AND column_name = 'chunk_id'", change.to)
		}
	}
	// These ids would become other ids, or cannot be cast to the type.
	for _, id := range []string{"07", "A3", "1e3"} {
		k := open(t, simple, "INSERT INTO chunks VALUES ('"+id+"', 'one')")
		k.paid()
		k.sql("DROP VIEW chunk_status", "CREATE OR REPLACE TABLE chunks (id INTEGER, text VARCHAR)", "INSERT INTO chunks VALUES (7, 'one')")
		_, err := k.run(k.pending(), "")
		if exit.Code(err) != exit.Usage || !strings.Contains(err.Error(), "SELECT CAST(id AS VARCHAR) AS id") {
			t.Errorf("%s: %v", id, err)
		}
		if n := k.paid(func(p *Pending) { p.From = "SELECT CAST(id AS VARCHAR) AS id, text FROM chunks" }); n != 0 {
			t.Errorf("%s: %d requests are paid for again", id, n)
		}
	}
	// The same while a job is open.
	{
		k := open(t, simple, "INSERT INTO chunks VALUES ('A3', 'one')")
		k.paid()
		k.sql("INSERT INTO chunks VALUES ('7', 'two')")
		answers := k.answers(k.must(k.pending(), ""))
		k.sql("DROP VIEW chunk_status", "CREATE OR REPLACE TABLE chunks (id INTEGER, text VARCHAR)", "INSERT INTO chunks VALUES (7, 'two')")
		if _, err := k.run(k.apply(), answers); exit.Code(err) != exit.Partial { // the vector is stored without its chunk
			t.Error(err)
		}
		k.sql("ALTER TABLE chunks ALTER id TYPE VARCHAR")
		if n := k.paid(); n != 0 {
			t.Errorf("%d requests are paid for again", n)
		}
		k.right()
	}
	// DuckDB does not alter the type of this column.
	k := open(t, "CREATE TABLE chunks (id INTEGER, text VARCHAR)", "INSERT INTO chunks VALUES (1, 'one')")
	k.paid()
	k.sql("CREATE INDEX mine ON embeddings (chunk_id)", "DROP VIEW chunk_status", "ALTER TABLE chunks ALTER id TYPE VARCHAR")
	_, err := k.run(k.pending(), "")
	if exit.Code(err) != exit.Usage || !strings.Contains(err.Error(), `ALTER TABLE "embeddings" ALTER chunk_id TYPE VARCHAR`) || !strings.Contains(err.Error(), "index depends on it") {
		t.Error(err)
	}
}

// No message is longer than a screen.
func TestLongMessages(t *testing.T) {
	k := open(t, "CREATE TYPE e AS ENUM (SELECT 'document-number-' || i FROM range(3000) r(i))", "CREATE TABLE chunks AS SELECT 'document-number-1'::e AS id, 'x' AS text",
		"CREATE TABLE texts AS SELECT 1 AS id, 'document-number-1'::e AS text", "CREATE TABLE twice AS SELECT repeat('id', 9999) AS id, 'x' AS text FROM range(2)", "CREATE TABLE words AS SELECT 1 AS id, 'x' AS text, repeat('word', 9999) AS embedding_status")
	long := strings.Repeat("x", 5000)
	for _, from := range []string{"chunks", "texts", "twice", "words", long, long + ".csv", "SELECT '" + long + "' AS id", "SELECT " + long, "SELECT 'x'::e AS id, 'x' AS text", "SELECT uuid() AS id, 'x' AS text, '" + long + "' AS title",
		"SELECT CAST(text || range AS e) AS id, 'x' AS text FROM texts, range(2)"} {
		_, err := k.run(k.pending(func(p *Pending) { p.From = from }), "")
		if err == nil || len(err.Error()) > 1500 {
			t.Errorf("%.100s: %.2000v", from, err)
		}
	}
	if n := k.paid(func(p *Pending) { p.From = "SELECT CAST(id AS VARCHAR) AS id, text FROM chunks" }); n != 1 {
		t.Errorf("%d requests", n)
	}
}

func TestDatabasesThatAreNoFile(t *testing.T) {
	for _, name := range []string{"md:kb", "motherduck:kb", ":memory:", ":memory:kb", "", "s3://b/kb.duckdb", "http://localhost:1/kb.duckdb", "https://x/kb.duckdb", "gs://b/kb", "ducklake:kb.ducklake", "postgres:dbname=kb", "file:kb.duckdb"} {
		for _, cmd := range []func(duck.Database) error{
			func(d duck.Database) error { _, err := (&kb{T: t}).run(&Jobs{Database: d}, ""); return err },
			func(d duck.Database) error {
				_, err := (&kb{T: t}).run(&Add{Database: d, Table: "chunks"}, "not JSON, and not read")
				return err
			},
		} {
			if err := cmd(duck.Database{DB: name}); exit.Code(err) != exit.Usage || !strings.Contains(err.Error(), name) {
				t.Errorf("%q: %v", name, err)
			}
		}
	}
	t.Chdir(t.TempDir())
	k := &kb{t, duck.Database{DB: "./notes:2024.duckdb", LockTimeout: time.Second}}
	k.must(&Add{Database: k.Database, Table: "chunks"}, `{"id":"a","text":"one"}`)
	k.DB = "notes:2024.duckdb" // the file exists now
	k.expect("FROM chunks", "a|one")
}

// The status of a part of the chunks is found by hash joins: a join that compares
// each row with each takes hours for a million chunks.
func TestPlanOfStatus(t *testing.T) {
	for name, columns := range map[string]string{"plain": "", "courtesy": ", embedding_status VARCHAR DEFAULT 'PENDING', error_message VARCHAR", "column": ", embedding_status VARCHAR, v FLOAT[4]"} {
		t.Run(name, func(t *testing.T) {
			k := open(t, "CREATE TABLE chunks (id VARCHAR, text VARCHAR"+columns+")", "INSERT INTO chunks (id, text) SELECT 'c' || i, 'text ' || i FROM range(3000) r(i)")
			p := k.pending(func(p *Pending) {
				if name == "column" {
					p.Column = "v"
				}
			})
			k.must(k.apply(), k.answers(k.must(p, "")))
			err := transact(t.Context(), &p.Database, duck.Read, func(c *duck.Conn) error {
				s, err := p.open(c)
				if err != nil {
					return err
				}
				for _, where := range []string{"", "WHERE rowid < 100"} {
					_, err := c.One(func(r *duck.Rows) {
						if plan := r.Text(1); strings.Contains(plan, "NL_JOIN") || strings.Contains(plan, "NESTED_LOOP") || strings.Contains(plan, "CROSS_PRODUCT") {
							t.Errorf("%s:\n%s", where, plan)
						}
					}, "EXPLAIN "+workChunks(s, "embeddings", where))
					if err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}
