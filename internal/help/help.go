// Package help writes the manual pages of the commands, and completions for bash,
// zsh and fish. It makes them from the manuals and the flags of the commands.
package help

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"gbatch/pkg/cli"
)

// Write is the command that writes the files.
type Write struct {
	Dir string `arg:"" type:"path" help:"The folder, such as /usr/local/share. It is created if it does not exist."`

	Manual   func(name string) string `kong:"-"` // as for cli.Suite
	Commands map[string]cli.Command   `kong:"-"`
}

// A suite is what the pages and the completions say.
type suite struct {
	manual   string
	commands []command // in the order of the suite's manual
}

type command struct {
	name, summary, manual string
	usage                 cli.Usage
}

// entry is a line of the suite's manual: a command, and what it does.
var entry = regexp.MustCompile(`(?m)^\t([a-z-]+)  +(.*)$`)

func (w *Write) describe() (*suite, error) {
	s := &suite{manual: cli.Comment(w.Manual("gbatch"))}
	for _, m := range entry.FindAllStringSubmatch(s.manual, -1) {
		cmd := w.Commands[m[1]]
		if cmd == nil {
			continue
		}
		usage, err := cli.Describe(m[1], cmd)
		if err != nil {
			return nil, err
		}
		s.commands = append(s.commands, command{m[1], m[2], cli.Comment(w.Manual(m[1])), usage})
	}
	if len(s.commands) != len(w.Commands) {
		return nil, fmt.Errorf("doc.go lists %d of the %d commands", len(s.commands), len(w.Commands))
	}
	return s, nil
}

func (w *Write) Run(ctx context.Context, in io.Reader, out io.Writer) error {
	s, err := w.describe()
	if err != nil {
		return err
	}
	const bash = "bash-completion/completions/"
	files := map[string]string{
		"man/man7/gbatch.7":                     s.overview(),
		bash + "gbatch":                         s.bash(),
		"zsh/site-functions/_gbatch":            s.zsh(),
		"fish/vendor_completions.d/gbatch.fish": s.fishSuite(),
	}
	links := map[string]string{"man/man1/gbatch.1": "../man7/gbatch.7"}
	for _, c := range s.commands {
		files["man/man1/"+c.name+".1"] = s.page(c)
		files["fish/vendor_completions.d/"+c.name+".fish"] = c.fish(c.name, "")
		links[bash+c.name] = "gbatch"
	}
	for name, text := range files {
		path := filepath.Join(w.Dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	for name, target := range links {
		path := filepath.Join(w.Dir, name)
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Symlink(target, path); err != nil {
			return err
		}
	}
	return nil
}
