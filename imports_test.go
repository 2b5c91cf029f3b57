package gbatch

import (
	"encoding/json"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// owners says which packages may import a module of others. Each module has one
// package, so that replacing it is work in one package; only the terminal has two.
var owners = map[string][]string{
	"github.com/duckdb/":              {"gbatch/pkg/duck"},
	"google.golang.org/genai":         {"gbatch/pkg/gbatch"},
	"cloud.google.com/go/auth":        {"gbatch/pkg/wire"},
	"github.com/alecthomas/kong":      {"gbatch/pkg/cli"},
	"github.com/charmbracelet/log":    {"gbatch/pkg/cli"},
	"charm.land/bubbles/":             {"gbatch/pkg/progress"},
	"github.com/charmbracelet/x/ansi": {"gbatch/pkg/progress"},
	"golang.org/x/sys":                {"gbatch/pkg/cli", "gbatch/pkg/progress"},
	"golang.org/x/term":               {"gbatch/pkg/cli", "gbatch/pkg/progress"},
	"github.com/goccy/go-json":        {"gbatch/pkg/ndjson"},
	"github.com/yuin/goldmark":        {"gbatch/pkg/split"},
	"gonum.org/v1/plot":               {"gbatch/pkg/board"},
	"github.com/rogpeppe/go-internal": nil, // tests only
}

// never lists what a program must not be linked with.
var never = map[string][]string{
	"gbatch/cmd/text-to-chunks":  {"github.com/duckdb/", "google.golang.org/genai"},
	"gbatch/cmd/to-jsonl":        {"github.com/duckdb/", "google.golang.org/genai"},
	"gbatch/cmd/gbatch-submit":   {"github.com/duckdb/"},
	"gbatch/cmd/gbatch-wait":     {"github.com/duckdb/"},
	"gbatch/cmd/gbatch-fetch":    {"github.com/duckdb/"},
	"gbatch/cmd/gbatch-list":     {"github.com/duckdb/"},
	"gbatch/cmd/gbatch-cancel":   {"github.com/duckdb/"},
	"gbatch/cmd/gbatch-embed":    {"github.com/duckdb/"},
	"gbatch/cmd/chunks-add":      {"google.golang.org/genai", "gonum.org/"},
	"gbatch/cmd/chunks-pending":  {"google.golang.org/genai", "gonum.org/"},
	"gbatch/cmd/vectors-apply":   {"google.golang.org/genai", "gonum.org/"},
	"gbatch/cmd/jobs-pending":    {"google.golang.org/genai", "gonum.org/"},
	"gbatch/cmd/chunks-status":   {"google.golang.org/genai"},
	"gbatch/cmd/chunks-near":     {"google.golang.org/genai", "gonum.org/"},
	"gbatch/cmd/chunks-release":  {"google.golang.org/genai", "gonum.org/"},
	"gbatch/cmd/vectors-check":   {"google.golang.org/genai", "gonum.org/"},
	"gbatch/cmd/gemini-emulator": {"github.com/duckdb/", "google.golang.org/genai"},
	// The emulator must not share the client's code for the API.
	"gbatch/pkg/emulator": {"gbatch/", "github.com/duckdb/", "google.golang.org/"},
}

func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath    string
			Imports, Deps []string
		}
		if err := d.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		seen[p.ImportPath] = true
		for _, path := range p.Imports {
			host, _, _ := strings.Cut(path, "/")
			if !strings.Contains(host, ".") {
				continue
			}
			known := false
			for module, packages := range owners {
				if strings.HasPrefix(path, module) {
					known = true
					if !slices.Contains(packages, p.ImportPath) {
						t.Errorf("%s imports %s, which is for %v", p.ImportPath, path, packages)
					}
				}
			}
			if !known {
				t.Errorf("%s imports %s, which no package is to import", p.ImportPath, path)
			}
		}
		for _, prefix := range never[p.ImportPath] {
			for _, path := range p.Deps {
				if strings.HasPrefix(path, prefix) {
					t.Errorf("%s is linked with %s", p.ImportPath, path)
				}
			}
		}
	}
	for path := range never {
		if !seen[path] {
			t.Errorf("there is no %s", path)
		}
	}
}
