package store

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"gbatch/pkg/cli"
	"gbatch/pkg/exit"
	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/record"
)

// Pending is chunks-pending: it claims the chunks that need a vector, cuts
// them into batches and prints each as a header and its chunks.
//
// What was claimed before and has no job yet is printed first, the same bytes
// as before: a batch's payload never changes once it has a name.
type Pending struct {
	Database    `embed:""`
	From        string   `default:"chunks" help:"A table or view with id, text and, if there are any, title and context, or a SELECT that yields them. A SELECT runs as it stands."`
	Model       string   `default:"${model}" help:"The embedding model."`
	Dim         int      `default:"${dim}" help:"Values per vector, 1 to ${max_dim}."`
	TaskType    string   `default:"${task_type}" help:"What the vectors are for, as Google spells it."`
	Embeddings  string   `default:"embeddings" help:"The table of the vectors: one for each model, dim and task type."`
	Column      string   `help:"Also write vectors into this column of the chunks table."`
	Limit       int      `help:"Claim at most this many requests; 0 is no limit."`
	MaxRequests int      `default:"10000" help:"Requests per batch."`
	MaxBytes    cli.Size `default:"100MB" help:"Bytes per batch."`
	MaxTokens   int      `default:"400000" help:"Tokens per batch, as estimated."`
	RetryFailed bool     `help:"Also claim the chunks that failed for good."`
	DryRun      bool     `help:"Claim nothing; print a line for each batch that would be claimed."`
}

// roundSize is how many chunks are claimed at a time. A reader that stops
// leaves no more than this many claimed. DuckDB works on row groups of 122,880,
// and with less than two of them one of two cores stands idle.
const roundSize = 250_000

// A round is where the claiming stands.
type round struct {
	size int  // how many chunks to look for at most
	left int  // of --limit, where there is one
	last bool // there is nothing to look for any more

	begun bool // there was one before

	// Of a table: the first rowid that was not looked at yet, and the id of the
	// row before. DuckDB numbers rows anew where many before them were deleted, or
	// moved by an UPDATE of a list.
	low  int64
	mark string
}

// A planned batch is what --dry-run prints.
type planned struct {
	Requests int      `json:"requests"`
	Bytes    int64    `json:"bytes"`
	Tokens   int64    `json:"tokens"`
	USD      *float64 `json:"usd,omitempty"`
}

func (p *Pending) space() model.Space {
	return model.Space{Model: p.Model, Dim: p.Dim, TaskType: p.TaskType}
}

func (p *Pending) check() error {
	space, err := p.space().Checked()
	p.Model = space.Model
	switch {
	case err != nil:
		return exit.With(exit.Usage, err)
	case p.MaxRequests < 1 || p.MaxTokens < 1 || p.Limit < 0:
		return exit.Errorf(exit.Usage, "--max-requests and --max-tokens are at least 1, --limit at least 0")
	}
	return nil
}

// Run prints batches to out. in is not read.
func (p *Pending) Run(ctx context.Context, _ io.Reader, out io.Writer) error {
	if err := p.check(); err != nil {
		return err
	}
	defer p.end()
	var claimed []string
	if p.DryRun {
		return p.plan(ctx, out)
	}
	r := round{size: roundSize, left: p.Limit}
	err := p.transact(ctx, write, func(c *conn) (err error) {
		if err := p.prepare(c); err != nil {
			return err
		}
		if claimed, err = c.unsent(); err == nil && len(claimed) == 0 {
			claimed, err = p.claim(c, &r)
		}
		return err
	})
	if err != nil {
		return err
	}
	for !r.last {
		if err := p.print(ctx, out, claimed); err != nil {
			return err
		}
		err := p.transact(ctx, write, func(c *conn) (err error) {
			claimed, err = p.claim(c, &r)
			return err
		})
		if err != nil {
			return err
		}
	}
	return p.print(ctx, out, claimed)
}

// prepare makes what is missing in the database, and refuses a source or a
// space that does not fit.
func (p *Pending) prepare(c *conn) error {
	if err := c.exec(schema); err != nil {
		return err
	}
	s, err := c.source(p.From)
	if err != nil {
		return err
	}
	if err := c.unique(s); err != nil {
		return err
	}
	if err := c.prepare(p.Embeddings, s, p.space()); err != nil {
		return err
	}
	if p.Column != "" {
		if err := s.hasColumn(p.Column, p.Dim); err != nil {
			return err
		}
		// A column that is newer than the vectors, or was made anew.
		err := c.exec(fmt.Sprintf("UPDATE %[1]s AS t SET %[2]s = e.embedding FROM %[3]s e WHERE t.%[2]s IS NULL AND e.chunk_id = t.id AND e.text_hash = %[4]s",
			s.sql, ident(p.Column), ident(p.Embeddings), s.hash()))
		if err != nil {
			return err
		}
	}
	if p.RetryFailed {
		if err := c.exec("UPDATE gbatch.failures SET final = false, attempts = 0 WHERE embeddings = ? AND batch IS NOT NULL", p.Embeddings); err != nil {
			return err
		}
	}
	if s.courtesy() && !s.managed {
		if err := c.adopt(s, p.Embeddings); err != nil {
			return err
		}
	}
	return c.view(s, p.Embeddings)
}

// unsent lists the batches that are claimed and have no job yet, oldest first.
func (c *conn) unsent() (batches []string, err error) {
	r, err := c.query("SELECT batch FROM gbatch.jobs WHERE job IS NULL AND closed_at IS NULL ORDER BY batch")
	if err != nil {
		return nil, err
	}
	defer r.close()
	for r.next() {
		batches = append(batches, r.string(0))
	}
	return batches, nil
}

// print writes batches to out. While one is written the next is read, so the
// file is never held while out blocks.
func (p *Pending) print(ctx context.Context, out io.Writer, batches []string) error {
	if len(batches) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	type payload struct {
		lines []byte
		err   error
	}
	read, free := make(chan payload), make(chan []byte, 2)
	free <- nil
	free <- nil
	defer func() {
		cancel()
		for range read {
		}
	}()
	go func() {
		defer close(read)
		for _, b := range batches {
			select {
			case buf := <-free:
				lines, err := p.batch(ctx, buf[:0], b)
				select {
				case read <- payload{lines, err}:
				case <-ctx.Done():
					return
				}
				if err != nil {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	for b := range read {
		if b.err != nil {
			return b.err
		}
		if _, err := out.Write(b.lines); err != nil {
			return err
		}
		free <- b.lines
	}
	return context.Cause(ctx)
}

// batch appends the lines of a claimed batch to buf. A batch that has got a
// job in the meantime gives none.
func (p *Pending) batch(ctx context.Context, buf []byte, name string) ([]byte, error) {
	err := p.transact(ctx, read, func(c *conn) error {
		var h record.Header
		var lines string
		found, err := c.one(func(r *rows) {
			h = record.Header{Batch: name, Count: int(r.int(0)), Model: r.string(1), Dim: int(r.int(2)), TaskType: r.string(3)}
			lines = items(name, r.int(4), r.int(5))
		}, "SELECT requests, model, dim, task_type, first_seq, last_seq FROM gbatch.jobs WHERE batch = ? AND job IS NULL AND closed_at IS NULL", name)
		if err != nil || !found {
			return err
		}
		line, err := ndjson.Marshal(h)
		if err != nil {
			return err
		}
		buf = append(append(buf, line...), '\n')
		buf, err = c.chunks(buf, lines)
		return err
	})
	return buf, err
}

// chunks appends the chunk lines of a SELECT of items to buf, in the order of
// seq. Threads put items into the table as they come to them, so that blocks of
// them stand out of order there; the lines are put right here, since DuckDB
// takes longer to sort rows with texts.
func (c *conn) chunks(buf []byte, items string) ([]byte, error) {
	r, err := c.query("SELECT chunk_id, text, title, seq FROM " + items + " WHERE NOT twin")
	if err != nil {
		return buf, err
	}
	defer r.close()
	type block struct {
		seq        int64 // of its first line
		start, end int
	}
	var blocks []block
	head := len(buf)
	for last := int64(-2); r.next(); last = r.int(3) {
		if r.int(3) != last+1 {
			blocks = append(blocks, block{seq: r.int(3), start: len(buf)})
		}
		buf = ndjson.AppendString(append(buf, `{"id":`...), r.borrow(0))
		buf = ndjson.AppendString(append(buf, `,"text":`...), r.borrow(1))
		if title := r.borrow(2); title != "" {
			buf = ndjson.AppendString(append(buf, `,"title":`...), title)
		}
		buf = append(buf, "}\n"...)
		blocks[len(blocks)-1].end = len(buf)
	}
	bySeq := func(a, b block) int { return cmp.Compare(a.seq, b.seq) }
	if slices.IsSortedFunc(blocks, bySeq) {
		return buf, nil
	}
	slices.SortFunc(blocks, bySeq)
	sorted := make([]byte, head, len(buf))
	copy(sorted, buf)
	for _, b := range blocks {
		sorted = append(sorted, buf[b.start:b.end]...)
	}
	return sorted, nil
}

// claim takes a round of pending chunks: it copies the vector of a text that
// has one already, notes what cannot be embedded, and writes the others to the
// outbox, as the batches it returns.
func (p *Pending) claim(c *conn, r *round) (batches []string, err error) {
	s, err := c.source(p.From)
	if err != nil {
		return nil, err
	}
	if err := r.find(c, s); err != nil {
		return nil, err
	}
	if r.begun && !s.table {
		if err := c.unique(s); err != nil { // as prepare did for the first round
			return nil, err
		}
	}
	r.begun = true
	from := r.low
	where, err := p.pick(c, s, r)
	if err != nil {
		return nil, err
	}
	if r.last && (where == "" || from == 0) {
		// All chunks were looked at, as they are in this transaction.
		defer func() {
			if err == nil && (p.Limit == 0 || r.left > 0) {
				err = p.forget(c)
			}
		}()
	}
	if n, err := c.count("SELECT count(*) FROM gbatch_picked"); err != nil || n == 0 {
		return nil, err
	}
	if err := p.copies(c, s); err != nil {
		return nil, err
	}
	if err := p.unfit(c, s); err != nil {
		return nil, err
	}
	cuts, err := p.cut(c, r.left)
	if err != nil || len(cuts) == 0 {
		return nil, err
	}
	batches = batchNames(len(cuts))
	if err := c.exec("CREATE OR REPLACE TEMP TABLE gbatch_cut (batch VARCHAR, low BIGINT, high BIGINT)"); err != nil {
		return nil, err
	}
	for i, cut := range cuts {
		if p.Limit > 0 {
			r.left -= cut.Requests
			r.last = r.last || r.left == 0
		}
		err := c.exec("INSERT INTO gbatch_cut VALUES (?, ?, ?)", batches[i], cut.low, cut.high)
		if err == nil {
			err = c.exec(`INSERT INTO gbatch.jobs (batch, model, dim, task_type, requests, claimed_at, source, embeddings)
				VALUES (?, ?, ?, ?, ?, ?::TIMESTAMP, ?, ?)`, batches[i], p.Model, p.Dim, p.TaskType, cut.Requests, now(), p.From, p.Embeddings)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := p.put(c, s, where); err != nil {
		return nil, err
	}
	if s.courtesy() {
		err = c.exec(fmt.Sprintf(`UPDATE %s AS t SET %s FROM gbatch_chosen p WHERE t.rowid = p.rid AND t.embedding_status IS DISTINCT FROM 'PENDING'`, s.sql, s.setCourtesy("'PENDING'", "NULL")))
	}
	return batches, err
}

// forget deletes the vectors that lost their chunk, after all chunks of the
// source were looked at, unless the table has those of other sources.
func (p *Pending) forget(c *conn) error {
	others, err := c.count("SELECT count(*) FROM gbatch.jobs WHERE embeddings = ? AND source <> ?", p.Embeddings, p.From)
	if err != nil || others > 0 {
		return err
	}
	return c.exec("DELETE FROM " + ident(p.Embeddings) + " WHERE chunk_id IS NULL")
}

// put writes the picked chunks of the cuts to the outbox, in the order of seq.
func (p *Pending) put(c *conn, s *source, where string) error {
	err := c.exec(`CREATE OR REPLACE TEMP TABLE gbatch_chosen AS SELECT cut.batch, p.* FROM gbatch_picked p JOIN gbatch_cut cut ON p.first BETWEEN cut.low AND cut.high;
		CREATE OR REPLACE TEMP TABLE gbatch_next AS SELECT coalesce(max(seq) + 1, 0) AS seq FROM gbatch.items`)
	if err != nil {
		return err
	}
	// A table is scanned in the order of seq: if the join keeps to how it is
	// written, the items come in that order and need not be sorted.
	if s.table {
		if err := c.exec("SET disabled_optimizers = 'join_order,build_side_probe_side'"); err != nil {
			return err
		}
	}
	return c.exec(fmt.Sprintf(`INSERT INTO gbatch.items
		SELECT p.batch, p.seq + (SELECT seq FROM gbatch_next), p.key, CASE WHEN p.seq = p.first THEN s.title END, CASE WHEN p.seq = p.first THEN s.body END, p.text_hash, p.seq <> p.first
		FROM (SELECT %s AS rid, %s AS title, %s AS body FROM %s %s) s JOIN gbatch_chosen p ON s.rid = p.rid;
		RESET disabled_optimizers;
		UPDATE gbatch.jobs AS j SET first_seq = i.first_seq, last_seq = i.last_seq
		FROM (SELECT batch, min(seq) AS first_seq, max(seq) AS last_seq FROM gbatch.items WHERE seq >= (SELECT seq FROM gbatch_next) GROUP BY batch) i
		WHERE j.batch = i.batch`, s.rid(), s.title(), s.body(), s.sql, where))
}

// pick writes the next pending chunks, in the source's order, to the temporary
// table picked, and returns the WHERE clause for the part of the source that
// they are in. first is the seq of the first of them with the same text: that
// one stands for all.
func (p *Pending) pick(c *conn, s *source, r *round) (where string, err error) {
	find := "SELECT id, key, rid, text_hash, again, bytes, title_bytes FROM (%s) WHERE status = 'PENDING'"
	if s.table {
		where, err = p.look(c, s, find, r)
	} else {
		// A row of a view has no number: all of them are looked at each time.
		if r.size > 0 {
			find += fmt.Sprintf(" LIMIT %d", r.size)
		}
		if err = c.exec("CREATE OR REPLACE TEMP TABLE gbatch_pending AS " + fmt.Sprintf(find, s.status(p.Embeddings, ""))); err == nil {
			var n int64
			n, err = c.count("SELECT count(*) FROM gbatch_pending")
			r.last = int(n) < r.size
		}
	}
	if err != nil {
		return "", err
	}
	return where, c.exec(`CREATE OR REPLACE TEMP TABLE gbatch_picked AS
		SELECT row_number() OVER (ORDER BY rid) AS seq, * FROM gbatch_pending;
		DROP TABLE gbatch_pending`)
}

// look looks through a table from r.low on until r.size chunks are found, part
// by part, so that each text is hashed once in all rounds together.
func (p *Pending) look(c *conn, s *source, find string, r *round) (where string, err error) {
	end, err := c.count("SELECT coalesce(max(rowid), -1) FROM " + s.sql)
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
		if err := c.exec(into + fmt.Sprintf(find, s.status(p.Embeddings, part))); err != nil {
			return "", err
		}
		into = "INSERT INTO gbatch_pending "
		n, err := c.count("SELECT count(*) FROM gbatch_pending")
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
		if r.low, err = c.count(fmt.Sprintf("SELECT rid FROM gbatch_pending ORDER BY rid OFFSET %d LIMIT 1", r.size)); err != nil {
			return "", err
		}
		if err := c.exec("DELETE FROM gbatch_pending WHERE rid >= ?", r.low); err != nil {
			return "", err
		}
	}
	if r.last = r.low > end; !r.last {
		if r.mark, err = c.idAt(s, r.low-1); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("WHERE rowid BETWEEN %d AND %d", from, r.low-1), nil
}

// find makes sure that the rows of a table are numbered as they were in the
// round before, or begins anew.
func (r *round) find(c *conn, s *source) error {
	if r.low == 0 {
		return nil
	}
	id, err := c.idAt(s, r.low-1)
	if err == nil && (id == "" || id != r.mark) {
		r.low = 0
	}
	return err
}

// idAt is the id of the row with a rowid, "" where there is none.
func (c *conn) idAt(s *source, rowid int64) (id string, err error) {
	_, err = c.one(func(r *rows) { id = r.string(0) }, fmt.Sprintf("SELECT CAST(id AS VARCHAR) FROM %s WHERE rowid = %d", s.sql, rowid))
	return id, err
}

// copies gives the picked chunks whose text has a vector already a copy of it.
func (p *Pending) copies(c *conn, s *source) error {
	e := ident(p.Embeddings)
	err := c.exec(fmt.Sprintf(`CREATE OR REPLACE TEMP TABLE gbatch_copied AS
		SELECT p.id, p.rid, p.text_hash, e.embedding, e.tokens, e.batch
		FROM (SELECT p.id, p.rid, p.text_hash, min(e.rowid) AS row FROM gbatch_picked p JOIN %s e ON e.text_hash = p.text_hash WHERE NOT p.again GROUP BY ALL) p
		JOIN %s e ON e.rowid = p.row`, e, e))
	if err != nil {
		return err
	}
	n, err := c.count("SELECT count(*) FROM gbatch_copied")
	if err != nil || n == 0 {
		return err
	}
	slog.Info("copied the vectors of chunks whose text has one", "chunks", n)
	if err := c.retire(p.Embeddings, "gbatch_copied"); err != nil {
		return err
	}
	err = c.exec(fmt.Sprintf(`INSERT INTO %[1]s SELECT id, text_hash, embedding, tokens, batch, %[2]s::TIMESTAMP FROM gbatch_copied;
		DELETE FROM gbatch_picked WHERE id IN (SELECT id FROM gbatch_copied)`, e, literal(now())))
	if err != nil {
		return err
	}
	return c.ready(s, p.Embeddings, "gbatch_copied", p.Column)
}

// unfit notes the picked chunks that no request can carry as failed.
func (p *Pending) unfit(c *conn, s *source) error {
	// A text far below the limit keeps it, however much of it must be escaped.
	suspect := fmt.Sprintf("bytes + title_bytes + strlen(key) > %d", maxLine/6)
	reserved := "starts_with(key, " + literal(record.CanaryPrefix) + ")"
	n, err := c.count("SELECT count(*) FROM gbatch_picked WHERE bytes = 0 OR " + reserved + " OR " + suspect)
	if err != nil || n == 0 {
		return err
	}
	r, err := c.query(fmt.Sprintf(`SELECT p.seq, p.key, s.title, s.body FROM (SELECT * FROM gbatch_picked WHERE %s) p
		JOIN (SELECT %s AS rid, %s AS title, %s AS body FROM %s) s ON s.rid = p.rid`, suspect, s.rid(), s.title(), s.body(), s.sql))
	if err != nil {
		return err
	}
	var line []byte
	long := "-1"
	for r.next() {
		line = line[:0]
		for col := 1; col <= 3; col++ {
			line = ndjson.AppendString(line, r.borrow(col))
		}
		if len(line) > maxLine {
			long += fmt.Sprintf(", %d", r.int(0))
		}
	}
	r.close()
	err = c.exec(fmt.Sprintf(`CREATE OR REPLACE TEMP TABLE gbatch_unfit AS
		SELECT *, CASE WHEN bytes = 0 THEN 'the text is empty' WHEN %[1]s THEN 'ids that begin with %[2]s are reserved'
			ELSE 'the text is longer than a line may be: 16 MiB' END AS reason
		FROM gbatch_picked WHERE bytes = 0 OR %[1]s OR seq IN (%[3]s)`, reserved, record.CanaryPrefix, long))
	if err != nil {
		return err
	}
	if n, err = c.count("SELECT count(*) FROM gbatch_unfit"); err != nil || n == 0 {
		return err
	}
	slog.Warn("chunks that cannot be embedded are noted as failed (the view chunk_status has the reasons)", "chunks", n)
	err = c.exec(fmt.Sprintf(`DELETE FROM gbatch.failures WHERE embeddings = %[1]s AND chunk_id IN (SELECT key FROM gbatch_unfit);
		INSERT INTO gbatch.failures SELECT key, text_hash, %[1]s, 3, 'INVALID_ARGUMENT', reason, 0, true, NULL, %[2]s::TIMESTAMP FROM gbatch_unfit;
		DELETE FROM gbatch_picked WHERE seq IN (SELECT seq FROM gbatch_unfit)`, literal(p.Embeddings), literal(now())))
	if err != nil || !s.courtesy() {
		return err
	}
	return c.exec(fmt.Sprintf("UPDATE %s AS t SET %s FROM gbatch_unfit u WHERE t.rowid = u.rid", s.sql, s.setCourtesy("'FAILED'", "u.reason")))
}

// maxLine is how long a chunk's strings may be as they stand on a line, quoted
// and escaped. What a request has around them fits into the rest.
const maxLine = ndjson.MaxLine - 1<<10

// A cut is a batch to be: the picked chunks from low to high.
type cut struct {
	planned
	low, high int64
}

// overhead is what a request line has around its key and text, in bytes.
const overhead = 160

// cut divides the picked chunks into batches. Only the first chunk of each
// text, of those that copies and unfit have left, counts. A chunk over a limit of its own makes a batch of its own.
func (p *Pending) cut(c *conn, limit int) (cuts []cut, err error) {
	err = c.exec(`CREATE OR REPLACE TEMP TABLE gbatch_picked AS
		SELECT *, min(seq) OVER (PARTITION BY text_hash) AS first FROM gbatch_picked`)
	if err != nil {
		return nil, err
	}
	r, err := c.query("SELECT seq, bytes, strlen(key) FROM gbatch_picked WHERE seq = first ORDER BY seq")
	if err != nil {
		return nil, err
	}
	defer r.close()
	facts := model.Lookup(p.Model)
	for n := 0; r.next() && (limit <= 0 || n < limit); n++ {
		size, tokens := r.int(1)+r.int(2)+overhead, facts.Tokens(r.int(1))
		last := len(cuts) - 1
		if last < 0 || cuts[last].Requests == p.MaxRequests || cuts[last].Bytes+size > int64(p.MaxBytes) || cuts[last].Tokens+tokens > int64(p.MaxTokens) {
			cuts = append(cuts, cut{low: r.int(0)})
			last++
		}
		at := &cuts[last]
		at.Requests++
		at.Bytes += size
		at.Tokens += tokens
		at.high = r.int(0)
	}
	return cuts, nil
}

// plan is --dry-run: it does all that a claim does and takes it back.
func (p *Pending) plan(ctx context.Context, out io.Writer) error {
	var cuts []cut
	c, err := p.open(ctx, write)
	if err != nil {
		return err
	}
	err = func() error {
		defer c.close()
		if err := c.exec("BEGIN"); err != nil {
			return err
		}
		if err := p.prepare(c); err != nil {
			return err
		}
		s, err := c.source(p.From)
		if err != nil {
			return err
		}
		if _, err := p.pick(c, s, new(round)); err != nil {
			return err
		}
		if err := p.copies(c, s); err != nil {
			return err
		}
		if err := p.unfit(c, s); err != nil {
			return err
		}
		cuts, err = p.cut(c, p.Limit)
		return err
	}()
	if err != nil {
		return err
	}
	w := ndjson.NewWriter(out)
	for _, cut := range cuts {
		cut.USD = model.Lookup(p.Model).Cost(cut.Tokens)
		if err := w.Encode(cut.planned); err != nil {
			return err
		}
	}
	return w.Flush()
}
