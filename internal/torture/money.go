package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"gbatch/pkg/duck"
	"gbatch/pkg/emulator"
	"gbatch/pkg/record"
)

// moneyKinds are the other ways to pay twice, to pay for nothing or to lose what
// is paid for: an API, a schema or a user that is not as expected. Each has at
// least one mutation that only a safeguard against this kind stands against.
var moneyKinds = []struct {
	name string
	do   func(*world) error
}{
	// Is there a job already?
	{"settle", func(w *world) error {
		// The create takes longer than --settle, and its job shows late.
		return w.twice("create times=1 delay=700ms", "create times=1 drop when=after", "list nth=2-3 hide=9")
	}},
	{"no-is-unknown", func(w *world) error {
		for _, status := range []int{302, 409, 425, 499} {
			if err := w.twice(fmt.Sprintf("create times=1 status=%d when=after", status), "list nth=2-3 hide=9"); err != nil {
				return fmt.Errorf("status %d: %w", status, err)
			}
		}
		return nil
	}},
	{"no-list", func(w *world) error {
		for _, body := range []string{`{"error":{"code":503}}`, `{"object":"list","data":[]}`, `{"operations":[{"done":true}]}`, `[]`, `null`} {
			if err := w.forget("body='" + body + "'"); err != nil {
				return fmt.Errorf("%s: %w", body, err)
			}
		}
		return nil
	}},
	{"pages", (*world).pages},
	{"receipt", (*world).unseenJob},
	{"backup", func(w *world) error { return w.backup(false) }},
	{"backup-elsewhere", func(w *world) error { return w.backup(true) }},
	{"header", (*world).headless},
	{"partial", (*world).cutShort},
	{"release", (*world).release},
	{"release-late", (*world).releaseLate},
	{"cap", (*world).capped},

	// What is claimed?
	{"titles", (*world).titles},
	{"names", (*world).names},
	{"wishes", (*world).wishes},
	{"random-text", func(w *world) error { return w.random("SELECT id, text || random() AS text FROM chunks") }},
	{"random-rows", func(w *world) error { return w.random("SELECT id, text FROM chunks WHERE random() < 0.5") }},
	{"space", (*world).space},
	{"wal", (*world).deadWAL},
	{"veto", (*world).veto},

	// What is paid for is stored.
	{"veto-late", (*world).vetoLate},
	{"short", (*world).short},
	{"bad-line", func(w *world) error {
		return w.faultsInTurn("download", []faultCase{{specs: []string{"results times=1 first=2 line=NaN"}}, {specs: []string{"results times=1 first=2 values=nan"}}, {specs: []string{"results times=1 first=2 nokey"}}})
	}},
	{"one-batch", (*world).oneBatch},
	{"shared", (*world).shared},
	{"window", (*world).window},
	{"id-type", (*world).idType},
}

// money are times scenarios for each of the moneyKinds.
func money(times int) (list []scenario) {
	for i := range times {
		for _, kind := range moneyKinds {
			list = append(list, scenario{name: fmt.Sprintf("f/%s/%d", kind.name, i), options: emulator.Options{Polls: 1}, do: kind.do})
		}
	}
	return list
}

// ---- steps

// expect runs a line that is to end with one of the codes.
func (w *world) expect(argv [][]string, in string, codes ...int) (out string, err error) {
	out, code, err := w.run(argv, strings.NewReader(in))
	for _, want := range codes {
		if err != nil || code == want {
			return out, err
		}
	}
	return out, fmt.Errorf("the line ended with %d and not with %v: %s", code, codes, w.stderr())
}

// refuses runs a line that is to refuse its work, and to create nothing.
func (w *world) refuses(argv [][]string, in string, codes ...int) error {
	before, err := w.Books()
	if err != nil {
		return err
	}
	if _, err := w.expect(argv, in, codes...); err != nil {
		return err
	}
	after, err := w.Books()
	if err == nil && creates(after) != creates(before) {
		err = errors.New("a line that refused its work asked for a job")
	}
	return err
}

// costs finishes the scenario, and checks how many requests were paid for.
func (w *world) costs(requests int) error {
	err := w.finish()
	if w.books != nil && w.books.RequestsPaid != requests {
		err = errors.Join(err, fmt.Errorf("%d requests were paid for, and should be %d", w.books.RequestsPaid, requests))
	}
	return err
}

// open opens the database as a user does.
func (w *world) open(mode duck.Access, f func(*duck.Conn) error) error {
	db := &duck.Database{DB: w.file("kb.duckdb"), LockTimeout: patience}
	defer db.End()
	return db.Transact(context.Background(), mode, "gbatch", f)
}

// sql runs statements on the database.
func (w *world) sql(format string, args ...any) error {
	statements := fmt.Sprintf(format, args...)
	w.logf("%s", statements)
	return w.open(duck.Write, func(c *duck.Conn) error { return c.Exec(statements) })
}

// holds checks how many vectors a table has.
func (w *world) holds(table string, want int64) error {
	var n int64
	err := w.open(duck.Read, func(c *duck.Conn) (err error) {
		n, err = c.Count("SELECT count(*) FROM " + table)
		return err
	})
	if err == nil && n != want {
		err = fmt.Errorf("%s holds %d vectors, and should hold %d: %s", table, n, want, w.stderr())
	}
	return err
}

// with runs f in an environment with one more variable, as NAME=VALUE.
func (w *world) with(variable string, f func() error) error {
	name, value, _ := strings.Cut(variable, "=")
	was, set := w.env[name]
	w.env[name] = value
	defer func() {
		if w.env[name] = was; !set {
			delete(w.env, name)
		}
	}()
	return f()
}

// rows are the chunks as the operand of INSERT INTO.
func (w *world) rows() string {
	var rows []string
	for _, id := range w.ids {
		rows = append(rows, fmt.Sprintf("(%s, %s)", duck.Literal(id), duck.Literal(w.texts[id])))
	}
	return "VALUES " + strings.Join(rows, ", ")
}

// ---- is there a job already?

// twice runs the line two times with faults.
func (w *world) twice(specs ...string) error {
	return w.faultsInTurn("create", []faultCase{{specs: specs, times: 2, env: map[string]string{"GBATCH_MAX_REQUESTS": "10"}}})
}

// pages makes the list of jobs longer than a page, which begins with the last
// job of the page before. It is not that job's twin.
func (w *world) pages() error {
	w.env["GBATCH_MAX_REQUESTS"] = "1"
	for range 2 {
		if err := w.add(55, 0); err != nil {
			return err
		}
		if _, _, err := w.run(submit, nil); err != nil {
			return err
		}
		if err := os.RemoveAll(w.file("state")); err != nil {
			return err
		}
		if err := w.faults("list repeat"); err != nil {
			return err
		}
		if _, err := w.expect(attended, "", 0); err != nil {
			return err
		}
	}
	said, err := os.ReadFile(w.file("stderr"))
	if err != nil {
		return err
	}
	if bytes.Contains(said, []byte("two jobs for one batch")) {
		return errors.New("a job is told to be its own twin")
	}
	return w.finish()
}

// unseenJob hides a job that there is a receipt for.
func (w *world) unseenJob() error {
	if err := w.add(5, 0); err != nil {
		return err
	}
	if _, err := w.expect(submit, "", 0); err != nil {
		return err
	}
	if err := w.faults("get status=404", "list hide=9"); err != nil {
		return err
	}
	if err := w.refuses(submit, "", 1); err != nil {
		return err
	}
	return w.costs(5)
}

// backup restores the database as it was before a job was created, also on a
// machine that has no receipt.
func (w *world) backup(elsewhere bool) error {
	if err := w.add(7, 0); err != nil {
		return err
	}
	path := w.file("kb.duckdb")
	saved, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if _, err := w.expect(submit, "", 0); err != nil {
		return err
	}
	w.logf("the backup is restored")
	if err := os.WriteFile(path, saved, 0o600); err != nil {
		return err
	}
	if elsewhere {
		if err := os.RemoveAll(w.file("state")); err != nil {
			return err
		}
	}
	return w.costs(7)
}

// headless submits requests that have lost their header.
func (w *world) headless() error {
	if err := w.add(5, 0); err != nil {
		return err
	}
	lines, err := w.expect(submit[:2], "", 0)
	if err != nil {
		return err
	}
	_, requests, _ := strings.Cut(lines, "\n")
	if err := w.refuses(submit[2:], requests, 7); err != nil {
		return err
	}
	return w.costs(5)
}

// cutShort submits a part of a batch that a database claimed.
func (w *world) cutShort() error {
	if err := w.add(5, 0); err != nil {
		return err
	}
	lines, err := w.expect(submit[:2], "", 0)
	if err != nil {
		return err
	}
	lines = lines[:strings.LastIndexByte(strings.TrimSpace(lines), '\n')+1]
	if err := w.refuses(commands("gbatch-submit --allow-partial"), lines, 7); err != nil {
		return err
	}
	return w.costs(5)
}

// release gives batches back: those that were never sent, and not one that may
// have a job.
func (w *world) release() error {
	give := commands("chunks-release kb.duckdb")
	if err := w.add(5, 0); err != nil {
		return err
	}
	if _, err := w.expect(submit[:2], "", 0); err != nil {
		return err
	}
	if _, err := w.expect(give, "", 0); err != nil {
		return err
	}
	if err := w.faults("create times=1 drop when=after", "list nth=2-99 hide=9"); err != nil {
		return err
	}
	if err := w.with("GBATCH_SETTLE=50ms", func() error { _, err := w.expect(submit, "", 6); return err }); err != nil {
		return err
	}
	if err := w.refuses(give, "", 3); err != nil {
		return err
	}
	return w.costs(5)
}

// releaseLate gives a batch back that has a job. Its answers are paid for, and
// come after all.
func (w *world) releaseLate() error {
	if err := w.add(5, 0); err != nil {
		return err
	}
	if _, err := w.expect(submit, "", 0); err != nil {
		return err
	}
	job, err := w.expect(commands("chunks-release --force kb.duckdb"), "", 0)
	if err != nil {
		return err
	}
	if _, err := w.expect(collect[1:], job, 0); err != nil {
		return err
	}
	return w.costs(5)
}

// capped has three batches and a cap that allows two of them, and then new chunks
// and a cap that allows only those that are in the queue already.
func (w *world) capped() error {
	w.apart = true
	if err := w.add(12, 0); err != nil {
		return err
	}
	lines, err := w.expect(submit[:2], "", 0)
	if err != nil {
		return err
	}
	var tokens []int64
	for line := range strings.Lines(lines) {
		var h record.Header
		if err := json.Unmarshal([]byte(line), &h); err != nil {
			return err
		}
		if h.TokensMax > 0 {
			tokens = append(tokens, h.TokensMax)
		}
	}
	if len(tokens) != 3 {
		return fmt.Errorf("%d batches have a number of tokens, and should be 3", len(tokens))
	}
	two := tokens[0] + tokens[1]
	if err := w.with(fmt.Sprint("GBATCH_MAX_TOTAL_TOKENS=", two), func() error { _, err := w.expect(submit[2:], lines, 8); return err }); err != nil {
		return err
	}
	books, err := w.Books()
	if err == nil && (books.Creates != 2 || books.Tokens > two) {
		err = fmt.Errorf("%d jobs with %d tokens were created under a cap of %d", books.Creates, books.Tokens, two)
	}
	if err != nil {
		return err
	}
	if _, err := w.expect(flush, "", 0); err != nil {
		return err
	}
	if err := w.add(5, 0); err != nil {
		return err
	}
	if err := w.with(fmt.Sprint("GBATCH_MAX_ENQUEUED_TOKENS=", two+tokens[2]), func() error { return w.refuses(flush, "", 8) }); err != nil {
		return err
	}
	return w.costs(17)
}

// ---- what is claimed?

// titles has five chunks with one text and five titles, which the requests of
// this task type do not carry.
func (w *world) titles() error {
	w.env["GBATCH_MODEL"], w.env["GBATCH_TASK_TYPE"] = "gemini-embedding-001", "RETRIEVAL_QUERY"
	text := w.text()
	for round := range 2 {
		var b strings.Builder
		w.ids = w.ids[:0]
		for i := range 5 {
			id := fmt.Sprintf("t%d", i)
			w.ids, w.texts[id] = append(w.ids, id), text
			if err := json.NewEncoder(&b).Encode(record.Chunk{ID: id, Text: text, Title: fmt.Sprintf("title %d of round %d", i, round)}); err != nil {
				return err
			}
		}
		if _, err := w.expect(commands("chunks-add kb.duckdb"), b.String(), 0); err != nil {
			return err
		}
		if err := w.costs(1); err != nil {
			return err
		}
	}
	return nil
}

// names gives a model other names, and one that cannot be.
func (w *world) names() error {
	for i, name := range []string{"gemini-embedding-001", "models/gemini-embedding-001", "publishers/google/models/gemini-embedding-001"} {
		if err := w.add(3, 0); err != nil {
			return err
		}
		if err := w.with("GBATCH_MODEL=no such model", func() error { return w.refuses(attended, "", 2) }); err != nil {
			return err
		}
		if err := w.with("GBATCH_MODEL="+name, func() error { return w.costs(3 * (i + 1)) }); err != nil {
			return err
		}
	}
	return nil
}

// wishes has rows that say PENDING although their user wants nothing.
func (w *world) wishes() error {
	for i := range 5 {
		id := fmt.Sprintf("c%d", i)
		w.ids, w.texts[id] = append(w.ids, id), w.text()
	}
	if _, err := w.expect(commands("chunks-add kb.duckdb --table unused"), `{"id":"unused","text":"the database needs to be there"}`, 0); err != nil {
		return err
	}
	if err := w.sql("CREATE TABLE chunks (id VARCHAR, text VARCHAR, embedding_status VARCHAR DEFAULT 'PENDING'); INSERT INTO chunks (id, text) %s", w.rows()); err != nil {
		return err
	}
	if err := w.costs(5); err != nil {
		return err
	}
	// An edit, which is claimed and taken back.
	id := w.ids[1]
	was := w.texts[id]
	w.set(id, w.text())
	if err := w.sql("UPDATE chunks SET text = %s, embedding_status = 'PENDING' WHERE id = %s", duck.Literal(w.texts[id]), duck.Literal(id)); err != nil {
		return err
	}
	if _, err := w.expect(submit, "", 0); err != nil {
		return err
	}
	w.set(id, was)
	if err := w.sql("UPDATE chunks SET text = %s WHERE id = %s", duck.Literal(was), duck.Literal(id)); err != nil {
		return err
	}
	if err := w.costs(6); err != nil {
		return err
	}
	// The table is filled anew.
	if err := w.sql("DELETE FROM chunks; INSERT INTO chunks (id, text) %s", w.rows()); err != nil {
		return err
	}
	return w.costs(6)
}

// random claims from a query that gives something else each time.
func (w *world) random(query string) error {
	if err := w.add(60, 0); err != nil {
		return err
	}
	if err := w.with("GBATCH_FROM="+query, func() error { return w.refuses(attended, "", 7) }); err != nil {
		return err
	}
	return w.costs(60)
}

// space lets another task type in where gbatch's own tables are lost.
func (w *world) space() error {
	if err := w.add(5, 0); err != nil {
		return err
	}
	if err := w.costs(5); err != nil {
		return err
	}
	if err := w.sql("DROP SCHEMA gbatch CASCADE"); err != nil {
		return err
	}
	if err := w.with("GBATCH_TASK_TYPE=RETRIEVAL_QUERY", func() error { return w.refuses(attended, "", 2) }); err != nil {
		return err
	}
	return w.costs(5)
}

// deadWAL puts the WAL of a deleted database where a new one is to be.
func (w *world) deadWAL() error {
	if err := w.add(5, 0); err != nil {
		return err
	}
	path := w.file("kb.duckdb")
	if err := os.Rename(path, path+".kept"); err != nil {
		return err
	}
	wal, err := walOf(path + ".dead")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".wal", wal, 0o600); err != nil {
		return err
	}
	if err := w.refuses(commands("chunks-add kb.duckdb"), `{"id":"new","text":"new"}`, 1); err != nil {
		return err
	}
	if err := errors.Join(os.Remove(path+".wal"), os.Rename(path+".kept", path)); err != nil {
		return err
	}
	return w.costs(5)
}

// walOf makes a database, and returns its WAL as a killed process leaves it.
func walOf(path string) ([]byte, error) {
	db := &duck.Database{DB: path}
	defer db.End()
	c, err := db.Connect(context.Background())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	err = c.Exec("ATTACH " + duck.Literal(path) + " AS dead; CREATE TABLE dead.chunks AS SELECT 'dead' AS id, 'a text of a deleted database' AS text")
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path + ".wal")
}

// vetoed replaces the table of chunks by one whose constraint does not take what
// vectors-apply writes. agreed replaces it by one that does.
func (w *world) vetoed() error {
	return w.sql("CREATE OR REPLACE TABLE chunks (id VARCHAR, text VARCHAR, embedding_status VARCHAR CHECK (embedding_status = 'PENDING')); INSERT INTO chunks (id, text) %s", w.rows())
}

func (w *world) agreed() error {
	return w.sql("CREATE OR REPLACE TABLE chunks (id VARCHAR, text VARCHAR, embedding_status VARCHAR); INSERT INTO chunks (id, text) %s", w.rows())
}

// veto has a table that does not take its status when chunks are claimed.
func (w *world) veto() error {
	if err := w.add(5, 0); err != nil {
		return err
	}
	if err := w.vetoed(); err != nil {
		return err
	}
	if err := w.refuses(attended, "", 1); err != nil {
		return err
	}
	if err := w.agreed(); err != nil {
		return err
	}
	return w.costs(5)
}

// ---- what is paid for is stored

// vetoLate has such a table when the vectors come.
func (w *world) vetoLate() error {
	if err := w.add(5, 0); err != nil {
		return err
	}
	if err := w.agreed(); err != nil {
		return err
	}
	if _, err := w.expect(flush, "", 0); err != nil {
		return err
	}
	if err := w.vetoed(); err != nil {
		return err
	}
	if _, err := w.expect(collect, "", 3); err != nil {
		return err
	}
	if err := w.holds("embeddings", 5); err != nil {
		return err
	}
	if err := w.agreed(); err != nil {
		return err
	}
	return w.costs(5)
}

// short has a result without one of its answers, and no counts of them. It does
// not close the batch, and the input stays.
func (w *world) short() error {
	w.env["GBATCH_MAX_REQUESTS"] = "10"
	if err := w.add(7, 0); err != nil {
		return err
	}
	const counts = "metadata.batchStats."
	if err := w.faults("results times=1 first=1 missing", "get set="+counts+"successfulRequestCount set="+counts+"failedRequestCount set="+counts+"requestCount"); err != nil {
		return err
	}
	if _, err := w.expect(attended, "", 7); err != nil {
		return err
	}
	if err := w.holds("gbatch.jobs WHERE closed_at IS NULL", 1); err != nil {
		return err
	}
	inputs, err := w.inputs()
	if err == nil && len(inputs) != 1 {
		err = errors.New("the input of a short result was deleted")
	}
	return err
}

// oneBatch has a batch that cannot be applied before one that can.
func (w *world) oneBatch() error {
	if err := w.add(5, 0); err != nil {
		return err
	}
	for _, id := range w.ids {
		w.retired["other "+w.texts[id]] = true // they are paid for, and not in chunks
	}
	err := w.with("GBATCH_FROM=SELECT 'o' || id AS id, 'other ' || text AS text FROM chunks", func() error {
		return w.with("GBATCH_EMBEDDINGS=other", func() error { _, err := w.expect(submit, "", 0); return err })
	})
	if err != nil {
		return err
	}
	if err := w.sql("ALTER TABLE other RENAME TO away; CREATE VIEW other AS SELECT 1 AS x"); err != nil {
		return err
	}
	if _, err := w.expect(attended, "", 1); err != nil {
		return err
	}
	if err := w.holds("embeddings", 5); err != nil {
		return err
	}
	if err := w.sql("DROP VIEW other; ALTER TABLE away RENAME TO other"); err != nil {
		return err
	}
	if err := w.costs(10); err != nil {
		return err
	}
	return w.holds("other", 5)
}

// shared has a text that one source loses, while another one waits for its
// vector in the same table.
func (w *world) shared() error {
	if err := w.add(5, 0); err != nil {
		return err
	}
	if err := w.sql("CREATE TABLE second AS SELECT 's' || id AS id, text FROM chunks"); err != nil {
		return err
	}
	if _, err := w.expect(flush, "", 0); err != nil {
		return err
	}
	for _, id := range w.ids {
		w.set(id, w.text())
	}
	if err := w.put(w.ids...); err != nil {
		return err
	}
	if _, err := w.expect(collect, "", 0); err != nil {
		return err
	}
	err := w.with("GBATCH_FROM=second", func() error { _, err := w.expect(attended, "", 0); return err })
	if err != nil {
		return err
	}
	if err := w.holds("embeddings WHERE chunk_id LIKE 's%'", 5); err != nil {
		return err
	}
	return w.costs(10)
}

// window has a source that shows no chunk of a batch when its vectors come, and
// all of them later.
func (w *world) window() error {
	if err := w.inFile(); err != nil {
		return err
	}
	if err := w.add(8, 0); err != nil {
		return err
	}
	if _, err := w.expect(flush, "", 0); err != nil {
		return err
	}
	ids := w.ids
	w.ids = nil
	if err := w.save(); err != nil {
		return err
	}
	if _, err := w.expect(collect, "", 0); err != nil {
		return err
	}
	w.ids = ids
	if err := w.save(); err != nil {
		return err
	}
	return w.costs(8)
}

// idType has numbers for ids, of which one is a text later.
func (w *world) idType() error {
	for i := range 5 {
		id := fmt.Sprint(i)
		w.ids, w.texts[id] = append(w.ids, id), w.text()
	}
	if _, err := w.expect(commands("chunks-add kb.duckdb --table unused"), `{"id":"unused","text":"the database needs to be there"}`, 0); err != nil {
		return err
	}
	if err := w.sql("CREATE TABLE chunks AS SELECT CAST(id AS BIGINT) AS id, text FROM (%s) v (id, text)", w.rows()); err != nil {
		return err
	}
	if _, err := w.expect(flush, "", 0); err != nil {
		return err
	}
	w.ids, w.texts["A3"] = append(w.ids, "A3"), w.text()
	if err := w.sql("CREATE OR REPLACE TABLE chunks (id VARCHAR, text VARCHAR); INSERT INTO chunks %s", w.rows()); err != nil {
		return err
	}
	if _, err := w.expect(collect, "", 0, 3); err != nil {
		return err
	}
	return w.costs(6)
}
