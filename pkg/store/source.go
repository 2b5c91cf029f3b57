package store

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
)

// A source is where the chunks are: a table or view of the user's, or a SELECT.
type source struct {
	from    string // the value of --from
	sql     string // the operand of FROM in a statement
	schema  string // of a table or view
	name    string
	table   bool // a base table: it has rowids and can be updated
	idType  string
	columns map[string]string // type by name in lower case
	comment string            // of the column embedding_status
}

// mark is in the comment on embedding_status once the toolkit has set the
// status of every chunk. It tells such a table from a new one, in which all
// rows are PENDING by default: with the mark, PENDING beside a vector means that
// the user wants another vector.
const mark = "kept in step by gbatch"

// openSource examines what --from names. A text that begins like a query is
// one, and runs as it stands. Any other is the name of a table or view of the
// database, with or without its schema and a dot before it.
func openSource(c *duck.Conn, from string) (*source, error) {
	s := &source{from: from, columns: map[string]string{}}
	if isQuery(from) {
		s.sql = "(" + strings.TrimRight(from, "; \t\r\n") + "\n)" // the query may end in a comment
	} else {
		found, err := locate(c, s, from)
		if err != nil {
			return nil, err
		}
		if !found {
			return nil, fmt.Errorf("there is no table or view %q; name one with --from, or give a SELECT that yields id and text", from)
		}
	}
	err := c.Each(func(r *duck.Rows) { s.columns[strings.ToLower(r.Text(0))] = r.Text(1) },
		"SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM "+s.sql+")")
	if err != nil {
		return nil, fmt.Errorf("--from %s: %w", from, err)
	}
	if s.table && s.columns["rowid"] != "" {
		return nil, fmt.Errorf("--from %s: its column rowid hides DuckDB's own, which identifies rows; rename it, or give a SELECT of the columns", from)
	}
	for _, name := range []string{"id", "text"} {
		if s.columns[name] == "" {
			return nil, fmt.Errorf("--from %s has no column %s; it needs id and text, and may have title and context: name the columns with --from \"SELECT … AS id, … AS text FROM …\"", from, name)
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
		_, err = c.One(func(r *duck.Rows) { s.comment = r.Text(0) }, `SELECT comment FROM duckdb_columns() WHERE database_name = current_database()
			AND schema_name = ? AND table_name = ? AND lower(column_name) = 'embedding_status'`, s.schema, s.name)
	}
	return s, err
}

// isQuery reports whether the value of --from begins like a query.
func isQuery(from string) bool {
	from = strings.TrimLeft(from, "( \t\r\n")
	word := strings.IndexFunc(from, func(r rune) bool { return !unicode.IsLetter(r) })
	if word < 0 || !strings.ContainsRune(" \t\r\n*('\"", rune(from[word])) {
		return false
	}
	return slices.Contains([]string{"SELECT", "FROM", "WITH", "VALUES", "TABLE"}, strings.ToUpper(from[:word]))
}

// locate finds the table or view of a name, in any case, as DuckDB does.
func locate(c *duck.Conn, s *source, name string) (found bool, err error) {
	return c.One(func(r *duck.Rows) {
		s.schema, s.name, s.table = r.Text(0), r.Text(1), r.Bool(2)
		s.sql = duck.Ident(s.schema) + "." + duck.Ident(s.name)
	}, `SELECT schema_name, name, is_table FROM (
			SELECT schema_name, table_name AS name, true AS is_table FROM duckdb_tables() WHERE database_name = current_database()
			UNION ALL SELECT schema_name, view_name, false FROM duckdb_views() WHERE database_name = current_database() AND NOT internal)
		WHERE (schema_name = current_schema() AND lower(name) = lower($1)) OR lower(schema_name || '.' || name) = lower($1)
		ORDER BY schema_name = current_schema() DESC LIMIT 1`, name)
}

// courtesy reports whether the source is a table with a column for the status.
func (s *source) courtesy() bool { return s.table && s.columns["embedding_status"] == "VARCHAR" }

// column is the SQL for a text column that may be missing. It is NULL for an
// empty text.
func (s *source) column(name string) string {
	if s.columns[name] == "" {
		return "NULL::VARCHAR"
	}
	return "nullif(" + name + ", '')"
}

// title and body are the SQL for the parts of a chunk that are embedded.
func (s *source) title() string { return s.column("title") }
func (s *source) body() string {
	return "coalesce(" + s.column("context") + ", " + s.column("text") + ", '')"
}

// hash is the SQL for the hash of a chunk's title and body. The length of the
// title keeps the two apart.
func (s *source) hash() string {
	return fmt.Sprintf("md5_number(concat(strlen(coalesce(%[1]s, '')), ':', coalesce(%[1]s, ''), %[2]s))", s.title(), s.body())
}

// managed reports whether the toolkit keeps the courtesy columns in step.
func (s *source) managed() bool { return strings.Contains(s.comment, mark) }

// reset is the SQL for whether the user wants another vector for a chunk.
func (s *source) reset() string {
	if !s.managed() {
		return "false"
	}
	return "coalesce(embedding_status = 'PENDING', false)"
}

// rid is the SQL for what identifies a row in the same transaction: the rowid of
// a table, else the id.
func (s *source) rid() string {
	if s.table {
		return "rowid"
	}
	return "id"
}

// status is a SELECT of every chunk's id, key, rid, text_hash, bytes,
// title_bytes, status, message, embedding, tokens and again, which tells that
// the chunk has a vector and the user wants another. The hash of the present
// text decides: READY if embeddings holds it for this chunk, else QUEUED if an
// open batch holds it, else FAILED if a permanent failure does, else PENDING.
// where is empty or the WHERE clause that chooses the chunks.
func (s *source) status(embeddings, where string) string {
	return fmt.Sprintf(`
	SELECT c.*, e.embedding, e.tokens, f.message, c.reset AND e.chunk_id IS NOT NULL AS again,
		CASE WHEN e.chunk_id IS NOT NULL AND NOT c.reset THEN 'READY'
			WHEN q.text_hash IS NOT NULL THEN 'QUEUED'
			WHEN f.final AND NOT c.reset THEN 'FAILED'
			ELSE 'PENDING' END AS status
	FROM (SELECT id, CAST(id AS VARCHAR) AS key, %[1]s AS rid, %[2]s AS text_hash, %[3]s AS reset, strlen(%[4]s) AS bytes, strlen(coalesce(%[9]s, '')) AS title_bytes FROM %[5]s %[8]s) c
	LEFT JOIN %[6]s e ON e.chunk_id = c.id AND e.text_hash = c.text_hash
	LEFT JOIN (SELECT DISTINCT text_hash FROM gbatch.items JOIN gbatch.jobs USING (batch) WHERE embeddings = %[7]s AND closed_at IS NULL) q ON q.text_hash = c.text_hash
	LEFT JOIN (SELECT * FROM gbatch.failures WHERE embeddings = %[7]s) f ON f.chunk_id = c.key AND f.text_hash = c.text_hash`,
		s.rid(), s.hash(), s.reset(), s.body(), s.sql, duck.Ident(embeddings), duck.Literal(embeddings), where, s.title())
}

// view creates chunk_status, for people and their queries. It leaves a view or
// table of that name alone that is not the toolkit's.
func (s *source) view(c *duck.Conn, embeddings string) error {
	n, err := c.Count(`SELECT count(*) FROM (
		SELECT view_name AS name, sql FROM duckdb_views() WHERE database_name = current_database() AND schema_name = current_schema()
		UNION ALL SELECT table_name, '' FROM duckdb_tables() WHERE database_name = current_database() AND schema_name = current_schema())
		WHERE lower(name) = 'chunk_status' AND NOT contains(sql, 'gbatch.items')`)
	if err != nil || n > 0 {
		return err
	}
	return c.Exec(`CREATE OR REPLACE VIEW chunk_status AS
		SELECT id, status AS embedding_status, CASE WHEN status = 'FAILED' THEN message END AS error_message,
			CASE WHEN status = 'READY' THEN embedding END AS embedding
		FROM (` + s.status(embeddings, "") + `)`)
}

// unique refuses a source in which a row has no id, or the id of another row.
func (s *source) unique(c *duck.Conn) error {
	var id string
	var n int64
	found, err := c.One(func(r *duck.Rows) { id, n = r.Text(0), r.Int(1) },
		"SELECT CAST(id AS VARCHAR), count(*) FROM "+s.sql+" GROUP BY id HAVING id IS NULL OR count(*) > 1 OR CAST(id AS VARCHAR) = '' LIMIT 1")
	switch {
	case err != nil || !found:
		return err
	case id == "":
		return exit.Errorf(exit.Malformed, "--from %s: %d rows have no id", s.from, n)
	}
	return exit.Errorf(exit.Malformed, "--from %s: id %q occurs %d times; an id must name one chunk", s.from, id, n)
}
