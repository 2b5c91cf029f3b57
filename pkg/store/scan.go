package store

import (
	"fmt"

	"gbatch/pkg/duck"
)

// roundSize is how many chunks are claimed at a time. If the reader of the
// output stops, no more than this many are claimed in vain. DuckDB works on row
// groups of 122,880, and with less than two of them one of two cores is idle.
const roundSize = 250_000

// A round is the state of the claiming, from one transaction to the next.
type round struct {
	size  int  // how many chunks to pick at most; 0 is no limit
	left  int  // of --limit, if it is set
	begun bool // a round was claimed before
	last  bool // no chunks are left to pick

	// For a table: the first rowid that was not scanned yet, and the id of the
	// row before it. DuckDB renumbers rows when many before them were deleted or
	// an UPDATE of a list moved them.
	low  int64
	mark string

	since string // when the scan of all chunks began
}

// pendingChunks is a SELECT of the pending chunks of a source.
func pendingChunks(s *source, embeddings, where string) string {
	return "SELECT id, key, rid, text_hash, again, bytes, title_bytes FROM (" + s.status(embeddings, where) + ") WHERE status = 'PENDING'"
}

// scan writes the next pending chunks of a table, from r.low on and at most
// r.size, to the temporary table gbatch_pending. It returns the WHERE clause for
// the part of the table that it scanned. It goes part by part, so that all
// rounds together hash each text once.
func (r *round) scan(c *duck.Conn, s *source, embeddings string) (where string, err error) {
	end, err := c.Count("SELECT coalesce(max(rowid), -1) FROM " + s.sql)
	if err != nil {
		return "", err
	}
	from, found := r.low, 0
	into := "CREATE OR REPLACE TEMP TABLE gbatch_pending AS "
	for width := int64(r.size); ; {
		if width <= 0 {
			width = end + 1
		}
		part := fmt.Sprintf("WHERE rowid BETWEEN %d AND %d", r.low, r.low+width-1)
		if err := c.Exec(into + pendingChunks(s, embeddings, part)); err != nil {
			return "", err
		}
		into = "INSERT INTO gbatch_pending "
		n, err := c.Count("SELECT count(*) FROM gbatch_pending")
		if err != nil {
			return "", err
		}
		got := n - int64(found)
		found = int(n)
		if r.low += width; r.low > end || found >= r.size {
			break
		}
		next := int64(max(r.size-found, roundSize/8))
		if got < width/4 {
			next = max(next, 4*width)
		}
		width = next
	}
	if r.size > 0 && found > r.size {
		// The rest is for the next round.
		if r.low, err = c.Count(fmt.Sprintf("SELECT rid FROM gbatch_pending ORDER BY rid OFFSET %d LIMIT 1", r.size)); err != nil {
			return "", err
		}
		if err := c.Exec("DELETE FROM gbatch_pending WHERE rid >= ?", r.low); err != nil {
			return "", err
		}
	}
	if r.last = r.low > end; !r.last {
		if r.mark, err = idAt(c, s, r.low-1); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("WHERE rowid BETWEEN %d AND %d", from, r.low-1), nil
}

// resume checks that the rows of a table have the numbers that they had in the
// round before. If not, the scan starts again.
func (r *round) resume(c *duck.Conn, s *source) error {
	if r.low == 0 {
		return nil
	}
	id, err := idAt(c, s, r.low-1)
	if err == nil && (id == "" || id != r.mark) {
		r.low = 0
	}
	return err
}

// idAt is the id of the row with a rowid, "" if there is none.
func idAt(c *duck.Conn, s *source, rowid int64) (id string, err error) {
	_, err = c.One(func(r *duck.Rows) { id = r.Text(0) }, fmt.Sprintf("SELECT CAST(id AS VARCHAR) FROM %s WHERE rowid = %d", s.sql, rowid))
	return id, err
}
