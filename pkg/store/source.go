package store

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"gbatch/pkg/exit"
)

// A source is where the chunks are: a table or view of the user's, or any
// SELECT.
type source struct {
	from    string // as given, what --from says
	sql     string // what stands after FROM
	schema  string // of a table or view
	name    string
	table   bool // a base table: it has rowids and can be updated
	idType  string
	columns map[string]string // name to type
	managed bool              // embedding_status has our mark, see [source.adopt]
}

// source looks at what --from names. A name is taken for a table or view of
// the database, with a schema before a dot or without; anything that begins as
// a query does is one, and runs as it stands.
func (c *conn) source(from string) (*source, error) {
	s := &source{from: from, columns: map[string]string{}}
	if isQuery(from) {
		s.sql = "(" + strings.TrimRight(from, "; \t\r\n") + "\n)" // it may end in a comment
	} else {
		found, err := c.lookup(s, from)
		if err != nil {
			return nil, err
		}
		if !found {
			return nil, fmt.Errorf("there is no table or view %q; name one with --from, or give a SELECT that yields id and text", from)
		}
	}
	r, err := c.query("SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM " + s.sql + ")")
	if err != nil {
		return nil, fmt.Errorf("--from %s: %w", from, err)
	}
	defer r.close()
	for r.next() {
		s.columns[strings.ToLower(r.string(0))] = r.string(1)
	}
	if s.table && s.columns["rowid"] != "" {
		return nil, fmt.Errorf("--from %s: its column rowid hides DuckDB's own, by which rows are found again; rename it, or give a SELECT of the columns", from)
	}
	for _, name := range []string{"id", "text"} {
		if s.columns[name] == "" {
			return nil, fmt.Errorf("--from %s has no column %s; wanted are id, text and, if there are any, title and context: give them their names with --from \"SELECT … AS id, … AS text FROM …\"", from, name)
		}
	}
	for _, name := range []string{"text", "title", "context"} {
		if t := s.columns[name]; t != "" && t != "VARCHAR" {
			return nil, fmt.Errorf("--from %s: column %s is %s, not VARCHAR; cast it in a SELECT", from, name, t)
		}
	}
	switch s.idType = s.columns["id"]; s.idType {
	case "VARCHAR", "UUID", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT":
	default:
		return nil, fmt.Errorf("--from %s: ids of type %s are not supported, only text, whole numbers and UUID; cast them in a SELECT", from, s.idType)
	}
	if s.courtesy() {
		s.managed, err = c.isMarked(s)
	}
	return s, err
}

// isQuery reports whether --from begins as a query does.
func isQuery(from string) bool {
	from = strings.TrimLeft(from, "( \t\r\n")
	word := strings.IndexFunc(from, func(r rune) bool { return !unicode.IsLetter(r) })
	if word < 0 || !strings.ContainsRune(" \t\r\n*('\"", rune(from[word])) {
		return false
	}
	return slices.Contains([]string{"SELECT", "FROM", "WITH", "VALUES", "TABLE"}, strings.ToUpper(from[:word]))
}

// lookup finds the table or view of a name, as DuckDB does without regard to case.
func (c *conn) lookup(s *source, name string) (found bool, err error) {
	return c.one(func(r *rows) {
		s.schema, s.name, s.table = r.string(0), r.string(1), r.bool(2)
		s.sql = ident(s.schema) + "." + ident(s.name)
	}, `SELECT schema_name, name, is_table FROM (
			SELECT schema_name, table_name AS name, true AS is_table FROM duckdb_tables() WHERE database_name = current_database()
			UNION ALL SELECT schema_name, view_name, false FROM duckdb_views() WHERE database_name = current_database() AND NOT internal)
		WHERE (schema_name = current_schema() AND lower(name) = lower($1)) OR lower(schema_name || '.' || name) = lower($1)
		ORDER BY schema_name = current_schema() DESC LIMIT 1`, name)
}

// courtesy reports whether the source is a table with a column for the status.
func (s *source) courtesy() bool { return s.table && s.columns["embedding_status"] == "VARCHAR" }

// column is the SQL for a text column that may not be there; empty is none.
func (s *source) column(name string) string {
	if s.columns[name] == "" {
		return "NULL::VARCHAR"
	}
	return "nullif(" + name + ", '')"
}

// title and body are what is embedded of a chunk.
func (s *source) title() string { return s.column("title") }
func (s *source) body() string {
	return "coalesce(" + s.column("context") + ", " + s.column("text") + ", '')"
}

// hash is the content hash of a chunk, of its title and body and of nothing
// else. The length keeps title and body apart.
func (s *source) hash() string {
	return fmt.Sprintf("md5_number(concat(strlen(coalesce(%[1]s, '')), ':', coalesce(%[1]s, ''), %[2]s))", s.title(), s.body())
}

// reset is whether the user set a chunk back to be embedded again.
func (s *source) reset() string {
	if !s.managed {
		return "false"
	}
	return "coalesce(embedding_status = 'PENDING', false)"
}

// rid is what finds a row again in the same transaction: the rowid of a table,
// else the id.
func (s *source) rid() string {
	if s.table {
		return "rowid"
	}
	return "id"
}

// status is a SELECT of every chunk's id, key, rid, text_hash, bytes,
// title_bytes, status, message, embedding and tokens, and whether it is to be embedded again. The hash of the present text decides: READY when
// embeddings holds it for this chunk, else QUEUED when an open batch holds it,
// else FAILED when a lasting failure does, else PENDING. where leaves chunks
// out.
func (s *source) status(embeddings, where string) string {
	return fmt.Sprintf(`
	SELECT c.*, e.embedding, e.tokens, f.message, c.reset AND e.chunk_id IS NOT NULL AS again,
		CASE WHEN e.chunk_id IS NOT NULL AND NOT c.reset THEN 'READY'
			WHEN q.text_hash IS NOT NULL THEN 'QUEUED'
			WHEN f.final AND NOT c.reset THEN 'FAILED'
			ELSE 'PENDING' END AS status
	FROM (SELECT id, CAST(id AS VARCHAR) AS key, %[1]s AS rid, %[2]s AS text_hash, %[3]s AS reset, strlen(%[4]s) AS bytes, strlen(coalesce(%[9]s, '')) AS title_bytes FROM %[5]s %[8]s) c
	LEFT JOIN %[6]s e ON e.chunk_id = c.id AND e.text_hash = c.text_hash
	LEFT JOIN (SELECT DISTINCT text_hash FROM gbatch.items JOIN gbatch.jobs USING (batch) WHERE embeddings = %[7]s) q ON q.text_hash = c.text_hash
	LEFT JOIN (SELECT * FROM gbatch.failures WHERE embeddings = %[7]s) f ON f.chunk_id = c.key AND f.text_hash = c.text_hash`,
		s.rid(), s.hash(), s.reset(), s.body(), s.sql, ident(embeddings), literal(embeddings), where, s.title())
}

// view makes chunk_status, for people and their queries. A view or table of
// that name that is not ours stays.
func (c *conn) view(s *source, embeddings string) error {
	n, err := c.count(`SELECT count(*) FROM (
		SELECT view_name AS name, sql FROM duckdb_views() WHERE database_name = current_database() AND schema_name = current_schema()
		UNION ALL SELECT table_name, '' FROM duckdb_tables() WHERE database_name = current_database() AND schema_name = current_schema())
		WHERE lower(name) = 'chunk_status' AND NOT contains(sql, 'gbatch.items')`)
	if err != nil || n > 0 {
		return err
	}
	return c.exec(`CREATE OR REPLACE VIEW chunk_status AS
		SELECT id, status AS embedding_status, CASE WHEN status = 'FAILED' THEN message END AS error_message,
			CASE WHEN status = 'READY' THEN embedding END AS embedding
		FROM (` + s.status(embeddings, "") + `)`)
}

// The mark on a courtesy column tells a table in which the toolkit has set the
// status from one that was made anew, whose rows all say PENDING by default: in
// the first, PENDING where a vector is there means that the user wants another.
const mark = "kept in step by gbatch"

func (c *conn) isMarked(s *source) (bool, error) {
	comment, err := c.comment(s)
	return strings.Contains(comment, mark), err
}

// comment is what is written on the courtesy column.
func (c *conn) comment(s *source) (comment string, err error) {
	_, err = c.one(func(r *rows) { comment = r.string(0) }, `SELECT comment FROM duckdb_columns() WHERE database_name = current_database()
		AND schema_name = ? AND table_name = ? AND lower(column_name) = 'embedding_status'`, s.schema, s.name)
	return comment, err
}

// adopt sets the courtesy columns of a table that is seen for the first time
// from what is known of its chunks, and marks it.
func (c *conn) adopt(s *source, embeddings string) error {
	err := c.exec(fmt.Sprintf(`UPDATE %s AS t SET %s FROM (
			SELECT rid, CASE status WHEN 'QUEUED' THEN 'PENDING' ELSE status END AS status, CASE WHEN status = 'FAILED' THEN message END AS message
			FROM (%s)) u
		WHERE t.rowid = u.rid AND t.embedding_status IS DISTINCT FROM u.status`, s.sql, s.setCourtesy("u.status", "u.message"), s.status(embeddings, "")))
	if err != nil {
		return err
	}
	comment, err := c.comment(s)
	if err != nil {
		return err
	}
	s.managed = true
	return c.exec("COMMENT ON COLUMN " + s.sql + ".embedding_status IS " + literal(strings.TrimSpace(comment+" "+mark)))
}

// setCourtesy is the SET list for the courtesy columns.
func (s *source) setCourtesy(status, message string) string {
	list := "embedding_status = " + status
	if s.columns["error_message"] == "VARCHAR" {
		list += ", error_message = " + message
	}
	return list
}

// unique makes sure that every row of the source has an id of its own.
func (c *conn) unique(s *source) error {
	var id string
	var n int64
	found, err := c.one(func(r *rows) { id, n = r.string(0), r.int(1) },
		"SELECT CAST(id AS VARCHAR), count(*) FROM "+s.sql+" GROUP BY id HAVING id IS NULL OR count(*) > 1 OR CAST(id AS VARCHAR) = '' LIMIT 1")
	switch {
	case err != nil || !found:
		return err
	case id == "":
		return exit.Errorf(exit.Malformed, "--from %s: %d rows have no id", s.from, n)
	}
	return exit.Errorf(exit.Malformed, "--from %s: id %q occurs %d times; an id must name one chunk", s.from, id, n)
}
