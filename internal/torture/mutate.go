package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A change replaces a text that occurs once in a source file.
type change struct{ file, text, by string }

// twinsKept takes away what makes up for most other faults of the shared ledger.
var twinsKept = change{"pkg/gbatch/submit.go", "	if s.Bucket == \"\" || s.DryRun || older", "	if true || older"}

// mutations take one safeguard away each.
var mutations = map[string][]change{
	"no-look-up": {{"pkg/gbatch/submit.go",
		"	found, err := s.settle(ctx, p, patience, true, nil)\n",
		"	_, found, err := patience, new(jobsFound), error(nil)\n"}},
	"no-hash-check": {{"pkg/store/answers.go",
		"SELECT h.* FROM gbatch_here h JOIN (SELECT %s AS rid, %s AS text_hash FROM %s %s) c ON c.rid = h.rid WHERE c.text_hash = h.text_hash",
		"SELECT h.* REPLACE (c.text_hash AS text_hash) FROM gbatch_here h JOIN (SELECT %s AS rid, %s AS text_hash FROM %s %s) c ON c.rid = h.rid"}},
	"close-at-the-end": {{"pkg/store/divide.go",
		"	d.end(nil)\n	d.ended = true\n",
		"	if n := d.at.whole(); n < len(d.at.parts) {\n		p, failed := d.at.parts[n], 0\n		d.end(&record.Job{Batch: p.batch, State: record.Succeeded, Succeeded: &p.lines, Failed: &failed})\n	}\n	d.ended = true\n"}},
	"no-lock": {{"pkg/ledger/files.go",
		"held, err := lockfile.Try(f)", "held, err := lockfile.Try(f)\n	held = true"}},
	"no-canary-check": {{"pkg/gbatch/convert.go",
		"if !same(p.canary, p.first) {", "if false {"}},
	"input-deleted-first": {{"pkg/gbatch/fetch.go",
		"		job.Succeeded, job.Failed, job.Tokens = nil, nil, nil\n",
		"		job.Succeeded, job.Failed, job.Tokens = nil, nil, nil\n		job.at.drop(ctx, job.Input)\n"}},

	// Several machines.
	"no-claims": {{"pkg/gbatch/claims.go",
		"	if err != nil || bucket == \"\" {\n		return files, err\n", "	if true {\n		return files, err\n"}},
	"claim-overwritten": {{"pkg/gbatch/claims.go",
		"o, err := c.storage.Insert(ctx, c.at(c.name), c.generation, line,", "o, err := c.storage.Insert(ctx, c.at(c.name), gcs.Any, line,"}},
	"takeover-unsettled": {{"pkg/gbatch/submit.go",
		"	unknown := left.Phase == ledger.Create\n", "	unknown := false\n"}, twinsKept},
	"twins-kept": {twinsKept},

	// The moneyKinds.
	"settle-from-create": {{"pkg/gbatch/submit.go",
		"	end := time.Now().Add(patience)\n",
		"	end := time.Now().Add(patience)\n	if patience > 0 {\n		if notes, err := ledger.Look(); err == nil {\n			if m, _ := notes.Read(p.name()); !m.Time.IsZero() {\n				end = m.Time.Add(patience)\n			}\n		}\n	}\n"}},
	"every-4xx-is-no": {{"pkg/wire/errors.go",
		"slices.Contains([]int{400, 401, 403, 404, 405, 413}, e.HTTP)",
		"(e.HTTP/100 == 3 || e.HTTP/100 == 4 && e.HTTP != 429)"}},
	"any-list": {
		{"pkg/wire/list.go", "	if doc[\"error\"] != nil {", "	if false {"},
		{"pkg/wire/list.go", "			return p, Permanent(fmt.Errorf(\"the reply is not a list of %s: it has a member %.50q\", member, name))\n", ""}},
	"entry-seen-twice": {{"pkg/gbatch/gemini_list.go",
		"				l.ours[op.name] = op\n", "				l.ours[op.name+string(rune(len(l.ours)))] = op\n"}},
	"receipt-ignored": {{"pkg/gbatch/submit.go",
		"		case wire.Missing(err):\n			return s.unseen(ctx, p, e)\n", "		case wire.Missing(err):\n"}},
	"same-lines-unseen": {{"pkg/gbatch/submit.go",
		"	if op, err := s.sameLines(ctx, p, append(same, found.same...)); err != nil {",
		"	if op, err := s.sameLines(ctx, p, nil); err != nil {"}},
	"no-header-needed": {{"pkg/gbatch/payload.go",
		"if c.parser.Claimed && !headed {", "if false {"}},
	"partial-taken": {{"pkg/gbatch/payload.go",
		"c.AllowPartial && claimed.MatchString(p.Batch) {", "false {"},
		{"pkg/gbatch/payload.go", "if p.Keys != \"\" && p.Keys != sum.String() {", "if false {"}},
	"unknown-released": {{"pkg/store/release.go",
		"	case b.mark.Phase == ledger.Create:\n", "	case false:\n"}},
	"released-forgotten": {{"pkg/store/apply.go",
		"closed_at IS NOT NULL AND (state <> '\"+released+\"' OR first_seq IS NULL)", "closed_at IS NOT NULL"}},
	"caps-not-counted": {{"pkg/model/caps.go",
		"		c.used += unit * float64(u.Tokens)\n", "		_ = unit\n"}},
	"caps-not-checked": {{"pkg/gbatch/caps.go",
		"		err = s.caps.Check(u)\n", ""}},
	"titles-hashed": {{"pkg/store/source.go",
		"	if !s.space.TakesTitle() {\n", "	if false {\n"}},
	"names-as-given": {{"pkg/model/model.go",
		"	return strings.TrimPrefix(strings.TrimPrefix(name, \"publishers/google/\"), \"models/\")\n", "	_ = strings.TrimPrefix\n	return name\n"},
		{"pkg/model/model.go", "regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)", "regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._/-]*$`)"}},
	"any-model-name": {{"pkg/model/model.go", "	if len(bare) > 128 || !names.MatchString(bare) {", "	if false {"}},
	"pending-is-a-wish": {
		{"pkg/store/courtesy.go", "REPLACE (b.reset AND coalesce(%s AND %s, false) AS reset)", "REPLACE (b.reset AND coalesce(%s AND %s, true) AS reset)"},
		{"pkg/store/courtesy.go", "same := \"n.text_hash = b.text_hash\" + row", "same := \"NULL\" + row[:0]"},
		{"pkg/store/courtesy.go", "	if !s.managed() {\n		s.comment", "	if true {\n		s.comment"}},
	"sent-without-hash": {{"pkg/store/read.go",
		" s ON s.id = r.id WHERE s.text_hash = r.text_hash", " s ON s.id = r.id"}},
	"claim-not-counted": {{"pkg/store/read.go",
		"	return s.steady(c)\n", "	return nil\n"}},
	"space-not-on-table": {
		{"pkg/store/space.go", "	if t.filled {\n		if space", "	if false {\n		if space"},
		{"pkg/store/space.go", "	case t.filled:\n", "	case false:\n"}},
	"wal-taken-in": {{"pkg/duck/attach.go",
		"	if !missing() {\n		return \"\"\n", "	if true {\n		return \"\"\n"}},
	"no-rehearsal": {{"pkg/store/rehearse.go",
		"	if failed != nil || err != nil {\n", "	if failed != nil || err != nil || true {\n"}},
	"all-or-nothing": {{"pkg/store/apply.go",
		"		if w.source == \"\" || w.effort == noSource || ctx.Err() != nil {\n", "		if true {\n"}},
	"short-closes": {{"pkg/gbatch/fetch.go",
		"	case op.answers < 0 && !op.partial && a.lines < sent:", "	case op.answers < 0 && a.lines < 0:"}},
	"bad-line-stops": {{"pkg/gbatch/convert.go",
		"			r, err = salvage(line, err)\n", "			b.err = &oneBatch{exit.With(exit.Malformed, err)}\n			return\n"}},
	"one-stops-all": {{"pkg/store/apply.go",
		"			w.refused, p.applied = p.batch, nil\n			if w.err == nil {", "			return err\n			if w.err == nil {"}},
	"unshown-dropped": {{"pkg/store/answers.go",
		"a.code IS NULL AND t.text_hash NOT IN (SELECT text_hash FROM gbatch_valid) AND NOT EXISTS", "false AND NOT EXISTS"}},
	"ids-not-fitted": {
		{"pkg/store/answers.go", "		if err := s.fitVectors(c, g.embeddings); err != nil {", "		if err := error(nil); err != nil {"},
		{"pkg/store/embeddings.go", "	if err := src.fitVectors(c, table); err != nil {", "	if err := error(nil); err != nil {"}},
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
	build := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", dir+"/", "./cmd/gbatch")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("mutation %s: %w: %s", name, err, out)
	}
	commands, err := filepath.Glob(filepath.Join(root, "cmd/*/main.go"))
	if err != nil {
		return err
	}
	for _, path := range commands {
		name := filepath.Base(filepath.Dir(path))
		if name == "gbatch" {
			continue
		}
		if err := os.Symlink("gbatch", filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return os.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
}
