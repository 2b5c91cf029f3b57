package store

import (
	"context"
)

// A Chunk is a chunk as it stands.
type Chunk struct {
	ID      string
	Text    string // what is embedded: the context where there is one
	Status  string
	Message string    // why it is FAILED
	Vector  []float32 // where it is READY; valid until the next chunk
}

// Each calls f with every chunk of a source, as chunks-pending takes it, and
// the vectors it has in a table of them. The database is open meanwhile.
func (d *Database) Each(ctx context.Context, from, embeddings string, f func(Chunk) error) error {
	defer d.end()
	return d.transact(ctx, read, func(c *conn) error {
		s, err := c.source(from)
		if err != nil {
			return err
		}
		var dim int64
		if _, err := c.one(func(r *rows) { dim = r.int(0) }, "SELECT dim FROM gbatch.jobs WHERE embeddings = ? ORDER BY batch DESC LIMIT 1", embeddings); err != nil {
			return err
		}
		r, err := c.query("SELECT s.key, b.body, s.status, s.message, s.embedding FROM (" + s.status(embeddings, "") + ") s JOIN (SELECT id, " + s.body() + " AS body FROM " + s.sql + ") b ON b.id = s.id")
		if err != nil {
			return err
		}
		defer r.close()
		v := make([]float32, dim)
		for r.next() {
			chunk := Chunk{ID: r.string(0), Text: r.string(1), Status: r.string(2), Message: r.string(3)}
			if chunk.Status == "READY" {
				r.vector(4, v)
				chunk.Vector = v
			}
			if err := f(chunk); err != nil {
				return err
			}
		}
		return nil
	})
}
