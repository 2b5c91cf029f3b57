package main

import (
	"cmp"
	"embed"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// A layout is a table of chunks as users have it.
type layout struct {
	name, columns, values string
	flags                 []string
}

var layouts = []layout{
	{name: "id, title, text"},
	{name: "with courtesy columns", columns: ", embedding_status VARCHAR, error_message VARCHAR", values: ", 'PENDING', NULL"},
	{name: "with --column", columns: ", embedding FLOAT[768]", values: ", NULL", flags: []string{"--column", "embedding"}},
}

// table creates a database with a table of n chunks with about the given number of
// bytes, in DuckDB alone. A text is made of pieces of 100 bytes, out of 4096.
func (b *bench) table(db string, n, bytes int, l layout) error {
	os.Remove(db)
	words := "['" + strings.Join(slices.Concat(ascii, []string{"\"quoted\"", "end.\n"}), "', '") + "']"
	piece := fmt.Sprintf("left(array_to_string(list_transform(range(25), lambda x: (%s)[1 + (hash(i * 4096 + x + %d) %% %d)::BIGINT]), ' '), 100)", words, b.seed, len(ascii)+2)
	text := fmt.Sprintf("'Passage ' || i || ': ' || array_to_string(list_transform(range(%d), lambda x: (getvariable('pieces'))[1 + (hash(i * 4096 + x) %% 4096)::BIGINT]), ' ')", bytes/100)
	_, err := b.measure(&contender{name: "duck", args: []string{b.tool("duck"), db,
		"SET VARIABLE pieces = (SELECT list(" + piece + " ORDER BY i) FROM range(4096) t(i)); CREATE TABLE chunks (id VARCHAR, title VARCHAR, text VARCHAR" + l.columns + ")" +
			fmt.Sprintf("; INSERT INTO chunks SELECT 'chunk_' || i, 'Chapter ' || i // 20, %s%s FROM range(%d) t(i)", text, l.values, n), "CHECKPOINT"}}, nil)
	settle()
	return err
}

// cpu is the median of the processor time in seconds.
func (c *contender) cpu() float64 { return c.middle(func(s sample) float64 { return s.cpu.Seconds() }) }
func (c *contender) wall() float64 {
	return c.middle(func(s sample) float64 { return s.wall.Seconds() })
}

// few bounds the rounds until its result is called.
func (b *bench) few(rounds int) (restore func()) {
	was := b.rounds
	b.rounds = min(was, rounds)
	return func() { b.rounds = was }
}

// users measures what users run: the default flags, on tables of their own.
func (b *bench) users() error {
	base, db, out, answers := b.path("users.duckdb"), b.path("users-run.duckdb"), b.path("users.out"), b.path("users.ndjson")
	defer func() {
		for _, path := range []string{base, db, out, answers} {
			os.Remove(path)
		}
	}()
	t := b.report.table("chunks-pending and vectors-apply: sizes and columns", "The default flags, on tables that DuckDB made: medians of up to 3 rounds for the smallest tables, one round for the others. \"CPU s\" is processor time, \"of COPY\" its ratio to that of DuckDB's COPY … TO (FORMAT json) of the same table. With 8,000 bytes, the large table has courtesy columns only, so that the run stays short.",
		"table", "chunks", "bytes", "first claim: CPU s", "of COPY", "seconds", "peak MB", "again: CPU s", "of COPY", "seconds", "apply: vectors per CPU s")
	for i, n := range b.sizes.users {
		for _, bytes := range []int{300, 1500, 8000} {
			for j, l := range layouts {
				if i > 0 && bytes == 8000 && j != 1 {
					continue
				}
				if !b.room(int64(n) * int64(5*bytes+16_000)) {
					b.report.note("%d chunks of %d bytes are left out: the disk is too small.", n, bytes)
					continue
				}
				if err := b.table(base, n, bytes, l); err != nil {
					return err
				}
				args := append([]string{"chunks-pending", db}, l.flags...)
				fresh := func(*contender) error { return copyFile(base, db) }
				first := &contender{name: "first", cores: "2", args: args, before: fresh}
				again := &contender{name: "again", cores: "2", args: args, before: func(c *contender) error {
					if err := fresh(c); err != nil {
						return err
					}
					_, err := b.into(out, &contender{args: args})
					settle()
					return err
				}}
				copied := &contender{name: "COPY", cores: "2", args: []string{b.tool("duck"), "-threads", "2", base, "COPY (SELECT id, text, title FROM chunks) TO '/dev/null' (FORMAT json)"}}
				apply := &contender{name: "apply", cores: "2", args: []string{"vectors-apply", db}, in: answers, work: float64(n), before: func(c *contender) error {
					if err := again.before(c); err != nil {
						return err
					}
					_, err := b.vectors(answers, out, 768)
					settle()
					return err
				}}
				restore := b.few(max(1, 3-2*i))
				err := b.race(fmt.Sprintf("users, %s, %d of %d bytes", l.name, n, bytes), []*contender{first, again, copied, apply})
				restore()
				if err != nil {
					return err
				}
				t.row(l.name, count(n), count(bytes), num(first.cpu()), num(first.cpu()/copied.cpu()), num(first.wall()), num(first.peak()/1e6),
					num(again.cpu()), num(again.cpu()/copied.cpu()), num(again.wall()), num(apply.perCPU()))
				if i == 0 && bytes == 1500 && j == 1 {
					b.figures["users.first"], b.figures["users.again"] = first.cpu()/copied.cpu(), again.cpu()/copied.cpu()
				}
			}
		}
	}
	for _, part := range []func() error{b.idle, b.beside, b.index, b.large, b.profileUsers} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

// vectored creates a database whose chunks all have a vector of 8 values.
func (b *bench) vectored(db string, n int, l layout) error {
	out, answers := db+".out", db+".ndjson"
	defer os.Remove(out)
	defer os.Remove(answers)
	if err := b.table(db, n, 300, l); err != nil {
		return err
	}
	if _, err := b.into(out, &contender{args: append(claim(db), "--dim", "8")}); err != nil {
		return err
	}
	if _, err := b.vectors(answers, out, 8); err != nil {
		return err
	}
	_, err := b.measure(&contender{args: []string{"vectors-apply", db}, in: answers}, nil)
	settle()
	return err
}

// idle measures runs with nothing or little to do on a large table.
func (b *bench) idle() error {
	defer b.few(3)()
	base, db := b.path("idle.duckdb"), b.path("idle-run.duckdb")
	defer os.Remove(base)
	defer os.Remove(db)
	t := b.report.table("chunks-pending: nothing to do", fmt.Sprintf("%s chunks of 300 bytes, all with a vector. The ratio is that of the processor time to SELECT bit_xor(md5_number_lower(text)) over the same table.", count(b.sizes.idle)),
		"table", "nothing to do: CPU s", "of SELECT", "seconds", "peak MB", "10 edits: CPU s", "of SELECT", "seconds")
	for _, l := range layouts[:2] {
		if err := b.vectored(base, b.sizes.idle, l); err != nil {
			return err
		}
		nothing := &contender{name: "nothing", cores: "2", args: append(claim(base), "--dim", "8")}
		edits := &contender{name: "edits", cores: "2", args: append(claim(db), "--dim", "8"), before: func(*contender) error {
			if err := copyFile(base, db); err != nil {
				return err
			}
			_, err := b.measure(&contender{args: []string{b.tool("duck"), db, fmt.Sprintf("UPDATE chunks SET text = text || '!' WHERE rowid %% %d = 7", b.sizes.idle/10), "CHECKPOINT"}}, nil)
			settle()
			return err
		}}
		floor := &contender{name: "SELECT", cores: "2", args: []string{b.tool("duck"), "-threads", "2", base, "SELECT bit_xor(md5_number_lower(text)) FROM chunks"}}
		if err := b.race("nothing to do, "+l.name, []*contender{nothing, edits, floor}); err != nil {
			return err
		}
		t.row(l.name, num(nothing.cpu()), num(nothing.cpu()/floor.cpu()), num(nothing.wall()), num(nothing.peak()/1e6), num(edits.cpu()), num(edits.cpu()/floor.cpu()), num(edits.wall()))
		b.figures["idle."+l.name] = nothing.cpu() / floor.cpu()
	}
	return nil
}

// beside measures the memory of claims of any size beside DuckDB's own limit.
func (b *bench) beside() error {
	base, db := b.path("memory.duckdb"), b.path("memory-run.duckdb")
	defer os.Remove(base)
	defer os.Remove(db)
	n, limit := b.sizes.capped, 300.0
	if err := b.table(base, n, 300, layouts[1]); err != nil {
		return err
	}
	t := b.report.table("chunks-pending: memory", fmt.Sprintf("%s chunks of 300 bytes, with courtesy columns, claimed and printed with --memory-limit 300MB. \"Of its own\" is the peak without the pages of the program's file, \"beside DuckDB\" this less the limit. One run each.", count(n)),
		"flags", "CPU s", "seconds", "peak MB", "of its own", "beside DuckDB")
	for _, flags := range []string{"", "--max-total-tokens 1000000000000 --cutoff whole", "--max-total-tokens 1000000000000 --cutoff whole --max-requests 10000000 --max-tokens 1000000000000 --max-bytes 10GB"} {
		c := &contender{name: "memory", cores: "2", args: append([]string{"chunks-pending", db, "--memory-limit", "300MB"}, strings.Fields(flags)...), before: func(*contender) error { return copyFile(base, db) }}
		s, err := b.measure(c, nil)
		if err != nil {
			return err
		}
		c.rows = append(c.rows, s)
		t.row(cmp.Or(flags, "none"), num(c.cpu()), num(c.wall()), num(c.peak()/1e6), num(c.own()/1e6), num(c.own()/1e6-limit))
		b.figures["memory.beside"] = max(b.figures["memory.beside"], c.own()/1e6-limit)
	}
	return nil
}

// index measures a first claim that writes the courtesy columns of each row, with and
// without indexes.
func (b *bench) index() error {
	base, db := b.path("index.duckdb"), b.path("index-run.duckdb")
	defer os.Remove(base)
	defer os.Remove(db)
	n := b.sizes.index
	l := layouts[1]
	l.values = ", NULL, NULL"
	if err := b.table(base, n, 300, l); err != nil {
		return err
	}
	t := b.report.table("chunks-pending: indexes", fmt.Sprintf("The first claim of %s chunks of 300 bytes, which also writes embedding_status of each row. One run each.", count(n)), "index", "CPU s", "of none", "seconds", "peak MB")
	none := 0.0
	for _, index := range []string{"none", "id", "embedding_status"} {
		c := &contender{name: index, cores: "2", args: append(claim(db), "--dim", "8"), before: func(c *contender) error {
			if err := copyFile(base, db); err != nil || index == "none" {
				return err
			}
			_, err := b.measure(&contender{args: []string{b.tool("duck"), db, "CREATE INDEX users_own ON chunks (" + index + ")", "CHECKPOINT"}}, nil)
			settle()
			return err
		}}
		s, err := b.measure(c, nil)
		if err != nil {
			return err
		}
		c.rows = append(c.rows, s)
		if none == 0 {
			none = c.cpu()
		}
		t.row("on "+index, num(c.cpu()), num(c.cpu()/none), num(c.wall()), num(c.peak()/1e6))
		b.figures["index"] = c.cpu() / none
	}
	return nil
}

// large measures vectors-apply on a table of users', from the first row to the last.
func (b *bench) large() error {
	db, out, answers := b.path("large.duckdb"), b.path("large.out"), b.path("large.ndjson")
	defer func() {
		for _, path := range []string{db, out, answers} {
			os.Remove(path)
		}
	}()
	n := b.sizes.large
	if !b.room(int64(n) * 12_000) {
		b.report.note("vectors-apply with %s rows is left out: the disk is too small.", count(n))
		return nil
	}
	if err := b.table(db, n, 300, layouts[1]); err != nil {
		return err
	}
	if _, err := b.into(out, &contender{args: claim(db)}); err != nil {
		return err
	}
	if _, err := b.vectors(answers, out, 768); err != nil {
		return err
	}
	settle()
	c := &contender{name: "large", cores: "2", args: []string{"vectors-apply", db}, in: answers, work: float64(n)}
	s, err := b.measure(c, nil)
	if err != nil {
		return err
	}
	c.rows = append(c.rows, s)
	t := b.report.table("vectors-apply: a large table", fmt.Sprintf("%s vectors of 768 values, in batches of 10,000, for chunks of 300 bytes with courtesy columns, in one run.", count(n)),
		"vectors", "CPU s", "vectors per CPU s", "seconds", "peak MB", "database GB")
	t.row(count(n), num(c.cpu()), num(c.perCPU()), num(c.wall()), num(c.peak()/1e6), num(float64(size(db))/1e9))
	return nil
}

// profileUsers reports where the time of these runs goes.
func (b *bench) profileUsers() error {
	b.report.heading("Where the time goes: tables of users")
	if !has("perf") {
		b.report.note("There is no perf on this machine, so there are no profiles.")
		return nil
	}
	db, out, answers := b.path("users-profile.duckdb"), b.path("users-profile.out"), b.path("users-profile.ndjson")
	defer func() {
		for _, path := range []string{db, out, answers} {
			os.Remove(path)
		}
	}()
	n := b.sizes.users[0]
	title := fmt.Sprintf("%s chunks of 1,500 bytes with courtesy columns", count(n))
	if err := b.table(db, n, 1500, layouts[1]); err != nil {
		return err
	}
	for _, run := range []string{"first claim", "printing again"} {
		if err := b.perf(run+", "+title, "", out, "chunks-pending", db); err != nil {
			return err
		}
	}
	if _, err := b.vectors(answers, out, 768); err != nil {
		return err
	}
	settle()
	if err := b.perf("vectors-apply, "+title, answers, os.DevNull, "vectors-apply", db); err != nil {
		return err
	}
	if err := b.vectored(db, b.sizes.index, layouts[1]); err != nil {
		return err
	}
	if err := b.perf(fmt.Sprintf("nothing to do, %s chunks of 300 bytes with courtesy columns", count(b.sizes.index)), "", os.DevNull, append(claim(db), "--dim", "8")...); err != nil {
		return err
	}
	l := layouts[1]
	l.values = ", NULL, NULL"
	if err := b.table(db, b.sizes.index/3, 300, l); err != nil {
		return err
	}
	if _, err := b.measure(&contender{args: []string{b.tool("duck"), db, "CREATE INDEX users_own ON chunks (embedding_status)", "CHECKPOINT"}}, nil); err != nil {
		return err
	}
	return b.perf(fmt.Sprintf("first claim, %s chunks of 300 bytes with an index on embedding_status", count(b.sizes.index/3)), "", os.DevNull, append(claim(db), "--dim", "8")...)
}

// peerFiles are a script that does the work of the whole pipe, and its modules.
//
//go:embed peer
var peerFiles embed.FS

// peer compares the processor time of the whole pipe, by stage, with that of a
// script that uses Google's SDK and DuckDB's client for node.
func (b *bench) peer() error {
	defer b.few(3)()
	base, dir := b.path("peer.duckdb"), b.path("peer-run")
	defer os.Remove(base)
	n := b.sizes.users[0]
	if err := b.table(base, n, 1500, layouts[1]); err != nil {
		return err
	}
	script := ""
	if has("npm") && has("node") {
		if err := os.CopyFS(b.dir, peerFiles); err != nil {
			return err
		}
		install := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
		install.Dir = b.path("peer")
		if text, err := install.CombinedOutput(); err != nil {
			b.report.note("The script in node could not be measured: npm ci: %.300s", text)
		} else {
			script = b.path("peer/peer.mjs")
		}
	}
	cpu := map[string][]float64{}
	for round := range b.rounds {
		say("  peer, round %d of %d", round+1, b.rounds)
		for _, ours := range []bool{true, false} {
			if !ours && script == "" {
				continue
			}
			if err := b.peerRun(base, dir, script, ours, cpu); err != nil {
				return err
			}
		}
	}
	t := b.report.table("The whole pipe: processor time", fmt.Sprintf("%s chunks of 1,500 bytes with courtesy columns, in batches of 400,000 tokens, 768 values, against the emulator. The script in node (internal/bench/peer) claims nothing and keeps no state.", count(n)), "stage", "CPU s", "part")
	sum := 0.0
	for _, name := range stages {
		sum += median(cpu[name])
	}
	for _, name := range stages {
		t.row(name, num(median(cpu[name])), num(100*median(cpu[name])/sum)+"%")
	}
	t.row("**all stages**", "**"+num(sum)+"**", "")
	if script != "" {
		ratio := median(cpu["node"]) / sum
		t.row("the script in node", num(median(cpu["node"])), num(ratio)+"×")
		b.figures["peer"] = ratio
	}
	return nil
}

// peerRun runs our pipe stage by stage, or the script, on a new copy of base.
func (b *bench) peerRun(base, dir, script string, ours bool, cpu map[string][]float64) error {
	defer os.RemoveAll(dir)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	db := dir + "/kb.duckdb"
	if err := copyFile(base, db); err != nil {
		return err
	}
	emulator, err := b.serve(b.two, "gemini-emulator", "--vectors", "cheap", "--dir", dir+"/emulator")
	if err != nil {
		return err
	}
	defer emulator.stop()
	env := emulator.env(dir, "p")
	args := map[string][]string{"chunks-pending": {db}, "gbatch-submit": {"-q"}, "gbatch-wait": {"--interval", "50ms"}, "vectors-apply": {db}}
	names := stages
	if !ours {
		names, args = []string{"node"}, map[string][]string{"node": {script, db, "400000"}}
	}
	in := ""
	for _, name := range names {
		out := dir + "/" + name
		s, err := b.into(out, &contender{name: name, args: append([]string{name}, args[name]...), in: in, env: env, cores: "2", codes: []int{3}})
		if err != nil {
			return err
		}
		cpu[name] = append(cpu[name], s.cpu.Seconds())
		in = out
	}
	return nil
}
