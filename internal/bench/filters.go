package main

import (
	"bufio"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

//go:embed fetch.js
var fetchJS string

//go:embed to-jsonl.js
var toJSONLJS string

// Contenders that are far slower than gbatch get one line in slow of the data.
// gbatch-fetch gets the data several times, because its start would count
// otherwise.
const (
	slow  = 4
	often = 5
)

// scanner reads the figures of the parser of number arrays from its Go
// benchmark.
func (b *bench) scanner() error {
	cmd := exec.Command("go", "test", "-run", "^$", "-bench", "^BenchmarkAppendFloats$/^f(32|64)_(768|3072)$/^(vector|vector_go|strconv)$", "-benchtime", "0.3s", "-count", strconv.Itoa(b.rounds), "./pkg/vector")
	cmd.Dir, cmd.Stderr = b.root, os.Stderr
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go test: %w: %s", err, out)
	}
	rates, values := map[string][]float64{}, map[string][]float64{}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "BenchmarkAppendFloats/")
		if !ok {
			continue
		}
		name, _, _ = strings.Cut(name, "\t")
		name = strings.TrimSpace(name)
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			name = name[:i]
		}
		for i := 3; i < len(f); i += 2 {
			x, err := strconv.ParseFloat(f[i-1], 64)
			if err != nil {
				continue
			}
			switch f[i] {
			case "MB/s":
				rates[name] = append(rates[name], x)
			case "ns/value":
				values[name] = append(values[name], x)
			}
		}
	}
	t := b.report.table("The scanner of number arrays alone", "`vector.AppendFloats` in a Go benchmark: one core, arrays in the cache. \"go\" is the version in plain Go, \"kernel\" is the version that this machine uses.",
		"array", "kernel MB/s", "ns a value", "go MB/s", "ns a value", "strconv MB/s")
	for _, kind := range []string{"f32_768", "f32_3072", "f64_768", "f64_3072"} {
		kernel, plain := kind+"/vector", kind+"/vector_go"
		if rates[plain] == nil { // this processor has no kernel
			plain = kernel
		}
		t.row(kind, num(median(rates[kernel])), num(median(values[kernel])), num(median(rates[plain])), num(median(values[plain])), num(median(rates[kind+"/strconv"])))
		b.figures["scanner."+kind] = median(rates[kernel])
		b.figures["scanner.go."+kind] = median(rates[plain])
	}
	return nil
}

// A kind is a form of results.
type kind struct {
	name             string
	lines, dim, bits int
}

// job writes the job record with which gbatch-fetch fetches results.
func (b *bench) job(name string, lines, dim int) (string, error) {
	path := b.path(name + ".job")
	return path, os.WriteFile(path, fmt.Appendf(nil, `{"job":"batches/%s","batch":"b01","state":"SUCCEEDED","model":"gemini-embedding-001","dim":%d,"requests":%d}`+"\n", name, dim, lines), 0o600)
}

func (b *bench) fetch() error {
	script := b.path("fetch.js")
	if err := os.WriteFile(script, []byte(fetchJS), 0o600); err != nil {
		return err
	}
	beside, err := b.serve(b.other, b.tool("rival"), "serve", b.dir)
	if err != nil {
		return err
	}
	defer beside.stop()
	among, err := b.serve(b.two, b.tool("rival"), "serve", b.dir)
	if err != nil {
		return err
	}
	defer among.stop()

	for _, k := range []kind{{"f32_768", b.sizes.fetch, 768, 32}, {"f32_3072", b.sizes.fetch / 4, 3072, 32}, {"f64_768", b.sizes.fetch, 768, 64}, {"f64_3072", b.sizes.fetch / 4, 3072, 64}} {
		data, part := b.path(k.name), b.path(k.name+"_part")
		if err := b.results(data, k.lines, k.dim, k.bits); err != nil {
			return err
		}
		if err := b.results(part, k.lines/slow, k.dim, k.bits); err != nil {
			return err
		}
		settle()
		job, err := b.job(k.name+"-x"+strconv.Itoa(often), often*k.lines, k.dim)
		if err != nil {
			return err
		}
		partJob, err := b.job(k.name+"_part", k.lines/slow, k.dim)
		if err != nil {
			return err
		}
		failed := []int{3} // some keys failed
		all := []*contender{
			{name: "gbatch-fetch, no server", cores: "1", args: []string{b.tool("ours"), "-times", strconv.Itoa(often), "fetch", data}, in: job, codes: failed},
			{name: "gbatch-fetch, no server (2)", cores: "2", base: "gbatch-fetch, no server", args: []string{b.tool("ours"), "-times", strconv.Itoa(often), "fetch", data}, in: job, codes: failed},
			{name: "gbatch-fetch from a server", cores: "1", base: "gbatch-fetch, no server", args: []string{"gbatch-fetch"}, in: job, codes: failed, server: beside, env: beside.env(b.dir, "p"), note: "the server uses the other core"},
			{name: "gbatch-fetch from a server (2)", cores: "2", base: "gbatch-fetch, no server", args: []string{"gbatch-fetch"}, in: job, codes: failed, server: among, env: among.env(b.dir, "p"), note: "the server uses the same two cores"},
			{name: "cat", cores: "1", args: []string{"cat"}, in: data, note: "the lower bound: only copies"},
			{name: "goccy/go-json", cores: "1", args: []string{b.tool("rival"), "fetch", "goccy"}, in: data},
			{name: "encoding/json", cores: "1", args: []string{b.tool("rival"), "fetch", "encoding"}, in: part},
			{name: "DuckDB read_json", cores: "1", args: []string{b.tool("duck"), "-threads", "1", ":memory:", readJSON(data, k.dim)}, note: "into a table in memory, no output"},
			{name: "DuckDB read_json (2)", cores: "2", base: "gbatch-fetch, no server (2)", args: []string{b.tool("duck"), "-threads", "2", ":memory:", readJSON(data, k.dim)}, note: "into a table in memory, no output"},
		}
		check := []*contender{
			{name: "gbatch-fetch", args: []string{b.tool("ours"), "fetch", part}, in: partJob, codes: failed},
			{name: "goccy/go-json", args: []string{b.tool("rival"), "fetch", "goccy"}, in: part},
			{name: "encoding/json", args: []string{b.tool("rival"), "fetch", "encoding"}, in: part},
		}
		if has("node") {
			node := &contender{name: "node", cores: "1", args: []string{"node", script}, in: part}
			all, check = append(all, node), append(check, node)
		}
		if has("jq") {
			all = append(all, &contender{name: "jq -c", cores: "1", args: []string{"jq", "-c", "{key, dim: (.response.embedding.values | length), tokens: .response.tokenCount}"}, in: part, note: "cannot pack floats: prints only key, length and tokens"})
		}
		for _, c := range all {
			if c.base == "" && c.name != "cat" && c.name != all[0].name {
				c.base = all[0].name
			}
			switch c.work = float64(size(data)); c.in {
			case job:
				c.work *= often
			case part:
				c.work = float64(size(part))
			}
		}
		if err := b.same(check, `{"job"`); err != nil {
			return err
		}
		if err := b.race(k.name, all); err != nil {
			return err
		}
		b.contest("gbatch-fetch: "+k.name, fmt.Sprintf("%d lines of %d values with the digits of a float%d: %s of result JSON. gbatch-fetch reads them %d times, the slowest programs read only %s. In the rows \"no server\", the code of gbatch-fetch reads a file in place of a connection, so that the figure includes no time of another process.", k.lines, k.dim, k.bits, bytesText(size(data)), often, bytesText(size(part))), "MB/s", 1e6, all)
		b.chart("bench-fetch-"+strings.ReplaceAll(k.name, "_", "-"), "Result JSON to packed vectors, "+k.name, all)
		for _, c := range all {
			b.figures["fetch."+k.name+"."+c.name] = c.rate() / 1e6
			b.figures["fetch."+k.name+".times."+c.name] = all[0].times(c)
		}
		if k.name == "f32_768" {
			b.figures["fetch.two.cpu"] = all[0].perCPU() / all[1].perCPU()
		}
		if k.name == "f32_768" {
			if err := b.fetchMemory(k, data, beside); err != nil {
				return err
			}
		}
		for _, path := range []string{part, data} {
			if k.name != "f32_768" || path != data { // the profiles need this data later
				os.Remove(path)
			}
		}
	}
	return nil
}

func readJSON(path string, dim int) string {
	return fmt.Sprintf(`CREATE TABLE r AS SELECT key, response.embedding."values"::FLOAT[%d] AS v, response."tokenCount"::BIGINT AS tokens
		FROM read_json('%s', format = 'newline_delimited', columns = {key: 'VARCHAR', response: 'STRUCT("tokenCount" VARCHAR, embedding STRUCT("values" FLOAT[]))'})
		WHERE response IS NOT NULL`, dim, path)
}

// fetchMemory measures the peak memory for results of growing size.
func (b *bench) fetchMemory(k kind, data string, s *server) error {
	t := b.report.table("gbatch-fetch: memory", "A small and a large result, from a server, on all cores.", "result", "seconds", "MB/s", "peak MB", "of its own")
	for _, times := range []int{1, b.memory} {
		job, err := b.job(k.name+"-x"+strconv.Itoa(times), k.lines*times, k.dim)
		if err != nil {
			return err
		}
		c := &contender{name: "gbatch-fetch", cores: "2", args: []string{"gbatch-fetch"}, in: job, codes: []int{3}, env: s.env(b.dir, "p"), work: float64(size(data)) * float64(times)}
		row, err := b.measure(c, nil)
		if err != nil {
			return err
		}
		t.row(bytesText(int64(c.work)), seconds(row.wall), num(row.rate/1e6), num(float64(row.rss)/1e6), num(float64(row.own)/1e6))
		b.figures["fetch.memory"] = float64(row.own) / 1e6
	}
	return nil
}

func (b *bench) toJSONL() error {
	script := b.path("to-jsonl.js")
	if err := os.WriteFile(script, []byte(toJSONLJS), 0o600); err != nil {
		return err
	}
	const filter = `foreach inputs as $l (null; if $l | has("count") then true else . end; . as $claimed | $l | if has("count") then . else {key: .id, claimed: $claimed, request: {content: {parts: [{text: .text}]}, taskType: "RETRIEVAL_DOCUMENT", title: .title, outputDimensionality: 768}} end)`
	for _, k := range []struct {
		name  string
		words []string
	}{{"ascii", ascii}, {"mixed", mixed}} {
		data, part := b.path("chunks-"+k.name), b.path("chunks-"+k.name+"-part")
		if err := b.chunks(data, b.sizes.toJSONL, 1500, k.words, true); err != nil {
			return err
		}
		if err := b.chunks(part, b.sizes.toJSONL/slow, 1500, k.words, true); err != nil {
			return err
		}
		settle()
		all := []*contender{
			{name: "to-jsonl", cores: "1", args: []string{"to-jsonl"}, in: data},
			{name: "to-jsonl (2)", cores: "2", args: []string{"to-jsonl"}, in: data},
			{name: "cat", cores: "1", args: []string{"cat"}, in: data, note: "the lower bound: only copies"},
			{name: "goccy/go-json", cores: "1", args: []string{b.tool("rival"), "to-jsonl", "goccy"}, in: data},
			{name: "encoding/json", cores: "1", args: []string{b.tool("rival"), "to-jsonl", "encoding"}, in: part},
		}
		check := []*contender{
			{name: "to-jsonl", args: []string{"to-jsonl"}, in: part},
			{name: "goccy/go-json", args: []string{b.tool("rival"), "to-jsonl", "goccy"}, in: part},
			{name: "encoding/json", args: []string{b.tool("rival"), "to-jsonl", "encoding"}, in: part},
		}
		if has("node") {
			c := &contender{name: "node", cores: "1", args: []string{"node", script}, in: part}
			all, check = append(all, c), append(check, c)
		}
		if has("jq") {
			c := &contender{name: "jq -c", cores: "1", args: []string{"jq", "-nc", filter}, in: part}
			all, check = append(all, c), append(check, c)
		}
		for _, c := range all {
			c.work = float64(size(c.in))
			if c != all[0] && c.name != "cat" {
				c.base = all[0].name
			}
		}
		if err := b.same(check); err != nil {
			return err
		}
		if err := b.race(k.name, all); err != nil {
			return err
		}
		b.contest("to-jsonl: "+k.name, fmt.Sprintf("%d chunks in batches of 10,000: %s. The slowest programs read only %s.", b.sizes.toJSONL, bytesText(size(data)), bytesText(size(part))), "MB/s", 1e6, all)
		b.chart("bench-to-jsonl-"+k.name, "Chunks to request lines, "+k.name, all)
		for _, c := range all {
			b.figures["to-jsonl."+k.name+"."+c.name] = c.rate() / 1e6
			b.figures["to-jsonl."+k.name+".times."+c.name] = all[0].times(c)
		}
		os.Remove(part)
		if k.name == "ascii" {
			os.Remove(data)
		}
	}
	return nil
}

// requests writes the request lines of n chunks, in batches.
func (b *bench) requests(path string, n int) error {
	text := strings.ToValidUTF8(strings.Repeat(strings.Join(mixed, " ")+" ", 8)[:1500], "")
	return create(path, func(w *bufio.Writer) error {
		for i := range n {
			header(w, i, n)
			fmt.Fprintf(w, `{"key":"chunk_%d","request":{"content":{"parts":[{"text":"Passage %d: %s"}]},"taskType":"RETRIEVAL_DOCUMENT","outputDimensionality":768}}`+"\n", i, i, text)
		}
		return nil
	})
}

func (b *bench) submit() error {
	data := b.path("requests")
	if err := b.requests(data, b.sizes.submit); err != nil {
		return err
	}
	defer os.Remove(data)
	settle()
	sink, err := b.serve(b.two, b.tool("rival"), "serve", b.dir)
	if err != nil {
		return err
	}
	defer sink.stop()
	// A run must not find what the previous run has left.
	runs := 0
	fresh := func(c *contender) error {
		runs++
		state := b.path("state-" + strconv.Itoa(runs))
		c.env = sink.env(state, "p")
		return os.Mkdir(state, 0o700)
	}
	emulator := func(c *contender) (err error) {
		if err := fresh(c); err != nil {
			return err
		}
		state := b.path("state-" + strconv.Itoa(runs))
		if c.server, err = b.serve(b.two, "gemini-emulator", "--vectors", "cheap", "--dir", filepath.Join(state, "emulator")); err != nil {
			return err
		}
		c.env = c.server.env(state, "p")
		return nil
	}
	toEmulator := &contender{name: "gbatch-submit to the emulator", cores: "2", args: []string{"gbatch-submit", "-q"}, before: emulator, note: "the emulator writes and hashes its input"}
	toEmulator.after = func() error {
		toEmulator.server.stop()
		return os.RemoveAll(b.path("state-" + strconv.Itoa(runs)))
	}
	toSink := &contender{name: "gbatch-submit to a sink", cores: "2", args: []string{"gbatch-submit", "-q"}, before: fresh, server: sink, note: "the sink discards its input"}
	all := []*contender{toSink, toEmulator,
		{name: "cat", cores: "2", args: []string{"cat"}},
		{name: "cp to a file", cores: "2", args: []string{"cp", data, b.path("copy")}, after: func() error { return os.Remove(b.path("copy")) }},
		{name: "sha256sum", cores: "2", args: []string{"sha256sum"}},
	}
	if has("curl") {
		all = append(all, &contender{name: "curl -T to the sink", cores: "2", args: []string{"curl", "-s", "-T", data, sink.url + "/upload/data"}, server: sink})
	}
	for _, c := range all {
		c.in, c.work = data, float64(size(data))
		if c != toSink && c.name != "cat" {
			c.base = toSink.name
		}
	}
	if err := b.race("submit", all); err != nil {
		return err
	}
	b.contest("gbatch-submit", fmt.Sprintf("%d requests in batches of 10,000, %s. gbatch-submit reads, checks, copies, hashes and uploads them, and creates their jobs. The server uses the same two cores.", b.sizes.submit, bytesText(size(data))), "MB/s", 1e6, all)
	if curl := find(all, "curl -T to the sink"); curl != nil {
		parts := 1/find(all, "cp to a file").rate() + 1/find(all, "sha256sum").rate() + 1/curl.rate()
		b.figures["submit.parts"] = parts * toSink.rate()
	}
	b.figures["submit.memory"] = max(toSink.own(), toEmulator.own()) / 1e6
	return nil
}

// start measures how long a command takes to start and end. The commands on PATH
// are one program. Some of them are measured as programs of their own, too.
func (b *bench) start() error {
	own := b.path("own")
	build := exec.Command("go", "build", "-o", own+"/", "./cmd/to-jsonl", "./cmd/gbatch-fetch")
	build.Dir, build.Stderr = b.root, os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("go build: %w", err)
	}
	defer os.RemoveAll(own)
	var all []*contender
	for _, name := range []string{"true", "to-jsonl", "gbatch-submit", "gbatch-wait", "gbatch-fetch", "gemini-emulator", "chunks-add", "chunks-pending", "vectors-apply", "jobs-pending", "chunks-status", "jq", "node"} {
		if has(name) {
			all = append(all, &contender{name: name, args: []string{name, "--version"}, cores: "2"})
		}
		if path := filepath.Join(own, name); size(path) > 0 {
			all = append(all, &contender{name: name + ", a program of its own", args: []string{path, "--version"}, cores: "2"})
		}
	}
	for _, c := range all {
		if c.name == "true" {
			c.args = c.args[:1]
		}
	}
	rounds := b.rounds
	b.rounds = b.versions
	defer func() { b.rounds = rounds }()
	if err := b.race("start", all); err != nil {
		return err
	}
	t := b.report.table("Start-up", fmt.Sprintf("`--version`: the median of %d runs. The commands are one program, as `make build` links it. Most of its memory is pages of its file, which all commands share.", b.versions), "command", "ms", "CPU ms", "peak MB", "of its own", "file MB")
	for _, c := range all {
		ms := c.middle(func(s sample) float64 { return s.wall.Seconds() * 1e3 })
		path, err := exec.LookPath(c.args[0])
		if err != nil {
			return err
		}
		t.row(c.name, num(ms), num(c.middle(func(s sample) float64 { return s.cpu.Seconds() * 1e3 })), num(c.peak()/1e6), num(c.own()/1e6), num(float64(size(path))/1e6))
		b.figures["start."+c.name] = ms
	}
	return nil
}
