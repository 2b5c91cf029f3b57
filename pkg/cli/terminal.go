package cli

import (
	"os"
	"time"

	"github.com/alecthomas/kong"

	"gbatch/pkg/exit"
	"gbatch/pkg/progress"
)

// A Terminal is what a command must know to draw on a terminal.
type Terminal struct {
	Columns, Rows int
	Moves         bool // the cursor can be moved
	Colors        bool
}

// TerminalOf returns the terminal that f is, or nil if f is not a terminal.
func TerminalOf(f interface{ Fd() uintptr }) *Terminal {
	if !IsTerminal(f) {
		return nil
	}
	t := &Terminal{Moves: progress.Moves()}
	t.Columns, t.Rows = progress.Size(f)
	t.Colors = t.Moves && os.Getenv("NO_COLOR") == ""
	return t
}

// An Interval is the value of a flag that may stand alone: --watch is a default,
// --watch=10s another duration. 0 means that the flag was not given.
type Interval time.Duration

// every is the default of an [Interval].
const every = 2 * time.Second

// IsBool says that the flag needs no value.
func (*Interval) IsBool() bool { return true }

// Decode reads the value of the flag.
func (i *Interval) Decode(ctx *kong.DecodeContext) error {
	*i = Interval(every)
	if ctx.Scan.Peek().Type != kong.FlagValueToken {
		return nil
	}
	text := ctx.Scan.Pop().String()
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return exit.Errorf(exit.Usage, "%q is not a duration such as 10s or 1m", text)
	}
	*i = Interval(d)
	return nil
}
