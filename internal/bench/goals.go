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
			return fmt.Sprintf("in plain Go each digit takes a few instructions; the kernel, which this machine uses, reaches %s MB/s", num(f["scanner.f32_768"]))
		}},
	{"gbatch-fetch, no server: result JSON on one core, 768 values", "fetch.f32_768.gbatch-fetch, no server", 1000, false, "%s MB/s", parsing},
	{"… 3,072 values", "fetch.f32_3072.gbatch-fetch, no server", 1000, false, "%s MB/s", parsing},
	{"… on two cores, compared with one", "fetch.two", 1.7, false, "%s×", func(f map[string]float64) string {
		return fmt.Sprintf("one goroutine reads and divides what two goroutines parse, and the bytes of a block move from the cache of one core to that of the other. So a byte takes %s times the processor time, and two cores can be at most %s times as fast as one", num(f["fetch.two.cpu"]), num(2/f["fetch.two.cpu"]))
	}},
	{"… compared with node", "fetch.f32_768.times.node", 10, false, "%s×", parsing},
	{"… compared with encoding/json", "fetch.f32_768.times.encoding/json", 15, false, "%s×", parsing},
	{"… peak memory at the largest result, without the pages of the program's file", "fetch.memory", 64, true, "%s MB", nil},
	{"… peak memory at a result of 10 GB in Cloud Storage on divided connections, without the pages of the program's file", "ranges.memory", 96, true, "%s MB", nil},
	{"… a result in Cloud Storage, compared with one connection of 50 MB/s", "ranges.50", 4, false, "%s×", func(map[string]float64) string {
		return "the first 17 MB come on one connection, and then the processors that other programs use as well are the limit"
	}},
	{"… compared with one connection without a limit", "ranges.0", 0.95, false, "%s×", func(map[string]float64) string {
		return "the checksum of the object is computed besides; a connection is divided if it gives less than 100 MB/s, as it may on a busy machine"
	}},
	{"to-jsonl: ASCII on one core", "to-jsonl.ascii.to-jsonl", 1000, false, "%s MB/s", checking},
	{"… mixed UTF-8", "to-jsonl.mixed.to-jsonl", 800, false, "%s MB/s", checking},
	{"… compared with jq, mixed", "to-jsonl.mixed.times.jq -c", 16, false, "%s×", nil},
	{"chunks-pending: NDJSON printed from DuckDB", "pending.chunks-pending", 250, false, "%s MB/s", func(f map[string]float64) string {
		return fmt.Sprintf("each text is read, hashed with MD5 for its status, written to the outbox and read again before it is printed. DuckDB's COPY … TO (FORMAT json) only reads and prints, and reaches %s MB/s here. The row \"claimed before\" also reads and hashes every text once before it prints; --dry-run does this at %s MB/s", num(f["pending.DuckDB COPY … TO (FORMAT json)"]), num(f["pending.chunks-pending --dry-run"]))
	}},
	{"… time for a chunk at the largest size, compared with the next smaller size", "line.pending.flat", 1.5, true, "%s×", nil},
	{"… peak memory there, compared with the next smaller size", "line.pending.memory", 1.5, true, "%s×",
		func(f map[string]float64) string {
			return fmt.Sprintf("DuckDB keeps what it has read until --memory-limit (1GB) is reached. With 200MB, the smaller table below takes %s MB instead of %s, at %s MB/s", num(f["pending.memory.chunks-pending --memory-limit 200MB"]), num(f["pending.memory.chunks-pending"]), num(f["pending.chunks-pending --memory-limit 200MB"]))
		}},
	{"gbatch-submit: compared with cp, sha256sum and curl, run one after the other", "submit.parts", 1, false, "%s×", nil},
	{"… peak memory, without the pages of the program's file", "submit.memory", 64, true, "%s MB", nil},
	{"vectors-apply: vectors of 768 values a second", "apply", 40_000, false, "%s", func(f map[string]float64) string {
		return fmt.Sprintf("DuckDB compares each float with the smallest and the largest of its segment, once when it appends the float and once when it writes the segment (FixedSizeAppend, GreaterThan and IsNan in the profile). Its own CREATE TABLE AS FROM parquet writes %s of the same vectors a second here, uncompressed %s", num(f["apply.parquet.rate"]), num(f["apply.uncompressed.rate"]))
	}},
	{"… time, compared with CREATE TABLE AS FROM parquet", "apply.parquet", 1.5, true, "%s×", nil},
	{"… time for a vector at the last rows of the table, compared with the first rows", "apply.flat", 1.25, true, "%s×", nil},
	{"… the same records again, compared with the first time", "apply.again", 3, false, "%s× as fast", nil},
	{"start-up of to-jsonl", "start.to-jsonl", 10, true, "%s ms", starting},
	{"… gbatch-submit", "start.gbatch-submit", 10, true, "%s ms", starting},
	{"… gbatch-wait", "start.gbatch-wait", 10, true, "%s ms", starting},
	{"… gbatch-fetch", "start.gbatch-fetch", 10, true, "%s ms", starting},
	{"chunks-pending with nothing to do at the largest size: processor time, compared with the SELECT of all hashes", "idle.id, title, text", 1.3, true, "%s×", nil},
	{"… with courtesy columns", "idle.with courtesy columns", 1.3, true, "%s×", func(map[string]float64) string {
		return "the rows are also joined with what was noted of each chunk, by its id. Any other way to compare the two costs as much: half of it is to read what was noted"
	}},
	{"chunks-pending, 1,500 bytes with courtesy columns: processor time of the first claim, compared with COPY … TO (FORMAT json)", "users.first", 2, true, "%s×", func(map[string]float64) string {
		return "COPY reads each text once and prints it. A claim reads it to hash it, to count its tokens and to write it to the outbox, and reads the outbox to print it, because a batch is only printed once it is committed; 0.1 s is the fixed cost of 150 small statements and of the start"
	}},
	{"… printing again", "users.again", 1, true, "%s×", func(map[string]float64) string {
		return "it also reads and hashes all texts, to find chunks that have become pending, which costs as much as the printing"
	}},
	{"… a claim of all or nothing at the largest size: memory of its own beside DuckDB's limit", "memory.beside", 150, true, "%s MB", func(map[string]float64) string {
		return "DuckDB counts its buffers, not all that it allocates, and a claim of all or nothing keeps 56 bytes a request to cut and to print them"
	}},
	{"… that writes embedding_status of each row: processor time with an index on it, compared with no index", "index", 1.1, true, "%s×", func(map[string]float64) string {
		return "DuckDB updates an indexed column by deleting the rows and inserting them anew, and fetches the columns of each deleted row singly, see its profile. Only a table without the index, which is the user's, would avoid it"
	}},
	{"the whole pipe: the processor time of a script with Google's SDK and DuckDB's client for node, compared with ours", "peer", 8, false, "%s×", nil},
	{"the whole pipe: time for a chunk at the largest size, compared with the next smaller size", "line.flat", 1.25, true, "%s×", nil},
}

func parsing(f map[string]float64) string {
	return fmt.Sprintf("most of the work is to parse numbers, which alone reaches %s MB/s here", num(f["scanner.f32_768"]))
}

func checking(f map[string]float64) string {
	return fmt.Sprintf("every byte is checked for quotes, escapes and malformed UTF-8, and is copied from and to the operating system; cat only copies, and reaches %s MB/s here", num(f["to-jsonl.mixed.cat"]))
}

func starting(f map[string]float64) string {
	return fmt.Sprintf("all commands are one program, so each start initializes DuckDB's library, Google's SDK and the plots, and maps their pages. As a program of its own, to-jsonl takes %s ms and gbatch-fetch %s ms; true, which does nothing, takes %s ms",
		num(f["start.to-jsonl, a program of its own"]), num(f["start.gbatch-fetch, a program of its own"]), num(f["start.true"]))
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
