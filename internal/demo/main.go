// Demo runs the whole pipe on real text, the Go specification and memory model
// that every Go toolchain contains, against the local emulator: without a key
// and without a network. It expects the commands on PATH; make demo sets PATH.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"html"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"gbatch/pkg/duck"
	"gbatch/pkg/emulator"
	"gbatch/pkg/model"
	"gbatch/pkg/record"
	"gbatch/pkg/store"
)

const line = "chunks-pending kb.duckdb | to-jsonl | gbatch-submit | gbatch-wait | gbatch-fetch | vectors-apply kb.duckdb"

// folder is where the database, and what the emulator holds, are left behind.
const folder = "demo"

var onVertex = flag.Bool("vertex", false, "submit to the emulator's Vertex AI, with a bucket")

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "demo: error:", err)
		os.Exit(1)
	}
}

func run() error {
	chunks, err := passages()
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(folder)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := write(filepath.Join(dir, "passages.ndjson"), chunks); err != nil {
		return err
	}
	edited := chunks[len(chunks)/2]
	edited.Text = "Edited by hand: " + edited.Text
	if err := write(filepath.Join(dir, "edited.ndjson"), []record.Chunk{edited}); err != nil {
		return err
	}
	server := exec.Command("gemini-emulator", "--dir", filepath.Join(dir, "emulator"))
	url, err := start(server)
	if err != nil {
		return err
	}
	defer server.Wait()
	defer server.Process.Signal(os.Interrupt)

	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "GBATCH_") || strings.HasPrefix(v, "GOOGLE_API_KEY=")
	})
	env = append(env, "GOOGLE_GEMINI_BASE_URL="+url, "GEMINI_API_KEY=demo", "XDG_STATE_HOME="+dir, "XDG_CACHE_HOME="+dir, "GBATCH_INTERVAL=100ms")
	if *onVertex {
		env = append(env, strings.Split(vertex(url), " ")...)
	}
	shell := func(command string) (out string, err error) {
		fmt.Println("\n$ " + command)
		cmd := exec.Command("bash", "-o", "pipefail", "-c", command)
		var b bytes.Buffer
		cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, &b, os.Stderr
		err = cmd.Run()
		fmt.Print(b.String())
		return b.String(), err
	}

	fmt.Printf("%d passages of real text become chunks, and the pipe embeds them:\n", len(chunks))
	for _, command := range []string{"chunks-add kb.duckdb < passages.ndjson", line, "chunks-status kb.duckdb"} {
		if _, err := shell(command); err != nil {
			return err
		}
	}

	fmt.Println("\nA question, and the passages that are nearest to it:")
	if _, err := shell("ask kb.duckdb 'When is a send on a channel synchronized before a receive?' -n 3 > nearest.ndjson"); err != nil {
		return err
	}
	nearest, err := os.Open(filepath.Join(dir, "nearest.ndjson"))
	if err != nil {
		return err
	}
	defer nearest.Close()
	for d := json.NewDecoder(nearest); ; {
		var n struct {
			ID    string
			Score float64
		}
		if err := d.Decode(&n); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		fmt.Printf("  %.3f  %s\n", n.Score, n.ID)
	}

	fmt.Println("\nThe pipe is run again, and has nothing to do:")
	if out, err := shell(line); err != nil {
		return err
	} else if out != "" {
		return errors.New("the second run did something")
	}

	fmt.Printf("\nOne passage is edited (%s). Only this passage is embedded again:\n", edited.ID)
	if _, err := shell("chunks-add kb.duckdb < edited.ndjson"); err != nil {
		return err
	}
	if out, err := shell(line); err != nil {
		return err
	} else if !strings.Contains(out, `"requests":1,`) {
		return errors.New("more than the edited passage was embedded")
	}
	if err := bill(url, &duck.Database{DB: filepath.Join(dir, "kb.duckdb")}, len(chunks)+1); err != nil {
		return err
	}
	more := ""
	if *onVertex {
		more = "\n  export " + vertex("http://127.0.0.1:8787")
	}
	fmt.Printf(next, folder, line, more)
	return nil
}

// vertex returns the variables that name an emulator as Vertex AI.
func vertex(url string) string {
	return "GBATCH_BACKEND=vertex GBATCH_BUCKET=gs://demo/kb GOOGLE_CLOUD_PROJECT=demo GOOGLE_CLOUD_LOCATION=us-central1 " +
		"GOOGLE_VERTEX_BASE_URL=" + url + " STORAGE_EMULATOR_HOST=" + url + " GCE_METADATA_HOST=" + strings.TrimPrefix(url, "http://")
}

// bill prints what the emulator was paid for. It is an error if that is not one
// request for each of the texts, or if the database has another bill.
func bill(url string, db *duck.Database, texts int) error {
	reply, err := http.Get(url + "/emulator/books")
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	var books emulator.Books
	if err := json.NewDecoder(reply.Body).Decode(&books); err != nil {
		return err
	}
	prices, err := model.ReadPrices()
	if err != nil {
		return err
	}
	batch, _ := prices.Batch(model.Default, books.Tokens)
	online, _ := prices.Online(model.Default, books.Tokens)
	fmt.Printf("\nThe bill, by the books of the emulator:\n  %d jobs, %d requests for %d texts; %d texts were paid for twice\n  %d tokens: %s at the prices of %s, and %s with online calls\n",
		books.Creates, books.RequestsPaid, books.Texts, len(books.PaidTwice), books.Tokens, model.Money(batch), prices.Date, model.Money(online))
	var status bytes.Buffer
	if err := (&store.Status{Database: *db, Embeddings: "embeddings"}).Run(context.Background(), nil, &status); err != nil {
		return err
	}
	records := bytes.Split(bytes.TrimSpace(status.Bytes()), []byte("\n"))
	var last struct{ Summary store.Summary }
	if err := json.Unmarshal(records[len(records)-1], &last); err != nil {
		return err
	}
	tokens := last.Summary.Tokens
	if books.RequestsPaid != texts || books.Texts != texts || len(books.PaidTwice) > 0 || books.Tokens != tokens {
		return fmt.Errorf("%d texts were to be paid for once, and the database counts %d tokens", texts, tokens)
	}
	fmt.Println("  chunks-status counts the same tokens.")
	return nil
}

const next = `
%[1]s/kb.duckdb is yours to play with, until make demo replaces it. To try next:

  export PATH="$PWD/bin:$PATH" XDG_STATE_HOME="$PWD/%[1]s" XDG_CACHE_HOME="$PWD/%[1]s"
  gemini-emulator --dir %[1]s/emulator --listen 127.0.0.1:8787 &
  export GOOGLE_GEMINI_BASE_URL=http://127.0.0.1:8787 GEMINI_API_KEY=demo%[3]s
  cd %[1]s
  chunks-status kb.duckdb
  echo '{"id":"mine","text":"A text of my own."}' | chunks-add kb.duckdb
  chunks-pending kb.duckdb --dry-run
  %[2]s
  ask kb.duckdb 'How are strings concatenated?' -n 3
  kill %%1
`

// passages makes chunks of the toolchain's documents, one for each heading.
func passages() (chunks []record.Chunk, err error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"go_spec", "go_mem"} {
		page, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(root)), "doc", name+".html"))
		if err != nil {
			return cut(`(?m)^#+ (?P<title>.*)$`, "README.md", "CHANGELOG.md", "docs/records.md", "docs/database.md")
		}
		chunks = append(chunks, split(heading, name, string(page))...)
	}
	return chunks, nil
}

var (
	heading = regexp.MustCompile(`<h[2-4][^>]*>(?P<title>[^\n]*)</h[2-4]>`)
	tag     = regexp.MustCompile(`<[^>]*>`)
)

// cut makes chunks of the repository's own documents, if the toolchain has no
// documents.
func cut(pattern string, files ...string) (chunks []record.Chunk, err error) {
	for _, name := range files {
		page, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		chunks = append(chunks, split(regexp.MustCompile(pattern), name, html.EscapeString(string(page)))...)
	}
	return chunks, nil
}

// split makes a chunk of the text between each heading and the next one.
func split(heading *regexp.Regexp, name, page string) (chunks []record.Chunk) {
	plain := func(s string) string { return strings.TrimSpace(html.UnescapeString(tag.ReplaceAllString(s, ""))) }
	at := heading.FindAllStringSubmatchIndex(page, -1)
	for i, h := range at {
		end := len(page)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		title := plain(page[h[2]:h[3]])
		if text := plain(page[h[1]:end]); text != "" {
			chunks = append(chunks, record.Chunk{ID: fmt.Sprintf("%s/%d %s", name, i+1, title), Text: text, Title: title})
		}
	}
	return chunks
}

func write(path string, chunks []record.Chunk) error {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	for _, c := range chunks {
		if err := encoder.Encode(c); err != nil {
			return err
		}
	}
	return os.WriteFile(path, b.Bytes(), 0o600)
}

// start starts the emulator and returns the URL that it prints.
func start(server *exec.Cmd) (string, error) {
	server.Stderr = os.Stderr
	out, err := server.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := server.Start(); err != nil {
		return "", err
	}
	var at struct{ URL string }
	text, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(text, &at)
	}
	return at.URL, err
}
