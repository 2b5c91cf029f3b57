package store

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"gbatch/pkg/cli"
	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/record"
)

// Add is chunks-add: it puts chunks into the table. Other commands embed them. A
// chunk replaces the chunk with the same id. All of the input is added, or
// nothing is.
type Add struct {
	duck.Database `embed:""`
	cli.Files     `embed:""`
	Table         string `default:"chunks" help:"The table; it is created if it does not exist."`
	SyncPrefix    string `help:"Remove the chunks whose ids begin with this prefix and that are not in the input. The ids of the input must begin with it." placeholder:"PREFIX" env:"-"`
	Force         bool   `help:"With --sync-prefix: accept an input without an end record, or without chunks." env:"-"`

	lines   *ndjson.Reader // of the input
	ended   bool           // the last line of the input is an end
	removed int64          // chunks that --sync-prefix removed
}

// Run reads chunk records. It writes nothing to out.
func (a *Add) Run(ctx context.Context, in io.Reader, _ io.Writer) error {
	// The input is staged in a table in memory, which spills to disk. It is
	// copied into the file when it is complete. So the file is not held while the
	// command waits for a pipe.
	defer a.End()
	c, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	n, err := a.stage(c, in)
	if err == nil && a.SyncPrefix != "" {
		err = a.checkPrefix(c, n)
	}
	if err == nil && (n > 0 || a.SyncPrefix != "") {
		err = a.TransactOn(c, duck.Create, schema, a.merge)
	}
	if err == nil {
		attrs := []any{"table", a.Table, "chunks", n}
		if a.SyncPrefix != "" {
			attrs = append(attrs, "removed", a.removed)
		}
		slog.Info("the chunks are in the table", attrs...)
	}
	return err
}

// stage reads all chunks into the staging table, and returns their number.
func (a *Add) stage(c *duck.Conn, in io.Reader) (n int, err error) {
	if err := c.Exec("CREATE TABLE memory.main.stage (line BIGINT, id VARCHAR, text VARCHAR, title VARCHAR, context VARCHAR)"); err != nil {
		return 0, err
	}
	rows, err := c.Appender("memory", "stage", duck.BigInt, duck.Varchar, duck.Varchar, duck.Varchar, duck.Varchar)
	if err != nil {
		return 0, err
	}
	r := ndjson.NewReader(in)
	a.lines = r
	for {
		line, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, err
		}
		var chunk record.Chunk
		if a.ended, err = chunk.Parse(line); err != nil {
			return 0, r.Errorf("%w", err)
		}
		if a.ended {
			continue
		}
		n++
		rows.SetInt(0, int64(r.Line()))
		rows.SetText(1, chunk.ID)
		for i, s := range []string{chunk.Text, chunk.Title, chunk.Context} {
			if s == "" {
				rows.SetNull(2 + i)
			} else {
				rows.SetText(2+i, s)
			}
		}
		if err := rows.Next(); err != nil {
			return 0, err
		}
	}
	if err := rows.Close(); err != nil {
		return 0, err
	}
	return n, a.once(c, "id")
}

// checkPrefix refuses an input that would remove chunks by mistake.
func (a *Add) checkPrefix(c *duck.Conn, n int) error {
	if !a.ended && !a.Force {
		return exit.Errorf(exit.Malformed, `the input does not end with {"end":true}, so chunks may be missing, and they would be removed; nothing was changed; add --force if all of it is there`)
	}
	if n == 0 && !a.Force {
		return exit.Errorf(exit.Usage, "the input has no chunks: all chunks whose ids begin with %q would be removed; nothing was changed; add --force if this is what you want", a.SyncPrefix)
	}
	var id string
	var line int64
	found, err := c.One(func(r *duck.Rows) { id, line = r.Text(0), r.Int(1) },
		"SELECT id, line FROM memory.main.stage WHERE NOT starts_with(id, ?) ORDER BY line LIMIT 1", a.SyncPrefix)
	if err == nil && found {
		err = exit.With(exit.Usage, a.lines.ErrorAt(int(line), "id %.100q does not begin with %q, the value of --sync-prefix; nothing was changed", id, a.SyncPrefix))
	}
	return err
}

// once refuses two chunks with the same id. key is the SQL for an id as the
// table would store it.
func (a *Add) once(c *duck.Conn, key string) error {
	var id string
	var first, again int64
	found, err := c.One(func(r *duck.Rows) { id, first, again = r.Text(0), r.Int(1), r.Int(2) },
		"SELECT min(id), min(line), max(line) FROM memory.main.stage GROUP BY "+key+" HAVING count(*) > 1 ORDER BY 3 LIMIT 1")
	if err == nil && found {
		err = a.lines.ErrorAt(int(again), "id %q was already on %s: an id must name one chunk; give the other chunk another id", id, a.lines.Place(int(first)))
	}
	return err
}

// merge puts the staged chunks into the table. If the table has a chunk with the
// same text, title and context, merge changes neither the chunk nor its
// embedding_status.
func (a *Add) merge(c *duck.Conn) error {
	there, err := locate(c, new(source), a.Table)
	if err == nil && !there {
		table := duck.Ident(a.Table)
		if schema, name, ok := strings.Cut(a.Table, "."); ok {
			if _, err := c.One(func(r *duck.Rows) { table = qualified(schema, name, r.Text(0), r.Bool(1)) },
				"SELECT current_database(), lower(?) IN (SELECT lower(database_name) FROM duckdb_databases())", schema); err != nil {
				return err
			}
		}
		err = c.Exec("CREATE TABLE " + table + " (id VARCHAR PRIMARY KEY, text VARCHAR, title VARCHAR, context VARCHAR)")
	}
	if err != nil {
		return err
	}
	s, err := openSource(c, a.Table, model.Space{})
	if err != nil {
		return err
	}
	if !s.table {
		return exit.Errorf(exit.Usage, "%s is a view, and chunks can only be added to a table", a.Table)
	}
	if err := a.fit(c, s); err != nil {
		return err
	}
	if err := s.checkStatus(c); err != nil {
		return err
	}
	set, names, values, same := "", "id", "CAST(n.id AS "+s.idType+")", "true"
	for _, name := range []string{"text", "title", "context"} {
		if s.columns[name] == "" {
			n, err := c.Count("SELECT count(" + name + ") FROM memory.main.stage")
			if err != nil {
				return err
			}
			if n > 0 {
				return exit.Errorf(exit.Usage, "chunks have a %s, but table %s has no such column; create it with ALTER TABLE %s ADD COLUMN %s VARCHAR", name, a.Table, a.Table, name)
			}
			continue
		}
		if set != "" {
			set += ", "
		}
		set += name + " = n." + name
		names += ", " + name
		values += ", n." + name
		same += fmt.Sprintf(" AND nullif(t.%[1]s COLLATE C, '') IS NOT DISTINCT FROM n.%[1]s", name)
	}
	if s.courtesy() {
		if err := a.known(c, s); err != nil {
			return err
		}
		status := "CASE WHEN n.id IN (SELECT id FROM gbatch_known) THEN 'READY' ELSE 'PENDING' END"
		set += ", " + s.setCourtesy(status, "NULL")
		names += ", embedding_status"
		values += ", " + status
	}
	if s.noted {
		// The user did not set this PENDING, so it does not ask for another
		// vector.
		err := c.Exec(fmt.Sprintf("DELETE FROM gbatch.noted WHERE source = %s AND chunk_id IN (SELECT n.id FROM %s t JOIN memory.main.stage n ON t.%s = CAST(n.id AS %s) WHERE NOT (%s))", duck.Literal(s.sql), s.sql, s.id(), s.idType, same))
		if err != nil {
			return err
		}
	}
	err = c.Exec(fmt.Sprintf(`UPDATE %[1]s AS t SET %[2]s FROM memory.main.stage n WHERE t.%[7]s = CAST(n.id AS %[3]s) AND NOT (%[4]s);
		INSERT INTO %[1]s (%[5]s) SELECT %[6]s FROM memory.main.stage n WHERE CAST(n.id AS %[3]s) NOT IN (SELECT %[7]s FROM %[1]s WHERE id IS NOT NULL) ORDER BY n.line`,
		s.sql, set, s.idType, same, names, values, s.id()))
	if err == nil && a.SyncPrefix != "" {
		err = a.sync(c, s)
	}
	return err
}

// sync removes the chunks with the prefix that are not in the input. Their vectors
// stay, as those of any chunk that was deleted.
func (a *Add) sync(c *duck.Conn, s *source) error {
	from := fmt.Sprintf("FROM %s WHERE starts_with(CAST(id AS VARCHAR) COLLATE C, %s) AND %s NOT IN (SELECT CAST(id AS %s) FROM memory.main.stage)",
		s.sql, duck.Literal(a.SyncPrefix), s.id(), s.idType)
	n, err := c.Count("SELECT count(*) " + from)
	if a.removed = n; err == nil && n > 0 {
		err = c.Exec("DELETE " + from)
	}
	return err
}

// fit refuses an id that the table would store as another id: 07 as 7, or a UUID
// in two spellings.
func (a *Add) fit(c *duck.Conn, s *source) error {
	if s.idType == "VARCHAR" {
		return nil
	}
	id := "id"
	if s.idType == "UUID" {
		id = "lower(id)"
	}
	var bad string
	var line int64
	found, err := c.One(func(r *duck.Rows) { bad, line = r.Text(0), r.Int(1) },
		fmt.Sprintf("SELECT id, line FROM memory.main.stage WHERE %s IS DISTINCT FROM CAST(TRY_CAST(id AS %s) AS VARCHAR) ORDER BY line LIMIT 1", id, s.idType))
	if err != nil {
		return err
	}
	if found {
		return a.lines.ErrorAt(int(line), "id %q is not a valid %s, the type of the ids in table %s", bad, s.idType, a.Table)
	}
	return a.once(c, id)
}

// known lists the staged chunks whose id and text have a vector, in the
// temporary table gbatch_known. Such a chunk must not become PENDING: it would
// be embedded again.
func (a *Add) known(c *duck.Conn, s *source) error {
	if err := c.Exec("CREATE OR REPLACE TEMP TABLE gbatch_known (id VARCHAR)"); err != nil {
		return err
	}
	ok, err := hasTables(c)
	if err != nil || !ok {
		return err
	}
	var tables []string
	r, err := c.Query(`SELECT DISTINCT table_name FROM gbatch.jobs JOIN duckdb_columns() ON table_name = embeddings
		WHERE database_name = current_database() AND schema_name = current_schema() AND column_name = 'chunk_id' AND data_type = ?
			AND lower(source) IN (lower(?), lower(? || '.' || ?))`, s.idType, s.name, s.schema, s.name)
	if err != nil {
		return err
	}
	for r.Next() {
		tables = append(tables, r.Text(0))
	}
	r.Close()
	for _, table := range tables {
		in := *s
		if in.space, err = spaceOf(c, table); err != nil {
			return err
		}
		err := c.Exec(fmt.Sprintf(`INSERT INTO gbatch_known SELECT n.key FROM (SELECT id AS key, CAST(id AS %s) AS id, %s AS text_hash FROM memory.main.stage) n
			JOIN %s e ON e.chunk_id = n.id AND e.text_hash = n.text_hash`, in.idType, in.hash(), duck.Ident(table)))
		if err != nil {
			return err
		}
	}
	return nil
}
