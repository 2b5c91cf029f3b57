package store

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"gbatch/pkg/duck"
	"gbatch/pkg/model"
	"gbatch/pkg/progress"
)

// A spaceStatus is the line of a table of vectors.
type spaceStatus struct {
	Table    string   `json:"table"`
	Model    string   `json:"model,omitempty"`
	Dim      int      `json:"dim,omitempty"`
	TaskType string   `json:"task_type,omitempty"`
	Vectors  int64    `json:"vectors"`
	Kept     int64    `json:"without_chunk"` // vectors of texts that no chunk has
	Batches  int64    `json:"batches"`
	Open     int64    `json:"open_batches"`
	Tokens   int64    `json:"tokens"` // of the closed batches: Google's count, and estimates of online calls
	USD      *float64 `json:"usd,omitempty"`
}

// printSpaces prints each table of vectors for which chunks were claimed, or whose
// comment names a space.
func (s *Status) printSpaces(ctx context.Context, out io.Writer, prices model.Prices) error {
	var spaces []*spaceStatus
	err := transact(ctx, &s.Database, duck.Read, func(c *duck.Conn) error {
		claimed, err := hasTables(c)
		if err != nil {
			return err
		}
		var names []string
		if claimed {
			if names, err = tableNames(c); err != nil {
				return err
			}
		}
		err = c.Each(func(r *duck.Rows) {
			if name := r.Text(0); parseSpace(r.Borrow(1)) != (model.Space{}) && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}, "SELECT table_name, comment FROM duckdb_tables() WHERE database_name = current_database() AND schema_name = current_schema() ORDER BY 1")
		for _, name := range names {
			if err != nil {
				break
			}
			var space *spaceStatus
			space, err = readSpace(c, name, claimed, prices)
			spaces = append(spaces, space)
		}
		return err
	})
	if err != nil {
		return err
	}
	if t := s.terminal(out); t != nil {
		b := &board{width: t.Columns - 1, colors: t.Colors}
		rows := [][]string{{"TABLE", "VECTORS", "COST", "MODEL", "DIM", "TASK TYPE"}}
		for _, v := range spaces {
			rows = append(rows, []string{v.Table, progress.Commas(v.Vectors), dollars(v.USD), v.Model, fmt.Sprint(v.Dim), v.TaskType})
		}
		b.table(1, rows...)
		_, err := io.WriteString(out, strings.Join(b.lines[1:], "\n")+"\n")
		return err
	}
	return encode(out, spaces)
}

// readSpace reads what a table of vectors holds, and what it cost. claimed says
// that the database has the toolkit's tables.
func readSpace(c *duck.Conn, table string, claimed bool, prices model.Prices) (*spaceStatus, error) {
	v := &spaceStatus{Table: table}
	t, err := openVectors(c, table)
	if err != nil {
		return nil, err
	}
	space := parseSpace(t.comment)
	if claimed {
		var usd amount
		counted, err := countedTokens(c)
		if err != nil {
			return nil, err
		}
		err = c.Each(func(r *duck.Rows) {
			usd.add(prices.Cost(model.Use{Model: r.Text(0), Tokens: r.Int(1), Online: r.Bool(4)}))
			v.Tokens, v.Batches, v.Open = v.Tokens+r.Int(1), v.Batches+r.Int(2), v.Open+r.Int(3)
		}, "SELECT model, sum("+counted+")::BIGINT, count(*), count(*) FILTER (closed_at IS NULL), "+online+" AS online FROM gbatch.jobs WHERE embeddings = ? GROUP BY model, online", table)
		if err != nil {
			return nil, err
		}
		v.USD = usd.value()
		// The space of a table of an older version may not be known.
		if s, err := spaceOf(c, table); err == nil && s != (model.Space{}) {
			space = s
		}
	}
	v.Model, v.Dim, v.TaskType = space.Model, space.Dim, space.TaskType
	if t.there {
		_, err = c.One(func(r *duck.Rows) { v.Vectors, v.Kept = r.Int(0), r.Int(1) }, "SELECT count(*), count(*) FILTER (chunk_id IS NULL) FROM "+duck.Ident(table))
	}
	return v, err
}
