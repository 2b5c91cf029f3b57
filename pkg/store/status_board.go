package store

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"gbatch/pkg/cli"
	"gbatch/pkg/model"
	"gbatch/pkg/progress"
)

// The numbers of columns from which a board has all of its columns, and how many
// batches of a kind it shows.
const (
	wide       = 76
	openShown  = 10
	lostShown  = 3
	cellBatch  = 27 // the name of a batch
	cellLetter = 9  // the longest state that is ours
)

// looks are the character and the color of each status.
var looks = []struct{ mark, color string }{{"█", "32"}, {"▒", "34"}, {"░", "33"}, {"×", "31"}}

// A board is a report as lines for a terminal. No line fills the last column.
type board struct {
	*Report
	width  int
	colors bool
	lines  []string
}

func (r *Report) board(columns int, colors bool) []string {
	b := &board{Report: r, width: max(columns-1, 1), colors: colors}
	head := r.DB + ": " + r.Table
	if r.Space != (model.Space{}) {
		head += " " + r.Space.String()
	}
	b.add("", head)
	b.bar()
	b.counts()
	b.costs()
	b.batches()
	b.failures()
	return b.lines
}

// Text returns the board without colors.
func (r *Report) Text(columns int) string { return strings.Join(r.board(columns, false), "\n") + "\n" }

// add appends a line, in a color if it has one.
func (b *board) add(color, line string) {
	line = progress.Cut(cli.Printable(strings.TrimRight(line, " ")), b.width)
	b.lines = append(b.lines, b.paint(color, line))
}

func (b *board) paint(color, text string) string {
	if !b.colors || color == "" || text == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[m"
}

// table appends an empty line and rows. The first row is the heading. The first
// columns, as many as left says, are aligned to the left.
func (b *board) table(left int, rows ...[]string) {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			row[i] = cli.Printable(cell)
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], progress.Width(row[i]))
		}
	}
	b.add("", "")
	for n, row := range rows {
		line, color := "", ""
		for i, cell := range row {
			if pad := strings.Repeat(" ", widths[i]-progress.Width(cell)); i < left {
				line += cell + pad + "  "
			} else {
				line += pad + cell + "  "
			}
		}
		if n == 0 {
			color = "1"
		}
		b.add(color, line)
	}
}

// text appends words, with an indent, in as many lines as they need.
func (b *board) text(indent int, words string) {
	line := ""
	for _, word := range strings.Fields(cli.Printable(words)) {
		if line != "" && indent+progress.Width(line+" "+word) > b.width {
			b.add("", strings.Repeat(" ", indent)+line)
			line = ""
		}
		line = strings.TrimLeft(line+" "+word, " ")
	}
	if line != "" {
		b.add("", strings.Repeat(" ", indent)+line)
	}
}

// bar shows the share of each status. A status with chunks has a column at least.
func (b *board) bar() {
	if b.Total.Chunks == 0 || b.width < len(b.Counts) {
		return
	}
	cells, left := make([]int, len(b.Counts)), b.width
	for i, n := range b.Counts {
		if n.Chunks > 0 {
			cells[i] = max(int(float64(b.width)*float64(n.Chunks)/float64(b.Total.Chunks)), 1)
		}
		left -= cells[i]
	}
	most := slices.Index(cells, slices.Max(cells))
	cells[most] += left
	line := ""
	for i, n := range cells {
		line += b.paint(looks[i].color, strings.Repeat(looks[i].mark, n))
	}
	b.lines = append(b.lines, line)
}

func (b *board) counts() {
	rows := [][]string{{"  STATUS", "CHUNKS", "TOKENS", "COST", "AGE"}}
	for i, n := range b.Counts {
		rows = append(rows, []string{looks[i].mark + " " + n.Status, progress.Commas(n.Chunks), b.number(n.Tokens), dollars(n.USD), b.ago(n.Since)})
	}
	if b.width < wide {
		for i := range rows {
			rows[i] = rows[i][:4]
		}
	}
	b.table(1, rows...)
	if n := b.Total.OverLimit; n > 0 {
		b.text(0, progress.Commas(n)+" texts are over the model's limit, and Google cuts them off, such as "+names(b.Total.OverLimitIDs, n))
	}
}

// names lists some of n ids.
func names(ids []string, n int64) string {
	var short []string
	for _, id := range ids {
		short = append(short, progress.Cut(id, 30))
	}
	if int64(len(ids)) < n {
		short = append(short, "…")
	}
	return strings.Join(short, ", ")
}

// number writes a number that may be long.
func (b *board) number(n int64) string {
	switch {
	case b.width >= wide || n < 100_000:
		return progress.Commas(n)
	case n < 1_000_000:
		return fmt.Sprintf("%dk", n/1000)
	case n < 100_000_000:
		return fmt.Sprintf("%.1fM", float64(n)/1e6)
	}
	return progress.Commas(n/1_000_000) + "M"
}

// ago is how long ago a time was.
func (b *board) ago(since string) string {
	t, err := time.Parse(time.RFC3339, since)
	if err != nil {
		return ""
	}
	return progress.Span(b.At.Sub(t).Truncate(time.Second))
}

func (b *board) costs() {
	t := &b.Total
	rows := [][]string{{"COST", "SPENT", "LEFT"}, {"today", dollars(t.Today), ""}, {"this month", dollars(t.Month), ""}, {"all", dollars(t.USD), ""}}
	for i, left := range []*float64{t.LeftToday, t.LeftMonth} {
		if left != nil {
			rows[i+1][2] = dollars(left)
		}
	}
	if t.LeftToday == nil && t.LeftMonth == nil {
		rows[0][2] = ""
	}
	b.table(1, rows...)
	b.text(0, "saved against the online price: "+dollars(t.Saved))
	if t.Open > 0 {
		b.text(0, "open batches, by estimate: "+dollars(t.OpenUSD))
	}
}

// batches shows the open batches, and the last jobs that ended without results.
func (b *board) batches() {
	rows, lost := [][]string{{"OPEN", "STATE", "STORED", "AGE", "EXPIRES"}}, []batchStatus{}
	for _, t := range b.Batches {
		if !t.Open && t.Error != "" {
			lost = append(lost, t)
		}
		if !t.Open || len(rows) > openShown {
			continue
		}
		name, answers := t.Batch, int64(0)
		if t.Stored != nil {
			answers = *t.Stored
		}
		part := min(float64(answers)/max(float64(t.Requests), 1), 1)
		stored := progress.Bar(part, 6) + " " + progress.Commas(answers) + "/" + progress.Commas(t.Requests)
		if b.width < wide {
			name, stored = "…"+name[max(len(name)-4, 0):], fmt.Sprintf("%d%%", int(100*part))
		}
		expires := "–"
		if at, err := time.Parse(time.RFC3339, t.ExpiresAt); err == nil {
			if expires = "overdue"; at.After(b.At) {
				expires = progress.Span(at.Sub(b.At))
			}
		}
		rows = append(rows, []string{progress.Cut(name, cellBatch), progress.Cut(t.State, cellLetter), stored, b.ago(t.ClaimedAt), expires})
	}
	if len(rows) > 1 {
		b.table(2, rows...)
		if more := int(b.Total.Open) - openShown; more > 0 {
			b.text(0, fmt.Sprintf("and %d more", more))
		}
	}
	if len(lost) == 0 {
		return
	}
	b.add("", "")
	b.add("1", "JOBS WITHOUT RESULTS")
	for _, t := range lost[max(len(lost)-lostShown, 0):] {
		b.text(0, strings.Join([]string{t.Batch, t.State, b.ago(t.EndedAt), "ago"}, " "))
		b.text(4, t.Error)
	}
	if more := len(lost) - lostShown; more > 0 {
		b.text(0, fmt.Sprintf("and %d earlier", more))
	}
}

// failures shows why chunks failed, and what to do about it.
func (b *board) failures() {
	for i, f := range b.Reasons {
		if i == 0 || f.Final != b.Reasons[i-1].Final {
			title := "FAILED CHUNKS"
			if !f.Final {
				title = "CHUNKS WITH TRANSIENT ERRORS"
			}
			b.add("", "")
			b.add(looks[3].color, title)
		}
		b.text(0, fmt.Sprintf("%s× %s (%d): %s", progress.Commas(f.Chunks), f.Status, f.Code, f.Message))
		b.text(4, "such as "+names(f.Examples, f.Chunks))
		advice, retry := f.next()
		b.text(4, advice)
		if retry {
			b.text(4, b.command("chunks-pending")+" --retry-failed")
		}
	}
	if b.Total.Failed > 0 {
		b.add("", "")
		b.text(0, "each failed chunk: "+b.command("chunks-status")+" --failed")
	}
}
