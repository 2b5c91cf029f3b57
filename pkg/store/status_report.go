package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
	"gbatch/pkg/model"
)

// A Report is what chunks-status knows of a database at one time.
type Report struct {
	DB, Table string
	From      string // the source of the chunks
	At        time.Time
	Space     model.Space
	Counts    []statusCount // READY, QUEUED, PENDING and FAILED
	Batches   []batchStatus // of the table, oldest first
	Reasons   []reason
	Days      []Day     // on which jobs were created that cost something
	Norms     []float64 // the lengths of a sample of the vectors
	Total     Summary
}

// A statusCount counts the chunks of one status. Tokens are Google's count for
// READY, and an estimate for the others.
type statusCount struct {
	Status string   `json:"status"`
	Chunks int64    `json:"chunks"`
	Tokens int64    `json:"tokens"`
	USD    *float64 `json:"usd,omitempty"`
	Since  string   `json:"since,omitempty"` // no chunk has been QUEUED or PENDING for longer

	online int64 // tokens of vectors that were made by online calls

	OverLimit int64 `json:"over_limit,omitempty"` // chunks whose texts Google probably cuts off
}

// A batchStatus is the state of one batch.
type batchStatus struct {
	Batch     string   `json:"batch"`
	Job       string   `json:"job,omitempty"`
	State     string   `json:"state"` // the job's state; CLAIMED, SUBMITTED or UNKNOWN if the database has no job; or RELEASED
	Open      bool     `json:"open"`
	Requests  int64    `json:"requests"`
	Succeeded int64    `json:"succeeded"`
	Failed    int64    `json:"failed"`
	Stored    *int64   `json:"stored,omitempty"` // answers of an open batch that are in the database
	Tokens    int64    `json:"tokens"`
	USD       *float64 `json:"usd,omitempty"`
	ClaimedAt string   `json:"claimed,omitempty"`
	SentAt    string   `json:"submitted,omitempty"`
	EndedAt   string   `json:"ended,omitempty"`
	ExpiresAt string   `json:"expires,omitempty"` // of an open batch that was submitted
	Error     string   `json:"error,omitempty"`
}

// A Summary is the last record of a report. Money is that of all tables of
// vectors in the database, because the caps are too; nil is an unknown price.
type Summary struct {
	At            string      `json:"at"`
	Table         string      `json:"table"`
	Chunks        int64       `json:"chunks"`
	Ready         int64       `json:"ready"`
	Queued        int64       `json:"queued"`
	Pending       int64       `json:"pending"`
	Failed        int64       `json:"failed"`
	Open          int64       `json:"open_batches"`
	OldestOpen    *int64      `json:"oldest_open_seconds,omitempty"`
	OldestPending *int64      `json:"oldest_pending_seconds,omitempty"`
	NextExpiry    string      `json:"next_expiry,omitempty"`
	Tokens        int64       `json:"tokens"` // of closed batches: Google's count, and estimates of online calls
	USD           *float64    `json:"usd,omitempty"`
	Today         *float64    `json:"usd_today,omitempty"`
	Month         *float64    `json:"usd_month,omitempty"`
	Saved         *float64    `json:"usd_saved,omitempty"` // against the online price
	OpenUSD       *float64    `json:"usd_open,omitempty"`  // an estimate
	LeftToday     *float64    `json:"usd_left_today,omitempty"`
	LeftMonth     *float64    `json:"usd_left_month,omitempty"`
	OverLimit     int64       `json:"over_limit,omitempty"`
	OverLimitIDs  []string    `json:"over_limit_ids,omitempty"` // the first ones
	Errors        []codeCount `json:"errors,omitempty"`         // of the FAILED chunks
}

// A Day is what the batches of a day cost.
type Day struct {
	Date string // in UTC, as 2026-11-25
	USD  float64
}

// report reads the database.
func (s *Status) report(ctx context.Context, prices model.Prices) (*Report, error) {
	defer s.End()
	r := &Report{DB: s.DB, Table: s.Embeddings, At: time.Now().UTC(), Total: Summary{Table: s.Embeddings, USD: new(float64), Today: new(float64), Month: new(float64), Saved: new(float64), OpenUSD: new(float64), LeftToday: s.MaxCostPerDay, LeftMonth: s.MaxCostPerMonth}}
	r.Total.At = r.At.Format(time.RFC3339)
	err := transact(ctx, &s.Database, duck.Read, func(c *duck.Conn) error {
		src, derived, err := s.source(c)
		if err != nil {
			return err
		}
		if err := r.count(c, src, derived, prices); err != nil {
			return err
		}
		if ok, err := hasTables(c); err != nil || !ok {
			return err
		}
		if err := r.since(c, src); err != nil {
			return err
		}
		if err := r.batches(c, prices); err != nil {
			return err
		}
		if err := s.left(c, r, prices); err != nil || !derived {
			return err
		}
		if err := r.stored(c); err != nil {
			return err
		}
		if err := r.reasons(c, src); err != nil || s.Sample == 0 {
			return err
		}
		return r.norms(c, s.Sample)
	})
	if err != nil {
		return nil, err
	}
	noted(r.Batches)
	r.sum()
	return r, nil
}

// command returns a command line for the database and the table of vectors.
func (r *Report) command(name string) string {
	line := name + " " + exit.Word(r.DB)
	add := func(flag, value, usual string) {
		if value != "" && value != usual {
			line += " " + flag + " " + exit.Word(value)
		}
	}
	add("--from", r.From, "chunks")
	add("--embeddings", r.Table, "embeddings")
	if name == "chunks-pending" && r.Space.Dim > 0 { // the space may not be known
		add("--model", r.Space.Model, model.Default)
		add("--dim", strconv.Itoa(r.Space.Dim), strconv.Itoa(model.DefaultDim))
		add("--task-type", r.Space.TaskType, model.DefaultTaskType)
	}
	return line
}

// source returns the source of the chunks. derived says that the table of vectors
// exists: otherwise all chunks are PENDING.
func (s *Status) source(c *duck.Conn) (src *source, derived bool, err error) {
	claimed, err := hasTables(c)
	if err != nil {
		return nil, false, err
	}
	from, err := sourcesOf(c, s.From, s.Embeddings, claimed)
	if err != nil {
		return nil, false, err
	}
	var space model.Space
	if claimed {
		if space, err = spaceOf(c, s.Embeddings); err != nil {
			return nil, false, err
		}
	}
	if src, err = openSource(c, from[0], space); err != nil || !claimed {
		return src, false, err
	}
	if src.noted {
		if err := src.follow(c, s.Embeddings); err != nil {
			return nil, false, err
		}
	}
	// A table without claims has no vectors yet. If there are claims, but only for
	// other tables, its name is probably a mistake.
	if known, err := tableNames(c); err != nil {
		return nil, false, err
	} else if len(known) > 0 && !slices.Contains(known, s.Embeddings) {
		return nil, false, exit.Errorf(exit.Usage, "no chunks were claimed for a table %s, only for %s", s.Embeddings, strings.Join(known, ", "))
	}
	t, err := openVectors(c, s.Embeddings)
	return src, t.there, err
}

// sourcesOf returns from, the value of --from. If it is empty, it returns the sources
// whose chunks were claimed for a table of vectors, the last one first, or else
// chunks. claimed says that the toolkit's tables exist.
func sourcesOf(c *duck.Conn, from, embeddings string, claimed bool) (sources []string, err error) {
	if from != "" {
		return []string{from}, nil
	}
	if claimed {
		err = c.Each(func(r *duck.Rows) { sources = append(sources, r.Text(0)) },
			"SELECT source FROM gbatch.jobs WHERE embeddings = ? GROUP BY source ORDER BY max(batch) DESC", embeddings)
	}
	if len(sources) == 0 {
		sources = []string{"chunks"}
	}
	return sources, err
}

// tableNames lists the tables of vectors for which chunks were claimed.
func tableNames(c *duck.Conn) (names []string, err error) {
	err = c.Each(func(r *duck.Rows) { names = append(names, r.Text(0)) }, "SELECT DISTINCT embeddings FROM gbatch.jobs ORDER BY 1")
	return names, err
}

// count counts the chunks of each status. It reads each text once.
func (r *Report) count(c *duck.Conn, src *source, derived bool, prices model.Prices) error {
	query := "SELECT 'PENDING' AS status, CAST(" + src.id() + " AS VARCHAR) AS key, NULL::BIGINT AS tokens, " + src.title() + " AS title, " + src.body() + " AS body, NULL AS came_with FROM " + src.sql
	byCalls := "false" // whether the vector was made by an online call
	if derived {
		query = "SELECT status, key, tokens, sent_title AS title, sent_body AS body, came_with FROM (" + src.status(r.Table, "") + ")"
		if n, err := c.Count("SELECT count(*) FROM gbatch.jobs WHERE " + online); err != nil {
			return err
		} else if n > 0 {
			byCalls = "coalesce(came_with IN (SELECT batch FROM gbatch.jobs WHERE " + online + "), false)"
		}
	}
	r.Space, r.From = src.space, src.from
	space := src.space.Or(model.Space{Model: model.Default})
	r.Counts = []statusCount{{Status: "READY"}, {Status: "QUEUED"}, {Status: "PENDING"}, {Status: "FAILED"}}
	e, _, err := estimator(c, r.Table, space)
	if err != nil {
		return err
	}
	err = c.Stream(func(row *duck.Rows) {
		for i := range r.Counts {
			if n := &r.Counts[i]; n.Status == row.Borrow(0) {
				n.Chunks++
				tokens := row.Int(2)
				if !row.Bool(1) {
					t := e.Request(row.Borrow(3), row.Borrow(4))
					tokens = t.Likely
					if e.OverLimit(t) {
						n.OverLimit++
						if len(r.Total.OverLimitIDs) < overLimitNamed {
							r.Total.OverLimitIDs = append(r.Total.OverLimitIDs, row.Text(5))
						}
					}
				}
				n.Tokens += tokens
				if row.Bool(6) {
					n.online += tokens
				}
			}
		}
	}, "SELECT status, tokens IS NOT NULL, tokens, CASE WHEN tokens IS NULL THEN title END, CASE WHEN tokens IS NULL THEN body END, CASE WHEN tokens IS NULL THEN key END, "+byCalls+" FROM ("+query+")")
	for i := range r.Counts {
		var usd amount
		usd.add(prices.Batch(space.Model, r.Counts[i].Tokens-r.Counts[i].online))
		if n := r.Counts[i].online; n > 0 {
			usd.add(prices.Online(space.Model, n))
		}
		r.Counts[i].USD = usd.value()
	}
	return err
}

// since sets since when chunks are QUEUED and PENDING.
func (r *Report) since(c *duck.Conn, src *source) error {
	queued, pending := &r.Counts[1], &r.Counts[2]
	_, err := c.One(func(row *duck.Rows) { queued.Since = row.Text(0) }, "SELECT "+rfc3339("min(claimed_at)")+" FROM gbatch.jobs WHERE embeddings = ? AND closed_at IS NULL", r.Table)
	if err == nil && pending.Chunks > 0 {
		_, err = c.One(func(row *duck.Rows) { pending.Since = row.Text(0) }, "SELECT "+rfc3339("scanned_at")+" FROM gbatch.scans WHERE embeddings = ? AND source = ?", r.Table, src.from)
	}
	return err
}

// rfc3339 is the SQL that formats a time as in the records.
func rfc3339(timestamp string) string { return "strftime(" + timestamp + ", '%Y-%m-%dT%H:%M:%SZ')" }

// An amount is a sum of prices.
type amount struct {
	usd     float64
	unknown bool
}

func (a *amount) add(usd float64, known bool) { a.usd, a.unknown = a.usd+usd, a.unknown || !known }

func (a amount) value() *float64 { return known(a.usd, !a.unknown) }

// batches reads all batches that were claimed, oldest first, and sums up what
// they cost. A batch counts for the day on which its job was created, as for the
// caps of chunks-pending.
func (r *Report) batches(c *duck.Conn, prices model.Prices) error {
	var all, today, month, saved amount
	days := map[string]float64{}
	now := r.At.Format(time.RFC3339)
	counted, err := countedTokens(c)
	if err != nil {
		return err
	}
	err = c.Each(func(row *duck.Rows) {
		b := batchStatus{Batch: row.Text(0), Job: row.Text(1), State: row.Text(2), Open: row.Bool(3), Requests: row.Int(4), Succeeded: row.Int(5),
			Failed: row.Int(6), Tokens: row.Int(7), ClaimedAt: row.Text(9), SentAt: row.Text(10), EndedAt: row.Text(11), Error: row.Text(12)}
		use := model.Use{Model: row.Text(8), Tokens: b.Tokens, Online: row.Bool(15)}
		usd, priced := prices.Cost(use)
		b.USD = known(usd, priced)
		if b.Tokens > 0 {
			r.Total.Tokens += b.Tokens
			all.add(usd, priced)
			saved.add(prices.Online(use.Model, use.Tokens))
			day := row.Text(14)
			if day == now[:len(time.DateOnly)] {
				today.add(usd, priced)
			}
			if strings.HasPrefix(day, now[:len("2006-01")]) {
				month.add(usd, priced)
			}
			days[day] += usd
		}
		if row.Borrow(13) == r.Table {
			r.Batches = append(r.Batches, b)
		}
	}, `SELECT batch, job, coalesce(state, 'CLAIMED'), closed_at IS NULL, requests, succeeded, failed, `+counted+`, model,
		`+rfc3339("claimed_at")+", "+rfc3339("submitted_at")+", "+rfc3339("ended_at")+", error, embeddings, strftime(coalesce(submitted_at, closed_at), '%Y-%m-%d'), "+online+" FROM gbatch.jobs ORDER BY batch")
	for _, day := range slices.Sorted(maps.Keys(days)) {
		r.Days = append(r.Days, Day{day, days[day]})
	}
	r.Total.USD, r.Total.Today, r.Total.Month = all.value(), today.value(), month.value()
	saved.add(-all.usd, !all.unknown)
	r.Total.Saved = saved.value()
	return err
}

// left sets what the open batches will cost, and what is left of the caps.
func (s *Status) left(c *duck.Conn, r *Report, prices model.Prices) error {
	estimated, err := hasEstimates(c)
	if err != nil {
		return err
	}
	likely := "tokens_likely"
	if !estimated {
		likely, r.Total.LeftToday, r.Total.LeftMonth = "NULL::BIGINT", nil, nil
	}
	var open amount
	err = c.Each(func(row *duck.Rows) {
		usd, priced := prices.Batch(row.Borrow(0), row.Int(1))
		open.add(usd, priced && !row.Bool(2))
	}, fmt.Sprintf("SELECT model, sum(%[1]s)::BIGINT, bool_or(%[1]s IS NULL) FROM gbatch.jobs WHERE closed_at IS NULL GROUP BY model", likely))
	if r.Total.OpenUSD = open.value(); err != nil || !estimated {
		return err
	}
	for _, l := range (&Caps{MaxCostPerDay: s.MaxCostPerDay, MaxCostPerMonth: s.MaxCostPerMonth}).limits() {
		counted, err := spent(c, l.where)
		if err != nil {
			return err
		}
		var used amount
		for _, u := range counted {
			used.add(prices.Cost(u))
		}
		left := known(max(l.value-used.usd, 0), !used.unknown)
		if l.flag == "--max-cost-per-day" {
			r.Total.LeftToday = left
		} else {
			r.Total.LeftMonth = left
		}
	}
	return nil
}

// stored counts the answers that the database has of each open batch with a job.
func (r *Report) stored(c *duck.Conn) error {
	open, names := map[string]*int64{}, []string{}
	for i := range r.Batches {
		if b := &r.Batches[i]; b.Open && b.Job != "" {
			b.Stored = new(int64)
			open[b.Batch], names = b.Stored, append(names, duck.Literal(b.Batch))
		}
	}
	if len(names) == 0 {
		return nil
	}
	in := " WHERE batch IN (" + strings.Join(names, ", ") + ")"
	return c.Each(func(row *duck.Rows) { *open[row.Borrow(0)] = row.Int(1) },
		"SELECT batch, count(DISTINCT text_hash) FROM (SELECT batch, text_hash FROM "+duck.Ident(r.Table)+in+
			" UNION ALL SELECT batch, text_hash FROM gbatch.failures"+in+" AND embeddings = "+duck.Literal(r.Table)+") GROUP BY batch")
}

// norms measures a sample of about n vectors. It reads only some blocks of the
// table, which may be large.
func (r *Report) norms(c *duck.Conn, n int) error {
	table := duck.Ident(r.Table)
	all, err := c.Count("SELECT count(*) FROM " + table)
	if err != nil || all == 0 {
		return err
	}
	return c.Each(func(row *duck.Rows) { r.Norms = append(r.Norms, float64(row.Int(0))/1e9) },
		fmt.Sprintf("SELECT CAST(1e9 * sqrt(list_inner_product(embedding::DOUBLE[], embedding::DOUBLE[])) AS BIGINT) FROM %s TABLESAMPLE system(%f PERCENT)", table, min(100, 100*float64(n)/float64(all))))
}

// sum completes the summary, and what follows from the present time.
func (r *Report) sum() {
	t := &r.Total
	t.Ready, t.Queued, t.Pending, t.Failed = r.Counts[0].Chunks, r.Counts[1].Chunks, r.Counts[2].Chunks, r.Counts[3].Chunks
	for _, n := range r.Counts {
		t.OverLimit += n.OverLimit
	}
	t.Chunks = t.Ready + t.Queued + t.Pending + t.Failed
	t.OldestPending = r.age(r.Counts[2].Since)
	for i := range r.Batches {
		b := &r.Batches[i]
		if !b.Open {
			continue
		}
		if t.Open++; t.OldestOpen == nil {
			t.OldestOpen = r.age(b.ClaimedAt)
		}
		if sent, err := time.Parse(time.RFC3339, b.SentAt); err == nil {
			b.ExpiresAt = sent.Add(model.JobLife(b.Job)).Format(time.RFC3339)
			if t.NextExpiry == "" || b.ExpiresAt < t.NextExpiry {
				t.NextExpiry = b.ExpiresAt
			}
		}
	}
}

// age is how many seconds ago a time was, nil if there is none.
func (r *Report) age(since string) *int64 {
	t, err := time.Parse(time.RFC3339, since)
	if err != nil {
		return nil
	}
	seconds := int64(r.At.Sub(t).Seconds())
	return &seconds
}
