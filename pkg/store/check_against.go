package store

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"slices"

	"gbatch/pkg/cli"
	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/progress"
	"gbatch/pkg/record"
	"gbatch/pkg/vector"
)

// compare compares the vectors of the table with the records of --against. These are
// staged in a table in memory, which spills to disk. So the file is not held while
// the command waits for a pipe.
func (k *Check) compare(ctx context.Context, in io.Reader) (verdicts []*verdict, space model.Space, err error) {
	if k.Against != "-" {
		f, err := cli.Open(ctx, k.Against)
		if err != nil {
			return nil, space, fmt.Errorf("--against: %w", err)
		}
		defer f.Close()
		in = f
	}
	c, err := k.Connect(ctx)
	if err != nil {
		return nil, space, err
	}
	defer c.Close()
	r := &rivals{lines: ndjson.NewReader(in), compared: progress.Of(ctx).Flow("vectors"), keys: k.Keys}
	if err := r.stage(ctx, c); err != nil {
		return nil, space, err
	}
	err = k.TransactOn(c, duck.Read, schema, func(c *duck.Conn) error {
		a, err := k.open(c)
		if err != nil {
			return err
		}
		space = a.space
		want := space.Or(model.Space{TaskType: model.Unspecified})
		for _, s := range r.spaces {
			if s.space.Or(want) != want {
				return exit.Errorf(exit.Usage, "%s: the vectors are of the space %v, and those of table %s are of %v: they cannot be compared", r.lines.Place(s.line), s.space, k.Embeddings, a.space)
			}
		}
		verdicts, err = a.against(r)
		return err
	})
	return verdicts, space, err
}

// Rivals are the vectors to compare with.
type rivals struct {
	lines    *ndjson.Reader
	compared *progress.Count
	vectors  int
	failed   []string // keys with an error in place of a vector, the first ones
	errors   int      // how many have one
	keys     int      // how many to name
	spaces   []struct {
		space model.Space
		line  int
	}
}

// is notes the space of a line. The line may not say all of it.
func (r *rivals) is(space model.Space) {
	for _, s := range r.spaces {
		if s.space == space {
			return
		}
	}
	r.spaces = append(r.spaces, struct {
		space model.Space
		line  int
	}{space, r.lines.Line()})
}

// stage reads all records into the table memory.main.rivals.
func (r *rivals) stage(ctx context.Context, c *duck.Conn) error {
	var rows *duck.Appender
	var parser record.AnswerParser
	dim := 0
	for ctx.Err() == nil {
		line, err := r.lines.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if s, is, err := record.ParseSpace(line); err != nil {
			return r.lines.Errorf("%w", err)
		} else if is {
			r.is(s.Or(model.Space{TaskType: model.Unspecified}))
			continue
		}
		a, err := parser.Parse(line)
		switch {
		case err != nil:
			return r.lines.Errorf("%w", err)
		case a.Job != nil:
			r.is(model.Space{Model: model.Bare(a.Job.Model), Dim: a.Job.Dim})
			continue
		case a.Err != nil:
			if r.errors++; len(r.failed) < r.keys {
				r.failed = append(r.failed, a.Key)
			}
			continue
		}
		if r.is(model.Space{Dim: len(a.Values)}); rows == nil {
			dim = len(a.Values)
			if err := c.Exec(fmt.Sprintf("CREATE TABLE memory.main.rivals (key VARCHAR, vector FLOAT[%d])", max(dim, 1))); err != nil {
				return err
			}
			if rows, err = c.Appender("memory", "rivals", duck.Varchar, duck.FloatArray(max(dim, 1))); err != nil {
				return err
			}
		}
		if len(a.Values) != dim {
			return r.lines.Errorf("key %.100q: the vector has %d values, and the ones before have %d", a.Key, len(a.Values), dim)
		}
		rows.SetText(0, a.Key)
		rows.SetFloats(1, a.Values)
		if err := rows.Next(); err != nil {
			return err
		}
		r.vectors++
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if rows == nil {
		return c.Exec("CREATE TABLE memory.main.rivals (key VARCHAR, vector FLOAT[1])")
	}
	return rows.Close()
}

// against judges the vectors that have a rival.
func (a *audit) against(r *rivals) ([]*verdict, error) {
	type pair struct {
		key    string
		cosine float64
	}
	alike, unknown, failed := a.add("cosine", 0), a.add("not_stored", r.vectors), a.add("error", r.vectors+r.errors)
	var worst []pair
	var sum float64
	dim := a.space.Dim
	keep := func() {
		slices.SortFunc(worst, func(a, b pair) int { return cmp.Or(cmp.Compare(a.cosine, b.cosine), cmp.Compare(a.key, b.key)) })
		worst = worst[:min(len(worst), a.Keys)]
	}
	stored := "(SELECT CAST(chunk_id AS VARCHAR) COLLATE C AS key, " + a.embedding() + " AS vector FROM " + a.e + " WHERE chunk_id IS NOT NULL)"
	least := math.Inf(1)
	if r.vectors > 0 {
		err := a.c.Stream(func(row *duck.Rows) {
			r.compared.Add(1)
			cosine := 0. // as if they had nothing in common
			if v, whole := row.BorrowFloats(1, dim); whole {
				rival, _ := row.BorrowFloats(2, dim)
				if c := vector.Cosine(v, rival); c == c {
					cosine = c
				}
			}
			alike.Of++
			sum += cosine
			least = min(least, cosine)
			if cosine >= a.MinCosine {
				return
			}
			alike.Count++
			if worst = append(worst, pair{row.Text(0), cosine}); len(worst) > 2*a.Keys+1000 {
				keep()
			}
		}, "SELECT s.key, s.vector, r.vector FROM memory.main.rivals r JOIN "+stored+" s ON s.key = r.key")
		if err != nil {
			return nil, err
		}
	}
	keep()
	for _, p := range worst {
		alike.Keys = append(alike.Keys, p.key)
		alike.Cosines = append(alike.Cosines, *rounded(p.cosine))
	}
	if alike.Of > 0 {
		alike.LeastCosine, alike.MeanCosine = rounded(least), rounded(sum/float64(alike.Of))
	} else {
		alike.Skipped = "no record has the key of a stored vector"
	}
	if alike.Count > 0 {
		alike.Message = fmt.Sprintf("the cosine of these vectors with the new ones is below %g, so the text has changed, or the stored vector is not that of the text: %s", a.MinCosine, someAgain)
		alike.Fix = a.removeKeys(alike.Keys)
	}

	keys := "(SELECT CAST(chunk_id AS VARCHAR) COLLATE C AS key FROM " + a.e + " WHERE chunk_id IS NOT NULL)"
	for _, q := range []struct {
		n    *int64
		keys *[]string
		sql  string
	}{
		{&unknown.Count, &unknown.Keys, "memory.main.rivals r WHERE NOT EXISTS (SELECT 1 FROM " + keys + " s WHERE s.key = r.key)"},
		{&alike.Missing, &alike.MissingKeys, keys + " s WHERE NOT EXISTS (SELECT 1 FROM memory.main.rivals r WHERE r.key = s.key)"},
	} {
		var err error
		if *q.n, err = a.c.Count("SELECT count(*) FROM " + q.sql); err != nil {
			return nil, err
		}
		if err := a.c.Each(func(r *duck.Rows) { *q.keys = append(*q.keys, r.Text(0)) }, fmt.Sprintf("SELECT key FROM %s ORDER BY key LIMIT %d", q.sql, a.Keys)); err != nil {
			return nil, err
		}
	}
	if unknown.Count > 0 {
		unknown.Message = "these keys have no vector in the table: if they are chunks, run the pipe"
		from, err := sourcesOf(a.c, a.From, a.Embeddings, a.claimed)
		if err != nil {
			return nil, err
		}
		unknown.Fix = a.line(from[0])
	}
	if failed.Count = int64(r.errors); failed.Count > 0 {
		failed.Keys = r.failed
		failed.Message = "these keys have an error in place of a new vector, and were not compared: make their vectors again"
	}
	return a.verdicts, nil
}
