package gbatch

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gbatch/pkg/emulator"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/record"
	"gbatch/pkg/render"
)

// pages returns the documents whose blocks are run, by path.
func pages(t *testing.T) map[string]string {
	t.Helper()
	names, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	pages := map[string]string{}
	for _, name := range append(names, "README.md") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		pages[name] = string(text)
	}
	return pages
}

// A block is the text between two fences.
type block struct {
	language, text string
	line           int
}

// divide divides a page into its blocks and the prose around them.
func divide(page string) (blocks []block, prose string) {
	var b *block
	var rest strings.Builder
	line := 0
	for text := range strings.Lines(page) {
		line++
		switch language, fence := strings.CutPrefix(text, "```"); {
		case fence && b == nil:
			b = &block{language: strings.TrimSpace(language), line: line + 1}
		case fence:
			blocks = append(blocks, *b)
			b = nil
		case b != nil:
			b.text += text
		default:
			rest.WriteString(text)
		}
	}
	return blocks, rest.String()
}

// programs run the blocks of a language. Blocks of another language are only
// read.
var programs = map[string]func(text string) *exec.Cmd{
	"sh":     func(text string) *exec.Cmd { return exec.Command("bash", "-e", "-o", "pipefail", "-c", text) },
	"sql":    func(text string) *exec.Cmd { return exec.Command("sql", "kb.duckdb", text) },
	"python": func(text string) *exec.Cmd { return reading(text, python(text)) },
	"js":     func(text string) *exec.Cmd { return reading(text, "node") },
	"text":   nil, "json": nil, "ini": nil, "yaml": nil,
	"slurm": nil, // TestSlurm runs it
}

// reading runs a program that it reads from stdin.
func reading(text, name string) *exec.Cmd {
	cmd := exec.Command(name, "-")
	cmd.Stdin = strings.NewReader(text)
	return cmd
}

// python returns the Python for a program: that of the system if only that one has
// numpy.
func python(text string) string {
	const system = "/usr/bin/python3"
	if strings.Contains(text, "numpy") && exec.Command("python3", "-c", "import numpy").Run() != nil && exec.Command(system, "-c", "import numpy").Run() == nil {
		return system
	}
	return "python3"
}

// missing names what a block needs and this machine lacks.
func missing(b block) string {
	for _, need := range []struct{ program, language, word string }{
		{"jq", "", "jq "}, {"curl", "", "curl "}, {"python3", "python", ""}, {"node", "js", ""}, {"parallel", "sh", "parallel --"}, {"pandoc", "sh", "pandoc "},
	} {
		if (need.language == "" || need.language == b.language) && strings.Contains(b.text, need.word) {
			if _, err := exec.LookPath(need.program); err != nil {
				return need.program
			}
		}
	}
	if b.language == "python" && strings.Contains(b.text, "import base64, json, numpy") && exec.Command(python(b.text), "-c", "import numpy").Run() != nil {
		return "numpy"
	}
	return ""
}

// A desk is a folder with an emulator, in which the blocks of a page are run.
type desk struct {
	dir, url string
	server   *emulator.Server
	env      []string
}

const pageKey = "key-of-the-pages"

// newDesk starts an emulator. With polls 0 a job has ended at the first status
// request.
func newDesk(t *testing.T, polls int) *desk {
	t.Helper()
	d := &desk{dir: t.TempDir()}
	var err error
	if d.server, err = emulator.New(emulator.Options{Dir: filepath.Join(d.dir, "emulator"), Polls: polls}); err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(d.server)
	t.Cleanup(func() {
		web.CloseClientConnections()
		web.Close()
		d.server.Close()
	})
	d.url = web.URL
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		// This is DuckDB's shell, as far as the pages use it.
		"bin/duckdb": "#!/bin/sh\nif [ \"$1\" = -c ]; then shift; exec sql '' \"$@\"; fi\nexec sql \"$@\"\n",
		// The targets of this project are only printed: making them would run this test
		// again.
		"bin/make":   fmt.Sprintf("#!/bin/sh\ntest -e Makefile && PATH=${PATH#*:} MAKEFLAGS= exec make \"$@\"\nPATH=${PATH#*:} MAKEFLAGS= exec make -n -C '%s' \"$@\" > /dev/null\n", here),
		"bin/ask":    fmt.Sprintf("#!/bin/sh\nexec sh '%s' \"$@\"\n", filepath.Join(here, "packaging/ask")),
		"tmp/keep":   "",
		"home/keep":  "",
		"posts.json": `[{"slug":"gophers","title":"Food","body":"Gophers store food in tunnels."},{"slug":"moles","body":"Moles eat earthworms."}]`,
		"notes/a.md": "# Notes\n\nOn animals.\n\n## Gophers\n\nThey dig.\n\n## Moles\n\nThey dig, too.\n\n## Gophers\n\nThey store food.\n",
		"notes/b.md": "## Owls\n\nThey fly.\n\n## Nothing yet\n",
		"docs/keep":  "",
		"web/a.html": "<html><body><h1>Gophers</h1><p>They <b>dig</b>.</p><div><h2>Food</h2><p>They store <a href='/x'>food</a>.</p></div></body></html>",
	}
	for name, text := range files {
		path := filepath.Join(d.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	d.env = append(os.Environ(), "PATH="+filepath.Join(d.dir, "bin")+string(filepath.ListSeparator)+os.Getenv("PATH"),
		"HOME="+filepath.Join(d.dir, "home"), "TMPDIR="+filepath.Join(d.dir, "tmp"), "XDG_STATE_HOME="+filepath.Join(d.dir, "state"), "XDG_CACHE_HOME="+filepath.Join(d.dir, "cache"),
		"GOOGLE_GEMINI_BASE_URL="+d.url, "GEMINI_API_KEY="+pageKey, "GOOGLE_API_KEY=", "GBATCH_INTERVAL=10ms", "GBATCH_SETTLE=1s")
	d.run(t, exec.Command("sql", "kb.duckdb",
		"CREATE TABLE chunks (id VARCHAR PRIMARY KEY, text VARCHAR, title VARCHAR, context VARCHAR)",
		"INSERT INTO chunks SELECT 'p' || i, 'passage ' || i || ' of a text about gophers', if(i % 3 = 0, 'title ' || i, NULL), NULL FROM range(1, 13) r(i)",
		"COPY (SELECT 'doc ' || i AS doc_id, 'the body of document ' || i AS body FROM range(5) r(i)) TO 'docs/a.parquet'"))
	return d
}

// run runs a command, which must succeed, and returns its output.
func (d *desk) run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var out, err bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = d.dir, d.env, &out, &err
	if e := cmd.Run(); e != nil {
		t.Fatalf("%q: %v\n%s%s", cmd.Args, e, err.Bytes(), out.Bytes())
	}
	return out.String()
}

// TestDocs runs every block of the pages that is a program. The blocks of a page
// run in their order in one folder.
func TestDocs(t *testing.T) {
	for name, page := range pages(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			blocks, _ := divide(page)
			polls := 0
			if name == "docs/recipes.md" {
				polls = 2 // the status of a job is requested twice before the job is cancelled
			}
			d := newDesk(t, polls)
			if name == "docs/postgresql.md" {
				d.postgres(t)
			}
			gone := "batches/abc" // the job that the page names
			if name == "docs/troubleshooting.md" {
				gone = d.loseJob(t)
			}
			for _, b := range blocks {
				program, known := programs[b.language]
				switch {
				case !known:
					t.Fatalf("line %d: no block is in %q: sh, sql, python and js are run, text, json, ini and yaml are not", b.line, b.language)
				case program == nil:
					continue
				}
				if tool := missing(b); tool != "" {
					t.Skipf("line %d: this page needs %s, which is not installed", b.line, tool)
				}
				if !t.Run(fmt.Sprintf("line %d", b.line), func(t *testing.T) {
					d.run(t, program(strings.ReplaceAll(b.text, "batches/abc", gone)))
				}) {
					return // the next blocks depend on this one
				}
			}
			if check := checks[name]; check != nil {
				check(t, d)
			}
		})
	}
}

// loseJob submits a batch and deletes its job at Google.
func (d *desk) loseJob(t *testing.T) string {
	t.Helper()
	d.run(t, exec.Command("bash", "-e", "-o", "pipefail", "-c",
		"chunks-pending kb.duckdb --limit 3 | to-jsonl | gbatch-submit | vectors-apply kb.duckdb"))
	job := strings.TrimSpace(d.run(t, exec.Command("sql", "kb.duckdb", "SELECT job FROM gbatch.jobs")))
	req, err := http.NewRequest(http.MethodDelete, d.url+"/v1beta/"+job, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("x-goog-api-key", pageKey)
	reply, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		t.Fatal(reply.Status)
	}
	return job
}

// recipe returns the block of docs/recipes.md that has a text.
func recipe(t *testing.T, text string) string {
	t.Helper()
	blocks, _ := divide(pages(t)["docs/recipes.md"])
	for _, b := range blocks {
		if strings.Contains(b.text, text) {
			return b.text
		}
	}
	t.Fatalf("docs/recipes.md has no %q", text)
	return ""
}

// TestActions runs the steps of the job of GitHub Actions as they stand: with an
// archive like that of make release, and no other commands on PATH.
func TestActions(t *testing.T) {
	for _, tool := range []string{"jq", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool + " is not installed")
		}
	}
	d := newDesk(t, 0)
	script, _, _ := strings.Cut(recipe(t, "cat > embed-hourly"), "./embed-hourly\n")
	d.run(t, exec.Command("bash", "-e", "-c", script))
	program, err := exec.LookPath("gbatch")
	if err != nil {
		t.Fatal(err)
	}
	archive := "mkdir -p gbatch-1.0.0-linux-amd64/bin && cd gbatch-1.0.0-linux-amd64/bin\n"
	for name := range Commands {
		archive += "ln -s " + filepath.Join(filepath.Dir(program), name) + " .\n"
	}
	d.run(t, exec.Command("bash", "-e", "-c", archive+"cd ../..; tar -czf release.tar.gz gbatch-1.0.0-linux-amd64"))
	sum, _, _ := strings.Cut(d.run(t, exec.Command("sha256sum", "release.tar.gz")), " ")

	var path []string // without the commands
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if _, err := os.Stat(filepath.Join(dir, "gbatch")); err != nil {
			path = append(path, dir)
		}
	}
	added := filepath.Join(d.dir, "path")
	steps := runSteps(recipe(t, "install gbatch"))
	if len(steps) != 2 {
		t.Fatalf("the job has %d steps that are run, not 2: %q", len(steps), steps)
	}
	step := func(text, sum string) ([]byte, error) {
		more, _ := os.ReadFile(added) // there is none before the first step
		cmd := exec.Command("bash", "-e", "-o", "pipefail", "-c", text)
		cmd.Dir = d.dir
		cmd.Env = append(slices.Clone(d.env), "PATH="+strings.Join(append(strings.Fields(string(more)), path...), string(filepath.ListSeparator)),
			"GITHUB_PATH="+added, "ARCHIVE=file://"+d.dir+"/release.tar.gz", "SHA256="+sum)
		return cmd.CombinedOutput()
	}
	if out, err := step(steps[0], strings.Repeat("0", 64)); err == nil || !strings.Contains(string(out), "FAILED") {
		t.Errorf("an archive with another checksum is installed: %s", out)
	}
	for _, text := range append(steps, steps[1]) { // the second run of embed-hourly collects
		if out, err := step(text, sum); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	d.sees(t, "READY 12", "SELECT embedding_status || ' ' || count(*) FROM chunk_status GROUP BY embedding_status")
	d.paidOnce(t, 12)
}

// runSteps returns the commands of the steps of a workflow.
func runSteps(workflow string) (steps []string) {
	var indent string // of the lines of a block; "" outside of one
	for line := range strings.Lines(workflow) {
		m := regexp.MustCompile(`^( +)(?:- )?run: (.*)\n`).FindStringSubmatch(line)
		switch {
		case m != nil && m[2] == "|":
			steps, indent = append(steps, ""), m[1]+"  "
		case m != nil:
			steps, indent = append(steps, m[2]), ""
		case indent != "" && strings.HasPrefix(line, indent):
			steps[len(steps)-1] += strings.TrimPrefix(line, indent)
		default:
			indent = ""
		}
	}
	return steps
}

// TestEmbedHourly runs the script of the recipe. It ends with 0 while jobs are
// running, the quota is full or the database is locked, but not if that lasts
// for long.
func TestEmbedHourly(t *testing.T) {
	if _, err := exec.LookPath("jq"); err != nil {
		t.Skip("jq is not installed")
	}
	script, _, _ := strings.Cut(strings.Replace(recipe(t, "cat > embed-hourly"), "RETRY_FOR=1m", "RETRY_FOR=1s GBATCH_LOCK_TIMEOUT=1ms", 1), "./embed-hourly\n")
	begin := func(t *testing.T, faults ...string) *desk {
		d := newDesk(t, 0)
		if err := d.server.SetFaults(faults); err != nil {
			t.Fatal(err)
		}
		d.run(t, exec.Command("bash", "-e", "-c", script))
		return d
	}
	hourly := func(t *testing.T, d *desk, want int, say string) {
		t.Helper()
		cmd := exec.Command("./embed-hourly")
		cmd.Dir, cmd.Env = d.dir, d.env
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != want || say == "" && len(out) > 0 || !strings.Contains(string(out), say) {
			t.Errorf("code %d instead of %d: %s", code, want, out)
		}
	}
	// later makes two days pass for the database and the script.
	later := func(t *testing.T, d *desk) {
		for _, column := range []string{"jobs claimed_at", "jobs submitted_at", "jobs ended_at", "scans scanned_at"} {
			table, name, _ := strings.Cut(column, " ")
			d.run(t, exec.Command("sql", "kb.duckdb", "UPDATE gbatch."+table+" SET "+name+" = "+name+" - INTERVAL 49 HOUR"))
		}
	}
	// lock holds the database open for reading, so that no command can write to
	// it.
	lock := func(t *testing.T, d *desk) (unlock func()) {
		db, err := sql.Open("duckdb", filepath.Join(d.dir, "kb.duckdb")+"?access_mode=read_only")
		if err == nil {
			err = db.Ping()
		}
		if err != nil {
			t.Fatal(err)
		}
		return func() { db.Close() }
	}
	t.Run("a job that does not end", func(t *testing.T) {
		d := begin(t, "get state=RUNNING")
		hourly(t, d, 0, "")
		hourly(t, d, 0, "")
		later(t, d)
		hourly(t, d, 1, "embed-hourly: nothing moved for 48 hours: batches/")
	})
	t.Run("a quota that stays full", func(t *testing.T) {
		d := begin(t, "create status=429 retry=24h") // a batch larger than the quota is exit code 1
		hourly(t, d, 0, "")
		later(t, d)
		hourly(t, d, 1, "embed-hourly: nothing moved for 48 hours: 12 chunks are QUEUED, since ")
	})
	t.Run("a database that is locked from the start", func(t *testing.T) {
		d := begin(t)
		defer lock(t, d)()
		hourly(t, d, 0, "")
		old := time.Now().Add(-49 * time.Hour)
		if err := os.Chtimes(filepath.Join(d.dir, "embed.known"), old, old); err != nil {
			t.Fatal(err)
		}
		hourly(t, d, 1, "embed-hourly: nothing moved for 48 hours: the database could not be read or written to")
	})
	t.Run("idle, then locked", func(t *testing.T) {
		d := begin(t)
		hourly(t, d, 0, "")
		hourly(t, d, 0, "")
		later(t, d)
		d.run(t, exec.Command("sql", "kb.duckdb", "INSERT INTO chunks (id, text) VALUES ('new', 'another text')"))
		unlock := lock(t, d)
		hourly(t, d, 1, "embed-hourly: nothing moved for 48 hours: 1 chunks are PENDING, since ")
		unlock()
		hourly(t, d, 0, "")
		hourly(t, d, 0, "")
		later(t, d)
		hourly(t, d, 0, "")
	})
}

// checks are what must be true after the blocks of a page.
var checks = map[string]func(*testing.T, *desk){
	"README.md": func(t *testing.T, d *desk) {
		d.sees(t, "READY 14", "SELECT embedding_status || ' ' || count(*) FROM chunk_status GROUP BY embedding_status")
		d.paidOnce(t, 14+5)
	},
	"docs/troubleshooting.md": func(t *testing.T, d *desk) {
		d.sees(t, "READY 12", "SELECT embedding_status || ' ' || count(*) FROM chunk_status GROUP BY embedding_status")
		d.sees(t, "RELEASED 3 true", "SELECT state || ' ' || requests || ' ' || (closed_at IS NOT NULL) FROM gbatch.jobs ORDER BY batch LIMIT 1")
	},
	"docs/postgresql.md": checkPostgres,
	"docs/shards.md": func(t *testing.T, d *desk) {
		d.shards(t)
		d.sees(t, "5 5 768", "SELECT count(*) || ' ' || count(DISTINCT id) || ' ' || any_value(len(embedding)) FROM 'vectors/*.parquet'")
	},
	"docs/tools.md": func(t *testing.T, d *desk) {
		d.sees(t, "14 14 768", "SELECT count(*) || ' ' || count(DISTINCT id) || ' ' || any_value(len(embedding)) FROM 'kb.parquet'")
		d.sees(t, "web/md/a.md#Gophers web/md/a.md#Gophers/Food", "SELECT string_agg(id, ' ' ORDER BY id) FROM web")
		d.paidOnce(t, 12+2+3)
	},
	"docs/recipes.md": func(t *testing.T, d *desk) {
		d.sees(t, "late PENDING", "SELECT id || ' ' || embedding_status FROM chunk_status WHERE embedding_status <> 'READY'")
		// The chunks with titles were embedded again.
		d.sees(t, "true", "SELECT min(batch) > (SELECT min(batch) FROM embeddings) FROM embeddings JOIN chunks ON chunk_id = id WHERE title IS NOT NULL")
		d.sees(t, "5 6 2", "SELECT (SELECT count(*) FROM doc_embeddings) || ' ' || (SELECT count(*) FROM note_embeddings) || ' ' || (SELECT count(*) FROM vectors)")
		books, err := d.server.Books()
		if err != nil {
			t.Fatal(err)
		}
		if n := books.Jobs["BATCH_STATE_CANCELLED"]; n != 2 || len(books.Uploaded) > 0 {
			t.Errorf("%d jobs were cancelled, the late one and the orphan; %d files are left", n, len(books.Uploaded))
		}
	},
}

// paidOnce: that many texts were paid for, each once, and no input file is left.
func (d *desk) paidOnce(t *testing.T, texts int) {
	t.Helper()
	books, err := d.server.Books()
	if err != nil {
		t.Fatal(err)
	}
	if books.RequestsPaid != texts || books.MaxPaid != 1 || len(books.Uploaded) > 0 {
		t.Errorf("%d requests were paid, not %d, one text %d times; %d files are left", books.RequestsPaid, texts, books.MaxPaid, len(books.Uploaded))
	}
}

func (d *desk) sees(t *testing.T, want, query string) {
	t.Helper()
	if got := strings.TrimSpace(d.run(t, exec.Command("sql", "kb.duckdb", query))); got != want {
		t.Errorf("%s gives %q instead of %q", query, got, want)
	}
}

// section returns the text below a heading, up to the next heading.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	_, rest, found := strings.Cut(page, "\n"+heading+"\n")
	if !found {
		t.Fatalf("there is no %q", heading)
	}
	if end := regexp.MustCompile(`(?m)^##`).FindStringIndex(rest); end != nil {
		rest = rest[:end[0]]
	}
	return rest
}

// members returns the names of the members in the tables of a section, and the
// next column of their rows.
func members(section string) (names, marks []string) {
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ?(.*?) ?\\|").FindAllStringSubmatch(section, -1) {
		names, marks = append(names, row[1]), append(marks, row[2])
	}
	return names, marks
}

// TestRecordsPage compares docs/records.md with the parsers. The parsers read
// its examples and write them, its tables list all members, and no record is
// read without a member that the tables call required.
func TestRecordsPage(t *testing.T) {
	page := pages(t)["docs/records.md"]
	examples := func(heading string) (lines []string) {
		blocks, _ := divide(section(t, page, heading))
		for _, b := range blocks {
			if b.language == "json" {
				lines = append(lines, strings.Split(strings.TrimSpace(b.text), "\n")...)
			}
		}
		return lines
	}
	again := func(v any) func(string) (string, error) {
		return func(line string) (string, error) {
			reflect.ValueOf(v).Elem().SetZero()
			if err := ndjson.Unmarshal([]byte(line), v); err != nil {
				return "", err
			}
			out, err := ndjson.Marshal(v)
			return string(out), err
		}
	}
	answer := func(line string) (string, error) {
		a, err := new(record.AnswerParser).Parse([]byte(line))
		var out []byte
		switch {
		case err != nil:
		case a.Job != nil:
			out, err = ndjson.Marshal(a.Job)
		case a.Err != nil:
			out, err = ndjson.Marshal(record.KeyError{Key: a.Key, Batch: a.Batch, Error: *a.Err})
		default:
			if !slices.Equal(a.Values, []float32{0.05, 0.1}) {
				err = fmt.Errorf("the values are %v", a.Values)
			}
			out = bytes.TrimSpace(record.AppendVectorLine(nil, a.Key, a.Batch, a.Values, a.Tokens))
		}
		return string(out), err
	}
	header, chunks, requests := examples("## Batch header"), examples("## Chunk"), examples("## Request")

	var rendered bytes.Buffer
	in := strings.NewReader(strings.Join(append(header[:1:1], chunks...), "\n"))
	if err := (&render.ToJSONL{}).Run(context.Background(), in, &rendered); err != nil {
		t.Fatal(err)
	}
	if want := strings.Join(append(header[:1:1], requests...), "\n") + "\n"; rendered.String() != want {
		t.Errorf("to-jsonl prints\n%sinstead of\n%s", rendered.String(), want)
	}

	d := newDesk(t, 0)
	submit := func(lines ...string) error {
		cmd := exec.Command("gbatch-submit")
		cmd.Env, cmd.Stdin = d.env, strings.NewReader(strings.Join(lines, "\n"))
		out, err := cmd.CombinedOutput()
		if err != nil && cmd.ProcessState.ExitCode() != 7 {
			t.Errorf("gbatch-submit: %v: %s", err, out)
		}
		return err
	}
	for _, c := range []struct {
		heading string
		members []any // structs; there is none for Google's line
		write   func(line string) (string, error)
		read    func(line string) error
	}{
		{"## Batch header", []any{record.Header{}}, again(new(record.Header)), func(line string) error { return submit(line, requests[0], requests[1]) }},
		{"## Chunk", []any{record.Chunk{}}, again(new(record.Chunk)), func(line string) error { _, err := new(record.Chunk).Parse([]byte(line)); return err }},
		{"## End", []any{record.End{}}, again(new(record.End)), func(line string) error {
			end, err := new(record.Chunk).Parse([]byte(line))
			if !end && err == nil {
				err = errors.New("not an end")
			}
			return err
		}},
		{"## Request", nil, nil, func(line string) error {
			var h record.Header
			if err := ndjson.Unmarshal([]byte(header[0]), &h); err != nil {
				return err
			}
			h.Batch, h.Count, h.Keys = "b01", 1, ""
			return submit(string(record.AppendHeader(nil, h)) + line)
		}},
		{"## Job", []any{record.Job{}}, answer, nil},
		{"## File", []any{record.File{}}, again(new(record.File)), func(line string) error {
			f, err := record.ParseFile([]byte(line))
			if f == nil && err == nil {
				err = errors.New("not a file")
			}
			return err
		}},
		{"## Space", []any{record.Space{}, record.SpaceMembers{}}, again(new(record.Space)), func(line string) error {
			_, is, err := record.ParseSpace([]byte(line))
			if !is {
				err = errors.New("not a space")
			}
			return err
		}},
		{"## Vector", []any{record.Vector{}}, answer, nil},
		{"## Error", []any{record.KeyError{}, record.Status{}}, answer, nil},
	} {
		t.Run(c.heading, func(t *testing.T) {
			lines := examples(c.heading)
			if len(lines) == 0 {
				t.Fatal("no example")
			}
			if c.read == nil {
				c.read = func(line string) error { _, err := answer(line); return err }
			}
			for _, line := range lines {
				if c.write == nil {
					continue
				}
				if out, err := c.write(line); err != nil || out != line {
					t.Errorf("%s is read as\n%s (%v)", line, out, err)
				}
			}
			if err := c.read(lines[0]); err != nil {
				t.Errorf("%s: %v", lines[0], err)
			}
			var want []string
			for _, s := range c.members {
				for i := range reflect.TypeOf(s).NumField() {
					name, _, _ := strings.Cut(reflect.TypeOf(s).Field(i).Tag.Get("json"), ",")
					want = append(want, name)
				}
			}
			if c.members == nil {
				want = []string{"key", "claimed", "request"}
			}
			names, marks := members(section(t, page, c.heading))
			if !slices.Equal(names, want) {
				t.Errorf("the page names %q instead of %q", names, want)
			}
			for i, name := range names {
				if !strings.HasPrefix(marks[i], "required") {
					continue
				}
				line := strings.Replace(lines[0], `"`+name+`":`, `"none":`, 1)
				if name == "text" {
					line = strings.Replace(line, `"context":`, `"nothing":`, 1)
				}
				if err := c.read(line); err == nil {
					t.Errorf("%s is read, without %s", line, name)
				}
			}
		})
	}
	for _, state := range []string{record.Queued, record.Running, "PAUSED", record.Succeeded, record.Failed, record.Cancelled, record.Expired} {
		if !strings.Contains(section(t, page, "## Job"), "| `"+state+"` |") {
			t.Errorf("the page lacks the state %s", state)
		}
	}
	if limit := fmt.Sprintf("| a line | %d MiB |", ndjson.MaxLine>>20); !strings.Contains(page, limit) {
		t.Errorf("the page lacks %q", limit)
	}
}

// TestDatabasePage compares docs/database.md with the tables.
func TestDatabasePage(t *testing.T) {
	d := newDesk(t, 0)
	d.run(t, exec.Command("bash", "-c", "chunks-pending kb.duckdb"))
	db, err := sql.Open("duckdb", filepath.Join(d.dir, "kb.duckdb"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query(`SELECT if(schema_name = 'main', '', schema_name || '.') || table_name, column_name, data_type FROM duckdb_columns()
		WHERE database_name = current_database() AND NOT internal AND table_name <> 'chunks' ORDER BY ALL`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	real := map[string][]string{}
	for rows.Next() {
		var table, column, kind string
		if err := rows.Scan(&table, &column, &kind); err != nil {
			t.Fatal(err)
		}
		real[table] = append(real[table], column+" "+kind)
	}
	if err := rows.Err(); err != nil || len(real) != 7 {
		t.Fatalf("there are %d tables: %v", len(real), err)
	}
	page := pages(t)["docs/database.md"]
	for table, columns := range real {
		names, kinds := members(section(t, page, "### "+table))
		var have []string
		for i := range names {
			have = append(have, names[i]+" "+kinds[i])
		}
		slices.Sort(have)
		slices.Sort(columns)
		if !slices.Equal(have, columns) {
			t.Errorf("%s: the page has\n%q instead of\n%q", table, have, columns)
		}
	}
}

// TestDocsNames checks that the flags, variables, files and headings that the
// pages name exist.
func TestDocsNames(t *testing.T) {
	commands, err := filepath.Glob("cmd/*/main.go")
	if err != nil {
		t.Fatal(err)
	}
	changes, err := os.ReadFile("CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	all := pages(t)
	var help strings.Builder
	for _, path := range commands {
		name := filepath.Base(filepath.Dir(path))
		out, err := exec.Command(name, "--help").Output()
		if err != nil {
			t.Fatal(err)
		}
		help.Write(out)
		if !strings.Contains(all["docs/commands.md"], "| `"+name) || !strings.Contains(string(changes), "\n### "+name+"\n") {
			t.Errorf("docs/commands.md or CHANGELOG.md lacks %s", name)
		}
	}
	known := regexp.MustCompile(`--[a-z][a-z-]+|GBATCH_[A-Z_]+`).FindAllString(help.String(), -1)
	for name, page := range all {
		_, prose := divide(page)
		for _, code := range regexp.MustCompile("`[^`]+`").FindAllString(prose, -1) {
			for _, word := range regexp.MustCompile(`--[a-z][a-z-]+`).FindAllString(code, -1) {
				if !slices.Contains(known, word) {
					t.Errorf("%s: no command has %s", name, word)
				}
			}
		}
		for _, word := range regexp.MustCompile(`GBATCH_[A-Z_]+`).FindAllString(page, -1) {
			if word != "GBATCH_" && !slices.Contains(known, word) {
				t.Errorf("%s: no command has %s", name, word)
			}
		}
		for _, link := range regexp.MustCompile(`\]\(([^)#]*)(#[^)]*)?\)`).FindAllStringSubmatch(prose, -1) {
			target, text := filepath.Join(filepath.Dir(name), link[1]), page
			switch {
			case strings.Contains(link[1], "://"):
				continue
			case link[1] != "":
				file, err := os.ReadFile(target)
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				text = string(file)
			}
			if link[2] != "" && !slices.Contains(anchors(text), link[2]) {
				t.Errorf("%s: no heading is %s%s", name, link[1], link[2])
			}
		}
	}
}

// anchors returns the names with which a link can point to a page's headings.
func anchors(page string) (names []string) {
	_, prose := divide(page)
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(prose, -1) {
		name := regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		names = append(names, "#"+strings.ReplaceAll(name, " ", "-"))
	}
	return names
}
