package cli

import (
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/log"

	"gbatch/pkg/progress"
)

// handler returns the handler of the log, which writes to w.
func (g *grammar) handler(name string, w io.Writer) slog.Handler {
	level := slog.LevelWarn
	switch {
	case g.Quiet:
		level = slog.LevelError
	case g.Verbose:
		level = slog.LevelDebug
	case g.Progress == "always" || IsTerminal(os.Stderr):
		level = slog.LevelInfo
	}
	if g.LogFormat == "json" {
		return objects(name, w, level)
	}
	logger := log.NewWithOptions(w, log.Options{Level: log.Level(level), ReportTimestamp: true, TimeFormat: time.TimeOnly})
	styles := log.DefaultStyles()
	for l, s := range styles.Levels {
		text := name + ":"
		if l != log.InfoLevel && l != log.DebugLevel {
			text = name + ": " + map[log.Level]string{log.WarnLevel: "warning:"}[l]
		}
		styles.Levels[l] = s.SetString(text).UnsetWidth().UnsetMaxWidth()
	}
	logger.SetStyles(styles)
	return logger
}

// objects returns a handler that writes an object in each line. Durations are
// seconds.
func objects(name string, w io.Writer, level slog.Level) slog.Handler {
	return slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		switch {
		case a.Key == slog.LevelKey:
			a.Value = slog.StringValue(strings.ToLower(a.Value.String()))
		case a.Value.Kind() == slog.KindDuration:
			a.Value = slog.Float64Value(a.Value.Duration().Round(time.Millisecond).Seconds())
		}
		return a
	}}).WithAttrs([]slog.Attr{slog.String("command", name)})
}

// lineEvery is the time between two lines of progress where no rows are drawn. It
// is a variable for tests.
var lineEvery = 30 * time.Second

// follow shows the progress of a task until the function that it returns is
// called. That function logs in one line what was done.
func (g *grammar) follow(t *progress.Task, block *progress.Block, stderr io.Writer) (ended func()) {
	text := func(r progress.Report, _ string) { slog.Info(r.String()) }
	object := func(r progress.Report, what string) { slog.Info(what, r.Attrs()...) }
	say := text
	if g.LogFormat == "json" {
		say = object
	}
	stop := func() {}
	switch {
	case g.Progress == "never":
	case g.Progress == "json":
		out := slog.New(objects(t.Name(), stderr, slog.LevelInfo))
		say = func(r progress.Report, what string) { out.Info(what, r.Attrs()...) }
		var last progress.Report
		stop = t.Watch(time.Second, func(r progress.Report) {
			if r.Took-last.Took >= lineEvery || !slices.EqualFunc(r.Figures, last.Figures, progress.Figure.Same) {
				last = r
				say(r, "progress")
			}
		})
	case block != nil && (g.Progress == "always" || !g.Quiet):
		stop = t.Watch(progress.Tick, func(r progress.Report) { block.Show(r.Row()) })
	case g.Progress == "always" || g.Verbose:
		stop = t.Watch(lineEvery, func(r progress.Report) { say(r, "progress") })
	}
	return func() {
		stop()
		if block != nil {
			block.Close()
		}
		if r := t.Report().Whole(); len(r.Figures) > 0 {
			say(r, "ended")
		}
	}
}
