package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gbatch/pkg/duck"
	"gbatch/pkg/emulator"
	"gbatch/pkg/record"
	"gbatch/pkg/store"
)

const (
	dim    = 8
	apiKey = "a-key-of-the-torture"
)

// A world is what one scenario has for itself: a folder, a database, a Google,
// and the chunks as they ought to be in the database.
type world struct {
	*torture
	*google
	name string
	rand *rand.Rand
	dir  string
	home string // the folder of the machine that lines run on
	env  map[string]string

	vertex bool // the jobs are those of Vertex AI

	ids     []string          // of the chunks, in the order they came
	texts   map[string]string // of the chunks, by id
	added   int               // how many chunks there ever were
	fresh   int               // how many texts were made
	retired map[string]bool   // texts that a chunk had before; they may have been sent
	failing map[string]string // texts that cannot be embedded, and why
	view    bool              // the chunks are in a file, and the source is a SELECT
	apart   bool              // the unattended lines are used too

	// An input file may be left if its delete was made to fail.
	orphans  bool
	restarts int

	log     strings.Builder
	faulty  []string // the faults that are set
	struck  int      // calls that a fault struck
	lines   int
	kills   int
	undone  int // checkpoints that were cut short and repaired
	ready   int // texts READY at the last check
	books   *emulator.Books
	wrong   int
	lost    int
	reached map[string]int // boundaries
}

// newWorld makes a world with a database of no chunks.
func (t *torture) newWorld(s scenario) (*world, error) {
	w := &world{
		torture: t, name: s.name, rand: rand.New(rand.NewPCG(t.seed, seedOf(s.name))), dir: filepath.Join(t.dir, strings.ReplaceAll(s.name, "/", "-")),
		texts: map[string]string{}, retired: map[string]bool{}, failing: map[string]string{}, reached: map[string]int{}, vertex: s.vertex,
	}
	if err := w.on(0); err != nil {
		return nil, err
	}
	options := s.options
	w.env = map[string]string{
		"GEMINI_API_KEY": apiKey,
		"GBATCH_DIM":     fmt.Sprint(dim), "GBATCH_MAX_REQUESTS": "5", "GBATCH_SETTLE": "500ms", "GBATCH_INTERVAL": "5ms", "GBATCH_RETRY_FOR": "5s",
	}
	options.Dir, options.Cheap, options.Tokens = filepath.Join(w.dir, "emulator"), true, "mixed"
	google, err := newGoogle(options)
	if err != nil {
		return nil, err
	}
	w.google = google
	w.env["GOOGLE_GEMINI_BASE_URL"] = "http://" + google.address
	if w.vertex {
		maps.Copy(w.env, w.cloud())
		w.env["GBATCH_BACKEND"] = "vertex"
	}
	return w, nil
}

// on makes a machine the one that lines run on. It has a database, a state folder
// and temporary files of its own.
func (w *world) on(machine int) error {
	w.home = filepath.Join(w.dir, fmt.Sprint("machine", machine))
	for _, sub := range []string{"tmp", "home", "state"} {
		if err := os.MkdirAll(w.file(sub), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// file is the path of a file of the machine.
func (w *world) file(name string) string { return filepath.Join(w.home, name) }

func (w *world) environ() []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + w.file("tmp"), "HOME=" + w.file("home"), "XDG_STATE_HOME=" + w.file("state")}
	for _, name := range slices.Sorted(maps.Keys(w.env)) {
		env = append(env, name+"="+w.env[name])
	}
	return env
}

func (w *world) logf(format string, args ...any) { fmt.Fprintf(&w.log, format+"\n", args...) }

// cloud are the variables for a bucket and for Vertex AI.
func (w *world) cloud() map[string]string {
	return map[string]string{
		"GBATCH_BUCKET": "gs://" + bucket + "/" + folder, "GBATCH_LEASE": lease.String(), "GOOGLE_CLOUD_PROJECT": "torture", "GOOGLE_CLOUD_LOCATION": "us-central1",
		"GOOGLE_VERTEX_BASE_URL": "http://" + w.address, "STORAGE_EMULATOR_HOST": w.address, "GCE_METADATA_HOST": w.address,
	}
}

// onVertex are the calls of Vertex AI in place of those of the Gemini API.
var onVertex = map[string]string{
	"upload.start": "object.start match=/in/", "upload.data": "object.data match=/in/", "download": "object.read match=/out/", "file.delete": "object.delete match=/in/",
}

// faults replaces the faults; none are left where none are given.
func (w *world) faults(specs ...string) error {
	if w.vertex {
		specs = slices.Clone(specs)
		for i, spec := range specs {
			op, rest, _ := strings.Cut(spec, " ")
			specs[i] = cmp.Or(onVertex[op], op) + " " + rest
		}
	}
	for _, f := range w.Faults() {
		w.struck += f.Fired
		w.tally(f.Fault, f.Fired)
	}
	if w.faulty = specs; len(specs) > 0 {
		w.logf("faults: %s", strings.Join(specs, "; "))
	}
	return w.SetFaults(specs)
}

// restart stops Google and starts it again, with the same faults.
func (w *world) restart() error {
	specs := w.faulty
	if err := w.faults(); err != nil {
		return err
	}
	w.logf("google restarts")
	w.restarts++
	if err := w.stop(); err != nil {
		return err
	}
	if err := w.google.start(); err != nil {
		return err
	}
	return w.faults(specs...)
}

// hold waits until a call of line l is held, or fails where it ends before.
func (w *world) hold(l *line, name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	go func() {
		select {
		case <-l.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := w.WaitHold(ctx, name); err != nil {
		w.end(l)
		return fmt.Errorf("the line never came to %q", w.faulty)
	}
	return nil
}

// see waits until seen, as long as line l is alive.
func (w *world) see(l *line, what string, seen func() bool) error {
	for t := time.After(patience); ; {
		if seen() {
			return nil
		}
		select {
		case <-l.ended:
			if seen() {
				return nil
			}
			w.end(l)
			return fmt.Errorf("%w: the line ended before %s was seen", errLate, what)
		case <-t:
			l.kill(whole)
			return fmt.Errorf("%s was never seen", what)
		case <-time.After(50 * time.Microsecond):
		}
	}
}

// kill kills a line, or the process at one place of it, and waits for what is
// left of it to end.
func (w *world) kill(l *line, place int) (bool, error) {
	at := time.Since(l.begun)
	hit := l.kill(place)
	if hit {
		w.kills++
		what := "all"
		if place != whole {
			what = l.procs[place].cmd.Args[0]
		}
		w.logf("kill -9 of %s after %v", what, at.Round(time.Microsecond))
	}
	_, err := w.end(l)
	if err == nil {
		err = w.atomic()
	}
	return hit, err
}

// ---- chunks

// text makes a text that no chunk had before.
func (w *world) text() string {
	w.fresh++
	odd := []string{"plain", "русский", "δοκιμή", "中文", "🙂", "\"quoted\"", `back\slash`, "tab\there", "line\nbreak", "\u2028", "<&>"}
	if w.view {
		odd = odd[:5]
	}
	return fmt.Sprintf("%s %d %s %s", w.name, w.fresh, odd[w.rand.IntN(len(odd))], strings.Repeat("word ", w.rand.IntN(20)))
}

// add gives n new chunks, of which one in twin has the text of another, to the
// database. twin 0 is none.
func (w *world) add(n, twin int) error {
	var ids []string
	for range n {
		w.added++
		id := fmt.Sprintf("c%d", w.added)
		if twin > 0 && len(w.ids) > 0 && w.rand.IntN(twin) == 0 {
			w.texts[id] = w.texts[w.any()]
		} else {
			w.texts[id] = w.text()
		}
		w.ids = append(w.ids, id)
		ids = append(ids, id)
	}
	w.logf("%d chunks are added", n)
	return w.put(ids...)
}

// any is a chunk.
func (w *world) any() string { return w.ids[w.rand.IntN(len(w.ids))] }

// set changes the text of a chunk.
func (w *world) set(id, text string) {
	w.retired[w.texts[id]] = true
	w.texts[id] = text
}

// remove deletes a chunk.
func (w *world) remove(id string) {
	w.retired[w.texts[id]] = true
	delete(w.texts, id)
	w.ids = slices.DeleteFunc(w.ids, func(s string) bool { return s == id })
}

// put writes chunks to the database as they are to be. Deleting is possible
// only where the chunks are in a file.
func (w *world) put(ids ...string) error {
	if w.view {
		return w.save()
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	for _, id := range ids {
		if err := encoder.Encode(record.Chunk{ID: id, Text: w.texts[id]}); err != nil {
			return err
		}
	}
	if _, code, err := w.run(commands("chunks-add kb.duckdb"), &b); err != nil || code != 0 {
		return errors.Join(err, fmt.Errorf("chunks-add ended with %d", code))
	}
	return nil
}

// inFile moves the chunks to a file beside the database, whose table stays
// empty.
func (w *world) inFile() error {
	w.view = true
	path := w.file("chunks.csv")
	w.env["GBATCH_FROM"] = fmt.Sprintf("SELECT id, text FROM read_csv('%s', header = true, columns = {'id': 'VARCHAR', 'text': 'VARCHAR'})", path)
	unused := strings.NewReader(`{"id":"unused","text":"the database needs to be there"}`)
	if _, code, err := w.run(commands("chunks-add kb.duckdb --table unused"), unused); err != nil || code != 0 {
		return errors.Join(err, fmt.Errorf("chunks-add ended with %d", code))
	}
	return w.save()
}

// save replaces the file of chunks.
func (w *world) save() error {
	var b bytes.Buffer
	b.WriteString("id,text\n")
	for _, id := range w.ids {
		fmt.Fprintf(&b, "%s,%s\n", id, w.texts[id])
	}
	path := w.file("chunks.csv")
	if err := os.WriteFile(path+".new", b.Bytes(), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// ---- the end of a scenario

// runs is how often the line is run at most until it has nothing to do. Once
// is enough to finish, and once more to see it. Errors of keys and jobs that
// ended without results take another time each.
const runs = 7

// finish runs the line, without faults, until it has nothing left to do, and
// checks what came of it.
func (w *world) finish() error {
	if err := w.faults(); err != nil {
		return err
	}
	w.late.Store(false)
	lines := [][][]string{attended}
	if w.apart {
		lines = append(lines, collect)
	}
	var codes []int
	for range runs {
		before, err := w.Books()
		if err != nil {
			return err
		}
		quiet := true
		for _, argv := range lines {
			out, code, err := w.run(argv, nil)
			if err != nil {
				return err
			}
			codes = append(codes, code)
			switch code {
			case 0, 3: // 3: keys or jobs failed
			default:
				return fmt.Errorf("without a fault the line ends with %d: %s", code, w.stderr())
			}
			quiet = quiet && code == 0 && out == ""
		}
		if quiet {
			after, err := w.Books()
			if err != nil {
				return err
			}
			if creates(after) != creates(before) {
				return errors.New("a run that had nothing to do created a job")
			}
			return w.check(after)
		}
	}
	return fmt.Errorf("the line is not done after %d runs, exit codes %v: %s", runs, codes, w.stderr())
}

// stderr is the end of what the commands said.
func (w *world) stderr() string {
	b, _ := os.ReadFile(w.file("stderr"))
	return string(b[max(0, len(b)-1500):])
}

// check compares the database with the chunks, and the books with both.
func (w *world) check(books *emulator.Books) error {
	w.books = books
	var bad []error
	badf := func(format string, args ...any) {
		if len(bad) < 10 {
			bad = append(bad, fmt.Errorf(format, args...))
		}
	}
	// The chunks.
	seen, ready := 0, map[string]bool{}
	w.wrong, w.lost = 0, 0
	from := cmp.Or(w.env["GBATCH_FROM"], "chunks")
	err := w.each(from, func(c store.Chunk) {
		seen++
		text, ours := w.texts[c.ID]
		reason, failing := w.failing[text]
		switch {
		case !ours || text != c.Text:
			badf("chunk %s is %.60q in the database and should be %.60q", c.ID, c.Text, text)
		case c.Status == "READY" && !slices.EqualFunc(c.Vector, emulator.CheapVector(text, dim), sameBits):
			w.wrong++
			badf("wrong: chunk %s (%.60q) has a vector that is not its text's", c.ID, text)
		case c.Status == "READY" && !failing:
			ready[text] = true
		case c.Status == "FAILED" && failing && strings.Contains(c.Message, reason):
		default:
			w.lost++
			badf("lost: chunk %s (%.60q) is %s %q", c.ID, text, c.Status, c.Message)
		}
	})
	if err != nil {
		return err
	}
	if seen != len(w.texts) {
		badf("there are %d chunks in the database, and should be %d", seen, len(w.texts))
	}
	// What was paid for. A text that a chunk lost after it was sent was paid
	// for too.
	w.ready = len(ready)
	for _, p := range books.PaidTwice {
		badf("twice: a text was paid for %d times, as %v in %v", p.Count, p.Keys, p.Jobs)
	}
	stale := 0
	for text := range w.retired {
		if !ready[text] {
			stale++
		}
	}
	if books.RequestsPaid < w.ready || books.Texts > w.ready+stale {
		badf("%d requests for %d texts were paid for; %d texts are READY, and %d were edited or deleted", books.RequestsPaid, books.Texts, w.ready, stale)
	}
	// What is left over at Google,
	inputs, err := w.inputs()
	if err != nil {
		return err
	}
	if n := len(inputs); n > 0 && (!w.orphans || n > w.struck+w.restarts) {
		badf("%d input files are orphaned: %v", n, inputs)
	}
	if books.OpenUploads > w.kills+w.struck {
		badf("%d uploads are open, more than there were kills and faults", books.OpenUploads)
	}
	for state, n := range books.Jobs {
		if state == "BATCH_STATE_PENDING" || state == "BATCH_STATE_RUNNING" {
			badf("%d jobs are still %s", n, state)
		}
	}
	// in the database,
	for what, query := range map[string]string{
		"batches are open": "SELECT batch AS id, coalesce(job, 'no job') AS text FROM gbatch.jobs WHERE closed_at IS NULL",
		// The items of a batch that was given back are kept for its late answers.
		"chunks are in the outbox":   "SELECT chunk_id AS id, batch AS text FROM gbatch.items JOIN gbatch.jobs USING (batch) WHERE state IS DISTINCT FROM 'RELEASED'",
		"chunks have two embeddings": "SELECT CAST(chunk_id AS VARCHAR) AS id, '' AS text FROM embeddings WHERE chunk_id IS NOT NULL GROUP BY chunk_id HAVING count(*) > 1",
		"texts without a chunk are stored twice": `SELECT CAST(text_hash AS VARCHAR) AS id, '' AS text FROM embeddings
			GROUP BY text_hash HAVING count(*) FILTER (chunk_id IS NULL) > 1`,
	} {
		var left []string
		if err := w.each(query, func(c store.Chunk) { left = append(left, c.ID+" "+c.Text) }); err != nil {
			return err
		}
		if len(left) > 0 {
			badf("%d %s: %s", len(left), what, left[0])
		}
	}
	// and on this machine.
	for _, name := range w.leftovers() {
		badf("a temporary file is left: %s", name)
	}
	for _, m := range w.marks() {
		if m.Phase != "created" {
			badf("an intent is left in phase %q", m.Phase)
		}
	}
	if len(bad) > 0 {
		bad = append(bad, fmt.Errorf("books: %d creates, jobs %v, %d requests paid for, %d failed, %d spoiled", books.Creates, books.Jobs, books.RequestsPaid, books.RequestsFailed, books.RequestsSpoiled))
	}
	return errors.Join(bad...)
}

// atomic opens the database after a kill and checks that it holds no half of a
// transaction.
func (w *world) atomic() error {
	var bad []error
	written := w.written()
	if written.IsZero() {
		return nil // the machine has no database
	}
	// jobs-pending repairs a file that the kill has torn, and writes nothing else.
	jobs := store.Jobs{Database: duck.Database{DB: w.file("kb.duckdb"), LockTimeout: patience}}
	if err := jobs.Run(context.Background(), nil, io.Discard); err != nil && !strings.Contains(err.Error(), "does not exist") {
		return fmt.Errorf("after the kill: %w", err)
	}
	for what, query := range map[string]string{
		"chunks in the outbox are of a batch that is not open": `SELECT chunk_id AS id, batch AS text FROM gbatch.items
			WHERE batch NOT IN (SELECT batch FROM gbatch.jobs WHERE closed_at IS NULL)`,
		"open batches do not have their chunks in the outbox": `SELECT batch AS id, '' AS text FROM gbatch.jobs j WHERE closed_at IS NULL
			AND requests <> (SELECT count(*) FROM gbatch.items i WHERE i.batch = j.batch AND NOT twin)`,
	} {
		var found []string
		err := w.each(query, func(c store.Chunk) { found = append(found, c.ID+" "+c.Text) })
		if err != nil && strings.Contains(err.Error(), "does not exist") {
			return nil // nothing was claimed yet
		}
		if err != nil {
			return fmt.Errorf("after the kill: %w", err)
		}
		if len(found) > 0 {
			bad = append(bad, fmt.Errorf("after the kill %d %s: %s", len(found), what, found[0]))
		}
	}
	if w.written() != written {
		w.undone++
	}
	return errors.Join(bad...)
}

// written is when the database file was last written to.
func (w *world) written() time.Time {
	info, err := os.Stat(w.file("kb.duckdb"))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

func sameBits(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }

func (w *world) each(from string, f func(store.Chunk)) error {
	db := &duck.Database{DB: w.file("kb.duckdb"), LockTimeout: patience}
	return store.Each(context.Background(), db, from, "embeddings", func(c store.Chunk) error {
		f(c)
		return nil
	})
}

// leftovers are the files that should not be there when nothing runs.
func (w *world) leftovers() (names []string) {
	for _, pattern := range []string{"tmp/*", "kb.duckdb.tmp-*", "kb.duckdb.wal", "kb.duckdb.journal"} {
		found, _ := filepath.Glob(w.file(pattern))
		names = append(names, found...)
	}
	return names
}

// A mark is what an intent says.
type mark struct{ Name, Phase, Job string }

func (w *world) marks() (marks []mark) {
	names, _ := filepath.Glob(w.file("state/gbatch/*.json"))
	for _, name := range names {
		var m mark
		data, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		json.Unmarshal(data, &m)
		marks = append(marks, m)
	}
	return marks
}
