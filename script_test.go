package gbatch

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	_ "github.com/duckdb/duckdb-go/v2"
	"github.com/rogpeppe/go-internal/testscript"

	"gbatch/internal/help"
	"gbatch/pkg/cli"
	"gbatch/pkg/emulator"
)

func TestMain(m *testing.M) {
	programs := map[string]func(){"sql": query, "books": books, "ask": ask}
	commands := maps.Clone(Commands)
	commands["write-help"] = &help.Write{Manual: Manual, Commands: Commands}
	programs["gbatch"] = func() { cli.Suite("gbatch", Manual, commands) }
	for name := range Commands {
		programs[name] = programs["gbatch"]
	}
	testscript.Main(m, programs)
}

// TestScripts runs testdata/scripts, each script with its own emulator. A file
// "faults" in a script's archive sets the emulator's faults, a file
// "options.json" its options. With GBATCH_BIN the commands in that folder are
// tested instead of those in the test binary.
func TestScripts(t *testing.T) {
	bin := os.Getenv("GBATCH_BIN")
	if bin != "" {
		if err := os.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH")); err != nil {
			t.Fatal(err)
		}
	}
	question, err := filepath.Abs("packaging/ask")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/scripts",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Deadline:            time.Now().Add(24 * time.Hour), // a slow machine must not cut scripts short
		UpdateScripts:       os.Getenv("UPDATE") != "",
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
		Setup: func(env *testscript.Env) error {
			options := emulator.Options{Dir: filepath.Join(env.WorkDir, "emulator"), Polls: 1}
			if flags, err := os.ReadFile(filepath.Join(env.WorkDir, "options.json")); err == nil {
				if err := json.Unmarshal(flags, &options); err != nil {
					return err
				}
			}
			if faults, err := os.ReadFile(filepath.Join(env.WorkDir, "faults")); err == nil {
				options.Faults = strings.Split(string(faults), "\n")
			}
			server, err := emulator.New(options)
			if err != nil {
				return err
			}
			web := httptest.NewServer(server)
			env.Defer(func() {
				web.CloseClientConnections()
				web.Close()
				server.Close()
			})
			for _, dir := range []string{"tmp", "home"} {
				if err := os.Mkdir(filepath.Join(env.WorkDir, dir), 0o700); err != nil {
					return err
				}
			}
			env.Setenv("TMPDIR", filepath.Join(env.WorkDir, "tmp"))
			env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
			env.Setenv("XDG_STATE_HOME", filepath.Join(env.WorkDir, "state"))
			env.Setenv("XDG_CACHE_HOME", filepath.Join(env.WorkDir, "cache"))
			env.Setenv("GOOGLE_GEMINI_BASE_URL", web.URL)
			env.Setenv("GEMINI_API_KEY", "test-key-of-the-scripts")
			env.Setenv("GOOGLE_VERTEX_BASE_URL", web.URL)
			env.Setenv("STORAGE_EMULATOR_HOST", strings.TrimPrefix(web.URL, "http://"))
			env.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(web.URL, "http://"))
			env.Setenv("GBATCH_INTERVAL", "10ms")
			env.Setenv("GBATCH_SETTLE", "1s")
			env.Setenv("GBATCH_RETRY_FOR", "20s")
			env.Setenv("ASK", question)
			env.Setenv("LINE", `set -o pipefail; chunks-pending kb.duckdb | to-jsonl | gbatch-submit | gbatch-wait | gbatch-fetch | vectors-apply kb.duckdb`)
			return nil
		},
	})
}

// exits is a statement for the scripts: exits CODE PROGRAM [ARG…] runs a
// program, which must end with that code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARG…]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	if e := new(exec.ExitError); errors.As(err, &e) {
		got = e.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("the exit code is %d, not %d", got, want)
	}
}

// query is a command for the scripts: sql FILE STATEMENT… prints the rows of the
// statements, with their values joined by a bar. It creates a missing file.
func query() {
	db, err := sql.Open("duckdb", os.Args[1])
	for _, statement := range os.Args[2:] {
		if err != nil {
			break
		}
		err = print(db, statement)
	}
	if err == nil {
		err = db.Close()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sql:", err)
		os.Exit(1)
	}
}

func print(db *sql.DB, statement string) error {
	rows, err := db.Query(statement)
	if err != nil {
		return err
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return err
	}
	values, pointers := make([]any, len(names)), make([]any, len(names))
	for i := range values {
		pointers[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(pointers...); err != nil {
			return err
		}
		texts := make([]string, len(values))
		for i, v := range values {
			texts[i] = fmt.Sprint(v)
		}
		if names[0] != "Count" && names[0] != "Success" { // the column of a statement without rows
			fmt.Println(strings.Join(texts, "|"))
		}
	}
	return rows.Err()
}

// ask is a command for the scripts: ask PATH [BODY] sends a GET to a path of the
// emulator, or a POST with BODY, and prints the reply. @FILE as BODY stands for
// the content of a file.
func ask() {
	method, body := http.MethodGet, ""
	if len(os.Args) > 2 {
		method, body = http.MethodPost, os.Args[2]
	}
	var answer []byte
	var err error
	if name, ok := strings.CutPrefix(body, "@"); ok {
		var file []byte
		file, err = os.ReadFile(name)
		body = string(file)
	}
	if err == nil {
		answer, err = call(method, os.Args[1], body)
		fmt.Printf("%s", answer)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "ask:", err)
		os.Exit(1)
	}
}

func call(method, path, body string) (answer []byte, err error) {
	req, err := http.NewRequest(method, os.Getenv("GOOGLE_GEMINI_BASE_URL")+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("x-goog-api-key", os.Getenv("GEMINI_API_KEY"))
	reply, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer reply.Body.Close()
	answer, err = io.ReadAll(reply.Body)
	if err == nil && reply.StatusCode != http.StatusOK {
		err = errors.New(reply.Status)
	}
	return answer, err
}

// books is a command for the scripts: it prints in one line what was requested
// from the emulator, and what was paid for.
func books() {
	var b emulator.Books
	answer, err := call(http.MethodGet, "/emulator/books", "")
	if err == nil {
		err = json.Unmarshal(answer, &b)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "books:", err)
		os.Exit(1)
	}
	fmt.Printf("jobs=%d paid=%d texts=%d twice=%d uploads=%d\n", b.Creates, b.RequestsPaid, b.Texts, len(b.PaidTwice), len(b.Uploaded)+b.OpenUploads)
}
