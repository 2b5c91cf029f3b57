package store

import (
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
	"gbatch/pkg/model"
)

// A source is where the chunks are: a table or view of the user's, or a SELECT.
type source struct {
	from    string      // the value of --from
	sql     string      // the operand of FROM in a statement
	space   model.Space // the space of the chunks' vectors
	schema  string      // schema of a table or view
	name    string
	table   bool // a base table: it has rowids and can be updated
	stored  bool // a base table whose columns are all stored: a transaction reads the same each time
	idType  string
	columns map[string]string // type by name in lower case

	// For the courtesy columns, see courtesy.go.
	column  string // of --column; "" if there is none
	comment string // of embedding_status
	blank   string // the SQL for an empty error_message
	noted   bool   // gbatch.noted exists
}

// mark is in the comment on embedding_status once the toolkit maintains the
// column. It distinguishes such a table from a new one, in which all rows are
// PENDING by default.
const mark = "kept in step by gbatch"

// openSource examines what --from names. A text that begins like a query is a
// query, and is run unchanged. Any other text is the name of a table or view of
// the database, optionally after its schema and a dot. Hashes are those of the
// requests for space. A caller that needs no hashes may leave space empty.
func openSource(c *duck.Conn, from string, space model.Space) (*source, error) {
	s := &source{from: from, space: space, columns: map[string]string{}}
	if query, ok := asQuery(from); ok {
		s.sql = "(" + query + "\n)"
	} else {
		found, err := locate(c, s, from)
		if err != nil {
			return nil, err
		}
		if !found {
			return nil, notFound(c, from)
		}
	}
	err := c.Each(func(r *duck.Rows) { s.columns[strings.ToLower(r.Text(0))] = r.Text(1) },
		"SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM "+s.sql+")")
	if err != nil {
		return nil, fmt.Errorf("--from %s: %w", brief(from), err)
	}
	if s.table && s.columns["rowid"] != "" {
		return nil, fmt.Errorf("--from %s: its column rowid hides DuckDB's own rowid, which identifies rows; rename the column, or select the other columns in a SELECT", brief(from))
	}
	for _, name := range []string{"id", "text"} {
		if s.columns[name] == "" {
			return nil, fmt.Errorf("--from %s has no column %s, only %.300s; it needs id and text, and may have title and context: name the columns with --from \"SELECT … AS id, … AS text FROM …\"", brief(from), name, strings.Join(slices.Sorted(maps.Keys(s.columns)), ", "))
		}
	}
	for _, name := range []string{"text", "title", "context"} {
		if t := s.columns[name]; t != "" && t != "VARCHAR" {
			return nil, fmt.Errorf("--from %s: column %s is %.100s, not VARCHAR; cast it in a SELECT", brief(from), name, t)
		}
	}
	switch s.idType = s.columns["id"]; s.idType {
	case "VARCHAR", "UUID", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT":
	default:
		return nil, fmt.Errorf("--from %s: ids of type %.100s are not supported, only text, whole numbers and UUID; cast them in a SELECT (CAST(id AS VARCHAR) AS id)", brief(from), s.idType)
	}
	return s, s.examine(c)
}

// notFound is the error of a name that is neither a table nor a view. The name
// of a file is not one either.
func notFound(c *duck.Conn, from string) error {
	var names []string
	err := c.Each(func(r *duck.Rows) { names = append(names, r.Text(0)) }, `SELECT if(schema_name = current_schema(), '', schema_name || '.') || table_name AS name FROM duckdb_columns()
		WHERE database_name = current_database() AND schema_name <> 'gbatch' AND NOT internal AND NOT starts_with(table_name, 'chunk_status')
		GROUP BY schema_name, table_name HAVING NOT bool_or(column_name = 'text_hash') ORDER BY ALL LIMIT 10`)
	if err != nil {
		return err
	}
	have := "the database has none: put chunks into it with chunks-add, or create a table with DuckDB"
	if len(names) > 0 {
		have = fmt.Sprintf("the database has %s: name one with --from, or give a SELECT that yields id and text", strings.Join(names, ", "))
	}
	err = fmt.Errorf("there is no table or view %q; %s", brief(from), have)
	ext := strings.ToLower(filepath.Ext(strings.TrimSuffix(from, ".gz")))
	if slices.Contains([]string{".parquet", ".csv", ".tsv", ".json", ".jsonl", ".ndjson"}, ext) {
		err = fmt.Errorf("%w; if it is a file: --from \"FROM %s\"", err, duck.Literal(brief(from)))
	}
	return err
}

// locate finds a table or view by its name, in any case, as DuckDB does. The
// name may follow its schema and a dot, and also its database and a dot.
func locate(c *duck.Conn, s *source, name string) (found bool, err error) {
	return c.One(func(r *duck.Rows) {
		s.schema, s.name, s.table, s.stored = r.Text(0), r.Text(1), r.Bool(2), r.Bool(5)
		s.sql = qualified(s.schema, s.name, r.Text(3), r.Bool(4))
	}, `SELECT schema_name, name, is_table, current_database(), lower(schema_name) IN (SELECT lower(database_name) FROM duckdb_databases()), is_stored FROM (
			SELECT schema_name, table_name AS name, true AS is_table, NOT contains(sql, 'GENERATED ALWAYS') AS is_stored FROM duckdb_tables() WHERE database_name = current_database()
			UNION ALL SELECT schema_name, view_name, false, false FROM duckdb_views() WHERE database_name = current_database() AND NOT internal)
		WHERE (schema_name = current_schema() AND lower(name) = lower($1)) OR lower($1) IN (lower(schema_name || '.' || name), lower(current_database() || '.' || schema_name || '.' || name))
		ORDER BY schema_name = current_schema() DESC LIMIT 1`, name)
}

// qualified is the SQL for the name of a table. If a schema has the name of a
// database, DuckDB refuses the name of the table unless it begins with its
// database.
func qualified(schema, name, database string, ambiguous bool) string {
	sql := duck.Ident(schema) + "." + duck.Ident(name)
	if ambiguous {
		sql = duck.Ident(database) + "." + sql
	}
	return sql
}

// statusWords are the words of embedding_status. QUEUED is used only by the
// view.
const statusWords = "('PENDING', 'READY', 'FAILED', 'QUEUED')"

// checkStatus refuses a table whose embedding_status holds the user's own words,
// because the toolkit would overwrite them.
func (s *source) checkStatus(c *duck.Conn) error {
	if !s.courtesy() {
		return nil
	}
	const hint = "gbatch would write PENDING, READY and FAILED there; rename the column, or select the other columns with --from"
	if t := s.columns["embedding_status"]; strings.HasPrefix(t, "ENUM(") {
		for _, word := range []string{"PENDING", "READY", "FAILED"} {
			if !strings.Contains(t, "'"+word+"'") {
				return exit.Errorf(exit.Usage, "the type of column embedding_status of table %s has no value %s: %s", s.name, word, hint)
			}
		}
	}
	var word string
	found, err := c.One(func(r *duck.Rows) { word = r.Text(0) },
		"SELECT status FROM (SELECT CAST(embedding_status AS VARCHAR) COLLATE C AS status FROM "+s.sql+") WHERE status NOT IN "+statusWords+" LIMIT 1")
	if err == nil && found {
		err = exit.Errorf(exit.Usage, "column embedding_status of table %s holds %.100q, which is not a status of gbatch: %s", s.name, word, hint)
	}
	return err
}

// id is the SQL for the id of a chunk. It is compared byte by byte, whatever
// collation the column has.
func (s *source) id() string {
	if s.idType == "VARCHAR" {
		return "id COLLATE C"
	}
	return "id"
}

// textColumn is the SQL for a text column that may be missing. It is NULL if the
// text is empty.
func (s *source) textColumn(name string) string {
	if s.columns[name] == "" {
		return "NULL::VARCHAR"
	}
	// Under a collation, a text that is not empty may be equal to an empty one.
	return fmt.Sprintf("CASE WHEN strlen(%[1]s) > 0 THEN %[1]s COLLATE C END", name)
}

// title and body are the SQL for the parts of a chunk that its request contains.
func (s *source) title() string {
	if !s.space.TakesTitle() {
		return "NULL::VARCHAR"
	}
	return s.textColumn("title")
}
func (s *source) body() string {
	return "coalesce(" + s.textColumn("context") + ", " + s.textColumn("text") + ", '')"
}

// hash is the SQL for the hash of what a chunk's request contains.
func (s *source) hash() string { return "md5_number(" + s.sent() + ")" }

// portableHash is hash for all versions of DuckDB: before 1.3, md5_number is
// signed. It is slower, because it computes the MD5 twice.
func (s *source) portableHash() string {
	return fmt.Sprintf("((md5_number_lower(%[1]s)::UHUGEINT << 64) | md5_number_upper(%[1]s))", s.sent())
}

// sent is the SQL for the title and the body of a chunk as one text. The length
// of the title separates the two.
func (s *source) sent() string {
	return fmt.Sprintf("concat(strlen(coalesce(%[1]s, '')), ':', coalesce(%[1]s, ''), %[2]s)", s.title(), s.body())
}

// rid is the SQL for what identifies a row within a transaction: the rowid of a
// table, or else the id.
func (s *source) rid() string {
	if s.table {
		return "rowid"
	}
	return s.id()
}

// ids is the type of the ids. For a source that cannot be read it is a type to
// which all ids can be cast.
func (s *source) ids() string {
	if s == nil {
		return "VARCHAR"
	}
	return s.idType
}

// status is a SELECT of every chunk's id, key, rid, text_hash, bytes,
// title_bytes, sent_title, sent_body, status, message, embedding, tokens and
// came_with. The hash of the present text decides the status: READY if embeddings
// holds the hash for this chunk, else QUEUED if an open batch holds it, else FAILED
// if a permanent failure has it, else PENDING. where is empty or a WHERE clause that
// selects chunks.
func (s *source) status(embeddings, where string) string {
	return s.statusBy(s.hash(), embeddings, where)
}

// statusBy is status with a given SQL for the hash.
//
// The embedding must come from a join, because DuckDB has no CASE over arrays. reset
// is a part of the equation, because a condition on one side alone makes DuckDB
// compare each chunk with each vector.
func (s *source) statusBy(hash, embeddings, where string) string {
	return s.join(hash, embeddings, where, "e.embedding, e.tokens, e.batch AS came_with", "CASE WHEN NOT c.reset THEN c.text_hash END", "e.chunk_id IS NOT NULL")
}

// work is status for chunks-pending: in place of the columns of the vector it has
// again, which means that the chunk has a vector and the user wants another one.
func (s *source) work(embeddings, where string) string {
	return s.join(s.hash(), embeddings, where, "c.reset AND e.chunk_id IS NOT NULL AS again", "c.text_hash", "e.chunk_id IS NOT NULL AND NOT c.reset")
}

// join joins the chunks with all that decides their status. vector is the SQL of the
// columns that come from the vector, match is equal to the vector's text_hash, and
// ready is the condition for READY. Ids are joined as text, because their type may
// have changed, see fitVectors.
func (s *source) join(hash, embeddings, where, vector, match, ready string) string {
	chunks := s.recall(fmt.Sprintf("SELECT %s AS id, id AS own, CAST(%[1]s AS VARCHAR) AS key, %[2]s AS rid, %[3]s AS text_hash, %[4]s AS reset, %[5]s AS sent_body, %[6]s AS sent_title, strlen(%[5]s) AS bytes, strlen(coalesce(%[6]s, '')) AS title_bytes%[7]s FROM %[8]s %[9]s",
		s.id(), s.rid(), hash, s.reset(), s.body(), s.title(), s.says(), s.sql, where))
	return fmt.Sprintf(`
	SELECT c.*, %[4]s, f.message,
		CASE WHEN %[6]s THEN 'READY'
			WHEN q.text_hash IS NOT NULL THEN 'QUEUED'
			WHEN f.final AND NOT c.reset THEN 'FAILED'
			ELSE 'PENDING' END AS status
	FROM (%[1]s) c
	LEFT JOIN %[2]s e ON CAST(e.chunk_id AS VARCHAR) = c.key AND e.text_hash = %[5]s
	LEFT JOIN (SELECT DISTINCT text_hash FROM gbatch.items JOIN gbatch.jobs USING (batch) WHERE embeddings = %[3]s AND closed_at IS NULL) q ON q.text_hash = c.text_hash
	LEFT JOIN (SELECT * FROM gbatch.failures WHERE embeddings = %[3]s) f ON f.chunk_id = c.key AND f.text_hash = c.text_hash`,
		chunks, duck.Ident(embeddings), duck.Literal(embeddings), vector, match, ready)
}

// defaultView is the view of the default table of vectors. The view of another table is
// called after it: embeddings_2_status.
const (
	defaultTable = "embeddings"
	defaultView  = "chunk_status"
)

// shownTable matches, in the SQL of a view of the toolkit, the table of vectors whose
// chunks the view shows. Views of older versions match too.
var shownTable = regexp.MustCompile(`FROM gbatch\.failures WHERE \(?embeddings = '((?:[^']|'')*)'`)

// view creates the view of a table of vectors for people and their queries, in any
// version of DuckDB that can open the file. A view or table of that name that does not
// belong to the toolkit, or shows another table, is not changed: what a reader sees
// stays of one space.
func (s *source) view(c *duck.Conn, embeddings string) error {
	taken := map[string]string{} // by name in lower case: the table that the view shows, or ""
	err := c.Each(func(r *duck.Rows) {
		shown := ""
		if m := shownTable.FindStringSubmatch(r.Text(1)); m != nil {
			shown = strings.ReplaceAll(m[1], "''", "'")
		}
		taken[strings.ToLower(r.Text(0))] = shown
	}, `SELECT view_name, sql FROM duckdb_views() WHERE database_name = current_database() AND schema_name = current_schema()
		UNION ALL SELECT table_name, '' FROM duckdb_tables() WHERE database_name = current_database() AND schema_name = current_schema()`)
	if err != nil {
		return err
	}
	// An older version gave the name to the table of the last claim. The view stays with
	// that table while it exists.
	name := embeddings + "_status"
	owner, there := taken[defaultView]
	if _, exists := taken[strings.ToLower(owner)]; there && owner == embeddings || embeddings == defaultTable && (!there || owner != "" && !exists) {
		name, taken[defaultView] = defaultView, embeddings
	}
	if shown, is := taken[strings.ToLower(name)]; is && shown != embeddings {
		slog.Debug("a table or view has the name of the view of the chunks' status, and is not changed", "name", name)
		return nil
	}
	shown := *s
	shown.column = "" // the view must not break if the column is dropped
	return c.Exec(`CREATE OR REPLACE VIEW ` + duck.Ident(name) + ` AS
		SELECT own AS id, status AS embedding_status, CASE WHEN status = 'FAILED' THEN message END AS error_message, embedding
		FROM (` + shown.statusBy(s.portableHash(), embeddings, "") + `)`)
}

// unique refuses a source in which a row has no id or two rows have the same id.
// where is empty or a WHERE clause that selects all rows with some of the ids.
func (s *source) unique(c *duck.Conn, where string) error {
	var id string
	var n int64
	found, err := c.One(func(r *duck.Rows) { id, n = r.Text(0), r.Int(1) },
		fmt.Sprintf("SELECT CAST(id AS VARCHAR), count(*) FROM (SELECT %s AS id FROM %s %s) GROUP BY id HAVING id IS NULL OR count(*) > 1 OR CAST(id AS VARCHAR) = '' LIMIT 1", s.id(), s.sql, where))
	switch {
	case err != nil || !found:
		return err
	case id == "":
		return exit.Errorf(exit.Malformed, "--from %s: %d rows have no id", brief(s.from), n)
	}
	return exit.Errorf(exit.Malformed, "--from %s: id %.100q occurs %d times; an id must name one chunk", brief(s.from), id, n)
}

// brief shortens the value of --from for a message.
func brief(from string) string {
	from = strings.Join(strings.Fields(from), " ")
	if runes := []rune(from); len(runes) > 200 {
		return string(runes[:200]) + " …"
	}
	return from
}
