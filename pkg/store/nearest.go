package store

import (
	"context"
	"fmt"
)

// A Neighbour is a chunk near to a vector.
type Neighbour struct {
	ID     string
	Cosine float64
}

// Nearest gives the n chunks of a table of vectors whose vectors have the
// largest cosine with v, by looking at all of them.
func (d *Database) Nearest(ctx context.Context, embeddings string, v []float32, n int) (near []Neighbour, err error) {
	err = d.transact(ctx, read, func(c *conn) error {
		if err := c.exec(fmt.Sprintf("CREATE TEMP TABLE question (v FLOAT[%d])", len(v))); err != nil {
			return err
		}
		question, err := c.appender("temp", "main", "question", floats(len(v)))
		if err != nil {
			return err
		}
		question.setVector(0, v)
		if err := question.next(); err != nil {
			return err
		}
		if err := question.close(); err != nil {
			return err
		}
		r, err := c.query("SELECT chunk_id::VARCHAR, (array_cosine_similarity(embedding, v) * 1e9)::BIGINT FROM "+ident(embeddings)+", question ORDER BY 2 DESC LIMIT ?", n)
		if err != nil {
			return err
		}
		defer r.close()
		for r.next() {
			near = append(near, Neighbour{r.string(0), float64(r.int(1)) / 1e9})
		}
		return nil
	})
	return near, err
}
