package store

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"gbatch/pkg/cli"
	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
	"gbatch/pkg/model"
	"gbatch/pkg/progress"
)

// Check is vectors-check: it looks for vectors that are wrong, or compares them with
// vectors that were made anew. It writes nothing to the database.
type Check struct {
	duck.Database `embed:""`
	cli.Output    `embed:""`
	From          string  `placeholder:"SOURCE" help:"The chunks, as for chunks-pending (default: all sources whose chunks were claimed for the table)."`
	Embeddings    string  `default:"embeddings" help:"The table of the vectors."`
	Against       string  `placeholder:"FILE" help:"Instead, compare the vectors with the vector records in FILE; - is stdin."`
	MinCosine     float64 `default:"0.999" help:"With --against: a pair of vectors with a smaller cosine is a finding."`
	Keys          int     `default:"5" help:"How many keys to name for each check."`
	JSON          bool    `help:"Print records on a terminal too."`
}

// A verdict is the record of one check. There is a finding if Count is not 0.
type verdict struct {
	Check string   `json:"check"`
	Table string   `json:"table"`
	Count int64    `json:"count"`
	Of    int64    `json:"of"`
	Keys  []string `json:"keys,omitempty"`

	Dims []int `json:"dims,omitempty"` // of dead, from 1

	// Of norm: the lengths of all vectors that have one.
	LeastNorm  *float64 `json:"least_norm,omitempty"`
	MedianNorm *float64 `json:"median_norm,omitempty"`
	MostNorm   *float64 `json:"most_norm,omitempty"`

	LeastCosine *float64  `json:"least_cosine,omitempty"` // of cosine
	MeanCosine  *float64  `json:"mean_cosine,omitempty"`  // of collapsed and cosine
	Cosines     []float64 `json:"cosines,omitempty"`      // of Keys

	Tokens   int64 `json:"tokens,omitempty"`   // Google's count
	Estimate int64 `json:"estimate,omitempty"` // for the same texts

	Spaces      []string `json:"spaces,omitempty"`       // of mixed
	Unreadable  []string `json:"unreadable,omitempty"`   // sources whose chunks are not known
	Missing     int64    `json:"missing,omitempty"`      // vectors that no record was compared with
	MissingKeys []string `json:"missing_keys,omitempty"` // of the first ones

	Skipped string `json:"skipped,omitempty"` // why nothing was checked
	Message string `json:"message,omitempty"` // what a finding means, and what to do
	Fix     string `json:"fix,omitempty"`     // a command line
}

// Run prints a line for each check, or a table if out is a terminal. It reads in if
// --against is -.
func (k *Check) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	defer k.End()
	if k.Keys < 0 {
		return exit.Errorf(exit.Usage, "--keys must be at least 0")
	}
	work := k.audit
	if k.Against != "" {
		work = func(ctx context.Context) ([]*verdict, model.Space, error) { return k.compare(ctx, in) }
	}
	verdicts, space, err := work(ctx)
	if err != nil {
		return err
	}
	var t *cli.Terminal
	if !k.JSON {
		t = terminal(out)
	}
	if t != nil {
		_, err = io.WriteString(out, strings.Join(k.board(t, space, verdicts), "\n")+"\n")
	} else {
		err = encode(out, verdicts)
	}
	var found []string
	for _, v := range verdicts {
		if v.Count > 0 {
			found = append(found, v.Check)
		}
	}
	if err == nil && len(found) > 0 {
		err = exit.Errorf(exit.Partial, "table %s has findings in %d of %d checks: %s", k.Embeddings, len(found), len(verdicts), strings.Join(found, ", "))
	}
	return err
}

// board is the verdicts as lines for a terminal: all counts, and then what to do
// about the findings.
func (k *Check) board(t *cli.Terminal, space model.Space, verdicts []*verdict) []string {
	b := &board{width: max(t.Columns-1, 1), colors: t.Colors}
	b.add("", k.DB+": "+k.Embeddings+" "+space.String())
	rows := [][]string{{"CHECK", "FOUND", "OF"}}
	for _, v := range verdicts {
		row := []string{v.Check, progress.Commas(v.Count), progress.Commas(v.Of)}
		if v.Skipped != "" {
			row[1] = "–"
		}
		rows = append(rows, row)
	}
	b.table(1, rows...)
	for _, v := range verdicts {
		if v.Count == 0 && v.Skipped == "" {
			continue
		}
		b.add("", "")
		if v.Count == 0 {
			b.text(0, v.Check+" was not checked: "+v.Skipped)
			continue
		}
		b.text(0, v.Check+": "+v.Message)
		if len(v.Keys) > 0 {
			b.text(4, "such as "+names(v.Keys, v.Count))
		}
		if v.Fix != "" {
			b.lines = append(b.lines, "    "+cli.Printable(v.Fix)) // not cut, so that it can be copied
		}
	}
	return b.lines
}

// An audit is the work of one transaction.
type audit struct {
	*Check
	c       *duck.Conn
	e       string // the SQL for the table of vectors
	space   model.Space
	columns map[string]string // type by name, of the table of vectors
	claimed bool              // the database has the toolkit's tables
	sources []*source
	lost    []string  // sources that cannot be read
	vectors []reading // in the order of the table
	dead    []int     // the dimensions that have one value in all vectors, from 1
	sample  sample

	verdicts []*verdict
	rows     map[*verdict][]int64 // the rows to name, by rowid
}

// audit checks the table of vectors.
func (k *Check) audit(ctx context.Context) (verdicts []*verdict, space model.Space, err error) {
	err = transact(ctx, &k.Database, duck.Read, func(c *duck.Conn) error {
		a, err := k.open(c)
		if err != nil {
			return err
		}
		if err := a.openSources(ctx); err != nil {
			return err
		}
		if err := a.read(progress.Of(ctx).Flow("vectors")); err != nil {
			return err
		}
		a.judgeVectors()
		if err := a.judgeChunks(); err != nil {
			return err
		}
		if err := a.judgeSpaces(); err != nil {
			return err
		}
		verdicts, space = a.verdicts, a.space
		return a.name()
	})
	return verdicts, space, err
}

// open examines the table of vectors.
func (k *Check) open(c *duck.Conn) (*audit, error) {
	a := &audit{Check: k, c: c, e: duck.Ident(k.Embeddings), columns: map[string]string{}, rows: map[*verdict][]int64{}}
	t, err := openVectors(c, k.Embeddings)
	if err != nil {
		return nil, err
	}
	if a.claimed, err = hasTables(c); err != nil {
		return nil, err
	}
	if !t.there {
		var known []string
		if a.claimed {
			if known, err = tableNames(c); err != nil {
				return nil, err
			}
		}
		known = slices.DeleteFunc(known, func(name string) bool { return name == k.Embeddings }) // it was dropped
		if len(known) > 0 {
			return nil, exit.Errorf(exit.Usage, "%s has no table %s; chunks were claimed for %s: name a table with --embeddings NAME", k.DB, k.Embeddings, strings.Join(known, ", "))
		}
		return nil, exit.Errorf(exit.Usage, "%s has no table %s: chunks-pending creates it; another table is named with --embeddings NAME", k.DB, k.Embeddings)
	}
	err = c.Each(func(r *duck.Rows) { a.columns[r.Text(0)] = r.Text(1) },
		"SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = current_database() AND schema_name = current_schema() AND table_name = ?", k.Embeddings)
	if err != nil {
		return nil, err
	}
	if a.columns["text_hash"] != "UHUGEINT" || a.columns["chunk_id"] == "" || a.columns["embedding"] == "" || a.columns["tokens"] == "" || a.columns["batch"] == "" {
		return nil, exit.Errorf(exit.Usage, "table %s does not belong to gbatch; name another table with --embeddings NAME", k.Embeddings)
	}
	if a.space = parseSpace(t.comment); a.space == (model.Space{}) && a.claimed {
		if a.space, err = spaceOf(c, k.Embeddings); err != nil {
			return nil, err
		}
	}
	if a.space == (model.Space{}) && t.filled {
		return nil, exit.Errorf(exit.Usage, "table %s does not say which model its vectors are from; if you know the model, set it (COMMENT ON TABLE %s IS '%s')",
			k.Embeddings, a.e, spaceComment(model.Space{Model: model.Default, Dim: model.DefaultDim, TaskType: model.DefaultTaskType}))
	}
	return a, nil
}

// openSources opens the sources of the chunks. Those that cannot be read, for example
// because a table was renamed, are in a.lost. One at least must be readable.
func (a *audit) openSources(ctx context.Context) error {
	from, err := sourcesOf(a.c, a.From, a.Embeddings, a.claimed)
	if err != nil {
		return err
	}
	var first error
	for _, f := range from {
		s, err := openSource(a.c, f, a.space)
		switch {
		case err == nil:
			a.sources = append(a.sources, s)
		case ctx.Err() != nil:
			return err
		default:
			first = cmp.Or(first, err)
			a.lost = append(a.lost, brief(f))
		}
	}
	if len(a.sources) == 0 {
		return first
	}
	return nil
}

// add appends the verdict of a check.
func (a *audit) add(check string, of int) *verdict {
	v := &verdict{Check: check, Table: a.Embeddings, Of: int64(of)}
	a.verdicts = append(a.verdicts, v)
	return v
}

// found counts a row for a verdict.
func (a *audit) found(v *verdict, row int64, chunk bool) {
	if v.Count++; chunk && len(a.rows[v]) < a.Keys {
		a.rows[v] = append(a.rows[v], row)
	}
}

// name sets the keys of the verdicts.
func (a *audit) name() error {
	var rows []int64
	for _, some := range a.rows {
		rows = append(rows, some...)
	}
	if len(rows) == 0 {
		return nil
	}
	slices.Sort(rows)
	keys := map[int64]string{}
	list := strings.Trim(strings.ReplaceAll(fmt.Sprint(slices.Compact(rows)), " ", ", "), "[]")
	if err := a.c.Each(func(r *duck.Rows) { keys[r.Int(0)] = r.Text(1) }, "SELECT rowid, CAST(chunk_id AS VARCHAR) FROM "+a.e+" WHERE rowid IN ("+list+")"); err != nil {
		return err
	}
	for v, rows := range a.rows {
		for _, row := range rows {
			v.Keys = append(v.Keys, keys[row])
		}
		if v.Fix == "" {
			v.Fix = a.removeKeys(v.Keys)
		}
	}
	return nil
}

// remove is a command line that deletes the vectors for which a condition holds.
func (k *Check) remove(where string) string {
	return k.statement("DELETE FROM " + duck.Ident(k.Embeddings) + " WHERE " + where)
}

// someAgain says how to replace the vectors that removeKeys deletes.
const someAgain = "delete the vectors that are named (--keys names more) and run the pipe; each of their texts is paid for again"

// removeKeys is a command line that deletes the vectors of the texts of some chunks,
// also those of other chunks with such a text. Otherwise the pipe would copy these.
func (k *Check) removeKeys(keys []string) string {
	var list []string
	for _, key := range keys {
		list = append(list, duck.Literal(key))
	}
	e := duck.Ident(k.Embeddings)
	return k.remove("text_hash IN (SELECT text_hash FROM " + e + " WHERE CAST(chunk_id AS VARCHAR) IN (" + strings.Join(list, ", ") + "))")
}

// statement is a command line that runs a statement.
func (k *Check) statement(sql string) string {
	return "duckdb " + exit.Word(k.DB) + " " + exit.Word(sql)
}

// line is the command line of the pipe, for chunks of a source.
func (a *audit) line(from string) string {
	r := Report{DB: a.DB, Table: a.Embeddings, From: from, Space: a.space}
	return r.command("chunks-pending") + " | to-jsonl | gbatch-submit | gbatch-wait | gbatch-fetch | vectors-apply " + exit.Word(a.DB)
}
