package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A change replaces a text of a source file, which must be there once.
type change struct{ file, text, by string }

// mutations take one safeguard away each.
var mutations = map[string][]change{
	"no-look-up": {{"pkg/gbatch/submit.go",
		"	found, err := s.settle(ctx, p, unknown)\n",
		"	_ = unknown\n	found, err := new(jobsFound), error(nil)\n"}},
	"no-hash-check": {{"pkg/store/answers.go",
		"SELECT h.* FROM gbatch_here h JOIN (SELECT %s AS rid, %s AS text_hash FROM %s %s) c ON c.rid = h.rid WHERE c.text_hash = h.text_hash",
		"SELECT h.* REPLACE (c.text_hash AS text_hash) FROM gbatch_here h JOIN (SELECT %s AS rid, %s AS text_hash FROM %s %s) c ON c.rid = h.rid"}},
	"close-at-the-end": {{"pkg/store/apply.go",
		"	if opened, err := w.commit(ctx, j); !opened || ctx.Err() != nil {\n",
		"	if j == nil && w.last {\n		failed := 0\n		j = &record.Job{Batch: w.batch, State: record.Succeeded, Succeeded: &w.lines, Failed: &failed}\n	}\n" +
			"	if opened, err := w.commit(ctx, j); !opened || ctx.Err() != nil {\n"}},
	"no-lock": {{"pkg/ledger/files.go",
		"held, err := lockfile.Try(f)", "held, err := lockfile.Try(f)\n	held = true"}},
	"no-canary-check": {{"pkg/gbatch/convert.go",
		"if !same(p.canary, p.first) {", "if false {"}},
	"input-deleted-first": {{"pkg/gbatch/fetch.go",
		"		job.Succeeded, job.Failed, job.Tokens = nil, nil, nil\n",
		"		job.Succeeded, job.Failed, job.Tokens = nil, nil, nil\n		job.at.drop(ctx, job.Input)\n"}},
}

// mutate builds the commands with a mutation into dir, which it puts on PATH.
func mutate(name, dir string) error {
	changes, ok := mutations[name]
	if !ok {
		return fmt.Errorf("there is no mutation %q", name)
	}
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "gbatch").Output()
	if err != nil {
		return fmt.Errorf("the source is not here: %w", err)
	}
	root := strings.TrimSpace(string(out))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	sources := map[string]string{}
	replace := map[string]string{}
	for _, c := range changes {
		path := filepath.Join(root, c.file)
		if sources[path] == "" {
			source, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sources[path] = string(source)
		}
		if n := strings.Count(sources[path], c.text); n != 1 {
			return fmt.Errorf("mutation %s: %s has the text to change %d times, not once: %q", name, c.file, n, c.text)
		}
		sources[path] = strings.Replace(sources[path], c.text, c.by, 1)
	}
	for path, source := range sources {
		mutated := filepath.Join(dir, strings.ReplaceAll(filepath.Base(path), ".go", ".mutated"))
		if err := os.WriteFile(mutated, []byte(source), 0o600); err != nil {
			return err
		}
		replace[path] = mutated
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600); err != nil {
		return err
	}
	build := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", dir+"/", "./cmd/...")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("mutation %s: %w: %s", name, err, out)
	}
	return os.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
}
