package store

import (
	"fmt"
	"testing"
)

// A shard has the chunks that md5_number_lower(id) % count selects, as the documents say.
func TestShardIsMD5(t *testing.T) {
	for _, shard := range []Shard{{0, 64}, {3, 7}, {6, 7}} {
		k := open(t, "CREATE TABLE chunks AS SELECT range AS id, 'text ' || range AS text FROM range(500)")
		k.must(k.pending(func(p *Pending) { p.Shard = shard }), "")
		in := fmt.Sprintf("(SELECT id::VARCHAR AS id FROM chunks WHERE md5_number_lower(id::VARCHAR) %% %d = %d)", shard.Of, shard.Number)
		k.expect("SELECT count(*) > 0 FROM "+in, "true")
		k.expect("SELECT count(*) FROM "+in+" s FULL JOIN gbatch.items i ON i.chunk_id = s.id WHERE s.id IS NULL OR i.chunk_id IS NULL", "0")
	}
}
