package store

import (
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"

	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
	"gbatch/pkg/model"
)

// The COMMENT of a table of vectors says which space it holds. The comment is
// dropped with the table, so it is right even if gbatch.jobs is lost or
// describes an earlier table of that name. A comment of the user is kept beside
// it.

func spaceComment(s model.Space) string { return fmt.Sprintf("holds %v (gbatch)", s) }

var spaceComments = regexp.MustCompile(`holds (\S+) (\d+)(?: (\S+))? \(gbatch\)`)

// parseSpace reads the space from a comment. If the comment names no valid
// space, or several, the result is the zero Space.
func parseSpace(comment string) model.Space {
	all := spaceComments.FindAllStringSubmatch(comment, -1)
	if len(all) != 1 {
		return model.Space{}
	}
	dim, _ := strconv.Atoi(all[0][2])
	s, err := model.Space{Model: all[0][1], Dim: dim, TaskType: all[0][3]}.Checked()
	if err != nil {
		return model.Space{}
	}
	return s
}

// vectorTable describes a table of vectors.
type vectorTable struct {
	name    string
	there   bool
	filled  bool // the table has rows
	comment string
}

func openVectors(c *duck.Conn, name string) (t vectorTable, err error) {
	t.name = name
	t.there, err = c.One(func(r *duck.Rows) { t.comment = r.Text(0) }, `SELECT comment FROM duckdb_tables()
		WHERE database_name = current_database() AND schema_name = current_schema() AND table_name = ?`, name)
	if err == nil && t.there {
		var n int64
		n, err = c.Count("SELECT count(*) FROM (SELECT 1 FROM " + duck.Ident(name) + " LIMIT 1)")
		t.filled = n > 0
	}
	return t, err
}

// spaceOf returns the space that vectors for a table must have: that of its
// vectors, or else that of its open batches. It is the zero Space if there are
// neither. The database must have the toolkit's tables.
func spaceOf(c *duck.Conn, table string) (space model.Space, err error) {
	t, err := openVectors(c, table)
	if err != nil {
		return space, err
	}
	read := func(r *duck.Rows) {
		space = model.Space{Model: model.Bare(r.Text(0)), Dim: int(r.Int(1)), TaskType: r.Text(2)}
	}
	if t.filled {
		if space = parseSpace(t.comment); space != (model.Space{}) {
			return space, nil
		}
		// An older version made the table, or the user has replaced the comment.
		found, err := c.One(read, "SELECT model, dim, task_type FROM gbatch.jobs WHERE embeddings = ? AND batch IN (SELECT batch FROM "+duck.Ident(table)+") ORDER BY batch DESC LIMIT 1", table)
		if err != nil || found {
			return space, err
		}
		return space, exit.Errorf(exit.Usage, "table %[1]s does not say which model its vectors are from, and %[3]s.jobs does not know their batches; if you know the model, set it (COMMENT ON TABLE %[2]s IS '%[4]s'); otherwise name another table with --embeddings NAME",
			table, duck.Ident(table), schema, spaceComment(model.Space{Model: model.Default, Dim: model.DefaultDim, TaskType: model.DefaultTaskType}))
	}
	_, err = c.One(read, "SELECT model, dim, task_type FROM gbatch.jobs WHERE embeddings = ? AND closed_at IS NULL ORDER BY batch DESC LIMIT 1", table)
	return space, err
}

// noteSpace writes the space of a table of vectors to its comment, unless it is
// already there. The table of an older version has no such comment: see rehash.
func noteSpace(c *duck.Conn, table string, space model.Space) error {
	t, err := openVectors(c, table)
	if err != nil || !t.there {
		return err
	}
	switch have := parseSpace(t.comment); {
	case have == space:
		return nil
	case have == (model.Space{}):
		if err := rehash(c, t, space); err != nil {
			return err
		}
	case t.filled:
		return fmt.Errorf("table %s holds %v, and the vectors are %v: vectors of two spaces cannot be compared", table, have, space)
	}
	comment := strings.TrimSpace(spaceComments.ReplaceAllString(t.comment, ""))
	return c.Exec("COMMENT ON TABLE " + duck.Ident(table) + " IS " + duck.Literal(strings.TrimSpace(comment+" "+spaceComment(space))))
}

// rehash gives the hashes of an older version their present form. That version
// hashed the title in every space, even if no request contains it. Without
// rehash, each chunk with a title would be paid for again. It works for the
// texts in the outbox, and for chunks whose present text is the text that was
// embedded.
func rehash(c *duck.Conn, t vectorTable, space model.Space) error {
	if space.TakesTitle() {
		return nil
	}
	// In a batch, the same text with two titles is two requests, and both are
	// paid for. The first answer is for all chunks with that text. The other
	// answer keeps its hash, so that it changes nothing.
	err := c.Exec(fmt.Sprintf(`CREATE OR REPLACE TEMP TABLE gbatch_rehash AS
			SELECT *, row_number() OVER (PARTITION BY batch, new ORDER BY old <> new, seq) > 1 AS again FROM (
				SELECT i.batch, i.seq, i.chunk_id, i.text_hash AS old, md5_number(concat('0:', i.text)) AS new
				FROM gbatch.items i JOIN gbatch.jobs j USING (batch) WHERE j.embeddings = %s AND NOT i.twin)
			WHERE true QUALIFY bool_or(old <> new) OVER (PARTITION BY batch, new);
		UPDATE gbatch.items AS i SET text_hash = r.new FROM gbatch_rehash r
			WHERE i.batch = r.batch AND i.text_hash = r.old AND r.old <> r.new AND (i.twin OR NOT r.again);
		INSERT INTO gbatch.items SELECT batch, seq, chunk_id, NULL, NULL, new, true FROM gbatch_rehash r
			WHERE again AND NOT EXISTS (SELECT 1 FROM gbatch.items i WHERE i.batch = r.batch AND i.chunk_id = r.chunk_id AND i.twin)`, duck.Literal(t.name)))
	if err != nil {
		return err
	}
	var sources []string
	r, err := c.Query("SELECT DISTINCT source FROM gbatch.jobs WHERE embeddings = ? ORDER BY source", t.name)
	if err != nil {
		return err
	}
	for r.Next() {
		sources = append(sources, r.Text(0))
	}
	r.Close()
	for _, from := range sources {
		s, err := openSource(c, from, space)
		if err != nil {
			slog.Debug("a source of an older batch does not exist any more", "source", from, "error", err)
			continue
		}
		if s.columns["title"] == "" {
			continue
		}
		older := *s
		older.space.TaskType = model.DefaultTaskType
		if err := c.Exec(fmt.Sprintf(`CREATE OR REPLACE TEMP TABLE gbatch_rehash AS
				SELECT %[1]s AS id, CAST(%[1]s AS VARCHAR) AS key, %[2]s AS old, %[3]s AS new FROM %[4]s WHERE strlen(title) > 0;
			UPDATE gbatch.failures AS f SET text_hash = r.new FROM gbatch_rehash r WHERE f.embeddings = %[5]s AND f.chunk_id = r.key AND f.text_hash = r.old`,
			s.id(), older.hash(), s.hash(), s.sql, duck.Literal(t.name))); err != nil {
			return err
		}
		if !t.filled {
			continue
		}
		if err := c.Exec(fmt.Sprintf("UPDATE %s AS e SET text_hash = r.new FROM gbatch_rehash r WHERE CAST(e.chunk_id AS VARCHAR) = r.key AND e.text_hash = r.old", duck.Ident(t.name))); err != nil {
			return err
		}
	}
	return nil
}
