package gbatch

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gbatch/pkg/cli"
	"gbatch/pkg/duck"
)

// TestCommands compares the commands with the folders in cmd.
func TestCommands(t *testing.T) {
	mains, err := filepath.Glob("cmd/*/main.go")
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"gbatch"}
	for name := range Commands {
		names = append(names, name)
	}
	var folders []string
	for _, path := range mains {
		folders = append(folders, filepath.Base(filepath.Dir(path)))
	}
	slices.Sort(names)
	if !slices.Equal(names, folders) {
		t.Errorf("the commands are %q, and the folders in cmd are %q", names, folders)
	}
}

// TestHelp: --help begins with the usage and an example, --version names what the
// program is made of, and the manual explains no exit code that the suite lacks.
func TestHelp(t *testing.T) {
	suite := Manual("gbatch")
	for name, cmd := range Commands {
		out, err := exec.Command(name, "--help").Output()
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`\AUsage: ` + name + ` .*\nExample: (.*[ |])?` + name + `( .*)?\n\n`).Match(out) {
			t.Errorf("%s --help begins with %.200q", name, out)
		}
		want := name + ` \S+ go1\.\S+`
		if _, ok := cmd.(interface{ LinkedWith() string }); ok {
			want += ` DuckDB ` + duck.Version
		}
		if out, err := exec.Command(name, "--version").Output(); err != nil || !regexp.MustCompile(`\A`+want+`\n\z`).Match(out) {
			t.Errorf("%s --version prints %q, %v", name, out, err)
		}
		if !regexp.MustCompile(`(?m)^//\t` + name + ` +\S`).MatchString(suite) {
			t.Errorf("doc.go does not list %s", name)
		}
		_, codes, _ := strings.Cut(strings.Join(strings.Fields(cli.Comment(Manual(name))), " "), "Exit codes: ")
		for _, m := range regexp.MustCompile(`(?:^|, )(\d+) `).FindAllStringSubmatch(codes, -1) {
			if !regexp.MustCompile(`(?m)^//\t(\d+, )?` + m[1] + `(, \d+)? +\S`).MatchString(suite) {
				t.Errorf("%s ends with %s, which doc.go does not explain", name, m[1])
			}
		}
		if codes == "" && name != "gemini-emulator" {
			t.Errorf("the manual of %s has no exit codes", name)
		}
	}
}

// TestOverview compares the tables of docs/commands.md with the sections of doc.go.
func TestOverview(t *testing.T) {
	page := pages(t)["docs/commands.md"]
	manual := cli.Comment(Manual("gbatch"))
	for _, heading := range []string{"Exit codes", "Environment"} {
		var want []string
		text := regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`).ReplaceAllString(section(t, page, "## "+heading), "$1")
		for _, row := range regexp.MustCompile(`(?m)^\| (.*) \| (.*) \|$`).FindAllStringSubmatch(strings.ReplaceAll(text, "`", ""), -1)[1:] {
			want = append(want, row[1]+": "+row[2])
		}
		var got []string
		_, lines, _ := strings.Cut(manual, "# "+heading+"\n")
		lines, _, _ = strings.Cut(lines, "\n# ")
		for _, m := range regexp.MustCompile(`(?m)^\t(\S.*?)(?:\n\t {2,}| {2,})(\S.*(?:\n\t {2,}.*)*)$`).FindAllStringSubmatch(lines, -1) {
			got = append(got, m[1]+": "+strings.Join(strings.Fields(m[2]), " "))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: doc.go has\n%q, and docs/commands.md has\n%q", heading, got, want)
		}
	}
}
