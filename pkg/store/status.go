package store

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"gbatch/pkg/cli"
	"gbatch/pkg/duck"
	"gbatch/pkg/exit"
	"gbatch/pkg/model"
	"gbatch/pkg/ndjson"
	"gbatch/pkg/progress"
)

// Status is chunks-status: how many chunks are ready, queued, pending and
// failed, why they failed, what was spent, and the state of each batch.
type Status struct {
	duck.Database   `embed:""`
	cli.Output      `embed:""`
	From            string       `placeholder:"SOURCE" help:"The chunks, as for chunks-pending (default: the source that chunks-pending used last, or else chunks)."`
	Embeddings      string       `default:"embeddings" help:"The table of the vectors."`
	Failed          bool         `xor:"what" help:"Print the FAILED chunks instead, each with the reason."`
	Spaces          bool         `xor:"what" env:"-" help:"Print the tables of vectors instead, each with its space."`
	Watch           cli.Interval `xor:"what" help:"Print again when something has changed, until no batch is open. --watch=10s looks every 10 seconds, --watch every 2."`
	JSON            bool         `help:"Print records on a terminal too."`
	Metrics         string       `placeholder:"FILE" help:"Also write the figures to a file for the textfile collector of Prometheus."`
	MaxCostPerDay   *float64     `placeholder:"USD" help:"The cap of chunks-pending. The status shows what is left of it."`
	MaxCostPerMonth *float64     `placeholder:"USD" help:"The cap of chunks-pending. The status shows what is left of it."`

	// Also is called with each report.
	Also func(*Report) error `kong:"-"`
	// Sample is how many vectors to measure for [Report.Norms].
	Sample int `kong:"-"`
}

// Run prints a board if out is a terminal, and otherwise a line for each status
// and each batch, and a summary. It does not read in.
func (s *Status) Run(ctx context.Context, _ io.Reader, out io.Writer) error {
	defer s.End()
	prices, err := model.ReadPrices()
	if err != nil {
		return err
	}
	switch {
	case (s.Failed || s.Spaces) && (s.Metrics != "" || s.Also != nil):
		return exit.Errorf(exit.Usage, "--failed and --spaces print other records than the status, and cannot be given with --metrics or --html")
	case s.Failed:
		return s.printFailed(ctx, out)
	case s.Spaces:
		return s.printSpaces(ctx, out, prices)
	}
	var shown []string // the lines on the terminal, or the last record
	for first := true; ; first = false {
		r, err := s.report(ctx, prices)
		if err != nil {
			return err
		}
		if s.Metrics != "" {
			if err := cli.Replace(s.Metrics, r.metrics()); err != nil {
				return err
			}
		}
		if s.Also != nil {
			if err := s.Also(r); err != nil {
				return err
			}
		}
		watch := s.Watch > 0 && r.Total.Open > 0
		switch t := s.terminal(out); {
		case t != nil:
			lines := r.board(t.Columns, t.Colors)
			if watch {
				lines = append(lines, "", progress.Cut(fmt.Sprintf("every %v, until no batch is open; Ctrl-C ends", time.Duration(s.Watch)), t.Columns-1))
			}
			if watch && t.Moves { // what has left the screen cannot be drawn again
				lines = lines[:min(len(lines), t.Rows-1)]
			}
			err = redraw(out, t.Moves, shown, lines)
			shown = lines
		case s.Watch > 0:
			if state := []string{r.Total.state()}; first || state[0] != shown[0] {
				err = r.print(out, false)
				shown = state
			}
		default:
			err = r.print(out, true)
		}
		if err != nil || !watch {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Duration(s.Watch)):
		}
	}
}

// terminal returns the terminal that out is, or nil if records are printed.
func (s *Status) terminal(out io.Writer) *cli.Terminal {
	if s.JSON {
		return nil
	}
	return terminal(out)
}

// redraw prints lines in place of those that it printed before. If the terminal
// cannot move its cursor, the lines come below, if they are others.
func redraw(out io.Writer, moves bool, before, lines []string) error {
	text := strings.Join(lines, "\n") + "\n"
	switch {
	case len(before) == 0:
	case moves:
		text = fmt.Sprintf("\r\x1b[%dA", len(before)) + strings.ReplaceAll(text, "\n", "\x1b[K\n") + "\x1b[J"
	case strings.Join(before, "\n")+"\n" == text:
		return nil
	default:
		text = "\n" + text
	}
	_, err := io.WriteString(out, text)
	return err
}

// print writes the records of a report, or only the summary.
func (r *Report) print(out io.Writer, all bool) error {
	var records []any
	if all {
		for _, n := range r.Counts {
			records = append(records, n)
		}
		for _, b := range r.Batches {
			records = append(records, b)
		}
	}
	return encode(out, append(records, map[string]Summary{"summary": r.Total}))
}

// encode writes each record as a line.
func encode[T any](out io.Writer, records []T) error {
	w := ndjson.NewWriter(out)
	for _, r := range records {
		if err := w.Encode(r); err != nil {
			return err
		}
	}
	return w.Flush()
}

// state is what must change before a watched summary is printed again: all but
// the time and the ages.
func (s Summary) state() string {
	s.At, s.OldestOpen, s.OldestPending = "", nil, nil
	line, _ := ndjson.Marshal(s)
	return string(line)
}

// terminal returns the terminal that out is, or nil.
func terminal(out io.Writer) *cli.Terminal {
	f, ok := out.(interface{ Fd() uintptr })
	if !ok {
		return nil
	}
	return cli.TerminalOf(f)
}

func dollars(usd *float64) string {
	if usd == nil {
		return "?"
	}
	return model.Money(*usd)
}

// known is a price as the records have it: nil if it is not known.
func known(usd float64, known bool) *float64 {
	if !known {
		return nil
	}
	return &usd
}
