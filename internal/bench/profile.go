package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// profiles reports where each stage spends its time: by Go's profiler for the
// filters, by perf for the commands with DuckDB.
func (b *bench) profiles() error {
	b.report.heading("Where the time goes")
	data := b.path("f32_768")
	if size(data) == 0 {
		if err := b.results(data, b.sizes.fetch, 768, 32); err != nil {
			return err
		}
	}
	job, err := b.job("profile", b.sizes.fetch, 768)
	if err != nil {
		return err
	}
	if err := b.pprof("gbatch-fetch, no server, one core", "1", job, nil, "-times", "20", "fetch", data); err != nil {
		return err
	}
	os.Remove(data)
	for _, k := range []struct {
		name  string
		words []string
	}{{"ascii", ascii}, {"mixed", mixed}} {
		path := b.path("profile-chunks")
		if err := b.chunks(path, 2*b.sizes.toJSONL, 1500, k.words, true); err != nil {
			return err
		}
		if err := b.pprof("to-jsonl, "+k.name+", one core", "1", path, nil, "to-jsonl"); err != nil {
			return err
		}
		os.Remove(path)
	}
	if err := b.profileSubmit(); err != nil {
		return err
	}
	return b.profileStore()
}

func (b *bench) profileSubmit() error {
	path := b.path("profile-requests")
	if err := b.requests(path, 2*b.sizes.submit); err != nil {
		return err
	}
	defer os.Remove(path)
	sink, err := b.serve(b.two, b.tool("rival"), "serve", b.dir)
	if err != nil {
		return err
	}
	defer sink.stop()
	state := b.path("profile-state")
	if err := os.Mkdir(state, 0o700); err != nil {
		return err
	}
	return b.pprof("gbatch-submit to a sink", "2", path, sink.env(state, "p"), "submit")
}

// pprof runs ours with its profiler.
func (b *bench) pprof(title, cores, in string, env []string, args ...string) error {
	profile := b.path("profile")
	defer os.Remove(profile)
	if _, err := b.measure(&contender{name: title, cores: cores, in: in, env: env, codes: []int{3}, args: append([]string{b.tool("ours"), "-cpuprofile", profile}, args...)}, nil); err != nil {
		return err
	}
	out, err := exec.Command("go", "tool", "pprof", "-top", "-nodecount", "14", b.tool("ours"), profile).Output()
	if err != nil {
		return fmt.Errorf("go tool pprof: %w", err)
	}
	_, table, _ := strings.Cut(string(out), "Duration:")
	b.report.listing(title, "Duration:"+table)
	return nil
}

func (b *bench) profileStore() error {
	if !has("perf") {
		b.report.note("There is no perf on this machine, so there are no profiles of the commands with DuckDB.")
		return nil
	}
	db, claimed, answers := b.path("profile.duckdb"), b.path("profile.claimed"), b.path("profile.vectors")
	defer func() {
		for _, path := range []string{db, claimed, answers} {
			os.Remove(path)
		}
	}()
	if _, err := b.database(db, b.sizes.pending, 1000); err != nil {
		return err
	}
	if err := b.perf("chunks-pending", "", claimed, claim(db)...); err != nil {
		return err
	}
	if _, err := b.vectors(answers, claimed, 768); err != nil {
		return err
	}
	settle()
	return b.perf("vectors-apply", answers, os.DevNull, "vectors-apply", db)
}

// perf runs a command with perf.
func (b *bench) perf(title, in, out string, args ...string) error {
	record := b.path("perf.data")
	defer os.Remove(record)
	c := &contender{name: title, cores: "2", in: in, args: append([]string{"perf", "record", "-q", "-e", "cpu-clock", "-F", "499", "-o", record, "--"}, args...)}
	if _, err := b.into(out, c); err != nil {
		b.report.note("perf does not work on this machine, so there is no profile of %s: %.200v", title, err)
		return nil
	}
	text, err := exec.Command("perf", "report", "-i", record, "--stdio", "-q", "--no-children", "--sort", "dso,symbol", "--percent-limit", "1").Output()
	if err != nil {
		return fmt.Errorf("perf report: %w", err)
	}
	var top []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, " -\n") // columns that are empty
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if r := []rune(line); len(r) > 140 {
			line = string(r[:140]) + "…"
		}
		if top = append(top, line); len(top) == 18 {
			break
		}
	}
	b.report.listing(title+", two cores", strings.Join(top, "\n"))
	return nil
}
