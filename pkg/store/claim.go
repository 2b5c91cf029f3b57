package store

import (
	"cmp"
	"fmt"
	"log/slog"
	"math"
	"strings"

	"gbatch/pkg/cli"
	"gbatch/pkg/duck"
	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/record"
)

// A Claim says which chunks to claim, for which space, and how to cut them into
// batches. Its fields are flags of chunks-pending.
type Claim struct {
	From        string    `default:"chunks" help:"A table, a view or a SELECT with the columns id and text, and optionally title and context. A SELECT is run unchanged."`
	Model       string    `default:"${model}" help:"The embedding model."`
	Dim         int       `default:"${dim}" help:"Values per vector, 1 to ${max_dim}."`
	TaskType    string    `default:"${task_type}" help:"What the vectors are used for, in Google's spelling."`
	Embeddings  string    `default:"embeddings" help:"The table of the vectors: one for each model, dim and task type."`
	Column      string    `help:"Also write vectors into this column of the chunks table."`
	Shard       Shard     `placeholder:"N/COUNT" help:"Claim only the chunks of one shard, by a hash of the id: 0/64 to 63/64. A database holds one shard."`
	Limit       int       `help:"Claim at most this many requests; 0 is no limit."`
	Backend     string    `enum:"gemini,vertex" default:"gemini" help:"The service that the batches are for: gemini (the Gemini API) or vertex (Vertex AI). It decides how large they are by default."`
	MaxRequests cli.Count `placeholder:"N" help:"Most requests per batch (default 10000; 1000000 with --backend vertex)."`
	MaxBytes    cli.Size  `placeholder:"SIZE" help:"Most bytes per batch (default 100MB; 1GB with --backend vertex)."`
	MaxTokens   cli.Count `placeholder:"N" help:"Most tokens per batch, by the estimate times 1.35 (default 400000; no limit with --backend vertex)."`
	Truncate    string    `enum:"warn,error,allow" default:"warn" help:"What to do with texts over the model's limit, which Google cuts off: warn, error (the chunk is FAILED, and not sent) or allow."`
}

// size sets the limits of a batch that are not given.
func (p *Claim) size() {
	limits := model.LimitsOf(p.Backend)
	p.MaxRequests = cmp.Or(p.MaxRequests, cli.Count(limits.Requests))
	p.MaxBytes = cmp.Or(p.MaxBytes, cli.Size(limits.Bytes))
	p.MaxTokens = cmp.Or(p.MaxTokens, cli.Count(limits.Tokens))
}

func (p *Claim) space() model.Space {
	return model.Space{Model: p.Model, Dim: p.Dim, TaskType: p.TaskType}
}

// manyAgain is how many chunks the user may set back without a warning.
const manyAgain = 10

// open is openSource for the source of the claim.
func (p *Claim) open(c *duck.Conn) (*source, error) {
	s, err := openSource(c, p.From, p.space())
	if err == nil {
		s.take(p.Shard)
		s.column = p.Column
	}
	return s, err
}

// claim claims a round of pending chunks, and returns the names of the new
// batches. A chunk whose text has a vector gets a copy of it instead, and one
// that cannot be embedded is noted as failed.
func (p *Claim) claim(c *duck.Conn, r *round) (batches []string, err error) {
	s, err := p.chunks(c, r)
	if err != nil {
		return nil, err
	}
	if err := r.resume(c, s); err != nil {
		return nil, err
	}
	if r.low == 0 {
		r.since = now()
	}
	plan, err := p.plan(c, s, r)
	if err != nil && r.refused != nil {
		err = r.refused
	}
	if err != nil {
		return nil, err
	}
	cuts := plan.cuts
	if len(cuts) > 0 && r.refused != nil {
		r.held, r.last = true, true
	} else if err := r.afford(p, plan); err != nil {
		return nil, err
	}
	if plan.failed > 0 {
		slog.Warn("chunks that cannot be embedded are noted as failed (chunks-status --failed has the reasons)", "chunks", plan.failed)
	}
	if r.held {
		return nil, nil
	}
	if len(cuts) > 0 {
		if n, err := c.Count("SELECT count(*) FROM gbatch_picked WHERE again"); err != nil {
			return nil, err
		} else if n > manyAgain {
			slog.Warn("READY chunks were set back to PENDING: their texts are embedded again, and paid for again", "chunks", n)
		}
	}
	for _, cut := range cuts {
		if p.Limit > 0 {
			r.left -= cut.requests
			r.last = r.last || r.left == 0
		}
	}
	if len(cuts) == 0 && r.refused != nil {
		n, err := c.Count("SELECT count(*) FROM gbatch_shown")
		r.behind += n
		return nil, err
	}
	if len(cuts) > 0 {
		if batches, err = p.put(c, s, plan); err != nil {
			return nil, err
		}
	}
	if r.last && r.full == nil && (p.Limit == 0 || r.left > 0) {
		if err := p.scanned(c, s, r.since); err != nil {
			return nil, err
		}
	}
	if err := s.show(c, p.Embeddings); err != nil {
		return nil, err
	}
	// The connection may live on, and the batches are printed meanwhile.
	return batches, c.Exec("DROP TABLE gbatch_picked; DROP TABLE gbatch_shown; DROP TABLE IF EXISTS gbatch_copied; DROP TABLE IF EXISTS gbatch_chosen")
}

// scanned notes that no chunk is pending that was pending at a time: since then,
// every chunk was scanned and none was left over.
func (p *Claim) scanned(c *duck.Conn, s *source, since string) error {
	if err := c.Exec("DELETE FROM gbatch.scans WHERE source = ? AND embeddings = ?", s.from, p.Embeddings); err != nil {
		return err
	}
	return c.Exec("INSERT INTO gbatch.scans VALUES (?, ?, ?::TIMESTAMP)", s.from, p.Embeddings, since)
}

// A plan is what a round claims.
type plan struct {
	where      string // pick's WHERE clause
	calibrated bool   // the estimates are
	failed     int64  // chunks that cannot be embedded
	cuts       []cut
	stays      sum   // the requests that do not fit under the caps
	full       error // why they do not fit
}

// total is the size of the cuts together.
func (p *plan) total() (all sum) {
	for _, cut := range p.cuts {
		all.add(cut.sum)
	}
	return all
}

// plan picks the chunks of a round and cuts those that need a request.
func (p *Claim) plan(c *duck.Conn, s *source, r *round) (*plan, error) {
	where, err := p.pick(c, s, r)
	if err != nil {
		return nil, err
	}
	plan := &plan{where: where}
	if n, err := c.Count("SELECT count(*) FROM gbatch_picked"); err != nil || n == 0 {
		return plan, err
	}
	if err := r.unique(c, s); err != nil {
		return nil, err
	}
	if err := p.copies(c, s); err != nil {
		return nil, err
	}
	if err := p.unfit(c, s, plan); err != nil {
		return nil, err
	}
	return plan, p.cut(c, s, r, plan)
}

// pick writes the next pending chunks, in the source's order, to the temporary
// table gbatch_picked, and to gbatch_shown what [source.show] is to write. It
// returns the WHERE clause for the part of the source that they are in.
func (p *Claim) pick(c *duck.Conn, s *source, r *round) (where string, err error) {
	if where, err = r.scan(c, s, p.Embeddings); err != nil {
		return "", err
	}
	return where, c.Exec(`CREATE OR REPLACE TEMP TABLE gbatch_picked AS
		SELECT row_number() OVER (ORDER BY rid) AS seq, id, key, rid, text_hash, again, bytes, title_bytes FROM gbatch_work WHERE status = 'PENDING';
		CREATE OR REPLACE TEMP TABLE gbatch_shown AS
		SELECT id, key, rid, text_hash, status, message, off FROM gbatch_work WHERE off OR unnoted;
		DROP TABLE gbatch_work`)
}

// copies copies the vector of a text to the picked chunks with that text, and
// removes these chunks from gbatch_picked.
func (p *Claim) copies(c *duck.Conn, s *source) error {
	e := duck.Ident(p.Embeddings)
	err := c.Exec(fmt.Sprintf(`CREATE OR REPLACE TEMP TABLE gbatch_copied AS
		SELECT p.id, p.rid, p.text_hash, e.embedding, e.tokens, e.batch
		FROM (SELECT p.id, p.rid, p.text_hash, min(e.rowid) AS row FROM gbatch_picked p JOIN %s e ON e.text_hash = p.text_hash WHERE NOT p.again GROUP BY ALL) p
		JOIN %s e ON e.rowid = p.row`, e, e))
	if err != nil {
		return err
	}
	n, err := c.Count("SELECT count(*) FROM gbatch_copied")
	if err != nil || n == 0 {
		return err
	}
	slog.Info("copied the vectors of chunks whose text has one", "chunks", n)
	if err := retire(c, p.Embeddings, "gbatch_copied"); err != nil {
		return err
	}
	err = c.Exec(fmt.Sprintf(`INSERT INTO %[1]s %[3]s SELECT id, text_hash, embedding, tokens, batch, %[2]s::TIMESTAMP FROM gbatch_copied;
		DELETE FROM gbatch_picked WHERE id IN (SELECT id FROM gbatch_copied)`, e, duck.Literal(now()), embeddingColumns))
	if err != nil {
		return err
	}
	return showInstead(c, "SELECT id, CAST(id AS VARCHAR), rid, text_hash, 'READY', NULL, true FROM gbatch_copied")
}

// unfit notes the picked chunks that no request can carry as failed, and removes
// them from gbatch_picked.
func (p *Claim) unfit(c *duck.Conn, s *source, plan *plan) error {
	// Escapes make a text at most six times as long.
	suspect := fmt.Sprintf("bytes + title_bytes + strlen(key) > %d", maxLine/6)
	reserved := "starts_with(key, " + duck.Literal(record.CanaryPrefix) + ")"
	n, err := c.Count("SELECT count(*) FROM gbatch_picked WHERE bytes = 0 OR " + reserved + " OR " + suspect)
	if err != nil || n == 0 {
		return err
	}
	var line []byte
	long := "-1"
	err = c.Each(func(r *duck.Rows) {
		line = line[:0]
		for col := 1; col <= 3; col++ {
			line = ndjson.AppendString(line, r.Borrow(col))
		}
		if len(line) > maxLine {
			long += fmt.Sprintf(", %d", r.Int(0))
		}
	}, fmt.Sprintf(`SELECT p.seq, p.key, s.title, s.body FROM (SELECT * FROM gbatch_picked WHERE %s) p
		JOIN (SELECT %s AS rid, %s AS title, %s AS body FROM %s) s ON s.rid = p.rid`, suspect, s.rid(), s.title(), s.body(), s.sql))
	if err != nil {
		return err
	}
	err = c.Exec(fmt.Sprintf(`CREATE OR REPLACE TEMP TABLE gbatch_unfit AS
		SELECT *, CASE WHEN bytes = 0 THEN 'the text is empty' WHEN %[1]s THEN 'ids that begin with %[2]s are reserved'
			ELSE 'the text is longer than a line may be: 16 MiB' END AS reason
		FROM gbatch_picked WHERE bytes = 0 OR %[1]s OR seq IN (%[3]s)`, reserved, record.CanaryPrefix, long))
	if err != nil {
		return err
	}
	return p.fail(c, plan, 3, "INVALID_ARGUMENT")
}

// fail notes the picked chunks in gbatch_unfit as failed, with their reasons, and
// removes them from gbatch_picked.
func (p *Claim) fail(c *duck.Conn, plan *plan, code int, status string) error {
	n, err := c.Count("SELECT count(*) FROM gbatch_unfit")
	if err != nil || n == 0 {
		return err
	}
	plan.failed += n
	err = c.Exec(fmt.Sprintf(`DELETE FROM gbatch.failures WHERE embeddings = %[1]s AND chunk_id IN (SELECT key FROM gbatch_unfit);
		INSERT INTO gbatch.failures SELECT key, text_hash, %[1]s, %[3]d, %[4]s, reason, 0, true, NULL, %[2]s::TIMESTAMP FROM gbatch_unfit;
		DELETE FROM gbatch_picked WHERE seq IN (SELECT seq FROM gbatch_unfit)`, duck.Literal(p.Embeddings), duck.Literal(now()), code, duck.Literal(status)))
	if err != nil {
		return err
	}
	return showInstead(c, "SELECT id, key, rid, text_hash, 'FAILED', reason, true FROM gbatch_unfit")
}

// showInstead replaces rows of gbatch_shown by those of a query.
func showInstead(c *duck.Conn, query string) error {
	return c.Exec("DELETE FROM gbatch_shown WHERE rid IN (SELECT rid FROM (" + query + ")); INSERT INTO gbatch_shown " + query)
}

// maxLine is how many bytes the strings of a chunk may have on a line, quoted and
// escaped. The rest of a line is for what a request has around them.
const maxLine = ndjson.MaxLine - 1<<10

// A cut is a future batch: the picked chunks from seq low to high.
type cut struct {
	sum
	low, high int64
}

// overhead is the most that a request line has around its key, title and text, in
// bytes.
const overhead = 150

// cut divides the picked chunks into batches of at most r.left requests together,
// if that is not 0. Of the chunks that copies and unfit have left, only the first
// with each text counts: its seq becomes the column first of all chunks with
// that text. A chunk that exceeds a limit alone is a batch alone.
func (p *Claim) cut(c *duck.Conn, s *source, r *round, plan *plan) error {
	err := c.Exec(`CREATE OR REPLACE TEMP TABLE gbatch_picked AS
		SELECT *, min(seq) OVER (PARTITION BY text_hash) AS first FROM gbatch_picked`)
	if err != nil {
		return err
	}
	e, calibrated, err := estimator(c, p.Embeddings, p.space())
	if err != nil {
		return err
	}
	plan.calibrated = calibrated
	limit, room := r.left, int64(math.MaxInt64)
	if p.Truncate == truncateError {
		limit = 0
	}
	tokens, sizes, err := p.measure(c, s, e, plan.where, limit)
	if err != nil {
		return err
	}
	if p.Truncate == truncateError {
		if err := p.refuseLong(c, e, tokens, plan, &r.long); err != nil {
			return err
		}
	}
	if r.fit {
		if room, err = r.caps.Room(p.Model); err != nil {
			return err
		}
	}
	plan.full = r.full
	var long []int64
	rows, err := c.Query("SELECT seq FROM gbatch_picked WHERE seq = first ORDER BY seq")
	if err != nil {
		return err
	}
	defer rows.Close()
	for n, used := 0, int64(0); rows.Next() && (r.left <= 0 || n < r.left); n++ {
		t := tokens[rows.Int(0)]
		next := sum{1, int64(sizes[rows.Int(0)]) + overhead, t, e.OverLimit(t)}
		if plan.full == nil && used+t.Max > room {
			plan.full = r.caps.Check(model.Use{Model: p.Model, Tokens: used + t.Max})
		}
		if plan.full != nil {
			plan.stays.add(next)
			continue
		}
		used += t.Max
		if next.overLong {
			long = append(long, rows.Int(0))
		}
		last := len(plan.cuts) - 1
		if last < 0 || plan.cuts[last].requests == int(p.MaxRequests) || plan.cuts[last].bytes+next.bytes > int64(p.MaxBytes) || plan.cuts[last].tokens.Max+t.Max > int64(p.MaxTokens) {
			plan.cuts = append(plan.cuts, cut{low: rows.Int(0)})
			last++
		}
		plan.cuts[last].add(next)
		plan.cuts[last].high = rows.Int(0)
	}
	return r.long.add(c, long)
}

// put makes the cuts of a plan batches, whose names it returns: it writes their
// chunks to the outbox, in the order of seq. Of chunks with one text, only the
// first holds it, and the others are its twins.
func (p *Claim) put(c *duck.Conn, s *source, plan *plan) (batches []string, err error) {
	batches = batchNames(len(plan.cuts))
	var values []string
	for i, cut := range plan.cuts {
		values = append(values, fmt.Sprintf("(%s, %d, %d, %d, %d, %d, %s)", duck.Literal(batches[i]), cut.low, cut.high, cut.requests, cut.tokens.Likely, cut.tokens.Max, cut.plain()))
	}
	err = c.Exec("CREATE OR REPLACE TEMP TABLE gbatch_cut AS FROM (VALUES " + strings.Join(values, ", ") + ") v(batch, low, high, asked, likely, most, plain)")
	if err != nil {
		return nil, err
	}
	err = c.Exec(`INSERT INTO gbatch.jobs (batch, model, dim, task_type, requests, claimed_at, source, embeddings, vector_column, tokens_likely, tokens_max, tokens_plain, shard)
		SELECT batch, ?, ?, ?, asked, ?::TIMESTAMP, ?, ?, nullif(?, ''), likely, most, plain, nullif(?, '') FROM gbatch_cut`, p.Model, p.Dim, p.TaskType, now(), s.from, p.Embeddings, p.Column, p.Shard.String())
	if err != nil {
		return nil, err
	}
	err = c.Exec(`CREATE OR REPLACE TEMP TABLE gbatch_chosen AS SELECT cut.batch, p.* FROM gbatch_picked p JOIN gbatch_cut cut ON p.first BETWEEN cut.low AND cut.high;
		CREATE OR REPLACE TEMP TABLE gbatch_next AS SELECT coalesce(max(seq) + 1, 0) AS seq FROM gbatch.items`)
	if err != nil {
		return nil, err
	}
	// DuckDB scans a table in the order of seq. If it joins as the statement is
	// written, the items come in that order and need not be sorted.
	if err := c.Exec("SET disabled_optimizers = 'join_order,build_side_probe_side'"); err != nil {
		return nil, err
	}
	// The texts are hashed as they are taken: a vector belongs to the text that
	// was sent, not to what the source gave when the chunks were picked. In stored
	// columns the two are the same.
	same := " AND s.text_hash = p.text_hash"
	if s.stored {
		same = ""
	}
	err = c.Exec(fmt.Sprintf(`INSERT INTO gbatch.items
		SELECT p.batch, p.seq + (SELECT seq FROM gbatch_next), p.key, CASE WHEN p.seq = p.first THEN s.title END, CASE WHEN p.seq = p.first THEN s.body END, p.text_hash, p.seq <> p.first
		FROM (SELECT %s AS rid, %s AS title, %s AS body, %s AS text_hash FROM %s %s) s JOIN gbatch_chosen p ON s.rid = p.rid%s;
		RESET disabled_optimizers;
		UPDATE gbatch.jobs AS j SET first_seq = i.first_seq, last_seq = i.last_seq
		FROM (SELECT batch, min(seq) AS first_seq, max(seq) AS last_seq FROM gbatch.items WHERE seq >= (SELECT seq FROM gbatch_next) GROUP BY batch) i
		WHERE j.batch = i.batch`, s.rid(), s.title(), s.body(), s.hash(), s.sql, plan.where, same))
	if err != nil {
		return nil, err
	}
	return batches, p.whole(c, s)
}

// whole refuses a claim that does not hold each chosen chunk once, with the text
// that was picked. Such a batch could never be sent: its header would announce
// other chunks than follow.
func (p *Claim) whole(c *duck.Conn, s *source) error {
	const items = "(SELECT * FROM gbatch.items WHERE seq >= (SELECT seq FROM gbatch_next))"
	n, err := c.Count(`SELECT (SELECT count(*) FROM gbatch_chosen) - count(DISTINCT seq) + count(*) - count(DISTINCT seq) + (
		SELECT count(*) FROM gbatch.jobs JOIN gbatch_cut USING (batch)
		LEFT JOIN (SELECT batch, count(*) AS n FROM ` + items + ` WHERE NOT twin GROUP BY batch) USING (batch) WHERE n IS DISTINCT FROM requests) FROM ` + items)
	if err != nil || n == 0 {
		return err
	}
	id := ""
	_, err = c.One(func(r *duck.Rows) { id = r.Text(0) }, `SELECT p.key FROM gbatch_chosen p LEFT JOIN `+items+` i ON i.seq = p.seq + (SELECT seq FROM gbatch_next)
		GROUP BY ALL HAVING count(i.seq) <> 1 ORDER BY p.key LIMIT 1`)
	if err != nil {
		return err
	}
	return s.unsteady(id)
}
