package help

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gbatch"
)

// written writes the files.
func written(t *testing.T) (dir string, s *suite) {
	t.Helper()
	dir = t.TempDir()
	w := &Write{Dir: dir, Manual: gbatch.Manual, Commands: gbatch.Commands}
	for range 2 { // the second time the files exist
		if err := w.Run(t.Context(), nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	s, err := w.describe()
	if err != nil {
		t.Fatal(err)
	}
	return dir, s
}

// tool skips the test if a program is not installed.
func tool(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed", name)
	}
}

// output returns what a program prints. It must succeed, and print no warning.
func output(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANWIDTH=80", "MANROFFSEQ=", "GROFF_NO_SGR=1", "HOME="+dir)
	if err := cmd.Run(); err != nil || stderr.Len() > 0 {
		t.Errorf("%s %q: %v: %s", name, args, err, &stderr)
	}
	return stdout.String()
}

// read returns the text of a page as man shows it, in one line.
func read(t *testing.T, dir, page string) string {
	t.Helper()
	text := output(t, dir+"/man", "man", "--warnings", "-l", page)
	return strings.Join(strings.Fields(regexp.MustCompile(".\b").ReplaceAllString(text, "")), " ")
}

// TestPages reads the pages with man, groff and mandoc.
func TestPages(t *testing.T) {
	dir, s := written(t)
	pages, err := filepath.Glob(dir + "/man/man*/*")
	if err != nil || len(pages) != len(s.commands)+2 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	pages = append(pages, "../../packaging/ask.1")
	t.Run("man", func(t *testing.T) {
		tool(t, "man")
		for _, c := range s.commands {
			text := read(t, dir, "man1/"+c.name+".1")
			want := []string{" NAME " + c.name + " - " + c.summary + " SYNOPSIS " + c.name + " ", " ENVIRONMENT ", " EXIT STATUS 0 done ", " SEE ALSO gbatch(7), "}
			if c.name == "gemini-emulator" {
				want = want[:1]
			}
			for _, f := range c.usage.Flags {
				want = append(want, "--"+f.Name)
			}
			for _, w := range want {
				if !strings.Contains(text, w) {
					t.Errorf("the page of %s lacks %q:\n%s", c.name, w, text)
				}
			}
			for _, not := range []string{"Exit codes:", "Environment:"} {
				if strings.Contains(text, not) {
					t.Errorf("the page of %s has %q", c.name, not)
				}
			}
		}
		text := read(t, dir, "man1/gbatch.1")
		for _, heading := range []string{" COMMANDS text-to-chunks cuts ", " EXIT CODES 0 done, ", " ENVIRONMENT GEMINI_API_KEY", " FILES kb.duckdb "} {
			if !strings.Contains(text, heading) {
				t.Errorf("gbatch(7) lacks %s:\n%s", heading, text)
			}
		}
	})
	t.Run("groff", func(t *testing.T) {
		tool(t, "groff")
		for _, page := range pages {
			output(t, ".", "groff", "-man", "-Tutf8", "-ww", "-z", page)
		}
	})
	t.Run("mandoc", func(t *testing.T) {
		tool(t, "mandoc")
		for _, page := range pages {
			out, _ := exec.Command("mandoc", "-Tlint", "-Wwarning", page).CombinedOutput() // exit code 2 is a warning
			for line := range strings.Lines(string(out)) {
				// Only a commit has a date. gbatch(1) is gbatch(7).
				if !strings.Contains(line, "missing date") && !strings.Contains(line, "gbatch.1:1:14: WARNING: filename/section mismatch") {
					t.Error(line)
				}
			}
		}
	})
}

// TestRoff: what roff would obey or change is shown as it is.
func TestRoff(t *testing.T) {
	tool(t, "groff")
	const line = `.SH 'x' \fB "y" a-b ^~` + "` …"
	var p page
	p.macro(`TH "X" 1 "" "" ""`)
	p.macro("nf")
	p.text(line)
	p.text("'tis")
	path := filepath.Join(t.TempDir(), "x.1")
	if err := os.WriteFile(path, []byte(p.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if text := output(t, "", "groff", "-man", "-Tutf8", "-ww", path); !strings.Contains(text, line) || !strings.Contains(text, "'tis") {
		t.Errorf("%q is shown as\n%s", line, text)
	}
}

// completions are what a shell must offer, and must not offer, for a command line.
var completions = []struct {
	line       string
	want, not  []string
	onlyInBash bool
}{
	{line: "gbatch ", want: []string{"to-jsonl", "gbatch-list", "gemini-emulator"}},
	{line: "gbatch chunks-p", want: []string{"chunks-pending"}, not: []string{"chunks-add"}},
	{line: "to-jsonl --sh", want: []string{"--shape"}, not: []string{"--model"}},
	{line: "to-jsonl --shape ", want: []string{"rest", "vertex", "sdk"}, not: []string{"kb.duckdb", "--model"}},
	{line: "to-jsonl --shape v", want: []string{"vertex"}, not: []string{"rest"}},
	{line: "to-jsonl --shape = v", want: []string{"vertex"}, not: []string{"rest"}, onlyInBash: true}, // as bash divides the line
	{line: "to-jsonl --shape =", want: []string{"rest", "vertex"}, onlyInBash: true},
	{line: "gbatch to-jsonl --log-format t", want: []string{"text"}, not: []string{"json"}},
	{line: "to-jsonl --model k", not: []string{"kb.duckdb", "kb.txt"}},
	{line: "to-jsonl k", want: []string{"kb.duckdb", "kb.txt"}},
	{line: "gbatch gbatch-fetch fo", want: []string{"folder"}},
	{line: "to-jsonl -o kb.t", want: []string{"kb.txt"}},
	{line: "chunks-pending --output kb.t", want: []string{"kb.txt"}},
	{line: "chunks-status --metrics kb.t", want: []string{"kb.txt"}},
	{line: "vectors-apply kb.duckdb kb.t", want: []string{"kb.txt"}},
	{line: "gbatch-list k", not: []string{"kb.duckdb", "kb.txt"}},
	{line: "chunks-status k", want: []string{"kb.duckdb"}, not: []string{"kb.txt"}},
	{line: "chunks-status -v k", want: []string{"kb.duckdb"}},
	{line: "gbatch chunks-add k", want: []string{"kb.duckdb"}},
	{line: "chunks-pending --from k", not: []string{"kb.duckdb"}},
	{line: "gemini-emulator --fault-file kb.t", want: []string{"kb.txt"}},
	{line: "gemini-emulator --dir fo", want: []string{"folder"}},
}

// complete compares what a shell offers with the table, and with all flags.
func complete(t *testing.T, s *suite, offers func(lines []string) [][]string) {
	t.Helper()
	var lines []string
	for _, c := range completions {
		if c.onlyInBash && !strings.HasSuffix(t.Name(), "/bash") {
			c.line = "gbatch "
		}
		lines = append(lines, c.line)
	}
	for _, c := range s.commands {
		lines = append(lines, c.name+" --", "gbatch "+c.name+" --")
	}
	got := offers(lines)
	if len(got) != len(lines) {
		t.Fatalf("%d completions of %d lines", len(got), len(lines))
	}
	for i, c := range completions {
		if lines[i] != c.line {
			continue
		}
		for _, w := range c.want {
			if !slices.Contains(got[i], w) {
				t.Errorf("%q is completed with %q, and not with %s", c.line, got[i], w)
			}
		}
		for _, n := range c.not {
			if slices.Contains(got[i], n) {
				t.Errorf("%q is completed with %s", c.line, n)
			}
		}
	}
	for i, line := range lines[len(completions):] {
		var lacks []string
		for _, f := range s.commands[i/2].usage.Flags {
			if !slices.Contains(got[len(completions)+i], "--"+f.Name) {
				lacks = append(lacks, f.Name)
			}
		}
		if lacks != nil {
			t.Errorf("%q is completed with %q, which lacks %q", line, got[len(completions)+i], lacks)
		}
	}
}

// parts divides the output of a shell into the lines of each completion. "=" begins
// a completion.
func parts(out string) (all [][]string) {
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if line == "=" {
			all = append(all, nil)
			continue
		}
		word, _, _ := strings.Cut(line, "\t")
		word = strings.TrimSuffix(strings.TrimSuffix(word, "/"), "=")
		if n := len(all); n > 0 && word != "" {
			all[n-1] = append(all[n-1], word)
		}
	}
	return all
}

// TestCompletions asks the shells themselves.
func TestCompletions(t *testing.T) {
	share, s := written(t)
	desk := t.TempDir()
	for _, name := range []string{"kb.duckdb", "kb.txt"} {
		if err := os.WriteFile(filepath.Join(desk, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"folder", ".bin"} {
		if err := os.Mkdir(filepath.Join(desk, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", filepath.Join(desk, ".bin")+string(filepath.ListSeparator)+os.Getenv("PATH"))
	for name := range gbatch.Commands { // fish completes programs that exist
		if err := os.Symlink("gbatch", filepath.Join(desk, ".bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(desk, ".bin", "gbatch"), []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Run("bash", func(t *testing.T) {
		tool(t, "bash")
		const script = `source "$1/to-jsonl"; shift
			complete -p gbatch to-jsonl > /dev/null || exit
			for line; do
				read -ra COMP_WORDS <<< "$line"; [[ $line != *' ' ]] || COMP_WORDS+=('')
				COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=(); _gbatch
				echo =; printf '%s\n' "${COMPREPLY[@]}"
			done`
		complete(t, s, func(lines []string) [][]string {
			return parts(output(t, desk, "bash", append([]string{"--norc", "-c", script, "bash", share + "/bash-completion/completions"}, lines...)...))
		})
	})
	t.Run("fish", func(t *testing.T) {
		tool(t, "fish")
		const script = `set fish_complete_path $argv[1]
			for line in $argv[2..]; echo =; complete -C $line; end`
		complete(t, s, func(lines []string) [][]string {
			return parts(output(t, desk, "fish", append([]string{"--no-config", "-c", script, share + "/fish/vendor_completions.d"}, lines...)...))
		})
	})
	t.Run("zsh", func(t *testing.T) {
		tool(t, "zsh")
		// A shell on a pseudo-terminal completes. compadd tells what it adds.
		setup := filepath.Join(desk, ".setup")
		offered := filepath.Join(desk, ".offered")
		text := `fpath=(` + share + `/zsh/site-functions $fpath)
			autoload -Uz compinit && compinit -u -D
			compadd() {
				if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then builtin compadd "$@"; return; fi
				local -a hits; builtin compadd -A hits "$@"; print -rl -- $hits >> ` + offered + `
				builtin compadd "$@"
			}
			ended() { print -n EN; print DED }
			begun() { print = >> ` + offered + ` }
			begin() { compprefuncs=(begun); comppostfuncs=(ended); zle expand-or-complete }
			zle -N begin; bindkey '^I' begin; setopt no_beep no_list_ambiguous; zstyle ':completion:*' insert-tab false
			LISTMAX=10000; LINES=2000; print -n BEG; print UN`
		if err := os.WriteFile(setup, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		const script = `zmodload zsh/zpty; zpty z zsh -f -i
			zpty -w z "source $1"; zpty -r z out '*BEGUN*'; shift
			for line; do zpty -w -n z "$line"$'\t'; zpty -r z out '*ENDED*'; zpty -w -n z $'\C-u'; done`
		complete(t, s, func(lines []string) [][]string {
			output(t, desk, "zsh", append([]string{"-f", "-c", script, "zsh", setup}, lines...)...)
			out, err := os.ReadFile(offered)
			if err != nil {
				t.Fatal(err)
			}
			return parts(string(out))
		})
	})
}
