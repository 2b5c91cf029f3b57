package progress

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"charm.land/bubbles/v2/progress"
)

// A Row is what a process shows of its task.
type Row struct {
	Name string  `json:"name"`
	Part float64 `json:"part"` // of 1; below 0 if it is unknown
	Text string  `json:"text"`
}

// Row returns the row of the report.
func (r *Report) Row() Row {
	part := -1.0
	if m := r.measure(); m != nil {
		part = min(float64(m.Done)/float64(m.Total), 1)
	}
	return Row{r.Name, part, r.String()}
}

// String is the report in words, such as "12 of 40 jobs, 34.1 MB, 5.2 MB/s".
func (r Report) String() string {
	var parts []string
	for _, f := range r.Figures {
		switch {
		case f.Unit == "bytes":
			parts = append(parts, size(float64(f.Done)))
		case f.Total == 0:
			parts = append(parts, Commas(f.Done)+" "+plural(f.Done, f.Unit))
		case f.Final:
			parts = append(parts, Commas(f.Done)+" of "+Commas(f.Total)+" "+plural(f.Total, f.Unit))
		default:
			parts = append(parts, Commas(f.Done)+" of "+Commas(f.Total)+"+ "+f.Unit)
		}
		switch {
		case f.Rate == 0 || !f.Flow:
		case f.Unit == "bytes":
			parts = append(parts, size(f.Rate)+"/s")
		default:
			parts = append(parts, Commas(int64(f.Rate))+"/s")
		}
	}
	if r.Left > 0 {
		parts = append(parts, Span(r.Left)+" left")
	}
	if r.Oldest > 0 {
		parts = append(parts, "oldest "+Span(r.Oldest), "expires in "+Span(r.Expires))
	}
	text := strings.Join(parts, ", ")
	if r.Ended {
		text += " in " + Span(r.Took)
	}
	return text
}

// plural returns a unit for a number of things.
func plural(n int64, unit string) string {
	if n == 1 {
		unit = strings.TrimSuffix(strings.Replace(unit, "batches", "batch", 1), "s")
	}
	return unit
}

func size(bytes float64) string {
	for _, unit := range []string{"B", "kB", "MB"} {
		if bytes < 999.5 {
			if unit == "B" || bytes >= 99.95 {
				return fmt.Sprintf("%.0f %s", bytes, unit)
			}
			return fmt.Sprintf("%.1f %s", bytes, unit)
		}
		bytes /= 1000
	}
	return fmt.Sprintf("%.2f GB", bytes)
}

// Commas writes a number with a comma before each group of three digits.
func Commas(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Span formats a duration in one or two units.
func Span(d time.Duration) string {
	switch d = max(d, 0); {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 10*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	if d < 100*time.Hour {
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// Bar renders a part of 1 as a bar of some columns, without colors.
func Bar(part float64, columns int) string {
	bar := progress.New(progress.WithoutPercentage(), progress.WithFillCharacters('█', '░'), progress.WithWidth(columns))
	bar.FullColor, bar.EmptyColor = nil, nil
	return bar.ViewAs(part)
}

// narrow is the number of columns below which a name is only its last word.
const narrow = 50

// lines renders rows for a terminal of some columns. No line fills the last
// column, so that no terminal wraps it. The bars are as wide as the longest row
// allows.
func lines(rows []Row, columns int) []string {
	names, longest, text := make([]string, len(rows)), 0, 0
	for i, r := range rows {
		names[i] = r.Name
		if columns < narrow {
			names[i] = r.Name[strings.LastIndexByte(r.Name, '-')+1:]
		}
		longest, text = max(longest, len(names[i])), max(text, len(r.Text))
	}
	width := 0 // not the exact width, so that it seldom changes
	for _, w := range []int{10, 20} {
		if longest+w+text+4 < columns {
			width = w
		}
	}
	out := make([]string, len(rows))
	for i, r := range rows {
		var b strings.Builder
		if columns < narrow {
			b.WriteString(names[i] + " ")
		} else {
			fmt.Fprintf(&b, "%-*s  ", longest, names[i])
		}
		switch {
		case width == 0:
		case r.Part < 0:
			b.WriteString(strings.Repeat(" ", width+2))
		default:
			b.WriteString(Bar(r.Part, width) + "  ")
		}
		out[i] = Cut(b.String()+r.Text, columns-1)
	}
	return out
}

// Cut shortens a text to some columns. An ellipsis shows that it was cut.
func Cut(s string, columns int) string {
	runes := []rune(s) // each takes one column
	if len(runes) <= columns {
		return s
	}
	return string(runes[:max(columns-1, 0)]) + "…"
}
