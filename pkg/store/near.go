package store

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"gbatch/pkg/cli"
	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/progress"
	"gbatch/pkg/record"
	"gbatch/pkg/vector"
)

// Near is chunks-near: it prints the chunks that are nearest to vectors, by the
// cosine.
type Near struct {
	duck.Database `embed:""`
	cli.Files     `embed:""`
	cli.Output    `embed:""`
	Header        bool    `help:"Print the space of questions about the chunks, for gbatch-embed, and end." env:"-"`
	ID            string  `help:"Print the chunks nearest to the chunk with this id. Nothing is read from stdin." env:"-"`
	Most          int     `short:"n" help:"How many chunks to print for each vector." default:"10" env:"-"`
	MinScore      float64 `help:"Leave out chunks whose cosine is less." default:"-1" env:"-"`
	Where         string  `help:"Only chunks for which this condition holds: SQL on the columns of the source." placeholder:"SQL" env:"-"`
	From          string  `placeholder:"SOURCE" help:"The chunks, as for chunks-pending (default: the source that chunks-pending used last)."`
	Embeddings    string  `default:"embeddings" help:"The table of the vectors."`
}

// A neighbour is a chunk that is near to a vector.
type neighbour struct {
	Key   string      `json:"key"`   // of the vector
	ID    string      `json:"id"`    // of the chunk
	Score json.Number `json:"score"` // the cosine
	Title string      `json:"title,omitempty"`
	Text  string      `json:"text"`
}

// maxQuestions is how many vectors are read before the database is opened for them.
const maxQuestions = 1000

// mostNear is the largest -n. The chunks for a vector are held in memory.
const mostNear = 100_000

// A question is a vector whose neighbours are wanted.
type question struct {
	key    string
	values []float32
	space  model.Space // zero if it is not known
	lines  *ndjson.Reader
	line   int
}

// Run answers vector records in their order.
func (n *Near) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	if n.Most < 1 || n.Most > mostNear {
		return exit.Errorf(exit.Usage, "-n must be from 1 to %d", mostNear)
	}
	if !(n.MinScore >= -1 && n.MinScore <= 1) {
		return exit.Errorf(exit.Usage, "--min-score must be from -1 to 1")
	}
	defer n.End()
	switch {
	case n.Header:
		return n.search(ctx, func(c *duck.Conn, s *source) error {
			_, err := out.Write(record.AppendSpace(nil, s.space.Question()))
			return err
		})
	case n.ID != "":
		return n.search(ctx, func(c *duck.Conn, s *source) error {
			q, err := n.stored(c, s)
			if err == nil {
				err = n.answer(c, s, q, out)
			}
			return err
		})
	}
	r := &questions{lines: ndjson.NewReader(in)}
	asked := progress.Of(ctx).Flow("questions")
	for end := false; !end; {
		list, err := r.next()
		if end = err == io.EOF; err != nil && !end {
			return err
		}
		if len(list) == 0 {
			continue
		}
		err = n.search(ctx, func(c *duck.Conn, s *source) error {
			for _, q := range list {
				if err := q.fits(s.space); err != nil {
					return err
				}
				if err := n.answer(c, s, q, out); err != nil {
					return err
				}
				asked.Add(1)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if r.failed > 0 {
		return exit.Errorf(exit.Partial, "%d questions have an error in place of a vector", r.failed)
	}
	return nil
}

// Questions reads vector records.
type questions struct {
	lines  *ndjson.Reader
	parser record.AnswerParser
	space  model.Space
	failed int // errors in place of vectors
}

// next returns the next vectors, and io.EOF with the last ones.
func (r *questions) next() (list []question, err error) {
	for len(list) < maxQuestions {
		line, err := r.lines.Next()
		if err != nil {
			return list, err
		}
		if s, is, err := record.ParseSpace(line); err != nil {
			return nil, r.lines.Errorf("%w", err)
		} else if is {
			r.space = s
			continue
		}
		a, err := r.parser.Parse(line)
		switch {
		case err != nil:
			return nil, r.lines.Errorf("%w", err)
		case a.Err != nil:
			r.failed++
			slog.Warn("a question has an error in place of a vector", "key", a.Key, "error", a.Err.Message)
		case a.Job == nil:
			list = append(list, question{a.Key, slices.Clone(a.Values), r.space, r.lines, r.lines.Line()})
		}
	}
	return list, nil
}

// fits refuses a vector that cannot be compared with those of a space.
func (q *question) fits(have model.Space) error {
	malformed := func(format string, args ...any) error {
		return q.lines.ErrorAt(q.line, "key %.100q: "+format, append([]any{q.key}, args...)...)
	}
	switch {
	case q.space != (model.Space{}) && !have.Answers(q.space):
		return exit.With(exit.Usage, malformed("its vector is of the space %v, the chunks' are of %v, and these cannot be compared: embed it in the space that chunks-near --header prints", q.space, have))
	case len(q.values) != have.Dim:
		return malformed("the vector has %d values, those of the chunks have %d", len(q.values), have.Dim)
	case !(vector.Cosine(q.values, q.values) > 0):
		return malformed("the vector has no direction: it is zero, or not finite")
	}
	return nil
}

// search calls work with the source of the chunks, in a transaction that reads.
func (n *Near) search(ctx context.Context, work func(*duck.Conn, *source) error) error {
	return transact(ctx, &n.Database, duck.Read, func(c *duck.Conn) error {
		ok, err := hasTables(c)
		if err != nil {
			return err
		}
		var space model.Space
		if ok {
			if space, err = spaceOf(c, n.Embeddings); err != nil {
				return err
			}
		}
		from, err := sourcesOf(c, n.From, n.Embeddings, ok)
		if err != nil {
			return err
		}
		if space == (model.Space{}) {
			return fmt.Errorf("%s has no vectors in the table %s: embed its chunks first, by the pipe that gbatch --help shows, or name another table with --embeddings", n.DB, n.Embeddings)
		}
		if t, err := openVectors(c, n.Embeddings); err != nil {
			return err
		} else if !t.filled {
			return fmt.Errorf("no vector has arrived in the table %s: run the pipe again until its jobs have ended; chunks-status tells which batches are open, and which chunks failed", n.Embeddings)
		}
		s, err := openSource(c, from[0], space)
		if err != nil {
			return err
		}
		if n.Where != "" {
			if _, err := c.Count("SELECT count(*) FROM (DESCRIBE SELECT id FROM " + s.sql + " WHERE (" + n.Where + "\n))"); err != nil {
				return fmt.Errorf("--where %s: %w; the chunks have the columns %s", brief(n.Where), err, strings.Join(slices.Sorted(maps.Keys(s.columns)), ", "))
			}
		}
		return work(c, s)
	})
}

// stored returns the vector of the chunk with the id --id.
func (n *Near) stored(c *duck.Conn, s *source) (q question, err error) {
	q = question{key: n.ID, values: make([]float32, s.space.Dim)}
	found, err := c.One(func(r *duck.Rows) { r.Floats(0, q.values) },
		"SELECT embedding FROM "+duck.Ident(n.Embeddings)+" WHERE CAST(chunk_id AS VARCHAR) COLLATE C = ?", n.ID)
	switch {
	case err != nil:
		return q, err
	case !found:
		return q, fmt.Errorf("the chunk %.100q has no vector in the table %s", n.ID, n.Embeddings)
	case !(vector.Cosine(q.values, q.values) > 0):
		return q, fmt.Errorf("the vector of the chunk %.100q has no direction: it is zero, or not finite", n.ID)
	}
	return q, nil
}

// answer prints the neighbours of a question: chunks whose vector is that of their
// present text.
func (n *Near) answer(c *duck.Conn, s *source, q question, out io.Writer) error {
	var found []neighbour
	// The hash of a text takes longer than the cosine of two vectors. So more chunks
	// than are wanted are found first, and those with an old vector are left out.
	for limit := 2*n.Most + 50; ; limit *= 4 {
		found = found[:0]
		candidates := 0
		err := c.Each(func(r *duck.Rows) {
			if candidates++; r.Bool(4) && len(found) < n.Most {
				found = append(found, neighbour{q.key, r.Text(0), json.Number(r.Text(1)), r.Text(2), r.Text(3)})
			}
		}, n.query(s, q, limit))
		if err != nil {
			return err
		}
		if len(found) == n.Most || candidates < limit {
			break
		}
	}
	if terminal(out) != nil {
		return table(out, q.key, found)
	}
	return encode(out, found)
}

// query is a SELECT of id, score, title, text, and whether the vector is that of the
// present text, of the nearest chunks. The texts are read for these only. For a
// vector without a direction DuckDB gives the score -1.
func (n *Near) query(s *source, q question, limit int) string {
	values := []byte{'['}
	for _, v := range q.values {
		values = append(strconv.AppendFloat(values, float64(v), 'g', -1, 32), ',')
	}
	values[len(values)-1] = ']'
	some := ""
	if n.ID != "" {
		some = " AND CAST(chunk_id AS VARCHAR) COLLATE C <> " + duck.Literal(n.ID)
	}
	if n.Where != "" {
		some += fmt.Sprintf(" AND CAST(chunk_id AS VARCHAR) COLLATE C IN (SELECT CAST(id AS VARCHAR) FROM %s WHERE (%s\n))", s.sql, n.Where)
	}
	texts := "text"
	for _, name := range []string{"title", "context"} {
		if s.columns[name] != "" {
			texts += ", " + name
		}
	}
	return fmt.Sprintf(`
		SELECT key, CAST(round(score, 6) AS VARCHAR), coalesce(%[1]s, ''), coalesce(%[2]s, ''), key IS NOT NULL AND text_hash = %[3]s
		FROM (SELECT CAST(chunk_id AS VARCHAR) COLLATE C AS near, text_hash, score
			FROM (SELECT chunk_id, text_hash, CAST(array_cosine_similarity(embedding, %[4]s::FLOAT[%[5]d]) AS DOUBLE) AS score FROM %[6]s WHERE chunk_id IS NOT NULL%[7]s)
			WHERE score > -1 AND score >= %[8]s ORDER BY score DESC, near LIMIT %[9]d)
		LEFT JOIN (SELECT CAST(id AS VARCHAR) COLLATE C AS key, %[10]s FROM %[11]s) ON near = key
		ORDER BY score DESC, near`,
		s.textColumn("title"), s.textColumn("text"), s.hash(), values, s.space.Dim, duck.Ident(n.Embeddings), some,
		strconv.FormatFloat(n.MinScore, 'g', -1, 64), limit, texts, s.sql)
}

// table prints the neighbours of a vector for people: the score, the id, and the
// beginning of the text.
func table(out io.Writer, key string, found []neighbour) error {
	const width = 60
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, cli.Printable(key))
	for _, f := range found {
		score, _ := f.Score.Float64()
		text := strings.Join(strings.Fields(f.Text), " ")
		if r := []rune(text); len(r) > width {
			text = string(r[:width-1]) + "…"
		}
		fmt.Fprintf(w, "  %.3f\t%s\t%s\n", score, cli.Printable(f.ID), cli.Printable(text))
	}
	return w.Flush()
}
