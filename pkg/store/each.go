package store

import (
	"context"

	"gbatch/pkg/duck"
)

// A Chunk is a chunk with its present status.
type Chunk struct {
	ID      string
	Text    string // what is embedded: the context, or the text if there is no context
	Status  string
	Message string    // why the chunk is FAILED
	Vector  []float32 // set if the chunk is READY; valid until the next chunk
}

// Each calls f with every chunk of a source and its vector in the table
// embeddings. from names the source as for chunks-pending. The database stays
// open until Each returns.
func Each(ctx context.Context, d *duck.Database, from, embeddings string, f func(Chunk) error) error {
	defer d.End()
	return transact(ctx, d, duck.Read, func(c *duck.Conn) error {
		space, err := spaceOf(c, embeddings)
		if err != nil {
			return err
		}
		s, err := openSource(c, from, space)
		if err != nil {
			return err
		}
		r, err := c.Query("SELECT s.key, b.body, s.status, s.message, s.embedding FROM (" + s.status(embeddings, "") + ") s JOIN (SELECT " + s.id() + " AS id, " + s.body() + " AS body FROM " + s.sql + ") b ON b.id = s.id")
		if err != nil {
			return err
		}
		defer r.Close()
		v := make([]float32, space.Dim)
		for r.Next() {
			chunk := Chunk{ID: r.Text(0), Text: r.Text(1), Status: r.Text(2), Message: r.Text(3)}
			if chunk.Status == "READY" {
				r.Floats(4, v)
				chunk.Vector = v
			}
			if err := f(chunk); err != nil {
				return err
			}
		}
		return nil
	})
}
