package main

import "fmt"

// A goal is a promise of the suite.
type goal struct {
	text   string
	figure string // key of bench.figures
	bound  float64
	most   bool // the bound is an upper bound, not a lower bound
	format string
	reason func(f map[string]float64) string // why the goal is not met
}

// goals are compared with the figures of a run.
var goals = []goal{
	{"the scanner of number arrays in plain Go, one core, 768 values", "scanner.go.f32_768", 1000, false, "%s MB/s",
		func(f map[string]float64) string {
			return fmt.Sprintf("in plain Go each of a value's digits takes a few instructions of its own; the kernel, which is what runs on this machine, makes %s MB/s", num(f["scanner.f32_768"]))
		}},
	{"gbatch-fetch, no server: result JSON on one core, 768 values", "fetch.f32_768.gbatch-fetch, no server", 1000, false, "%s MB/s", parsing},
	{"… 3,072 values", "fetch.f32_3072.gbatch-fetch, no server", 1000, false, "%s MB/s", parsing},
	{"… on two cores, against one", "fetch.two", 1.7, false, "%s×", func(f map[string]float64) string {
		return fmt.Sprintf("one goroutine reads and cuts what two parse, and a block's bytes move from one core's cache to the other's: the processor time of a byte grows %s times, so that two cores can give no more than %s times", num(f["fetch.two.cpu"]), num(2/f["fetch.two.cpu"]))
	}},
	{"… against node", "fetch.f32_768.times.node", 10, false, "%s×", parsing},
	{"… against encoding/json", "fetch.f32_768.times.encoding/json", 15, false, "%s×", parsing},
	{"… peak memory at the largest result", "fetch.memory", 64, true, "%s MB", nil},
	{"to-jsonl: ASCII on one core", "to-jsonl.ascii.to-jsonl", 1000, false, "%s MB/s", checking},
	{"… mixed UTF-8", "to-jsonl.mixed.to-jsonl", 800, false, "%s MB/s", checking},
	{"… against jq, mixed", "to-jsonl.mixed.times.jq -c", 16, false, "%s×", nil},
	{"chunks-pending: NDJSON out of DuckDB", "pending.chunks-pending", 250, false, "%s MB/s", func(f map[string]float64) string {
		return fmt.Sprintf("before a text is printed it is read, hashed with MD5 for its status, written to the outbox and read again; DuckDB's COPY … TO (FORMAT json), which only reads and prints, makes %s MB/s here. The row claimed before, too, reads and hashes every text once, as --dry-run does at %s MB/s, before it prints", num(f["pending.DuckDB COPY … TO (FORMAT json)"]), num(f["pending.chunks-pending --dry-run"]))
	}},
	{"… time of a chunk at the most chunks, against the size before", "line.pending.flat", 1.5, true, "%s×", nil},
	{"… peak memory there, against the size before", "line.pending.memory", 1.5, true, "%s×",
		func(f map[string]float64) string {
			return fmt.Sprintf("DuckDB keeps what it has read until --memory-limit, 1GB, is reached. With 200MB the smaller table below takes %s MB in place of %s, at %s MB/s", num(f["pending.memory.chunks-pending --memory-limit 200MB"]), num(f["pending.memory.chunks-pending"]), num(f["pending.chunks-pending --memory-limit 200MB"]))
		}},
	{"gbatch-submit: against cp, sha256sum and curl one after the other", "submit.parts", 1, false, "%s×", nil},
	{"… peak memory", "submit.memory", 64, true, "%s MB", nil},
	{"vectors-apply: vectors of 768 values a second", "apply", 40_000, false, "%s", func(f map[string]float64) string {
		return fmt.Sprintf("DuckDB holds each float against the least and the largest of its segment when it appends it, and once more when it writes the segment (FixedSizeAppend, GreaterThan and IsNan in the profile); its own CREATE TABLE AS FROM parquet of the same vectors makes %s a second here, uncompressed %s", num(f["apply.parquet.rate"]), num(f["apply.uncompressed.rate"]))
	}},
	{"… time, against CREATE TABLE AS FROM parquet", "apply.parquet", 1.5, true, "%s×", nil},
	{"… cost of a vector at the last rows of the table, against the first", "apply.flat", 1.25, true, "%s×", nil},
	{"… the same records again, against the first time", "apply.again", 3, false, "%s× as fast", nil},
	{"start-up of to-jsonl", "start.to-jsonl", 10, true, "%s ms", starting},
	{"… gbatch-submit", "start.gbatch-submit", 10, true, "%s ms", starting},
	{"… gbatch-wait", "start.gbatch-wait", 10, true, "%s ms", starting},
	{"… gbatch-fetch", "start.gbatch-fetch", 10, true, "%s ms", starting},
	{"the whole line: time of a chunk at the most chunks, against the size before", "line.flat", 1.25, true, "%s×", nil},
}

func parsing(f map[string]float64) string {
	return fmt.Sprintf("parsing numbers, which makes %s MB/s by itself here, is most of the work", num(f["scanner.f32_768"]))
}

func checking(f map[string]float64) string {
	return fmt.Sprintf("every byte is looked at for quotes, escapes and malformed UTF-8, and copied in and out of the kernel: cat, which only does the last, makes %s MB/s here", num(f["to-jsonl.mixed.cat"]))
}

func starting(f map[string]float64) string {
	return fmt.Sprintf("the packages that Google's SDK brings along set themselves up; true, which does nothing, takes %s ms here", num(f["start.true"]))
}

// goals reports which goals were met.
func (b *bench) goals() *table {
	f := b.figures
	if x := f["fetch.f32_768.times.gbatch-fetch, no server (2)"]; x > 0 {
		f["fetch.two"] = 1 / x
	}
	t := &table{title: "Goals", rows: [][]string{{"goal", "wanted", "measured", "", reason}}}
	for _, g := range goals {
		x, ok := f[g.figure]
		if !ok {
			continue
		}
		wanted, met := "at least ", x >= g.bound
		if g.most {
			wanted, met = "at most ", x <= g.bound
		}
		verdict, why := "met", ""
		if !met {
			if verdict = "**not met**"; g.reason != nil {
				why = g.reason(f)
			}
		}
		t.row(g.text, wanted+fmt.Sprintf(g.format, num(g.bound)), fmt.Sprintf(g.format, num(x)), verdict, why)
	}
	return t
}
