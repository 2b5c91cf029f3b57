package gbatch

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDemo runs the demo. The README shows lines of its output in their order, with …
// for what is left out. Numbers may differ: another Go has another specification.
func TestDemo(t *testing.T) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(strings.TrimSpace(string(root)), "doc/go_spec.html")); err != nil {
		t.Skip("this Go has no specification: ", err)
	}
	dir := t.TempDir()
	demo := filepath.Join(dir, "run")
	if out, err := exec.Command("go", "build", "-o", demo, "./internal/demo").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ask, err := filepath.Abs("packaging/ask")
	if err == nil {
		err = os.Symlink(ask, filepath.Join(dir, "ask"))
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(demo)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "PATH="+dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	number := regexp.MustCompile(`\d+`)
	blocks, _ := divide(section(t, pages(t)["README.md"], "## Try it without a key"))
	for _, b := range blocks {
		if b.language != "text" {
			continue
		}
		rest := strings.ReplaceAll(string(out), "\n  ", "\n")
		for line := range strings.Lines(b.text) {
			pattern := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(line)), "…", ".*")
			shown := regexp.MustCompile("(?m)^" + number.ReplaceAllString(pattern, `\d+`) + "$")
			at := shown.FindStringIndex(rest)
			if at == nil {
				t.Fatalf("README.md shows %q, and the demo prints\n%s", line, out)
			}
			rest = rest[at[1]:]
		}
		return
	}
	t.Error("README.md does not show the demo")
}
