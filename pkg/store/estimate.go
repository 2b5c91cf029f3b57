package store

import (
	"fmt"
	"strings"

	"gbatch/pkg/duck"
	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/record"
)

// estimator returns the estimator of tokens for the requests of a table of
// vectors. It is calibrated by the batches of that table whose tokens Google has
// counted, if they have enough requests.
func estimator(c *duck.Conn, embeddings string, space model.Space) (e *model.Estimator, calibrated bool, err error) {
	if ok, err := hasEstimates(c); err != nil || !ok {
		return space.Estimator(1), false, err
	}
	var factor float64
	_, err = c.One(func(r *duck.Rows) { factor, calibrated = model.Calibrate(r.Int(0), r.Int(1), r.Int(2)) },
		`SELECT sum(tokens_plain)::BIGINT, sum(tokens)::BIGINT, sum(requests)::BIGINT FROM gbatch.jobs
		WHERE embeddings = ? AND model = ? AND task_type = ? AND succeeded = requests AND tokens > 0 AND tokens_plain IS NOT NULL AND coalesce(canary, 0) = 0`,
		embeddings, space.Model, space.TaskType)
	return space.Estimator(factor), calibrated, err
}

// hasEstimates reports whether gbatch.jobs has estimates. A database of an older
// version, or without claims, has none.
func hasEstimates(c *duck.Conn) (bool, error) {
	n, err := c.Count("SELECT count(*) FROM duckdb_columns() WHERE database_name = current_database() AND schema_name = ? AND table_name = 'jobs' AND column_name = 'tokens_plain'", schema)
	return n > 0, err
}

// online is the SQL that tells whether a batch in gbatch.jobs was embedded by online
// calls.
const online = "coalesce(starts_with(job, '" + record.OnlinePrefix + "'), false)"

// countedTokens is the SQL for the tokens of a closed batch in gbatch.jobs: Google's
// count, or the estimate if Google does not count those of its online calls.
func countedTokens(c *duck.Conn) (string, error) {
	ok, err := hasEstimates(c)
	if !ok { // a version that knew no online calls
		return "tokens", err
	}
	return "coalesce(tokens, CASE WHEN closed_at IS NOT NULL AND " + online + " THEN tokens_likely END)", err
}

// A sum is the size of several requests.
type sum struct {
	requests int
	bytes    int64
	tokens   model.Estimate
	overLong bool // a text is over the model's limit
}

func (s *sum) add(o sum) {
	s.requests += o.requests
	s.bytes += o.bytes
	s.tokens = s.tokens.Plus(o.tokens)
	s.overLong = s.overLong || o.overLong
}

// plain is the SQL for the value of tokens_plain: NULL if the tokens cannot be
// compared with Google's count.
func (s *sum) plain() string {
	if s.overLong {
		return "NULL"
	}
	return fmt.Sprint(s.tokens.Plain)
}

// estimateOlder estimates the tokens of the open batches that an older version
// has claimed.
func estimateOlder(c *duck.Conn) error {
	type batch struct {
		name, items string
		space       model.Space
	}
	var older []batch
	err := c.Each(func(r *duck.Rows) {
		older = append(older, batch{r.Text(0), items(r.Text(0), r.Int(3), r.Int(4)), model.Space{Model: r.Text(1), TaskType: r.Text(2)}})
	}, "SELECT batch, model, task_type, first_seq, last_seq FROM gbatch.jobs WHERE closed_at IS NULL AND tokens_max IS NULL")
	for _, b := range older {
		if err != nil {
			break
		}
		var all sum
		if all, err = estimateItems(c, b.space, b.items); err == nil {
			err = c.Exec("UPDATE gbatch.jobs SET tokens_likely = ?, tokens_max = ?, tokens_plain = "+all.plain()+" WHERE batch = ?", all.tokens.Likely, all.tokens.Max, b.name)
		}
	}
	return err
}

// estimateItems estimates the tokens of the requests of some items, without
// calibration.
func estimateItems(c *duck.Conn, space model.Space, items string) (all sum, err error) {
	e := space.Estimator(1)
	err = c.Stream(func(r *duck.Rows) {
		t := e.Request(r.Borrow(0), r.Borrow(1))
		all.add(sum{requests: 1, tokens: t, overLong: e.OverLimit(t)})
	}, "SELECT title, text FROM "+items+" WHERE NOT twin")
	return all, err
}

// measure estimates the tokens of the first chunk with each text, by its seq, and
// returns the bytes of its strings on a line. If limit is not 0, only so many chunks
// count. The texts come in any order: DuckDB takes longer to sort rows with texts.
func (p *Claim) measure(c *duck.Conn, s *source, e *model.Estimator, where string, limit int) (tokens []model.Estimate, sizes []int32, err error) {
	n, err := c.Count("SELECT coalesce(max(seq), 0) FROM gbatch_picked")
	if err != nil {
		return nil, nil, err
	}
	first := "SELECT seq, rid, key FROM gbatch_picked WHERE seq = first"
	if limit > 0 {
		first += fmt.Sprintf(" ORDER BY seq LIMIT %d", limit)
	}
	tokens, sizes = make([]model.Estimate, n+1), make([]int32, n+1)
	var line []byte
	err = c.Stream(func(r *duck.Rows) {
		seq, title, body := r.Int(0), r.Borrow(1), r.Borrow(2)
		tokens[seq] = e.Request(title, body)
		line = ndjson.AppendString(ndjson.AppendString(ndjson.AppendString(line[:0], title), body), r.Borrow(3))
		sizes[seq] = int32(len(line))
	},
		fmt.Sprintf("SELECT p.seq, s.title, s.body, p.key FROM (%s) p JOIN (SELECT %s AS rid, %s AS title, %s AS body FROM %s %s) s ON s.rid = p.rid",
			first, s.rid(), s.title(), s.body(), s.sql, where))
	return tokens, sizes, err
}

// The values of --truncate. The default warns.
const (
	truncateError = "error"
	truncateAllow = "allow"
)

// outOfRange is the code of the failure of a text that is over the model's limit.
const outOfRange = 11

// overLimitNamed is how many of the texts over the model's limit are named.
const overLimitNamed = 5

// overLimit are the requests whose texts are over the model's limit.
type overLimit struct {
	requests int
	ids      []string // of the first ones
}

// add counts requests by the seq of their picked chunks, in the order of seq.
func (o *overLimit) add(c *duck.Conn, seqs []int64) error {
	o.requests += len(seqs)
	seqs = seqs[:min(len(seqs), overLimitNamed-len(o.ids))]
	if len(seqs) == 0 {
		return nil
	}
	return c.Each(func(r *duck.Rows) { o.ids = append(o.ids, r.Text(0)) },
		"SELECT key FROM gbatch_picked WHERE seq IN ("+strings.Trim(strings.ReplaceAll(fmt.Sprint(seqs), " ", ", "), "[]")+") ORDER BY seq")
}

// refuseLong notes the picked chunks whose texts are over the model's limit as
// failed, and removes them from gbatch_picked.
func (p *Claim) refuseLong(c *duck.Conn, e *model.Estimator, tokens []model.Estimate, plan *plan, long *overLimit) error {
	var seqs []int64
	for seq, t := range tokens {
		if e.OverLimit(t) {
			seqs = append(seqs, int64(seq))
		}
	}
	if len(seqs) == 0 {
		return nil
	}
	if err := long.add(c, seqs); err != nil {
		return err
	}
	if err := c.Exec("CREATE OR REPLACE TEMP TABLE gbatch_long (first BIGINT, tokens BIGINT)"); err != nil {
		return err
	}
	rows, err := c.Appender("temp", "gbatch_long", duck.BigInt, duck.BigInt)
	if err != nil {
		return err
	}
	for _, seq := range seqs {
		rows.SetInt(0, seq)
		rows.SetInt(1, tokens[seq].Uncut)
		if err := rows.Next(); err != nil {
			return err
		}
	}
	if err := rows.Close(); err != nil {
		return err
	}
	err = c.Exec(fmt.Sprintf(`CREATE OR REPLACE TEMP TABLE gbatch_unfit AS SELECT p.* EXCLUDE (first),
			format('the text has about {} tokens, and %s reads only %d of them: shorten it, or have it cut with --truncate warn --retry-failed', tokens) AS reason
		FROM gbatch_picked p JOIN gbatch_long USING (first)`, p.Model, model.Lookup(p.Model).MaxTokens))
	if err != nil {
		return err
	}
	return p.fail(c, plan, outOfRange, "OUT_OF_RANGE")
}
