package store

import (
	"strings"
	"testing"
)

// What vectors-apply could not write is refused before anything is paid for, but
// only if something is to be claimed.
func TestRehearsal(t *testing.T) {
	const vectors = "CREATE TABLE embeddings (chunk_id VARCHAR, text_hash UHUGEINT, embedding FLOAT[4], tokens BIGINT, batch VARCHAR, embedded_at TIMESTAMP"
	for name, test := range map[string]struct {
		tables []string
		column string
		want   string // "" if nothing is refused
	}{
		"plain":                       {[]string{withStatus}, "", ""},
		"NOT NULL":                    {[]string{strings.Replace(withStatus, "error_message VARCHAR", "error_message VARCHAR NOT NULL DEFAULT ''", 1)}, "", ""},
		"NOT NULL, no default":        {[]string{"CREATE TABLE chunks (id VARCHAR, text VARCHAR, embedding_status VARCHAR NOT NULL DEFAULT 'PENDING', error_message VARCHAR NOT NULL DEFAULT 'none')"}, "", ""},
		"CHECK without FAILED":        {[]string{"CREATE TABLE chunks (id VARCHAR, text VARCHAR, embedding_status VARCHAR CHECK (embedding_status IN ('PENDING', 'READY')))"}, "", "CHECK"},
		"CHECK without PENDING":       {[]string{"CREATE TABLE chunks (id VARCHAR, text VARCHAR, embedding_status VARCHAR CHECK (embedding_status IN ('FAILED', 'READY')))"}, "", "CHECK"},
		"CHECK of the message":        {[]string{"CREATE TABLE chunks (id VARCHAR, text VARCHAR, embedding_status VARCHAR, error_message VARCHAR CHECK (strlen(error_message) < 5))"}, "", "CHECK"},
		"CHECK of both":               {[]string{"CREATE TABLE chunks (id VARCHAR, text VARCHAR, embedding_status VARCHAR DEFAULT 'PENDING', error_message VARCHAR, CHECK ((embedding_status = 'FAILED') = (error_message IS NOT NULL)))"}, "", ""},
		"ENUM":                        {[]string{"CREATE TYPE word AS ENUM ('PENDING', 'READY', 'FAILED')", "CREATE TABLE chunks (id VARCHAR, text VARCHAR, embedding_status word DEFAULT 'PENDING')"}, "", ""},
		"generated":                   {[]string{"CREATE TABLE chunks (id VARCHAR, text VARCHAR, embedding_status VARCHAR GENERATED ALWAYS AS ('READY'))"}, "", "generated column"},
		"an index":                    {[]string{withStatus, "CREATE INDEX by_status ON chunks (embedding_status)"}, "", ""},
		"a foreign key":               {[]string{withStatus, "CREATE TABLE tags (chunk VARCHAR REFERENCES chunks (id))"}, "", ""},
		"a foreign key and an index":  {[]string{withStatus, "CREATE INDEX by_status ON chunks (embedding_status)", "CREATE TABLE tags (chunk VARCHAR REFERENCES chunks (id))"}, "", "foreign key"},
		"a foreign key and a column":  {[]string{strings.Replace(withStatus, ")", ", v FLOAT[4])", 1), "CREATE TABLE tags (chunk VARCHAR REFERENCES chunks (id))"}, "v", "foreign key"},
		"a key and a column":          {[]string{strings.Replace(withStatus, ")", ", v FLOAT[4])", 1)}, "v", ""},
		"a generated column":          {[]string{"CREATE TABLE chunks (id VARCHAR, text VARCHAR, v FLOAT[4] GENERATED ALWAYS AS ([1, 2, 3, 4]::FLOAT[4]))"}, "v", "generated column"},
		"CHECK of the column":         {[]string{"CREATE TABLE chunks (id VARCHAR, text VARCHAR, v FLOAT[] CHECK (len(v) = 3))"}, "v", "CHECK"},
		"vectors: a column more":      {[]string{simple, vectors + ", note VARCHAR, seen TIMESTAMP DEFAULT now())"}, "", ""},
		"vectors: other order":        {[]string{simple, "CREATE TABLE embeddings (note VARCHAR, embedded_at TIMESTAMP, batch VARCHAR, tokens BIGINT, embedding FLOAT[4], text_hash UHUGEINT, chunk_id VARCHAR)"}, "", ""},
		"vectors: NOT NULL column":    {[]string{simple, vectors + ", note VARCHAR NOT NULL)"}, "", "NOT NULL"},
		"vectors: primary key":        {[]string{simple, vectors + ", PRIMARY KEY (chunk_id))"}, "", "NOT NULL"},
		"vectors: unique":             {[]string{simple, vectors + ", UNIQUE (chunk_id))"}, "", ""},
		"vectors: NOT NULL chunk_id":  {[]string{simple, strings.Replace(vectors, "chunk_id VARCHAR", "chunk_id VARCHAR NOT NULL", 1) + ")"}, "", "NOT NULL"},
		"vectors: CHECK":              {[]string{simple, vectors + ", CHECK (tokens < 0))"}, "", "CHECK"},
		"vectors: generated":          {[]string{simple, vectors + ", n BIGINT GENERATED ALWAYS AS (tokens + 1))"}, "", ""},
		"vectors: a view":             {[]string{simple, vectors[:13] + "vectors" + vectors[23:] + ")", "CREATE VIEW embeddings AS FROM vectors"}, "", "not an table|not a table|base table|Can only"},
		"vectors: chunks refer to it": {[]string{vectors + ", UNIQUE (chunk_id))", "CREATE TABLE chunks (id VARCHAR, text VARCHAR)", "CREATE TABLE tags (chunk VARCHAR REFERENCES embeddings (chunk_id))"}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			k := open(t, test.tables...)
			set := func(p *Pending) { p.Column = test.column }
			if out := k.must(k.pending(set), ""); out != "" { // if nothing is to be claimed, nothing is refused
				t.Errorf("printed %s", out)
			}
			k.sql("INSERT INTO chunks (id, text) VALUES ('a', 'one'), ('b', 'two'), ('c', 'three')")
			if strings.Contains(test.want, "foreign key") { // a foreign key refers to an odd row
				k.sql("INSERT INTO tags VALUES ('b')")
			}
			dry, dryErr := k.run(k.pending(set, func(p *Pending) { p.DryRun = true }), "")
			out, err := k.run(k.pending(set), "")
			if test.want != "" {
				found := false
				for _, want := range strings.Split(test.want, "|") {
					found = found || err != nil && strings.Contains(err.Error(), want)
				}
				if !found || out != "" || dry != "" || dryErr == nil {
					t.Fatalf("got %q, %v; a dry run %q, %v", out, err, dry, dryErr)
				}
				if n := k.rows("SELECT count(*) FROM gbatch.jobs"); n != "0" {
					t.Errorf("%s batches are claimed", n)
				}
				return
			}
			if err != nil || dryErr != nil {
				t.Fatal(err, dryErr)
			}
			// vectors-apply can write what was rehearsed, for new, edited and
			// failing texts.
			k.must(k.apply(), k.answers(out))
			k.right()
			k.sql("UPDATE chunks SET text = 'edited' WHERE id = 'a'", "UPDATE chunks SET text = 'bad' WHERE id = 'b'")
			out = k.must(k.pending(set), "")
			b := k.batches(out)[0].Batch
			k.run(k.apply(), k.vectorLine(b, "a", vec("edited"))+k.errorLine(b, "b", 3, "no good")+k.jobLine(b, "SUCCEEDED", 1, 1))
			k.expect(statuses, "a|READY\nb|FAILED|no good\nc|READY")
			k.must(k.pending(set), "")
			k.expect("SELECT count(*), count(DISTINCT text_hash), count(chunk_id) FROM embeddings", "4|4|3")
		})
	}
}

// A rehearsal leaves nothing behind.
func TestRehearsalLeavesNothing(t *testing.T) {
	k := open(t, strings.Replace(withStatus, ")", ", v FLOAT[4])", 1), "CREATE UNIQUE INDEX texts ON chunks (text)", "INSERT INTO chunks (id, text) VALUES ('a', 'one'), ('b', 'two')")
	set := func(p *Pending) { p.Column = "v" }
	k.must(k.apply(), k.answers(k.must(k.pending(set), "")))
	k.sql("INSERT INTO chunks (id, text) VALUES ('c', 'three')")
	before := k.rows("FROM chunks ORDER BY id") + k.rows("FROM embeddings ORDER BY chunk_id")
	for range 3 {
		k.must(k.pending(set, func(p *Pending) { p.DryRun = true }), "")
	}
	if after := k.rows("FROM chunks ORDER BY id") + k.rows("FROM embeddings ORDER BY chunk_id"); after != before {
		t.Errorf("before %s\nafter %s", before, after)
	}
	k.must(k.apply(), k.answers(k.must(k.pending(set), "")))
	k.right()
}
