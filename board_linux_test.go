package gbatch

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"html"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"gbatch/pkg/record"
	"gbatch/pkg/store"
)

// someFailed embeds 50 of the 80 chunks, of which three fail, and submits 20.
const someFailed = `exec 2> messages; export GBATCH_MAX_REQUESTS=100
chunks-pending kb.duckdb --limit 50 | to-jsonl | gbatch-submit | gbatch-wait | gbatch-fetch | vectors-apply kb.duckdb > applied
chunks-pending kb.duckdb --limit 20 | to-jsonl | gbatch-submit | vectors-apply kb.duckdb > submitted
`

var failing = []string{`results keys=c03 error=3 message="the text has 2231 tokens, 2048 are allowed"`,
	`results keys=c07 error=3 message="the text has 4180 tokens, 2048 are allowed"`, `results keys=c11 error=7 message="blocked"`}

// TestBoard shows a board on a terminal of 80 columns, and on a narrow one. It
// compares the wide one with docs/board.md, but for numbers, times and bars, and draws
// the picture of the README from that page.
func TestBoard(t *testing.T) {
	env := []string{"NO_COLOR=1", "GBATCH_MAX_COST_PER_DAY=1"}
	x := start(t, 80, 24, someFailed+"chunks-status kb.duckdb", failing, env...)
	got := x.end()
	const path, image = "docs/board.md", "docs/board.svg"
	page := pages(t)[path]
	blocks, _ := divide(page)
	shown := blocks[0].text
	if *update {
		text := strings.Replace(page, shown, got, 1)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(image, []byte(drawn(got)), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if picture, err := os.ReadFile(image); err != nil || string(picture) != drawn(shown) || structure(ids.ReplaceAllString(got, "b01")) != structure(ids.ReplaceAllString(shown, "b01")) {
		t.Errorf("%s or %s does not show this board; go test . -run TestBoard -update writes them:\n%s", path, image, got)
	}

	// The figures are those of the emulator's books and of the job records.
	books, err := x.server.Books()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("chunks-status", "kb.duckdb")
	cmd.Dir, cmd.Env = x.dir, append(os.Environ(), "XDG_STATE_HOME="+x.dir)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	job, err := os.ReadFile(filepath.Join(x.dir, "applied"))
	if err != nil {
		t.Fatal(err)
	}
	var last struct{ Summary store.Summary }
	var closed record.Job
	if err := json.Unmarshal(out[bytes.LastIndexByte(bytes.TrimSpace(out), '\n')+1:], &last); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(job, &closed); err != nil {
		t.Fatal(err)
	}
	s := last.Summary
	if int(s.Ready+s.Queued) != books.RequestsPaid || int(s.Failed) != books.RequestsFailed || int(s.Ready) != *closed.Succeeded ||
		s.Tokens != *closed.Tokens || *s.USD != *s.Today || *s.USD != math.Round(float64(s.Tokens)*7.5)/1e8 {
		t.Errorf("the summary is %+v, the books are %+v, the job is %s", s, books, job)
	}

	x = start(t, 40, 24, someFailed+"chunks-status kb.duckdb", failing, env...)
	got = x.end()
	for line := range strings.Lines(got) {
		if n := utf8.RuneCountInString(line); n > 40 { // with the line end
			t.Errorf("the line %q has %d columns", line, n)
		}
	}
	for _, want := range []string{"READY", "QUEUED", "PENDING", "FAILED", "INVALID_ARGUMENT", "--retry-failed"} {
		if !strings.Contains(got, want) {
			t.Errorf("on 40 columns %s is missing:\n%s", want, got)
		}
	}
}

// drawn is the text of a terminal as an SVG, with the colors of the board.
func drawn(text string) string {
	const width, height, margin = 7.8, 17, 14 // of a column, of a line, around them
	colors := map[rune]string{'█': "#3fb950", '▒': "#58a6ff", '░': "#6e7681", '×': "#f85149"}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%d" font-family="ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="13">`+"\n", 80*width+2*margin, len(lines)*height+2*margin)
	b.WriteString(`<rect width="100%" height="100%" rx="6" fill="#0d1117"/>` + "\n")
	for row, line := range lines {
		for at, r := range []rune(line) { // a mark is drawn as a rectangle, so that no font moves it
			if color := colors[r]; color != "" && r != '×' {
				fmt.Fprintf(&b, `<rect x="%.1f" y="%d" width="%.1f" height="13" fill="%s"/>`+"\n", margin+float64(at)*width, margin+row*height+2, width, color)
			}
		}
		words := regexp.MustCompile(`[^\s█▒░]+( [^\s█▒░]+)*`)
		for _, at := range words.FindAllStringIndex(line, -1) {
			word := line[at[0]:at[1]]
			column, n := utf8.RuneCountInString(line[:at[0]]), utf8.RuneCountInString(word)
			fmt.Fprintf(&b, `<text x="%.1f" y="%d" textLength="%.1f" fill="%s">%s</text>`+"\n", margin+float64(column)*width, margin+row*height+13, float64(n)*width, cmp.Or(colors[[]rune(word)[0]], "#e6edf3"), html.EscapeString(word))
		}
	}
	return b.String() + "</svg>\n"
}

var ids = regexp.MustCompile(`b01\w{24}`)

// TestBoardWatch: a watched board is drawn in its place, without the lines that do
// not fit, until the last batch is closed.
func TestBoardWatch(t *testing.T) {
	const collect = "mkfifo go; (read -r line < go; jobs-pending kb.duckdb | gbatch-wait | gbatch-fetch | vectors-apply kb.duckdb > applied) &\n"
	x := start(t, 80, 12, someFailed+collect+"chunks-status kb.duckdb --watch=20ms; wait", failing, "NO_COLOR=1")
	x.await(`^▒ QUEUED +20 `)
	text := x.String()
	if n := strings.Count(text, "\n"); n != 11 {
		t.Errorf("the terminal of 12 rows shows %d lines:\n%s", n, text)
	}
	if err := os.WriteFile(filepath.Join(x.dir, "go"), []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	text = x.end()
	if strings.Count(text, "STATUS") != 1 || !regexp.MustCompile(`(?m)^▒ QUEUED +0 `).MatchString(text) || !regexp.MustCompile(`(?m)^█ READY +67 `).MatchString(text) {
		t.Errorf("the terminal shows:\n%s", text)
	}

	// Without a cursor that moves, the boards are below each other, and whole.
	x = start(t, 80, 12, someFailed+collect+"chunks-status kb.duckdb --watch=20ms; wait", failing, "TERM=dumb")
	x.await(`^every 20ms, until no batch is open; Ctrl-C ends`)
	if err := os.WriteFile(filepath.Join(x.dir, "go"), []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	if text = x.end(); strings.Contains(string(x.raw), "\x1b") || !strings.Contains(text, "every 20ms") || !strings.HasSuffix(text, "chunks-status kb.duckdb --failed\n") {
		t.Errorf("a terminal without a cursor that moves shows:\n%s", text)
	}
}
