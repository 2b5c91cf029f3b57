package store

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"gbatch/pkg/exit"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/record"
)

// Add is chunks-add: it puts chunks into the table, replacing by id, and
// leaves the embedding of them to the pipeline. All of the input goes in, or
// nothing.
type Add struct {
	Database `embed:""`
	Table    string `default:"chunks" help:"The table; it is made if it is not there."`
}

// Run reads chunk records. Nothing goes to out.
func (a *Add) Run(ctx context.Context, in io.Reader, _ io.Writer) error {
	// The input is staged in a database in memory, which spills to disk, and
	// goes into the file when it is whole: the file is not held while a pipe is
	// waited for.
	defer a.end()
	stage, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer stage.close()
	if err := stage.exec("CREATE TABLE memory.main.stage (line BIGINT, id VARCHAR, text VARCHAR, title VARCHAR, context VARCHAR)"); err != nil {
		return err
	}
	n, err := a.stage(stage, in)
	if err != nil || n == 0 {
		return err
	}
	if err := stage.attach(a.Database, create); err != nil {
		return err
	}
	if err := stage.exec("BEGIN"); err != nil {
		return err
	}
	if err := a.merge(stage); err != nil {
		return err
	}
	return stage.exec("COMMIT")
}

// stage reads all chunks into the staging table.
func (a *Add) stage(c *conn, in io.Reader) (n int, err error) {
	rows, err := c.appender("memory", "main", "stage", bigint(), varchar(), varchar(), varchar(), varchar())
	if err != nil {
		return 0, err
	}
	r := ndjson.NewReader(in)
	for ; ; n++ {
		line, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, err
		}
		var chunk record.Chunk
		if err := chunk.Parse(line); err != nil {
			return 0, r.Errorf("%w", err)
		}
		if strings.HasPrefix(chunk.ID, record.CanaryPrefix) {
			return 0, r.Errorf("id %.100q: ids that begin with %s are reserved", chunk.ID, record.CanaryPrefix)
		}
		rows.setInt(0, int64(r.Line()))
		rows.setString(1, chunk.ID)
		for i, s := range []string{chunk.Text, chunk.Title, chunk.Context} {
			if s == "" {
				rows.setNull(2 + i)
			} else {
				rows.setString(2+i, s)
			}
		}
		if err := rows.next(); err != nil {
			return 0, err
		}
	}
	if err := rows.close(); err != nil {
		return 0, err
	}
	return n, c.once("id")
}

// once refuses an id that comes twice.
func (c *conn) once(key string) error {
	var id string
	var first, again int64
	found, err := c.one(func(r *rows) { id, first, again = r.string(0), r.int(1), r.int(2) },
		"SELECT min(id), min(line), max(line) FROM memory.main.stage GROUP BY "+key+" HAVING count(*) > 1 ORDER BY 3 LIMIT 1")
	if err == nil && found {
		err = &ndjson.LineError{Line: int(again), Err: fmt.Errorf("id %q was on line %d already", id, first)}
	}
	return err
}

// merge puts the staged chunks into the table. A chunk that is there with the
// same words is left alone, and its embedding_status with it.
func (a *Add) merge(c *conn) error {
	there, err := c.lookup(new(source), a.Table)
	if err == nil && !there {
		table := ident(a.Table)
		if schema, name, ok := strings.Cut(a.Table, "."); ok {
			table = ident(schema) + "." + ident(name)
		}
		err = c.exec("CREATE TABLE " + table + " (id VARCHAR PRIMARY KEY, text VARCHAR, title VARCHAR, context VARCHAR)")
	}
	if err != nil {
		return err
	}
	s, err := c.source(a.Table)
	if err != nil {
		return err
	}
	if !s.table {
		return exit.Errorf(exit.Usage, "%s is a view; chunks are added to a table", a.Table)
	}
	if err := a.fit(c, s); err != nil {
		return err
	}
	set, names, values, same := "", "id", "CAST(n.id AS "+s.idType+")", "true"
	for _, name := range []string{"text", "title", "context"} {
		if s.columns[name] == "" {
			n, err := c.count("SELECT count(" + name + ") FROM memory.main.stage")
			if err != nil {
				return err
			}
			if n > 0 {
				return exit.Errorf(exit.Usage, "chunks have a %s, but table %s has no such column; make it with ALTER TABLE %s ADD COLUMN %s VARCHAR", name, a.Table, a.Table, name)
			}
			continue
		}
		if set != "" {
			set += ", "
		}
		set += name + " = n." + name
		names += ", " + name
		values += ", n." + name
		same += fmt.Sprintf(" AND nullif(t.%[1]s, '') IS NOT DISTINCT FROM n.%[1]s", name)
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
	err = c.exec(fmt.Sprintf(`UPDATE %[1]s AS t SET %[2]s FROM memory.main.stage n WHERE t.id = CAST(n.id AS %[3]s) AND NOT (%[4]s);
		INSERT INTO %[1]s (%[5]s) SELECT %[6]s FROM memory.main.stage n WHERE CAST(n.id AS %[3]s) NOT IN (SELECT id FROM %[1]s WHERE id IS NOT NULL) ORDER BY n.line`,
		s.sql, set, s.idType, same, names, values))
	if err == nil {
		slog.Info("the chunks are in the table", "table", a.Table)
	}
	return err
}

// fit refuses an id that the table would hold as another: 07 as 7, or a UUID
// in two spellings.
func (a *Add) fit(c *conn, s *source) error {
	if s.idType == "VARCHAR" {
		return nil
	}
	id := "id"
	if s.idType == "UUID" {
		id = "lower(id)"
	}
	var bad string
	var line int64
	found, err := c.one(func(r *rows) { bad, line = r.string(0), r.int(1) },
		fmt.Sprintf("SELECT id, line FROM memory.main.stage WHERE %s IS DISTINCT FROM CAST(TRY_CAST(id AS %s) AS VARCHAR) ORDER BY line LIMIT 1", id, s.idType))
	if err != nil {
		return err
	}
	if found {
		return &ndjson.LineError{Line: int(line), Err: fmt.Errorf("id %q is no %s, which is what table %s has", bad, s.idType, a.Table)}
	}
	return c.once(id)
}

// known lists the staged chunks whose text has a vector under their id. Where
// the status of such a chunk said PENDING, it would be embedded again.
func (a *Add) known(c *conn, s *source) error {
	if err := c.exec("CREATE OR REPLACE TEMP TABLE gbatch_known (id VARCHAR)"); err != nil {
		return err
	}
	ok, err := c.hasSchema()
	if err != nil || !ok {
		return err
	}
	r, err := c.query(`SELECT DISTINCT table_name FROM gbatch.jobs JOIN duckdb_columns() ON table_name = embeddings
		WHERE database_name = current_database() AND schema_name = current_schema() AND column_name = 'chunk_id' AND data_type = ?
			AND lower(source) IN (lower(?), lower(? || '.' || ?))`, s.idType, s.name, s.schema, s.name)
	if err != nil {
		return err
	}
	defer r.close()
	for r.next() {
		err := c.exec(fmt.Sprintf(`INSERT INTO gbatch_known SELECT n.key FROM (SELECT id AS key, CAST(id AS %s) AS id, %s AS text_hash FROM memory.main.stage) n
			JOIN %s e ON e.chunk_id = n.id AND e.text_hash = n.text_hash`, s.idType, s.hash(), ident(r.string(0))))
		if err != nil {
			return err
		}
	}
	return nil
}
