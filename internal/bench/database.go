package main

import (
	"fmt"
	"os"
)

// wholesale are the flags with which only the number of requests limits a batch.
var wholesale = []string{"--max-requests", "10000", "--max-tokens", "1000000000", "--max-bytes", "1GB"}

// claim returns the command that claims all chunks of a database.
func claim(db string, flags ...string) []string {
	return append(append([]string{"chunks-pending", db}, wholesale...), flags...)
}

// database creates a database with n chunks of about the given number of bytes.
func (b *bench) database(db string, n, bytes int) (s sample, err error) {
	in := db + ".ndjson"
	if err := b.chunks(in, n, bytes, ascii, false); err != nil {
		return s, err
	}
	defer os.Remove(in)
	settle()
	s, err = b.measure(&contender{name: "chunks-add", cores: "2", args: []string{"chunks-add", db}, in: in, work: float64(size(in))}, nil)
	settle()
	return s, err
}

// into runs a command and writes its output to a file.
func (b *bench) into(path string, c *contender) (s sample, err error) {
	f, err := os.Create(path)
	if err != nil {
		return s, err
	}
	defer f.Close()
	return b.measure(c, f)
}

func (b *bench) pending() error {
	base, db, out := b.path("pending.duckdb"), b.path("pending-run.duckdb"), b.path("pending.out")
	if _, err := b.database(base, b.sizes.pending, 1000); err != nil {
		return err
	}
	defer os.Remove(base)
	defer os.Remove(db)
	defer os.Remove(out)
	fresh := func(*contender) error { return copyFile(base, db) }
	if err := fresh(nil); err != nil {
		return err
	}
	if _, err := b.into(out, &contender{name: "chunks-pending", args: claim(db)}); err != nil {
		return err
	}
	work := float64(size(out))
	copyTo := func(threads string) []string {
		return []string{b.tool("duck"), "-threads", threads, base, "COPY (SELECT id, text, title FROM chunks) TO '/dev/null' (FORMAT json)"}
	}
	// The second contender prints what the run before it has claimed.
	claimed := &contender{name: "chunks-pending", cores: "2", args: claim(db), before: fresh}
	again := &contender{name: "chunks-pending, claimed before", cores: "2", base: claimed.name, note: "hashes all texts to find new pending chunks, finds none, prints from the outbox", args: claim(db), before: func(*contender) error {
		if err := fresh(nil); err != nil {
			return err
		}
		if _, err := b.measure(&contender{args: claim(db)}, nil); err != nil {
			return err
		}
		settle()
		return nil
	}}
	all := []*contender{claimed, again,
		{name: "chunks-pending --memory-limit 200MB", cores: "2", base: claimed.name, args: claim(db, "--memory-limit", "200MB"), before: fresh},
		{name: "chunks-pending (1 core)", cores: "1", base: claimed.name, args: claim(db), before: fresh},
		{name: "chunks-pending --dry-run", cores: "2", base: claimed.name, note: "finds, hashes and cuts; claims and prints no chunk", args: claim(db, "--dry-run"), before: fresh},
		{name: "DuckDB COPY … TO (FORMAT json)", cores: "2", base: claimed.name, note: "claims nothing", args: copyTo("2")},
		{name: "DuckDB COPY … TO (FORMAT json) (1)", cores: "1", base: claimed.name, note: "claims nothing", args: copyTo("1")},
	}
	for _, c := range all {
		c.work = work
	}
	if err := b.race("pending", all); err != nil {
		return err
	}
	b.contest("chunks-pending", fmt.Sprintf("%d chunks, %s of NDJSON, claimed in batches of 10,000 and printed. Each round uses a new copy of the database, in the page cache.", b.sizes.pending, bytesText(int64(work))), "MB/s", 1e6, all)
	for _, c := range all {
		b.figures["pending."+c.name] = c.rate() / 1e6
		b.figures["pending.memory."+c.name] = c.peak() / 1e6
	}
	return nil
}

func (b *bench) apply() error {
	base, db, parquet := b.path("apply.duckdb"), b.path("apply-run.duckdb"), b.path("vectors.parquet")
	answers, claimed, rival := b.path("vectors.ndjson"), b.path("claimed.ndjson"), b.path("rival.duckdb")
	if _, err := b.database(base, b.sizes.apply, 1000); err != nil {
		return err
	}
	defer func() {
		for _, path := range []string{base, db, parquet, answers, claimed, rival} {
			os.Remove(path)
		}
	}()
	if _, err := b.into(claimed, &contender{name: "chunks-pending", args: claim(base)}); err != nil {
		return err
	}
	n, err := b.vectors(answers, claimed, 768)
	if err != nil {
		return err
	}
	apply := func(flags ...string) []string { return append([]string{"vectors-apply", db}, flags...) }
	if err := copyFile(base, db); err != nil {
		return err
	}
	if _, err := b.measure(&contender{name: "vectors-apply", args: apply(), in: answers}, nil); err != nil {
		return err
	}
	if _, err := b.measure(&contender{name: "duck", args: []string{b.tool("duck"), db, "COPY (FROM embeddings) TO '" + parquet + "' (FORMAT parquet)"}}, nil); err != nil {
		return err
	}
	settle()
	fresh := func(*contender) error { return copyFile(base, db) }
	empty := func(*contender) error {
		os.Remove(rival)
		settle()
		return nil
	}
	ours := &contender{name: "vectors-apply", cores: "2", args: apply(), in: answers, before: fresh}
	all := []*contender{ours,
		{name: "vectors-apply (1 core)", cores: "1", base: ours.name, args: apply(), in: answers, before: fresh},
		{name: "vectors-apply --memory-limit 500MB", cores: "2", base: ours.name, args: apply("--memory-limit", "500MB"), in: answers, before: fresh},
		{name: "vectors-apply, the same again", cores: "2", base: ours.name, args: apply(), in: answers, note: "all vectors are already stored", before: func(*contender) error {
			if err := fresh(nil); err != nil {
				return err
			}
			if _, err := b.measure(&contender{args: apply(), in: answers}, nil); err != nil {
				return err
			}
			settle()
			return nil
		}},
		{name: "DuckDB CREATE TABLE AS FROM parquet", cores: "2", base: ours.name, note: "into an empty file: no records to parse, no keys to look up", before: empty,
			args: []string{b.tool("duck"), rival, "CREATE TABLE embeddings AS FROM '" + parquet + "'", "CHECKPOINT"}},
		{name: "the same, uncompressed", cores: "2", base: ours.name, note: "uncompressed, as in vectors-apply", before: empty,
			args: []string{b.tool("duck"), rival, "SET force_compression = 'uncompressed'", "CREATE TABLE embeddings AS FROM '" + parquet + "'", "CHECKPOINT"}},
		{name: "encoding/json and the Appender", cores: "2", base: ours.name, note: "into an empty file", before: empty, args: []string{b.tool("duck"), "append", rival}, in: answers},
		{name: "cp of the records", cores: "2", base: ours.name, args: []string{"cp", answers, b.path("copy")}, after: func() error { return os.Remove(b.path("copy")) }},
	}
	for _, c := range all {
		c.work = float64(n)
	}
	if err := b.race("apply", all); err != nil {
		return err
	}
	b.contest("vectors-apply", fmt.Sprintf("%d vectors of 768 values in batches of 10,000, %s of records, with commit and checkpoint. Each round uses a new copy of the database, in the page cache.", n, bytesText(size(answers))), "vectors/s", 1, all)
	b.figures["apply"] = ours.rate()
	b.figures["apply.parquet"] = all[4].times(ours)
	b.figures["apply.parquet.rate"] = all[4].rate()
	b.figures["apply.uncompressed.rate"] = all[5].rate()
	b.figures["apply.again"] = all[3].times(ours)
	return nil
}
