package store

import (
	"fmt"

	"gbatch/pkg/duck"
	"gbatch/pkg/model"
)

// roundSize is how many chunks are claimed at a time. If the reader of the
// output stops, no more than this many are claimed in vain. DuckDB works on row
// groups of 122,880, and with less than two of them one of two cores is idle.
const roundSize = 250_000

// A round is the state of the claiming, from one transaction to the next.
type round struct {
	size    int  // how many chunks to pick at most; 0 is no limit
	left    int  // of --limit, if it is set
	read    bool // gbatch_read holds the chunks of a view or a SELECT
	checked bool // each id names one row of the source
	last    bool // no chunks are left to pick

	refused error // why no chunk may be claimed, see [Claim.rehearse]
	held    bool  // chunks were not claimed for this reason
	behind  int64 // chunks whose courtesy columns were not written

	// For a table: the first rowid that was not scanned yet, and the id of its
	// row. DuckDB renumbers rows when many before them were deleted. Rows that
	// were scanned may move: an UPDATE of an indexed column or of a list inserts
	// its rows anew.
	low  int64
	mark string

	since string // when the scan of all chunks began

	long overLimit // requests whose texts are over the model's limit

	// For caps, see caps.go.
	caps       model.Caps  // nil if there are none
	fit        bool        // claim what fits; otherwise all or nothing
	full       error       // why no more fits; nil as long as everything has fitted
	sent       []model.Use // what this run prints
	stays      string      // how many requests do not fit
	claimed    int         // batches that were claimed before
	claimedMax int64       // their tokens_max
	printed    int         // how many of these batches are printed
}

// workChunks is a SELECT of the chunks of a source that are pending, or whose
// courtesy columns must be written or noted.
func workChunks(s *source, embeddings, where string) string {
	off, unnoted := s.due()
	return fmt.Sprintf("SELECT id, key, rid, text_hash, again, bytes, title_bytes, status, message, %[1]s AS off, %[2]s AS unnoted FROM (%[3]s) WHERE status = 'PENDING' OR %[1]s OR %[2]s", off, unnoted, s.work(embeddings, where))
}

// scan writes the next chunks of a table that need work, from r.low on and at
// most r.size pending ones, to the temporary table gbatch_work. It returns the
// WHERE clause for the part of the table that it scanned. It goes part by part,
// so that all rounds together hash each text once. Rows that the transaction has
// updated may have rowids from 2^55 on: no UPDATE may come before it.
func (r *round) scan(c *duck.Conn, s *source, embeddings string) (where string, err error) {
	end, err := c.Count("SELECT coalesce(max(rowid), -1) FROM " + s.sql)
	if err != nil {
		return "", err
	}
	vectors, err := c.Count("SELECT count(*) FROM " + duck.Ident(embeddings))
	if err != nil {
		return "", err
	}
	from, found := r.low, 0
	into := "CREATE OR REPLACE TEMP TABLE gbatch_work AS "
	for width := int64(r.size); ; {
		// Each part is joined with all vectors. If probably no more than r.size chunks
		// have none, a single part is cheaper.
		if r.size <= 0 || r.low == 0 && end-vectors < int64(r.size) {
			width = end + 1
		}
		part := fmt.Sprintf("WHERE rowid BETWEEN %d AND %d", r.low, r.low+width-1)
		if err := c.Exec(into + workChunks(s, embeddings, part)); err != nil {
			return "", err
		}
		into = "INSERT INTO gbatch_work "
		n, err := c.Count("SELECT count(*) FROM gbatch_work WHERE status = 'PENDING'")
		if err != nil {
			return "", err
		}
		got := n - int64(found)
		found = int(n)
		if r.low += width; r.low > end || r.size > 0 && found >= r.size {
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
		if r.low, err = c.Count(fmt.Sprintf("SELECT rid FROM gbatch_work WHERE status = 'PENDING' ORDER BY rid OFFSET %d LIMIT 1", r.size)); err != nil {
			return "", err
		}
		if err := c.Exec("DELETE FROM gbatch_work WHERE rid >= ?", r.low); err != nil {
			return "", err
		}
	}
	if r.last = r.low > end; !r.last {
		_, err := c.One(func(row *duck.Rows) { r.low, r.mark = row.Int(0), row.Text(1) },
			fmt.Sprintf("SELECT rowid, CAST(id AS VARCHAR) FROM %s WHERE rowid >= %d ORDER BY rowid LIMIT 1", s.sql, r.low))
		if err != nil {
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
	id := ""
	_, err := c.One(func(row *duck.Rows) { id = row.Text(0) }, fmt.Sprintf("SELECT CAST(id AS VARCHAR) FROM %s WHERE rowid = %d", s.sql, r.low))
	if err == nil && id != r.mark {
		r.low = 0
	}
	return err
}

// unique is [source.unique] for what a run may claim. If no round follows, these are
// the picked chunks, and only rows with their ids are read. Otherwise they are all
// rows, so that a run claims nothing if it meets an id twice later on. It is checked
// once. [Claim.chunks] has checked a view or a SELECT.
func (r *round) unique(c *duck.Conn, s *source) error {
	if r.checked {
		return nil
	}
	r.checked = true
	if !r.last {
		return s.unique(c, "")
	}
	return s.unique(c, fmt.Sprintf("WHERE id IS NULL OR %s IN (SELECT id FROM gbatch_picked)", s.id()))
}
